"""Candles as columns: what is refused, what is kept as sent, how they are cut and put together."""

from __future__ import annotations

import hashlib
import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core.candles import (
    COLUMNS,
    INTEGERS,
    MISSING,
    OHLCV,
    Candles,
    candles_from,
    check,
    chunk_pieces,
    collect,
    find_holes,
    fingerprint,
    gap_of,
    join,
    no_candles,
    overlay,
)
from candle_fetcher.core.errors import ReplyError
from candle_fetcher.core.gap import iso
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe

HOUR = 3_600_000
NAMES = ("open_time", *OHLCV)
ALL = COLUMNS[:11]
ALL_TIME = Span(-(2**60), 2**60)

frames = st.sampled_from(["1s", "1m", "7m", "1h", "1d", "3d", "1w", "1M", "3M"]).map(parse_timeframe)


def candles_at(opens, names=NAMES, seed=0):
    """Candles at those times that can be true, no two alike."""
    rng = np.random.default_rng(seed)
    low, *inside, high = np.sort(rng.uniform(1, 1000, (4, len(opens))), axis=0)
    values = {
        "open_time": opens,
        "close_time": np.array(opens, np.int64) + HOUR - 1,
        "open": inside[0],
        "close": inside[1],
    }
    values |= {"high": high, "low": low, "trades": rng.integers(0, 1000, len(opens))}
    return candles_from(names, [np.asarray(values.get(name, rng.uniform(0, 9, len(opens)))) for name in names])


def same(one, other):
    assert one.names == other.names
    assert one.block.tolist() == other.block.tolist()


def changed(candles, name, row, value):
    """The candles with one value set."""
    block = candles.block.copy()
    line = block[candles.names.index(name)]
    if name in INTEGERS:
        line[row] = value
    else:
        line.view(np.float64)[row] = value
    return Candles(candles.names, block)


@st.composite
def grids(draw):
    """A timeframe, a span somewhere, and open times about it in order: on the grid and off it, whole slots missing."""
    frame = draw(frames)
    first = draw(st.integers(-60, 60))
    opens = []
    for slot in range(first, first + draw(st.integers(0, 25))):
        for _ in range(draw(st.sampled_from([0, 0, 1, 1, 1, 1, 2]))):
            late = draw(st.sampled_from([0, 0, 0, 1, 894_789])) % (frame.open_ms(slot + 1) - frame.open_ms(slot))
            opens.append(frame.open_ms(slot) + late)
    edge = st.integers(frame.open_ms(first - 3), frame.open_ms(first + 28))
    border = st.integers(first - 3, first + 28).map(frame.open_ms)
    span = Span(*sorted([draw(edge | border), draw(edge | border)]))
    return frame, np.unique(np.array(opens, np.int64)), span


@examples()
@given(grids())
def test_holes_are_the_runs_of_slots_without_a_candle(grid):
    frame, opens, span = grid
    filled = {frame.ordinal(ms) for ms in opens.tolist()}
    expected, run = [], []
    for slot in range(frame.ordinal(span.start_ms) - 1, frame.ordinal(span.end_ms) + 3):
        if span.start_ms <= frame.open_ms(slot) < span.end_ms and slot not in filled:
            run.append(slot)
        elif run:
            expected.append((frame.open_ms(run[0]), frame.open_ms(run[-1] + 1), len(run)))
            run = []
    holes = find_holes(opens, frame, span)
    assert [(hole.start_ms, hole.end_ms) for hole in holes] == [one[:2] for one in expected]
    gaps = [gap_of(hole, frame, "no_candle") for hole in holes]
    assert [gap.count for gap in gaps] == [count for *_, count in expected]
    assert [gap.first_ms for gap in gaps] == [hole.start_ms for hole in holes]
    assert [gap.last_ms for gap in gaps] == [frame.open_ms(frame.ordinal(hole.end_ms - 1)) for hole in holes]


@pytest.mark.fault("B09")
def test_the_outage_of_2018_with_its_candles_off_the_grid_is_one_gap():
    hour = parse_timeframe("1h")
    before, after = 1_518_048_000_000, 1_518_168_494_789  # 2018-02-08 00:00 and 2018-02-09 09:28:14.789
    opens = np.array([before, *(after + step * HOUR for step in range(43)), 1_518_321_600_000])
    (hole,) = find_holes(opens, hour, Span(before, 1_518_325_200_000))
    gap = gap_of(hole, hour, "no_candle")
    assert (gap.first, gap.last, gap.count) == ("2018-02-08T01:00:00Z", "2018-02-09T08:00:00Z", 32)


@examples()
@given(st.lists(st.integers(0, 50), unique=True).map(sorted))
def test_candles_that_can_be_true_pass_unchanged(slots):
    candles = candles_at([slot * HOUR for slot in slots], ALL)
    assert check(candles, Span(0, 51 * HOUR)) is candles


