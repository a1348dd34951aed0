"""Until when something may be believed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candle_fetcher.core.candles import OHLCV, candles_from
from candle_fetcher.core.expiry import ask_again_ms, drop_unsettled, edge_until_ms, settled_end_ms
from candle_fetcher.core.timeframe import parse_timeframe

HOUR = 3_600_000
DAY = 24 * HOUR
SECOND = 1_000

frames = st.sampled_from(["1s", "1m", "7m", "1h", "1d", "3d", "1w", "1M"]).map(parse_timeframe)
nows = st.integers(0, 2_000_000_000_000)


def candles_at(opens):
    return candles_from(("open_time", *OHLCV), [np.array(opens, np.int64), *np.ones((5, len(opens)))])


@given(frame=frames, now=nows)
def test_settled_is_what_closed_two_seconds_ago(frame, now):
    end = settled_end_ms(frame, now)
    slot = frame.ordinal(end)
    assert frame.open_ms(slot) == end
    assert end + 2 * SECOND <= now
    assert frame.open_ms(slot + 1) + 2 * SECOND > now


@pytest.mark.fault("B02")
def test_a_candle_settles_two_seconds_after_its_close_and_not_before():
    minute = parse_timeframe("1m")
    for late in range(-2000, 2001, 100):
        now = 60 * SECOND + late
        assert settled_end_ms(minute, now) == (60 * SECOND if late >= 2000 else 0)
        assert drop_unsettled(candles_at([0, 60 * SECOND]), minute, now).count == (1 if late >= 2000 else 0)


@pytest.mark.fault("B02", "B09")
@given(frame=frames, now=nows, data=st.data())
def test_only_settled_candles_are_kept_on_the_grid_and_off_it(frame, now, data):
    slot = frame.ordinal(now)
    opens = []
    for one in range(slot - 4, slot + 2):
        length = frame.open_ms(one + 1) - frame.open_ms(one)
        opens += [frame.open_ms(one) + data.draw(st.sampled_from([0, 1, length // 3, length - 1]))]
    kept = drop_unsettled(candles_at(opens), frame, now).open_ms.tolist()
    assert kept == [ms for ms in opens if frame.close_ms(ms) <= now - 2 * SECOND]


def test_settled_candles_come_back_without_a_copy():
    candles = candles_at([0, HOUR])
    assert drop_unsettled(candles, parse_timeframe("1h"), DAY) is candles
    assert drop_unsettled(candles_at([]), parse_timeframe("1h"), DAY).count == 0


@pytest.mark.fault("C03")
@pytest.mark.parametrize(
    ("age", "pause"),
    [(0, HOUR), (HOUR, HOUR), (2 * DAY - 1, HOUR), (2 * DAY, 30 * DAY), (900 * DAY, 30 * DAY)],
)
def test_a_young_hole_is_asked_for_after_an_hour_an_old_one_after_thirty_days(age, pause):
    asked = 1_700_000_000_000
    assert ask_again_ms(asked - age, asked) == asked + pause


@given(frame=frames, now=nows, ttl=st.none() | st.integers(1, 10 * DAY))
def test_the_live_edge_is_believed_until_its_next_candle_settles_or_the_ttl_is_up(frame, now, ttl):
    settled = settled_end_ms(frame, now)
    until = edge_until_ms(frame, settled, now, ttl)
    assert settled_end_ms(frame, until - 1) == settled
    if ttl is None:
        assert settled_end_ms(frame, until) > settled
    else:
        assert until == min(edge_until_ms(frame, settled, now, None), now + ttl)
