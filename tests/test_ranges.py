"""One instant, however it is written and wherever the machine stands, is one number."""

# ruff: noqa: DTZ001  naive times are part of what is tested

from __future__ import annotations

import contextlib
import datetime as dt
import os
import time
import zoneinfo
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core.arguments import float_of
from candle_fetcher.core.errors import InputError
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.fetcher.request import Range, read_range

ZONES = ("UTC", "Europe/Paris", "America/New_York", "Asia/Tokyo")
EPOCH = dt.datetime(1970, 1, 1)
# The days on which the clocks of Paris and New York change in 2024, with holes and folds in local time.
CHANGES = [dt.datetime(2024, *day) for day in ((3, 10), (3, 31), (10, 27), (11, 3))]

in_ns = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2260, 1, 1))
near_changes = st.builds(
    lambda day, ms: day + dt.timedelta(milliseconds=ms), st.sampled_from(CHANGES), st.integers(0, 86_400_000)
)
YEAR_1973 = dt.datetime(1973, 1, 1)


def is_meant(when):
    """Whether an instant can be meant: in the first years of Unix time only whole minutes are."""
    return not EPOCH < when < YEAR_1973 or when.second == when.microsecond == 0


moments = (
    (in_ns | near_changes).map(lambda when: when.replace(microsecond=when.microsecond // 1000 * 1000)).filter(is_meant)
)
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
    if when >= YEAR_1973:
        yield from (ms, np.int64(ms))
    yield from (when, utc, away)
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
    if when >= YEAR_1973 and ms < 10**14:
        yield str(ms)
    for name in ZONES:
        local = utc.astimezone(zone_of(name))
        yield from (local, pd.Timestamp(utc).tz_convert(zone_of(name)))
        yield local.isoformat() if local.second == 0 and not local.utcoffset().seconds % 60 else utc.isoformat()
    if when.microsecond == 0:
        yield from (when.isoformat(timespec="seconds"), np.datetime64(when, "s"))
    if when.microsecond == when.second == 0:
        yield from (f"{when:%Y-%m-%dT%H:%M}" if when.year > 999 else text, f"{when:%Y-%m-%d %H:%M}Z")


@examples()
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


@given(when=in_ns.filter(lambda when: not EPOCH <= when < YEAR_1973), nanoseconds=st.integers(0, 999))
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
        ("2024", "2024-01-01T00:00:00Z"),
        ("20240229", "2024-02-29T00:00:00Z"),
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
    "", "tomorrow", "now", "7d", "first", "20240230", "2024013", "202401", "31.01.2024", "01/31/2024", "2024-13-01",
    "2024-02-30", "2023-02-29", "2024-1-1", "2024-01-31T25:00", "2024-01-31T24:00", "2024-01-31T12",
    "2024-01-31T12:60", "2024-01-31T12:00:60", "2024-01-31T12:00+25:00", "2024-01-31T12:00+05:75",
    "2024-01-31T12:00 Europe/Paris",
    "0000-01-01", "1704067200", "-1", "1e12", "2024-01-31\n2024-02-01", True, False, 1.7e12,
    float("nan"), None, pd.NaT, np.datetime64("NaT", "s"), np.bool_(True), b"2024-01-31", [], {}, object,
    dt.timedelta(days=1), dt.time(12), np.timedelta64(1, "D"), 10**30, -(10**30), 2**63, Decimal("sNaN"),
    Decimal("1704067200000.5"), np.float32("inf"), 1j, -(2**62), np.datetime64(2**40, "Y"), 253_402_300_800_000,
]  # fmt: skip


@pytest.mark.slow(every=3)
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


SECONDS = [1704067200, 1704067200.5, np.int64(1704067200), np.float64(1704067200), Decimal(1704067200), "1704067200"]


@pytest.mark.fault("H01", "B01")
@pytest.mark.parametrize("value", SECONDS, ids=repr)
@pytest.mark.parametrize("name", ["start", "end"])
def test_unix_seconds_are_refused_with_the_milliseconds_that_they_may_mean(name, value):
    with pytest.raises(
        InputError, match=r"1704067200\S* looks like Unix seconds; expected milliseconds: 1704067200[05]00"
    ):
        read_range(**{"start": None, "end": None, name: value})


@pytest.mark.fault("H01")
@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (100, "limit=100?"),
        ("100", "limit=100?"),
        (2024, "limit=2024 or the year, start='2024'?"),
        (20240131, "the date, start='20240131'?"),
        (0, "expected milliseconds such as"),
        (-5, "expected milliseconds such as"),
        ("-5", "expected milliseconds such as"),
        (94_694_399, "expected milliseconds such as"),
        (94_694_399_999, "looks like Unix seconds"),
        (0.5, "expected milliseconds such as"),
        (1_704_067_200_000.0, "expected whole milliseconds: 1704067200000"),
        (1_704_067_200_000_000, "outside the years 1 to 9999; integers are Unix milliseconds"),
        (pd.Timestamp(1704067200), "wrong unit"),  # seconds read as nanoseconds
        (np.datetime64(1704067200, "ms"), "wrong unit"),
        (dt.datetime(1970, 1, 20, 17, 21, 7), "wrong unit"),
    ],
    ids=repr,
)
def test_a_number_that_cannot_be_an_instant_is_refused_with_what_it_may_mean(value, meant):
    with pytest.raises(InputError, match="start ") as caught:
        read_range(value, None)
    assert meant in str(caught.value)


