"""Spans agree with sets of instants, point by point."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from candle_fetcher.core.spans import ALL_TIME, Span, hull, merge, subtract

# Empty and inverted spans are among them.
spans = st.builds(Span, st.integers(-20, 20), st.integers(-20, 20))
lists = st.lists(spans, max_size=8)


def points(*some):
    return {point for span in some for point in range(span.start_ms, span.end_ms)}


def in_order_and_apart(some):
    return all(some) and all(a.end_ms < b.start_ms for a, b in pairwise(some))


@given(span=spans)
def test_a_span_is_true_where_it_holds_an_instant(span):
    assert bool(span) == bool(points(span))


@given(one=spans, other=spans)
def test_clipping_keeps_what_both_hold(one, other):
    assert points(one.clip(other)) == points(one) & points(other)


@given(one=spans, other=spans)
def test_a_span_holds_those_whose_every_instant_it_has(one, other):
    assert one.holds(other) == (points(other) <= points(one))


@given(span=spans, ms=st.integers(-30, 30))
def test_an_instant_parts_a_span_in_what_lies_before_and_after_it(span, ms):
    before, after = span.before(ms), span.after(ms)
    assert points(before) == {point for point in points(span) if point < ms}
    assert points(after) == {point for point in points(span) if point >= ms}
    assert before.end_ms >= before.start_ms == span.start_ms
    assert after.start_ms <= after.end_ms == span.end_ms


@given(one=spans, other=spans)
def test_spans_touch_where_one_span_can_hold_just_both(one, other):
    if one and other:
        assert one.touches(other) == (points(hull([one, other])) == points(one, other))
        assert hull([one, other]).holds(one)


def test_a_span_never_ends_before_it_starts_where_it_is_made_between_two_instants():
    assert Span.between(3, 5) == (3, 5)
    assert Span.between(5, 3) == (5, 5)
    assert ALL_TIME.before(7).after(3) == (3, 7)


@given(some=lists)
def test_merging_keeps_every_instant_in_as_few_spans_as_possible(some):
    merged = merge(some)
    assert points(*merged) == points(*some)
    assert in_order_and_apart(merged)
    assert merge(merged) == merged


@given(span=spans, covered=lists)
def test_subtracting_leaves_the_instants_that_nothing_covers(span, covered):
    missing = subtract(span, covered)
    assert points(*missing) == points(span) - points(*covered)
    assert in_order_and_apart(missing)


@given(span=spans, covered=lists)
def test_what_is_covered_and_what_is_missing_make_the_whole(span, covered):
    assert merge([*subtract(span, covered), *(one.clip(span) for one in covered)]) == merge([span])
