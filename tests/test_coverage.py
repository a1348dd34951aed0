"""What an answer adds to what is stored: one covered span, candles and believed holes inside it, nothing unsettled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core.candles import OHLCV, candles_from, find_holes
from candle_fetcher.core.coverage import absorb
from candle_fetcher.core.entry import Hole, HoleState
from candle_fetcher.core.finality import Finality, Settling
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe

MINUTE = parse_timeframe("1m")
SETTLING = Settling(MINUTE, Finality(delay_ms=2_000, late_rows_ms=60_000))
STEP = 60_000
SLOTS = 14


def answer_of(slots, version, late=None):
    """Candles in those slots, their volume telling the version; `late` says how many ms off the grid each opens."""
    opens = np.array([slot * STEP + (late or {}).get(slot, 0) for slot in sorted(slots)], np.int64)
    prices = np.ones((4, opens.size))
    return candles_from(("open_time", *OHLCV), [opens, *prices, np.full(opens.size, float(version))])


def confirmed(first, stop, asked_ms):
    return Hole(Span(first * STEP, stop * STEP), HoleState.CONFIRMED, asked_ms)


def absorbed(entry, span, candles, now, holes=None):
    holes = find_holes(candles.open_ms, MINUTE, span) if holes is None else holes
    return absorb(entry, span, candles, holes, settling=SETTLING, now_ms=now)


def sound(entry, now):
    """What holds of every entry, whatever came."""
    opens = entry.candles.open_ms.tolist()
    covered = entry.covered
    assert covered
    assert opens == sorted(set(opens))
    assert all(covered.start_ms <= ms < covered.end_ms for ms in opens)
    assert all(ms + STEP + 2000 <= now for ms in opens)
    assert list(entry.holes) == sorted(entry.holes)
    last = covered.start_ms
    for hole in entry.holes:
        assert last <= hole.span.start_ms < hole.span.end_ms <= covered.end_ms
        assert not any(hole.span.start_ms <= ms < hole.span.end_ms for ms in opens)
        last = hole.span.end_ms
    empty = {slot for hole in entry.holes for slot in range(hole.span.start_ms // STEP, -(-hole.span.end_ms // STEP))}
    slots = range(-(-covered.start_ms // STEP), -(-covered.end_ms // STEP))
    assert empty | {ms // STEP for ms in opens} >= set(slots)


@st.composite
def answers(draw, on_grid=True):
    """A span of slots, the candles and the holes that a source answered with, and when; time goes on."""
    now, steps = 0, []
    for version in range(draw(st.integers(1, 5))):
        now = max(now, draw(st.integers(1, SLOTS + 4)) * STEP + draw(st.sampled_from([0, 1999, 2000, 30_000])))
        first = draw(st.integers(0, SLOTS - 1))
        stop = draw(st.integers(first, SLOTS))
        # A source answers with nothing that has not begun.
        slots = {
            slot
            for slot in draw(st.sets(st.integers(first, max(first, stop - 1))))
            if slot < stop and slot * STEP < now
        }
        late = {} if on_grid else {slot: draw(st.sampled_from([0, 0, 14_789])) for slot in slots}
        late = {slot: ms for slot, ms in late.items() if slot * STEP + ms < now}
        steps.append((Span(first * STEP, min(stop * STEP, now)), answer_of(slots, version, late), now))
    return steps


@pytest.mark.slow
@examples(200)
@given(st.booleans().flatmap(lambda on_grid: answers(on_grid=on_grid)))
def test_an_entry_stays_sound_whatever_comes(steps):
    entry = None
    for span, candles, now in steps:
        entry = absorbed(entry, span, candles, now)
        if entry is not None:
            sound(entry, now)


@pytest.mark.slow
@examples(200)
@given(answers())
def test_an_entry_says_slot_by_slot_what_the_newest_answer_said(steps):
    entry, covered, said = None, set(), {}
    for span, candles, now in steps:
        entry = absorbed(entry, span, candles, now)
        came = dict(zip((candles.open_ms // STEP).tolist(), candles.floats("volume").tolist(), strict=True))
        told = []
        for slot in range(span.start_ms // STEP, -(-span.end_ms // STEP)):
            if slot in came and (slot + 1) * STEP + 2000 > now:
                break  # not settled: nothing is told from here on
            told.append(slot)
        if told and told[-1] not in came and now - min((told[-1] + 1) * STEP, span.end_ms) < 60_000:
            # The hole at the end may be rows that are late: of its slots those of the last minute are not told.
            while told and told[-1] not in came and told[-1] >= (now - 60_000) // STEP:
                told.pop()
        if not told:
            continue
        if not covered or told[0] > max(covered) + 1 or told[-1] + 1 < min(covered):
            covered, said = set(), {}
        covered |= set(told)
        # A candle that was settled does not cease to be: an answer without it leaves it as it is.
        said |= {slot: (came.get(slot), now) for slot in told if slot in came or said.get(slot, (None,))[0] is None}
    if entry is None:
        assert not covered
        return
    assert set(range(entry.covered.start_ms // STEP, -(-entry.covered.end_ms // STEP))) == covered
    opens, versions = entry.candles.open_ms.tolist(), entry.candles.floats("volume").tolist()
    assert {ms // STEP: version for ms, version in zip(opens, versions, strict=True)} == {
        slot: version for slot, (version, _) in said.items() if version is not None
    }
    asked = {
        slot: hole.asked_ms
        for hole in entry.holes
        for slot in range(hole.span.start_ms // STEP, -(-hole.span.end_ms // STEP))
    }
    assert asked == {slot: now for slot, (version, now) in said.items() if version is None}


@pytest.mark.slow
@given(st.booleans().flatmap(lambda on_grid: answers(on_grid=on_grid)))
def test_the_same_answer_again_changes_nothing(steps):
    entry = None
    for span, candles, now in steps:
        entry = absorbed(entry, span, candles, now)
        again = absorbed(entry, span, candles, now)
        if entry is None:
            assert again is None
            continue
        assert again[:3] == entry[:3]
        assert again.candles.block.tolist() == entry.candles.block.tolist()


@pytest.mark.fault("B02")
def test_a_candle_is_stored_from_two_seconds_after_its_close():
    span = Span(0, 3 * STEP)
    for late in range(-2000, 2001, 100):
        entry = absorbed(None, span, answer_of([0, 1, 2], 1), 2 * STEP + late)
        assert entry.candles.open_ms.tolist() == ([0, STEP] if late >= 2000 else [0])
        assert entry.covered == Span(0, 2 * STEP if late >= 2000 else STEP)


def test_an_hour_old_hole_at_the_end_is_believed_and_a_minute_old_one_is_not():
    span, candles = Span(0, 5 * STEP), answer_of([0, 1, 2], 1)
    young = absorbed(None, span, candles, 5 * STEP + 59_999)
    assert (young.covered, young.holes) == (Span(0, 4 * STEP), (confirmed(3, 4, 5 * STEP + 59_999),))
    old = absorbed(None, span, candles, 5 * STEP + 60_000)
    assert (old.covered, old.holes) == (span, (confirmed(3, 5, 5 * STEP + 60_000),))


@pytest.mark.fault("B02", "B09")
def test_of_two_candles_in_one_slot_none_is_stored_before_both_are_settled():
    # As on 2018-02-11, where a short candle off the grid is followed by one on it.
    candles = candles_from(("open_time", *OHLCV), [np.array([0, STEP, STEP + 30_000]), *np.ones((5, 3))])
    entry = absorb(None, Span(0, 3 * STEP), candles, [], settling=SETTLING, now_ms=2 * STEP + 2_000)
    assert entry.covered == Span(0, STEP)
    assert entry.candles.open_ms.tolist() == [0]


def test_an_answer_elsewhere_replaces_what_was_stored():
    entry = absorbed(None, Span(0, 2 * STEP), answer_of([0, 1], 1), 60 * STEP)
    other = absorbed(entry, Span(5 * STEP, 6 * STEP), answer_of([5], 2), 60 * STEP)
    assert other.covered == Span(5 * STEP, 6 * STEP)
    assert other.candles.open_ms.tolist() == [5 * STEP]


def test_an_answer_that_tells_nothing_leaves_the_entry_as_it_is():
    entry = absorbed(None, Span(0, 2 * STEP), answer_of([0, 1], 1), 60 * STEP)
    assert absorbed(entry, Span(2 * STEP, 3 * STEP), answer_of([2], 1), 3 * STEP) is entry
    assert absorbed(None, Span(2 * STEP, 3 * STEP), answer_of([2], 1), 3 * STEP) is None


def test_a_hole_asked_for_again_does_not_renew_the_live_edge():
    entry = absorbed(None, Span(0, 9 * STEP), answer_of({0, 1, 2, 5, 6, 7, 8}, 1), 60 * STEP)
    later = absorbed(entry, Span(3 * STEP, 5 * STEP), answer_of([], 2), 90 * STEP)
    assert (entry.stored_ms, later.stored_ms) == (60 * STEP, 60 * STEP)
    assert later.holes == (confirmed(3, 5, 90 * STEP),)
    assert absorbed(later, Span(8 * STEP, 9 * STEP), answer_of([8], 3), 95 * STEP).stored_ms == 95 * STEP


@pytest.mark.fault("K07")
def test_a_stored_candle_outlives_an_answer_without_it_and_a_new_value_replaces_it():
    whole = Span(0, 4 * STEP)
    entry = absorbed(None, whole, answer_of([0, 1, 3], 1), 60 * STEP)
    later = absorbed(entry, Span(0, 5 * STEP), answer_of([1, 4], 2), 90 * STEP)
    assert later.covered == Span(0, 5 * STEP)
    assert dict(
        zip((later.candles.open_ms // STEP).tolist(), later.candles.floats("volume").tolist(), strict=True)
    ) == {
        0: 1.0,
        1: 2.0,
        3: 1.0,
        4: 2.0,
    }
    assert later.holes == (confirmed(2, 3, 90 * STEP),)