def test_the_odd_shapes_of_real_candles_pass():
    flat = candles_from(
        ALL, [np.array([value]) for value in (HOUR, 7.0, 7.0, 7.0, 7.0, 0.0, HOUR - 5, 0.0, 0, 0.0, 0.0)]
    )
    assert check(flat, ALL_TIME) is flat  # an hour without a trade, its close time before its open
    premium = candles_from(NAMES, [np.array([value]) for value in (HOUR, -2e-4, 1e-4, -5e-4, -1e-4, 0.0)])
    assert check(premium, ALL_TIME) is premium  # a premium index is negative
    late = changed(candles_at([HOUR + 894_789], ALL), "close_time", 0, 2 * HOUR - 1)
    assert check(late, ALL_TIME) is late
    assert check(no_candles(ALL), Span(0, 0)).count == 0


@pytest.mark.fault("A12")
@examples()
@given(st.data())
def test_equal_duplicates_are_dropped(data):
    candles = candles_at(np.arange(5) * HOUR, ALL)
    times = [data.draw(st.integers(1, 3)) for _ in range(5)]
    doubled = Candles(ALL, np.repeat(candles.block, times, axis=1))
    same(check(doubled, ALL_TIME), candles)


@pytest.mark.fault("A12")
@examples()
@given(st.integers(0, 4), st.sampled_from(ALL[1:]))
def test_a_duplicate_that_differs_in_any_column_is_refused(row, name):
    candles = candles_at(np.arange(5) * HOUR, ALL)
    doubled = Candles(ALL, np.repeat(candles.block, 2, axis=1))
    line = ALL.index(name)
    other = changed(doubled, name, 2 * row + 1, doubled.block[line, 2 * row] + 1 if name in INTEGERS else 0.5)
    with pytest.raises(ReplyError, match=f"row {2 * row + 2} .*{iso(row * HOUR)}.* contradicts"):
        check(other, ALL_TIME)


@pytest.mark.fault("A12")
@examples()
@given(st.permutations(range(6)))
def test_rows_out_of_order_are_refused(order):
    candles = candles_at(np.arange(6) * HOUR)
    shuffled = Candles(NAMES, candles.block[:, order])
    if list(order) == sorted(order):
        assert check(shuffled, ALL_TIME) is shuffled
    else:
        with pytest.raises(ReplyError, match="out of order"):
            check(shuffled, ALL_TIME)


@pytest.mark.fault("A09")
@pytest.mark.parametrize("name", [name for name in ALL if name not in INTEGERS])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused_and_shown(name, value):
    for row in (0, 2, 4):
        with pytest.raises(ReplyError) as caught:
            check(changed(candles_at(np.arange(5) * HOUR, ALL), name, row, value), ALL_TIME)
        assert f"row {row + 1} " in str(caught.value)
        assert f"{name} {value}" in str(caught.value)


@pytest.mark.fault("A09")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("volume", -1e-9),
        ("high", 0.5),
        ("low", 1001.0),
        ("open", 0.5),
        ("open", 1001.0),
        ("close", 0.5),
        ("close", 1001.0),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(name, value):
    with pytest.raises(ReplyError, match=rf"row 2 \(1970-01-01T01:00:00Z\) cannot be a candle: .*{name} {value}"):
        check(changed(candles_at(np.arange(3) * HOUR), name, 1, value), ALL_TIME)


@pytest.mark.fault("A10")
@pytest.mark.parametrize("span", [Span(1, 3 * HOUR), Span(0, 2 * HOUR), Span(9 * HOUR, 10 * HOUR), Span(HOUR, HOUR)])
def test_a_candle_outside_the_span_is_refused(span):
    candles = candles_at(np.arange(3) * HOUR)
    assert check(candles, Span(0, 2 * HOUR + 1)) is candles
    with pytest.raises(ReplyError, match=r"expected candles from .*, got one of"):
        check(candles, span)


@examples()
@given(grids())
def test_trimming_keeps_the_candles_that_open_in_the_span_without_a_copy(grid):
    _, opens, span = grid
    candles = candles_at(opens, ALL)
    trimmed = candles.trim(span)
    same(trimmed, Candles(ALL, candles.block[:, (opens >= span.start_ms) & (opens < span.end_ms)]))
    assert not trimmed.count or np.shares_memory(trimmed.block, candles.block)


@examples()
@given(st.lists(st.sampled_from(ALL[1:]), unique=True), st.integers(0, 4))
def test_picked_columns_are_those_of_the_whole(names, count):
    candles = candles_at(np.arange(count) * HOUR, ALL)
    picked = candles.pick(["open_time", *sorted(names, key=ALL.index)])
    assert picked.names == ("open_time", *sorted(names, key=ALL.index))
    for name in picked.names:
        assert picked.integers(name).tolist() == candles.integers(name).tolist()
    assert np.shares_memory(candles.pick(NAMES).block, candles.block) or not count


def columns_of(candles):
    return [candles.integers(name) if name in INTEGERS else candles.floats(name) for name in candles.names]


