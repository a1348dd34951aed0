"""The grid: every instant lies in one numbered slot; the oracle is Python's own calendar."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candle_fetcher.core.errors import InputError
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe

OFFERED = ["1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M"]
MULTIPLES = ["7s", "90s", "7m", "45m", "10h", "36h", "2d", "5d", "7d", "2w", "3w", "2M", "3M", "5M", "12M"]
FRAMES = [*OFFERED, *MULTIPLES]

UTC = dt.timezone.utc
EPOCH = dt.datetime(1970, 1, 1, tzinfo=UTC)
MONDAY = dt.datetime(1969, 12, 29, tzinfo=UTC)
LENGTHS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

frames = st.sampled_from(FRAMES).map(parse_timeframe)
# The years 2 to 9990, so that a neighbouring slot still has a datetime.
instants = st.integers(-62_100_000_000_000, 253_000_000_000_000) | st.integers(-10_000_000_000, 1_800_000_000_000)
slots = st.integers(-10_000, 10_000)


def moment(ms):
    return EPOCH + dt.timedelta(milliseconds=ms)


def ms_of(when):
    return (when - EPOCH) // dt.timedelta(milliseconds=1)


def slot_of(frame, ms):
    """The slot by Python's calendar: whole units since the epoch, or since the Monday before it."""
    when = moment(ms)
    if frame.unit == "M":
        return ((when.year - 1970) * 12 + when.month - 1) // frame.count
    since = when - (MONDAY if frame.unit == "w" else EPOCH)
    return since // dt.timedelta(seconds=frame.count * LENGTHS[frame.unit])


def border(frame, slot):
    """When the slot opens, by Python's calendar."""
    if frame.unit == "M":
        years, month = divmod(slot * frame.count, 12)
        return ms_of(dt.datetime(1970 + years, 1 + month, 1, tzinfo=UTC))
    origin = MONDAY if frame.unit == "w" else EPOCH
    return ms_of(origin + slot * dt.timedelta(seconds=frame.count * LENGTHS[frame.unit]))


@pytest.mark.parametrize("name", FRAMES)
def test_a_name_reads_back_as_the_same_timeframe(name):
    frame = parse_timeframe(name)
    assert parse_timeframe(frame.name) == frame
    assert str(frame) == frame.name
    if name in OFFERED:
        assert frame.name == name


@given(count=st.integers(1, 99999), unit=st.sampled_from("smhdwM"))
def test_every_count_and_unit_reads_back_as_the_same_length(count, unit):
    frame = parse_timeframe(f"{count}{unit}")
    assert parse_timeframe(frame.name) is parse_timeframe(frame.name)
    assert parse_timeframe(frame.name) == frame
    assert frame.step_ms == (None if unit == "M" else count * LENGTHS[unit] * 1000)
    assert frame.nominal_ms == (count * 30 * 86_400_000 if unit == "M" else frame.step_ms)


@pytest.mark.parametrize(
    ("one", "other"),
    [("60m", "1h"), ("24h", "1d"), ("60s", "1m"), ("3600s", "1h"), ("86400s", "1d"), ("1440m", "1d"), ("72h", "3d")],
)
def test_the_same_length_is_the_same_timeframe(one, other):
    assert parse_timeframe(one) == parse_timeframe(other)
    assert parse_timeframe(one).name == other


@pytest.mark.fault("B11")
@pytest.mark.parametrize(("one", "other"), [("7d", "1w"), ("1m", "1M"), ("30d", "1M"), ("4w", "1M"), ("12M", "52w")])
def test_lengths_that_only_look_alike_stay_apart(one, other):
    assert parse_timeframe(one) != parse_timeframe(other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "m",
        "h1",
        "0m",
        "00h",
        "01m",
        "-1m",
        "+1m",
        "1.5h",
        "1x",
        "1 h",
        "1h ",
        "1h\n",
        "\uff11h",
        "100000m",
        "1hh",
    ],
)
def test_what_is_no_timeframe_is_an_input_error_that_shows_it(text):
    with pytest.raises(InputError) as caught:
        parse_timeframe(text)
    assert repr(text) in str(caught.value)
    assert "4h" in str(caught.value)


@pytest.mark.parametrize("value", [5, None, 1.5, b"1h", ["1h"], dt.timedelta(hours=1)])
def test_what_is_no_text_is_an_input_error_too(value):
    with pytest.raises(InputError, match="unknown timeframe"):
        parse_timeframe(value)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("5T", "5m"), ("hour", "1h"), ("hourly", "1h"), ("daily", "1d"), ("week", "1w"), ("1 h", "1h"), ("1wk", "1w"),
        ("4 hours", "4h"), ("1h ", "1h"), ("1mth", "1M"), ("3 M", "3M"), ("3 m", "3m"), ("M", "1M"), ("min", "1m"),
    ],
)  # fmt: skip
def test_a_near_miss_is_told_what_was_most_likely_meant(text, meant):
    with pytest.raises(InputError, match=rf"Did you mean {meant}\?"):
        parse_timeframe(text)


