"""One instant, however it is written and wherever the machine stands, is one number."""

# ruff: noqa: DTZ001  naive times are part of what is tested

from __future__ import annotations

import contextlib
import datetime as dt
import os
import time
import zoneinfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candle_fetcher.core.errors import InputError
from candle_fetcher.core.ranges import instant_ms

ZONES = ("UTC", "Europe/Paris", "America/New_York", "Asia/Tokyo")
EPOCH = dt.datetime(1970, 1, 1)
# The days on which the clocks of Paris and New York change in 2024, with holes and folds in local time.
CHANGES = [dt.datetime(2024, *day) for day in ((3, 10), (3, 31), (10, 27), (11, 3))]

in_ns = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2260, 1, 1))
near_changes = st.builds(
    lambda day, ms: day + dt.timedelta(milliseconds=ms), st.sampled_from(CHANGES), st.integers(0, 86_400_000)
)
moments = (in_ns | near_changes).map(lambda when: when.replace(microsecond=when.microsecond // 1000 * 1000))
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))


@contextlib.contextmanager
def standing_in(zone):
    """The machine's own zone, where it can be set."""
    if not hasattr(time, "tzset"):
        yield
        return
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        yield
    finally:
        os.environ.pop("TZ")
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


def zone_of(name):
    try:
        return zoneinfo.ZoneInfo(name)
    except zoneinfo.ZoneInfoNotFoundError:  # Windows without tzdata
        return dt.timezone.utc


def spellings(when, offset):
    """Ways to write the naive UTC moment, which has whole milliseconds."""
    ms = (when - EPOCH) // dt.timedelta(milliseconds=1)
    utc = when.replace(tzinfo=dt.timezone.utc)
    away = utc.astimezone(offset)
    text = when.isoformat(timespec="milliseconds")
    shown = away.isoformat(timespec="milliseconds")
    yield from (ms, np.int64(ms), when, utc, away)
    yield from (
        text,
        text.replace("T", " "),
        f"{text}Z",
        f"{text}z",
        f" {text} Z ",
        shown,
        text.replace(".", ","),
        f"{text}000000",
    )
    yield shown[:-3] + shown[-2:]  # +0530
    yield from (pd.Timestamp(when), pd.Timestamp(utc), pd.Timestamp(away), pd.Timestamp(when).as_unit("ns"))
    yield from (np.datetime64(when, "ms"), np.datetime64(when, "us"), np.datetime64(when, "ns"))
    if 10**10 <= ms < 10**14:
        yield str(ms)
    for name in ZONES:
        local = utc.astimezone(zone_of(name))
        yield from (local, pd.Timestamp(utc).tz_convert(zone_of(name)))
        yield local.isoformat() if local.second == 0 and not local.utcoffset().seconds % 60 else utc.isoformat()
    if when.microsecond == 0:
        yield from (when.isoformat(timespec="seconds"), np.datetime64(when, "s"))
    if when.microsecond == when.second == 0:
        yield from (f"{when:%Y-%m-%dT%H:%M}" if when.year > 999 else text, f"{when:%Y-%m-%d %H:%M}Z")


@pytest.mark.fault("B06")
@given(when=moments, offset=offsets)
def test_every_spelling_of_an_instant_is_the_same_anywhere(when, offset):
    expected = (when - EPOCH) // dt.timedelta(milliseconds=1)
    for zone in ZONES:
        with standing_in(zone):
            found = [(instant_ms(value, "start"), repr(value)) for value in spellings(when, offset)]
        assert [one for one in found if one[0] != expected] == []


@pytest.mark.fault("B06")
@given(day=st.dates(dt.date(1000, 1, 1)))
def test_a_date_is_its_midnight_in_utc_anywhere(day):
    expected = (day - dt.date(1970, 1, 1)).days * 86_400_000
    for zone in ZONES:
        with standing_in(zone):
            assert instant_ms(day, "start") == expected
            assert instant_ms(day.isoformat(), "start") == expected
            assert instant_ms(np.datetime64(day), "start") == expected
            assert instant_ms(dt.datetime(day.year, day.month, day.day), "start") == expected


@given(when=st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2260, 1, 1)), nanoseconds=st.integers(0, 999))
def test_what_is_finer_than_a_millisecond_is_rounded_down_everywhere(when, nanoseconds):
    expected = (when - EPOCH) // dt.timedelta(milliseconds=1)
    fine = np.datetime64(when, "ns") + np.timedelta64(nanoseconds, "ns")
    stamp = pd.Timestamp(fine)
    text = f"{when.isoformat(timespec='microseconds')}{nanoseconds:03}"
    for value in (
        when,
        fine,
        stamp,
        stamp.tz_localize("UTC"),
        stamp.tz_localize("UTC").tz_convert(ZONES[2]),
        text,
        f"{text}Z",
    ):
        assert instant_ms(value, "start") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01", "2024-01-01T00:00:00Z"),
        ("2024-01-31", "2024-01-31T00:00:00Z"),
        ("2024-01-31T12:00Z", "2024-01-31T12:00:00Z"),
        ("2024-01-31T12:00+02", "2024-01-31T10:00:00Z"),
        ("2024-01-31 12:00:30 -0530", "2024-01-31T17:30:30Z"),
        ("2024-02-29T23:59:59.9999", "2024-02-29T23:59:59.999Z"),
        ("0001-01-01", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59", "9999-12-31T23:59:59Z"),
    ],
)
def test_iso_texts_are_read(text, expected):
    assert instant_ms(text, "start") == np.datetime64(expected[:-1], "ms").astype(np.int64)


BAD = [
    "", "tomorrow", "now", "2024", "20240131", "31.01.2024", "01/31/2024", "2024-13-01", "2024-02-30", "2023-02-29",
    "2024-1-1", "2024-01-31T25:00", "2024-01-31T24:00", "2024-01-31T12", "2024-01-31T12:60", "2024-01-31T12:00:60",
    "2024-01-31T12:00+25:00", "2024-01-31T12:00+05:75", "2024-01-31T12:00 Europe/Paris", "0000-01-01", "1704067200",
    "-1", "1e12", "2024-01-31\n2024-02-01", True, False, 1.7e12, float("nan"), None, pd.NaT, np.datetime64("NaT", "s"),
    np.bool_(True), b"2024-01-31", [], {}, object, dt.timedelta(days=1), dt.time(12), np.timedelta64(1, "D"), 10**30,
    -(10**30), 2**63, -(2**62), np.datetime64(2**40, "Y"), 253_402_300_800_000,
]  # fmt: skip


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_what_is_no_instant_is_an_input_error_that_shows_it(value):
    with pytest.raises(InputError) as caught:
        instant_ms(value, "start")
    assert str(caught.value).startswith("start ")
    assert (repr(value.strip()) if isinstance(value, str) else repr(value)) in str(caught.value)


@given(st.text() | st.integers() | st.floats() | st.dates() | st.datetimes(timezones=st.none() | st.timezones()))
def test_any_value_is_an_instant_or_an_input_error(value):
    try:
        found = instant_ms(value, "end")
    except InputError:
        return
    assert type(found) is int
    assert -62_135_596_800_000 <= found < 253_402_300_800_000  # the years 1 to 9999