@examples()
@given(grids(), st.lists(st.integers(0, 50), max_size=4))
def test_parts_in_order_join_to_the_whole(grid, cuts):
    candles = candles_at(grid[1], ALL)
    bounds = [0, *sorted(min(cut, candles.count) for cut in cuts), candles.count]
    parts = [Candles(ALL, candles.block[:, first:last]) for first, last in pairwise(bounds)]
    same(join(parts), candles)
    for room in (0, 1, candles.count, 2 * candles.count):
        same(collect([columns_of(part) for part in parts], ALL, room), candles)


def test_parts_with_other_columns_join_with_what_they_lack_marked():
    narrow, wide = candles_at([0], NAMES), candles_at([HOUR], ALL)
    joined = join([narrow, wide])
    assert joined.names == ALL
    assert np.isnan(joined.floats("quote_volume")[0])
    assert joined.integers("trades")[0] == MISSING
    same(joined.trim(Span(HOUR, 2 * HOUR)), wide)


@pytest.mark.slow
@examples()
@given(grids(), grids())
def test_newer_candles_replace_the_older_ones_inside_their_span_only(one, other):
    _, opens, span = one
    base, newer = candles_at(opens, seed=1), candles_at(other[1], seed=2).trim(span)
    found = overlay(base, newer, span)
    if not span:
        return
    expected = {
        ms: column for ms, column in zip(opens.tolist(), base.block.T.tolist(), strict=True) if not points_in(span, ms)
    }
    expected |= zip(newer.open_ms.tolist(), newer.block.T.tolist(), strict=True)
    assert found.block.T.tolist() == [expected[ms] for ms in sorted(expected)]


def points_in(span, ms):
    return span.start_ms <= ms < span.end_ms


def hashed_by_hand(candles, frame, slots):
    """The fingerprint after the words of the contract, number by number."""
    pieces = {}
    for row, ms in enumerate(candles.open_ms.tolist()):
        pieces.setdefault(frame.ordinal(ms) // slots, []).append(row)
    digests = b""
    for _, rows in sorted(pieces.items()):
        text = b"".join(struct.pack("<q", int(candles.open_ms[row])) for row in rows)
        for name in ("open", "high", "low", "close", "volume"):
            text += b"".join(struct.pack("<d", float(candles.floats(name)[row])) for row in rows)
        digests += hashlib.sha256(text).digest()
    return hashlib.sha256(digests).hexdigest()


@examples()
@given(grids(), st.integers(1, 12))
def test_the_fingerprint_is_the_one_of_the_contract(grid, slots):
    frame, opens, _ = grid
    for names in (NAMES, ALL):
        candles = candles_at(opens, names, seed=5)
        assert fingerprint(candles, frame, slots) == hashed_by_hand(candles, frame, slots)


@examples()
@given(grids(), st.integers(1, 12), st.lists(st.integers(0, 50), max_size=4))
def test_the_fingerprint_does_not_know_how_the_candles_came(grid, slots, cuts):
    frame, opens, _ = grid
    candles = candles_at(opens, ALL)
    bounds = [0, *sorted(min(cut, candles.count) for cut in cuts), candles.count]
    parts = [Candles(ALL, candles.block[:, first:last].copy()) for first, last in pairwise(bounds)]
    assert fingerprint(join(parts), frame, slots) == fingerprint(candles, frame, slots)
    assert fingerprint(candles.pick(NAMES), frame, slots) == fingerprint(candles, frame, slots)


@examples()
@given(st.data())
def test_one_changed_bit_changes_the_fingerprint(data):
    hour = parse_timeframe("1h")
    candles = candles_at(np.arange(8) * HOUR)
    block = candles.block.copy()
    bit = data.draw(st.integers(0, 63)) if (line := data.draw(st.integers(0, 5))) else data.draw(st.integers(0, 21))
    block[line, data.draw(st.integers(0, 7))] ^= np.uint64(1 << bit).astype(np.int64)
    assert fingerprint(Candles(NAMES, block), hour, 3) != fingerprint(candles, hour, 3)


@examples()
@given(grids(), st.integers(1, 12))
def test_pieces_are_cut_where_chunks_end(grid, slots):
    frame, opens, _ = grid
    candles = candles_at(opens)
    pieces = list(chunk_pieces(candles, frame, slots))
    chunks = [{frame.ordinal(ms) // slots for ms in piece.open_ms.tolist()} for piece in pieces]
    assert all(len(chunk) == 1 for chunk in chunks)
    assert [chunk for (chunk,) in chunks] == sorted({frame.ordinal(ms) // slots for ms in opens.tolist()})
    same(join(pieces) if pieces else no_candles(NAMES), candles)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_704_067_200_000, "2024-01-01T00:00:00Z"),
        (1_518_168_494_789, "2018-02-09T09:28:14.789Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_704_067_200_500, "2024-01-01T00:00:00.500Z"),
    ],
)
def test_an_instant_is_shown_in_iso_with_milliseconds_where_there_are_some(ms, text):
    assert iso(ms) == text