@given(frame=frames, ms=instants)
def test_the_slot_of_an_instant_is_that_of_the_calendar(frame, ms):
    assert frame.ordinal(ms) == slot_of(frame, ms)


@given(frame=frames, slot=slots)
def test_a_slot_opens_when_the_calendar_says(frame, slot):
    if frame.unit != "M" or -1960 * 12 < slot * frame.count < 8000 * 12:
        assert frame.open_ms(slot) == border(frame, slot)


@given(frame=frames, slot=slots)
def test_slots_follow_each_other_without_overlap(frame, slot):
    opened, closed = frame.open_ms(slot), frame.open_ms(slot + 1)
    assert opened < closed
    assert frame.ordinal(opened) == frame.ordinal(closed - 1) == slot
    assert frame.ordinal(opened - 1) == slot - 1
    assert frame.close_ms(opened) == closed


@given(frame=frames, ms=st.lists(instants, max_size=8))
def test_whole_columns_are_numbered_like_single_instants(frame, ms):
    found = frame.ordinals(np.array(ms, np.int64))
    assert found.dtype == np.int64
    assert found.tolist() == [frame.ordinal(one) for one in ms]
    assert frame.opens_ms(found).tolist() == [frame.open_ms(slot) for slot in found.tolist()]


@given(frame=frames, ms=instants)
def test_the_first_slot_of_a_range_is_the_first_that_opens_in_it(frame, ms):
    slot = frame.first_slot(ms)
    assert frame.open_ms(slot - 1) < ms <= frame.open_ms(slot)


@given(frame=frames, ms=instants)
def test_a_candle_off_the_grid_lasts_as_long_as_the_others(frame, ms):
    if frame.unit == "M":
        assert frame.close_ms(ms) == border(frame, slot_of(frame, ms) + 1)
    else:
        assert frame.close_ms(ms) - ms == frame.count * LENGTHS[frame.unit] * 1000


@pytest.mark.fault("B10", "B11")
@given(ms=instants)
def test_weeks_open_on_monday_and_months_on_the_first(ms):
    week, month = parse_timeframe("1w"), parse_timeframe("1M")
    monday = moment(week.open_ms(week.ordinal(ms)))
    first = moment(month.open_ms(month.ordinal(ms)))
    assert monday.isoweekday() == 1
    assert monday.time() == first.time() == dt.time()
    assert first.date() == moment(ms).date().replace(day=1)
    assert moment(ms) - dt.timedelta(days=7) < monday <= moment(ms)


@pytest.mark.fault("B11", "B14")
def test_two_years_of_months_have_the_days_of_the_calendar():
    month = parse_timeframe("1M")
    first = month.ordinal(ms_of(dt.datetime(2023, 1, 1, tzinfo=UTC)))
    opens = month.opens_ms(np.arange(first, first + 25))
    assert np.diff(opens).tolist() == [
        days * 86_400_000
        for days in (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    ]


def is_made_of(frame, base):
    """Whether every border of the frame is one of the base, looked up one by one."""
    borders = [border(frame, slot) for slot in range(-40, 41)]
    return all(border(base, slot_of(base, ms)) == ms for ms in borders)


@pytest.mark.slow(every=5)
@pytest.mark.parametrize("name", FRAMES)
def test_a_timeframe_divides_those_whose_every_border_is_one_of_its_own(name):
    base = parse_timeframe(name)
    found = {other for other in FRAMES if base.divides(parse_timeframe(other))}
    assert found == {other for other in FRAMES if is_made_of(parse_timeframe(other), base)}


@given(
    count=st.integers(1, 400),
    unit=st.sampled_from("smhdwM"),
    other_count=st.integers(1, 30),
    other_unit=st.sampled_from("hdwM"),
)
def test_division_agrees_with_the_borders_for_any_two_timeframes(count, unit, other_count, other_unit):
    base, other = Timeframe(count, unit), Timeframe(other_count, other_unit)
    assert base.divides(other) == is_made_of(other, base)


@given(frame=frames, ms=instants)
def test_an_instant_is_rounded_to_where_slots_open(frame, ms):
    assert frame.floor_ms(ms) == border(frame, slot_of(frame, ms))
    assert frame.floor_ms(ms) <= ms <= frame.ceil_ms(ms)
    assert frame.ceil_ms(ms) == border(frame, slot_of(frame, ms - 1) + 1)


@given(frame=frames, ms=st.integers(-30 * 10**12, 200 * 10**12), count=st.integers(-2, 5), late=st.integers(0, 1))
def test_the_slots_of_a_span_are_those_that_open_in_it(frame, ms, count, late):
    first = slot_of(frame, ms)
    span = frame.span(first, first + count)
    assert span == (border(frame, first), border(frame, first + count))
    found = frame.slots(Span(span.start_ms + late, span.end_ms))
    assert list(found) == list(range(first + late, first + count))
