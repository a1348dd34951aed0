"""What is known of a followed series: closings of a stream in any order, what may be handed out, what was corrected."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core.finality import Finality, Settling
from candle_fetcher.core.live import CandleUpdate
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.live.ledger import MOST_CLOSINGS, Ledger, agrees, is_sound

MINUTE = 60_000
SETTLING = Settling(parse_timeframe("1m"), Finality(delay_ms=2_000))


def update(minute: int, close: float = 5.0, *, closed: bool = True, order: int = 1, **facts) -> CandleUpdate:
    return CandleUpdate("t", minute * MINUTE, (5.0, 9.0, 1.0, close, 7.0), closed, order, **facts)


def row(minute: int, close: float = 5.0, volume: float = 7.0):
    return minute * MINUTE, (5.0, 9.0, 1.0, close, volume)


def test_a_candle_is_due_when_it_has_settled() -> None:
    ledger = Ledger(SETTLING, 10 * MINUTE)
    assert ledger.settles_ms() == 11 * MINUTE + 2_000
    assert ledger.settled_end_ms(11 * MINUTE + 1_999) == 10 * MINUTE
    assert ledger.settled_end_ms(11 * MINUTE + 2_000) == 11 * MINUTE


def test_a_closed_candle_is_never_opened_again_and_older_states_are_not_applied() -> None:
    ledger = Ledger(SETTLING, 0)
    assert ledger.hear(update(1, 2.0, closed=False, order=5))
    assert not ledger.hear(update(1, 3.0, closed=False, order=4))
    assert ledger.hear(update(1, 4.0, order=6))
    assert ledger.forming is None
    assert not ledger.hear(update(1, 9.0, closed=False, order=7))
    assert not ledger.hear(update(1, 4.0, order=6))
    assert not ledger.hear(update(1, 8.0, order=5))
    assert ledger.hear(update(1, 8.0, order=2, is_correction=True))
    assert ledger.closings[MINUTE].values[3] == 8.0


def test_where_the_stream_marks_no_end_a_later_candle_closes_the_one_before() -> None:
    ledger = Ledger(SETTLING, 0, 3, marks_closed=False)
    ledger.connected(0)
    ledger.hear(update(1, closed=False))
    assert not ledger.closings
    ledger.hear(update(2, closed=False))
    assert list(ledger.closings) == [MINUTE]
    assert ledger.closings[MINUTE].is_closed
    # Its first minute began before the connection: its values may be old.
    assert ledger.heard_from_ms == MINUTE
    late = Ledger(SETTLING, MINUTE, 3, marks_closed=False)
    late.connected(MINUTE)
    late.hear(update(1, closed=False))
    late.hear(update(2, closed=False))
    assert late.streamed(10 * MINUTE) == []


def test_fetched_candles_are_held_against_closings() -> None:
    ledger = Ledger(SETTLING, 0)
    ledger.connected(0)
    ledger.hear(update(1))
    ledger.hear(update(2, 6.0))
    found = ledger.compare([row(0), row(1), row(2), row(3), row(4, volume=0.0)], 6 * MINUTE)
    assert (found.confirmed, found.differing, found.unheard) == (1, 1, 3)
    assert not ledger.is_silent()  # of minute 4 there was no trade
    ledger.compare([row(5), row(6)], 8 * MINUTE)
    assert ledger.is_silent()
    assert not ledger.is_silent()


def test_only_adjoining_settled_closings_are_handed_out_and_the_last_of_a_group_is_fetched() -> None:
    ledger = Ledger(SETTLING, MINUTE, 4)
    for minute in (1, 2, 3, 4, 6):
        ledger.hear(update(minute))
    assert [one.open_ms // MINUTE for one in ledger.streamed(4 * MINUTE + 2_000)] == [1, 2, 3]
    ledger.hand_streamed(ledger.streamed(3 * MINUTE + 2_000))
    assert ledger.next_ms == 3 * MINUTE
    assert [one.open_ms // MINUTE for one in ledger.streamed(20 * MINUTE)] == [3]
    ledger.hand_streamed(ledger.streamed(20 * MINUTE))
    assert ledger.streamed(20 * MINUTE) == []
    assert Ledger(SETTLING, MINUTE, 1).streamed(20 * MINUTE) == []


def test_corrections_are_found_once() -> None:
    ledger = Ledger(SETTLING, MINUTE, 4)
    ledger.hear(update(1))
    ledger.hear(update(2))
    ledger.hand_streamed(ledger.streamed(3 * MINUTE + 2_000))
    ledger.compare([row(3)], 4 * MINUTE + 2_000)
    assert ledger.check_from_ms() == MINUTE
    assert ledger.corrections([row(1, 6.0), row(2), row(3)], 4 * MINUTE + 2_000) == ([MINUTE], (1, 1, 0))
    assert ledger.corrections([row(2), row(3)], 4 * MINUTE + 2_000) == ([], (0, 0, 0))
    assert ledger.doubts(update(3, 8.0))
    assert not ledger.doubts(update(3))
    ledger.corrections([], 60 * MINUTE)
    assert ledger.check_from_ms() == ledger.next_ms


def test_closings_are_bounded() -> None:
    ledger = Ledger(SETTLING, 0)
    for minute in range(MOST_CLOSINGS + 50):
        ledger.hear(update(minute))
    assert len(ledger.closings) == MOST_CLOSINGS
    assert max(ledger.closings) == (MOST_CLOSINGS + 49) * MINUTE
    ledger.advance((MOST_CLOSINGS + 50) * MINUTE)
    assert not ledger.closings


@pytest.mark.parametrize(
    "values",
    [
        (5.0, 4.0, 1.0, 5.0, 1.0),
        (5.0, 9.0, 6.0, 5.0, 1.0),
        (5.0, 9.0, 1.0, 5.0, -1.0),
        (math.nan, 9.0, 1.0, 5.0, 1.0),
        (5.0, math.inf, 1.0, 5.0, 1.0),
        (5.0, 9.0, 1.0, None, 1.0),
        (5.0, 9.0, 1.0, 5.0),
    ],
)
def test_impossible_closings_are_not_handed_out(values) -> None:
    assert not is_sound(values)
    ledger = Ledger(SETTLING, MINUTE, 4)
    ledger.hear(CandleUpdate("t", MINUTE, values, True, 1))
    assert ledger.streamed(20 * MINUTE) == []


def test_what_a_stream_does_not_say_does_not_differ() -> None:
    assert agrees((5.0, None, None, 5.0, None), (5.0, 9.0, 1.0, 5.0, 7.0))
    assert agrees((5.0, 9.0, 1.0, 5.0, math.nan), (5.0, 9.0, 1.0, 5.0, math.nan))
    assert not agrees((5.0, 9.0, 1.0, 5.1, 7.0), (5.0, 9.0, 1.0, 5.0, 7.0))


WORDS = st.builds(
    lambda minute, close, closed, order: update(minute, float(close), closed=closed, order=order),
    st.integers(0, 8), st.integers(1, 9), st.booleans(), st.integers(0, 5),
)  # fmt: skip


@given(st.lists(st.one_of(WORDS, st.integers(0, 12)), max_size=60), st.integers(1, 5))
@examples(80)
def test_in_any_order_what_is_handed_out_by_the_stream_is_each_candle_once_and_in_order(steps, every) -> None:
    ledger, handed = Ledger(SETTLING, 0, every), []
    for step in steps:
        if isinstance(step, CandleUpdate):
            ledger.hear(step)
            assert (
                step.open_ms not in ledger.closings
                or ledger.forming is None
                or (ledger.forming.open_ms not in ledger.closings)
            )
            continue
        streamed = ledger.streamed(step * MINUTE + 2_000)
        ledger.hand_streamed(streamed)
        handed += [one.open_ms for one in streamed]
        if len(ledger.uncompared) >= every - 1:
            start_ms, end_ms = ledger.next_ms, ledger.settled_end_ms(step * MINUTE + 2_000)
            rows = [row(minute) for minute in range(start_ms // MINUTE, end_ms // MINUTE)]
            ledger.compare(rows, step * MINUTE + 2_000)
            ledger.advance(end_ms)
            handed += [open_ms for open_ms, _ in rows]
            ledger.corrections([row(minute) for minute in range(9)], step * MINUTE + 2_000)
    assert handed == [MINUTE * number for number in range(len(handed))]
