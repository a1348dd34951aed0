"""The same fault is reported in the same words for every provider, with what was found and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest
from world import World

from candle_fetcher import IncompleteData, InputError, ReplyError
from candle_fetcher.core.call import Reply
from candle_fetcher.practice import faults
from candle_fetcher.providers import find_provider
from candle_fetcher.providers.series import read_series

SYMBOLS = {
    "binance": "BTC/USDT",
    "binance-us": "BTC/USDT",
    "binance-um": "BTC/USDT",
    "binance-cm": "BTC/USD",
    "kraken": "BTC/USD",
    "alpaca": "AAPL",
    "alpaca-crypto": "BTC/USD",
    "alphavantage": "IBM",
    "coingecko": "bitcoin/usd",
    "tradestation": "MSFT",
}
PAGE = b"<html><body>Log in to this network</body></html>"
each_provider = pytest.mark.parametrize("name", SYMBOLS)


def said_of(name: str, body: bytes) -> str:
    """Return the message of the parser about a body, without what to do."""
    provider = find_provider(name)
    feed = provider.feed("candles")
    timeframe = "4h" if "4h" in feed.timeframes else "1d"
    series, _, _ = read_series(provider, None, SYMBOLS[name], timeframe, "candles")
    with pytest.raises(ReplyError) as raised:
        feed.parse(body, series)
    return raised.value.reason


@each_provider
@pytest.mark.parametrize("body", [b"", PAGE, b"7", b"[NaN", b'"\x1b[31m"'])
def test_a_body_that_is_not_a_reply_is_shown_beside_what_was_expected(name: str, body: bytes) -> None:
    expected, _, found = said_of(name, body).partition(", got ")
    assert expected.startswith(("expected a JSON object with ", "expected a JSON list of rows"))
    assert found == f"{len(body):,} byte{'' if len(body) == 1 else 's'}: {body!r}"


@each_provider
def test_a_body_that_is_too_large_is_shown_with_its_bound(name: str) -> None:
    said = said_of(name, b"[" * 2_200_000)
    assert said.startswith("expected at most ")
    assert ", got 2,200,000: b'[[" in said
    assert len(said) < 300


@each_provider
def test_a_refusal_names_status_and_words_of_the_provider(name: str) -> None:
    provider = find_provider(name)
    for status, said in ((429, "asks for a pause"), (451, "does not serve this region"), (503, "could not answer")):
        error = provider.refuse(Reply(status, {}, b"{}", 0.0), SYMBOLS[name], 0)
        assert f"{said} " in str(error) or f"{said}." in str(error)
        assert f"(status {status})" in str(error)


@each_provider
def test_a_symbol_that_cannot_be_one_is_shown_with_what_is_valid(name: str) -> None:
    with pytest.raises(InputError, match=r"^symbol '=1\+1' is not valid for [A-Z a-z-]+; expected ") as raised:
        find_provider(name).provider_symbol("=1+1", "candles")
    with pytest.raises(InputError, match=r"^symbol '!!!") as long:
        find_provider(name).provider_symbol("!" * 10_000, "candles")
    assert max(len(str(raised.value)), len(str(long.value))) < 600


def test_an_error_that_leaves_a_call_names_the_provider_of_the_reply(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        fetcher = world.fetcher(source="rest", max_retries=0)
        world.exchange.fail(faults.body(PAGE), times=None, match=lambda path, params: path.endswith("klines"))
        with pytest.raises(
            IncompleteData, match="a reply of binance cannot be used: expected a JSON list of rows, got"
        ):
            fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-02")
