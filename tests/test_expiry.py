"""When candles are settled, and until when the word about a hole is believed."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candle_fetcher.core.candles import OHLCV, candles_from
from candle_fetcher.core.expiry import ask_again_ms
from candle_fetcher.core.finality import Finality, Settling
from candle_fetcher.core.timeframe import parse_timeframe

HOUR = 3_600_000
DAY = 24 * HOUR
SECOND = 1_000

frames = st.sampled_from(["1s", "1m", "7m", "1h", "1d", "3d", "1w", "1M"]).map(parse_timeframe)
nows = st.integers(0, 2_000_000_000_000)
delays = st.sampled_from([0, 2_000, 31_000, 960_000])


def settling(frame, delay=2_000):
    return Settling(frame, Finality(delay_ms=delay, late_rows_ms=60_000))


def candles_at(opens):
    return candles_from(("open_time", *OHLCV), [np.array(opens, np.int64), *np.ones((5, len(opens)))])


@given(frame=frames, now=nows, delay=delays)
def test_settled_is_what_closed_as_long_ago_as_the_feed_states(frame, now, delay):
    end = settling(frame, delay).end_ms(now)
    slot = frame.ordinal(end)
    assert frame.open_ms(slot) == end
    assert end + delay <= now
    assert frame.open_ms(slot + 1) + delay > now
    assert settling(frame, delay).settles_ms(frame.open_ms(slot + 1)) == frame.open_ms(slot + 1) + delay


@pytest.mark.fault("B02")
def test_a_candle_settles_two_seconds_after_its_close_and_not_before():
    minute = parse_timeframe("1m")
    for late in range(-2000, 2001, 100):
        now = 60 * SECOND + late
        assert settling(minute).end_ms(now) == (60 * SECOND if late >= 2000 else 0)
        assert settling(minute).settled(candles_at([0, 60 * SECOND]), now).count == (1 if late >= 2000 else 0)


@pytest.mark.fault("B02", "B09")
@given(frame=frames, now=nows, data=st.data())
def test_only_settled_candles_are_kept_on_the_grid_and_off_it(frame, now, data):
    slot = frame.ordinal(now)
    opens = []
    for one in range(slot - 4, slot + 2):
        length = frame.open_ms(one + 1) - frame.open_ms(one)
        opens += [frame.open_ms(one) + data.draw(st.sampled_from([0, 1, length // 3, length - 1]))]
    kept = settling(frame).settled(candles_at(opens), now).open_ms.tolist()
    assert kept == [ms for ms in opens if frame.close_ms(ms) <= now - 2 * SECOND]


def test_settled_candles_come_back_without_a_copy():
    candles = candles_at([0, HOUR])
    assert settling(parse_timeframe("1h")).settled(candles, DAY) is candles
    assert settling(parse_timeframe("1h")).settled(candles_at([]), DAY).count == 0


@pytest.mark.fault("C03")
@pytest.mark.parametrize(
    ("age", "pause"),
    [(0, HOUR), (HOUR, HOUR), (2 * DAY - 1, HOUR), (2 * DAY, 30 * DAY), (900 * DAY, 30 * DAY)],
)
def test_a_young_hole_is_asked_for_after_an_hour_an_old_one_after_thirty_days(age, pause):
    asked = 1_700_000_000_000
    assert ask_again_ms(asked - age, asked) == asked + pause


@pytest.mark.fault("H04")
@pytest.mark.parametrize(("age", "again"), [(0, 35), (34, 35), (35, 35 + 60), (-1, 35)])
def test_a_hole_that_may_be_a_late_row_is_asked_for_again_once_no_row_can_be_late(age, again):
    minute, end = 60 * SECOND, 1_700_000_000_000
    assert ask_again_ms(end, end + age * minute, 35 * minute) == end + again * minute


@pytest.mark.slow
@given(
    frame=st.sampled_from(["1d", "1w", "1M"]).map(parse_timeframe),
    name=st.sampled_from(["America/New_York", "America/Chicago", "Asia/Tokyo", "Europe/Berlin"]),
    now=nows,
)
def test_the_days_of_a_zone_are_over_at_its_midnight(frame, name, now):
    rule = Settling(frame, Finality(delay_ms=0), name)
    end = rule.end_ms(now)
    before, slot = frame.ordinal(end) - 1, frame.ordinal(end)
    assert rule.slot_close_ms(before) <= now < rule.slot_close_ms(slot)
    for one in (before, slot):
        close = rule.slot_close_ms(one)
        wall = dt.datetime.fromtimestamp(close / 1000, ZoneInfo(name))
        assert (wall.hour, wall.minute) == (0, 0)
        assert frame.open_ms(one) < close < frame.open_ms(one + 2)


@given(frame=frames, now=nows, ages=st.lists(st.integers(0, 400_000), max_size=5, unique=True))
def test_what_was_read_within_two_minutes_of_its_close_is_not_confirmed(frame, now, ages):
    closes = sorted(now - age for age in ages)
    opens = sorted({ms for close in closes if frame.close_ms(ms := 2 * close - frame.close_ms(close)) == close})
    young = [ms for ms in opens if frame.close_ms(ms) > now - 120_000]
    expected = frame.open_ms(frame.ordinal(young[0])) if young else None
    assert settling(frame).unconfirmed_ms(candles_at(opens), now) == expected


@given(frame=frames, now=nows, ttl=st.none() | st.integers(1, 10 * DAY))
def test_the_live_edge_is_believed_until_its_next_candle_settles_or_the_ttl_is_up(frame, now, ttl):
    rule = settling(frame)
    settled = rule.end_ms(now)
    until = rule.edge_until_ms(settled, now, ttl)
    assert rule.end_ms(until - 1) == settled
    if ttl is None:
        assert rule.end_ms(until) > settled
    else:
        assert until == min(rule.edge_until_ms(settled, now, None), now + ttl)