@pytest.mark.fault("H01")
@given(st.integers() | st.floats() | st.decimals() | st.fractions())
def test_no_number_before_1973_is_an_instant_not_even_as_text(number):
    if float_of(number) >= 94_694_400_000:
        return
    for value in (number, str(number)):
        if isinstance(value, str) and len(value) in (4, 8):
            continue  # a year or a day
        with pytest.raises(InputError):
            instant_ms(value, "start")


NOW_MS = 1_718_452_830_000  # 2024-06-15T12:00:30Z


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("today", None, Range(1_718_409_600_000, None)),
        ("yesterday", "today", Range(1_718_323_200_000, 1_718_409_600_000)),
        (" Yesterday ", "NOW", Range(1_718_323_200_000, None)),
        ("7d", "12h", Range(NOW_MS - 7 * 86_400_000, NOW_MS - 12 * 3_600_000)),
        ("7d", None, Range(None, None, 7 * 86_400_000)),  # as days=7
        ("12h", "now", Range(None, None, 12 * 3_600_000)),
        ("first", "2024", Range(0, 1_704_067_200_000, from_first=True)),
        ("First", None, Range(0, None, from_first=True)),
        (None, "now", Range(None, None, limit=500)),
        (None, "now ", Range(None, None, limit=500)),
        ("2023", "20240101", Range(1_672_531_200_000, 1_704_067_200_000)),
    ],
)
def test_words_are_instants_of_now(start, end, expected):
    assert read_range(start, end, now_ms=lambda: NOW_MS) == expected


@pytest.mark.parametrize(
    ("start", "end", "why"),
    [
        ("today", "yesterday", "not before"),
        ("12h", "7d", "not before"),
        ("2024", "first", "not understood"),
        ("7w", None, "not understood"),
        ("tomorrow", None, "not understood"),
        ("999999d", "now", None),
        ("2024", "999999d", "outside the years"),
    ],
)
def test_words_that_make_no_range_are_refused(start, end, why):
    if why is None:
        assert read_range(start, end, now_ms=lambda: NOW_MS).back_ms == 999_999 * 86_400_000
        return
    with pytest.raises(InputError, match=why):
        read_range(start, end, now_ms=lambda: NOW_MS)


@pytest.mark.fault("J20", "K19")
@pytest.mark.parametrize("name", ["days", "limit"])
@pytest.mark.parametrize(
    "value", ["7", "", b"7", True, np.True_, float("nan"), float("inf"), 0, -1, 10**12, 10**400, [7], {}]
)
def test_a_count_is_a_number_and_never_a_text(name, value):
    with pytest.raises(InputError, match=f"{name} .* is not allowed; expected a "):
        read_range(None, None, **{name: value})


@pytest.mark.parametrize("value", [7, 7.0, np.int8(7), np.float32(7), Decimal(7)])
def test_days_may_be_any_kind_of_number(value):
    assert read_range(None, None, days=value).back_ms == 7 * 86_400_000


@pytest.mark.parametrize("value", [7, np.int8(7), np.uint64(7)])
def test_a_limit_may_be_any_kind_of_integer(value):
    assert read_range(None, None, limit=value).limit == 7
