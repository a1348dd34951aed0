"""What is asked for: found by sets of slots, one by one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core.candles import OHLCV, candles_from
from candle_fetcher.core.entry import Entry, Hole, HoleState
from candle_fetcher.core.finality import Finality, Settling
from candle_fetcher.core.plan import (
    CHUNK_SLOTS,
    Ask,
    FetchPlan,
    Query,
    Step,
    chunk_of,
    chunk_span,
    chunks_of,
    find_asks,
    merge_steps,
)
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe

HOUR = 3_600_000
DAY = 24 * HOUR
SLOTS = 30
CHUNK = Span(0, SLOTS * HOUR)
NOW = 400 * DAY
SETTLING = Settling(parse_timeframe("1h"), Finality(delay_ms=2_000, late_rows_ms=60_000))


def asks_of(entry, chunk, wanted, bounds, **rules):
    """What must be asked for of the chunk, by a query with those rules."""
    return find_asks(entry, chunk, bounds, Query(wanted, SETTLING, **rules))


frames = st.sampled_from(["1s", "1m", "7m", "1h", "1d", "3d", "1w", "1M"]).map(parse_timeframe)
edges = st.integers(-3, SLOTS + 3)
bounds_of_slots = st.builds(lambda a, b: (min(a, b), max(a, b)), edges, edges)


def span_of(slots):
    return Span(slots[0] * HOUR, slots[1] * HOUR)


def slots_of(span):
    """The slots of a span that has its borders on slots."""
    assert span.start_ms % HOUR == span.end_ms % HOUR == 0
    return set(range(span.start_ms // HOUR, span.end_ms // HOUR))


def entry_of(covered, holes, stored_ms=NOW):
    """An entry with a candle in every covered slot outside the holes, given as (first, stop, asked or state)."""
    empty = {slot for first, stop, _ in holes for slot in range(first, stop)}
    opens = np.array([slot * HOUR for slot in range(*covered) if slot not in empty], np.int64)
    candles = candles_from(("open_time", *OHLCV), [opens, *np.ones((5, opens.size))])
    found = tuple(hole_of(span_of((first, stop)), word) for first, stop, word in holes)
    return Entry(span_of(covered), stored_ms, found, candles)


def hole_of(span, word):
    return Hole(span, word) if isinstance(word, HoleState) else Hole(span, HoleState.CONFIRMED, word)


@st.composite
def entries(draw):
    """A covered run of the chunk and holes in it, each asked for at some time."""
    first = draw(st.integers(0, SLOTS - 1))
    stop = draw(st.integers(first + 1, SLOTS))
    cuts = sorted(draw(st.sets(st.integers(first, stop), max_size=6)))
    holes = []
    for start, end in list(pairwise(cuts))[::2]:
        asked = NOW - draw(st.sampled_from([0, HOUR - 1, HOUR, 29 * DAY, 30 * DAY, 31 * DAY]))
        holes.append((start, end, asked))
    stored = NOW - draw(st.integers(0, 4)) * HOUR
    return (first, stop), holes, entry_of((first, stop), holes, stored)


@given(frame=frames, ms=st.integers(-2_000_000_000_000, 4_000_000_000_000))
def test_chunks_have_fixed_borders_of_a_thousand_slots(frame, ms):
    chunk = chunk_of(frame, ms)
    span = chunk_span(frame, chunk)
    assert span.start_ms <= ms < span.end_ms
    assert frame.ordinal(span.start_ms) == chunk * CHUNK_SLOTS
    assert frame.first_slot(span.end_ms) == (chunk + 1) * CHUNK_SLOTS
    assert chunk_span(frame, chunk + 1).start_ms == span.end_ms


@given(frame=frames, start=st.integers(-(10**12), 10**12), length=st.integers(-1, 5_000))
def test_the_chunks_of_a_span_are_those_that_share_an_instant_with_it(frame, start, length):
    span = Span(start, start + length * frame.nominal_ms)
    chunks = chunks_of(frame, span)
    if not span:
        assert not chunks
        return
    for chunk in range(chunk_of(frame, span.start_ms) - 1, chunk_of(frame, span.end_ms) + 2):
        assert (chunk in chunks) == bool(chunk_span(frame, chunk).clip(span))


@given(wanted=bounds_of_slots, bounds=bounds_of_slots)
def test_a_chunk_of_which_nothing_is_stored_is_asked_whole(wanted, bounds):
    asks = asks_of(None, CHUNK, span_of(wanted), span_of(bounds), now_ms=NOW)
    needed = slots_of(CHUNK) & set(range(*wanted)) & set(range(*bounds))
    whole = slots_of(CHUNK) & set(range(*bounds))
    assert [slots_of(ask.span) for ask in asks] == ([whole] if needed else [])
    assert not any(ask.again for ask in asks)


@pytest.mark.slow
@examples(300)
@given(
    stored=entries(),
    wanted=bounds_of_slots,
    bounds=bounds_of_slots,
    recheck=st.booleans(),
    ttl=st.none() | st.integers(0, 4),
)
def test_what_is_asked_is_what_is_missing_and_the_holes_whose_time_has_come(stored, wanted, bounds, recheck, ttl):
    covered, holes, entry = stored
    ttl_ms = None if ttl is None else ttl * HOUR
    asks = asks_of(entry, CHUNK, span_of(wanted), span_of(bounds), now_ms=NOW, ttl_ms=ttl_ms, recheck=recheck)

    needed = slots_of(CHUNK) & set(range(*wanted)) & set(range(*bounds))
    have = set(range(*covered))
    if ttl_ms is not None and entry.stored_ms + ttl_ms <= NOW and covered[1] < SLOTS and entry.candles.count:
        have = {slot for slot in have if slot * HOUR < entry.candles.open_ms[-1]}
    missing = (slots_of(CHUNK) & set(range(*bounds))) - have if needed - have else set()
    due = set()
    for first, stop, asked in holes:
        run = set(range(first, stop))
        pause = HOUR if asked - stop * HOUR < 2 * DAY else 30 * DAY
        if run & needed and run <= have and (recheck or asked + pause <= NOW):
            due |= run

    again = [slot for ask in asks if ask.again for slot in slots_of(ask.span)]
    fresh = [slot for ask in asks if not ask.again for slot in slots_of(ask.span)]
    assert sorted(again) == sorted(due)
    assert sorted(fresh) == sorted(missing)
    assert not set(again) & set(fresh)
    assert all(ask.span for ask in asks)


@pytest.mark.fault("B13")
@given(stored=entries(), wanted=bounds_of_slots, bounds=bounds_of_slots)
def test_nothing_is_asked_where_no_slot_is_wanted(stored, wanted, bounds):
    if not slots_of(CHUNK) & set(range(*wanted)) & set(range(*bounds)):
        for entry in (None, stored[2]):
            assert asks_of(entry, CHUNK, span_of(wanted), span_of(bounds), now_ms=NOW, ttl_ms=0, recheck=True) == []


def test_a_covered_chunk_is_asked_for_nothing_ever():
    entry = entry_of((0, SLOTS), [], stored_ms=0)
    for ttl_ms in (None, 0, HOUR):
        assert asks_of(entry, CHUNK, CHUNK, CHUNK, now_ms=2**61, ttl_ms=ttl_ms) == []


def test_at_the_live_edge_only_the_tail_is_asked_for():
    entry = entry_of((0, 10), [])
    bounds = span_of((0, 12))
    assert asks_of(entry, CHUNK, span_of((3, 10)), bounds, now_ms=NOW) == []
    assert asks_of(entry, CHUNK, span_of((3, 11)), bounds, now_ms=NOW) == [Ask(span_of((10, 12)))]


def test_a_ttl_asks_again_from_the_last_candle_on_and_only_those_who_want_it():
    entry = entry_of((0, 10), [], stored_ms=NOW - HOUR)
    bounds = span_of((0, 10))
    tail = [Ask(span_of((9, 10)))]
    assert asks_of(entry, CHUNK, bounds, bounds, now_ms=NOW, ttl_ms=HOUR) == tail
    assert asks_of(entry, CHUNK, bounds, bounds, now_ms=NOW - 1, ttl_ms=HOUR) == []
    assert asks_of(entry, CHUNK, span_of((0, 9)), bounds, now_ms=NOW, ttl_ms=HOUR) == []
    assert asks_of(entry, CHUNK, Span(0, 9 * HOUR + 1), bounds, now_ms=NOW, ttl_ms=HOUR) == tail


def test_a_hole_that_the_tail_holds_is_asked_for_once():
    entry = entry_of((0, 10), [(2, 4, NOW - 31 * DAY), (7, 10, NOW - 31 * DAY)], stored_ms=NOW - HOUR)
    asks = asks_of(entry, CHUNK, CHUNK, span_of((0, 10)), now_ms=NOW, ttl_ms=HOUR)
    assert asks == [Ask(span_of((2, 4)), again=True), Ask(span_of((6, 10)))]


@pytest.mark.parametrize(("pause", "due"), [(HOUR - 1, False), (HOUR, True)])
def test_a_young_hole_is_asked_for_again_alone_after_an_hour(pause, due):
    entry = entry_of((0, 30), [(10, 12, 13 * HOUR)])
    asks = asks_of(entry, CHUNK, span_of((11, 20)), CHUNK, now_ms=13 * HOUR + pause)
    assert asks == ([Ask(span_of((10, 12)), again=True)] if due else [])


def plan_of(*steps, notes=()):
    return FetchPlan("binance", "BTC/USDT", "1h", "candles", Span(0, 30 * DAY), merge_steps(steps), 1.5, notes)


def test_steps_of_one_source_add_up_in_the_order_in_which_sources_are_asked():
    plan = plan_of(
        Step("rest", 1, 1000, 1, 2, 10), Step("memory", 2, 2000), Step("rest", 2, 500, 3, 6, 30), Step("disk", 1, 7),
        Step("archive", 1, 100, 4, 0, 50),
    )  # fmt: skip
    assert list(plan.chunks.items()) == [("memory", 2), ("disk", 1), ("archive", 1), ("rest", 3)]
    assert (plan.candles, plan.requests, plan.weight, plan.bytes, plan.files) == (3607, 8, 8, 90, 2)


def test_a_plan_prints_as_an_explanation_and_shows_in_jupyter():
    plan = plan_of(Step("disk", 1, 500), Step("rest", 1, 1000, 1, 2, 170_000), notes=("clock: 1 request <more>",))
    text = str(plan)
    assert text.splitlines()[0] == "binance BTC/USDT 1h: 1,500 candles at most"
    assert "1970-01-01T00:00:00Z to 1970-01-31T00:00:00Z" in text
    assert "1 requests, weight 2, about 0.2 MB" in text
    assert text.splitlines()[-1] == "  clock: 1 request <more>"
    assert "clock: 1 request &lt;more&gt;" in plan._repr_html_()


@pytest.mark.parametrize("now_ms", [NOW, 0])
def test_what_nobody_was_asked_about_is_asked_for_as_if_it_were_not_covered(now_ms):
    unasked = HoleState.UNASKED
    entry = entry_of(
        (0, SLOTS), [(2, 4, unasked), (6, 8, HoleState.BEYOND), (10, 12, HoleState.DUE), (20, 22, unasked)]
    )
    asks = asks_of(entry, CHUNK, span_of((0, 15)), CHUNK, now_ms=now_ms)
    due = [Ask(span_of((10, 12)), again=True)] if now_ms else []
    assert asks == [Ask(span_of((2, 4))), *due]
    # What lies outside the bounds cannot be asked for, and what is left of it can.
    asks = asks_of(entry, CHUNK, span_of((0, SLOTS)), span_of((3, SLOTS)), now_ms=0)
    assert asks == [Ask(span_of((3, 4))), Ask(span_of((20, 22)))]
