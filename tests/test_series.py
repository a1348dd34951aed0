"""Cache keys: two series never share one, whatever is in their names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import parse_timeframe

# Texts made to collide: separators, what they are encoded as, and nothing.
hostile = st.text(st.sampled_from("|/,=%:7C2F.aA"), max_size=4)
series = st.builds(
    Series,
    provider=st.sampled_from(["binance", "binance-um", "b|"]),
    origin=st.none() | hostile.filter(bool),
    symbol=hostile,
    timeframe=st.sampled_from(["1m", "1M", "7d", "1w"]).map(parse_timeframe),
    kind=st.sampled_from(["candles", "mark", "candles|"]),
    settings=st.lists(st.tuples(hostile, hostile), max_size=2).map(tuple),
)


@pytest.mark.fault("C15")
@given(one=series, other=series)
def test_two_series_share_a_key_only_where_they_are_the_same(one, other):
    assert (one.key == other.key) == (one == other)


@pytest.mark.fault("C15")
def test_fields_cannot_imitate_their_neighbours():
    hour = parse_timeframe("1h")
    base = Series("binance", None, "BTCUSDT", hour)
    others = [
        base._replace(symbol="BTCUSDT|1h"),
        base._replace(symbol="BTC/USDT"),
        base._replace(symbol="BTC%2FUSDT"),
        base._replace(origin="http://127.0.0.1:8700"),
        base._replace(timeframe=parse_timeframe("1m")),
        base._replace(timeframe=parse_timeframe("1M")),
        base._replace(kind="mark"),
        base._replace(settings=(("feed", "sip"), ("x", "y"))),
        base._replace(settings=(("feed", "sip,x=y"),)),
        base._replace(settings=(("feed=sip,x", "y"),)),
    ]
    assert len({one.key for one in [base, *others]}) == len(others) + 1


@given(one=series)
def test_a_key_is_plain_text_of_six_fields(one):
    assert one.key.count("|") == 5
    assert one.key.isascii()
    assert "/" not in one.key
