"""Spans agree with sets of instants, point by point."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from candle_fetcher.core.spans import Span, merge, subtract

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
