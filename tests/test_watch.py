"""`watch`: quotes as they change, by streams and by polling, the newest for a slow loop, and stale ones marked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from live_world import LiveWorld

from candle_fetcher import AccessDenied, CandleFetcherError, InputError, UnknownSymbol
from candle_fetcher.core.errors import TransportError
from candle_fetcher.core.live import QuoteUpdate
from candle_fetcher.core.quote import Ticker
from candle_fetcher.live.watcher import merged


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LiveWorld]:
    with LiveWorld(tmp_path, now="2024-06-15T12:00:30") as world:
        yield world


def test_quotes_come_at_once_by_requests_and_then_by_the_stream(world: LiveWorld) -> None:
    driver = world.watch(["BTC/USDT", "ETH/USDT"])
    driver.step()
    assert [quote.symbol for quote in driver.quotes] == ["BTC/USDT", "ETH/USDT"]
    world.asked("")
    quotes = driver.run(10)
    assert len(quotes) >= 10
    assert world.asked("ticker") == []
    newest = {quote.symbol: quote for quote in quotes}["BTC/USDT"]
    assert newest.last_price is not None
    assert newest.bid_price is not None
    assert (newest.provider, newest.type, newest.error, newest.is_stale) == ("binance", "crypto", None, False)
    truth = world.fetcher().quotes(["BTC/USDT"])[0]
    assert abs(truth.last_price / newest.last_price - 1) < 0.01


def test_a_quote_of_two_connections_is_merged(world: LiveWorld) -> None:
    driver = world.watch(["binance-um:BTC/USDT"])
    quotes = driver.run(10)
    assert driver.live.stats.connections == 2
    assert all(None not in (quote.last_price, quote.bid_price, quote.ask_price, quote.volume) for quote in quotes)
    assert len({quote.bid_price for quote in quotes}) > 2


def test_a_slow_loop_gets_the_newest_quote_and_a_count_of_the_others(world: LiveWorld) -> None:
    driver = world.watch(["BTC/USDT"])
    driver.step()
    driver.run(60, reads=False)
    assert driver.watcher._changed.qsize() == 1
    quotes = driver.run(0.1)
    assert len(quotes) == 1
    assert quotes[0].age_s is not None
    assert quotes[0].age_s < 2
    assert driver.live.stats.merged >= 40


def test_symbols_are_polled_while_their_stream_is_down(world: LiveWorld) -> None:
    driver = world.watch(["BTC/USDT"])
    driver.run(5)
    world.network.refuse = lambda now_s: TransportError("refused")
    world.network.drop()
    world.asked("")
    quotes = driver.run(20)
    assert len(quotes) > 5
    assert 8 <= len(world.asked("ticker/24hr")) <= 20
    world.network.refuse = lambda now_s: None
    driver.run(70)
    world.asked("")
    driver.run(20)
    assert world.asked("ticker/24hr") == []


def test_a_provider_that_says_nothing_more_gives_one_stale_quote(world: LiveWorld) -> None:
    from candle_fetcher.practice import faults

    driver = world.watch(["BTC/USDT"], max_age_s=10)
    driver.run(5)
    world.network.is_silent = True
    world.exchange.fail(faults.status(503), times=None, match="ticker")
    quotes = driver.run(40)
    stale = [quote for quote in quotes if quote.is_stale]
    assert len(stale) == 1
    assert stale[0].last_price is not None
    world.network.is_silent = False
    assert not driver.run(90)[-1].is_stale


def test_a_pace_is_kept_and_the_last_change_is_not_lost(world: LiveWorld) -> None:
    driver = world.watch(["BTC/USDT"], every_s=5, max_age_s=None)
    quotes = driver.run(60)
    assert 11 <= len(quotes) <= 13


def test_a_stale_quote_keeps_the_pace(world: LiveWorld) -> None:
    """With a pace longer than `max_age_s`, the loop ran without a pause, and held the quote back thousands of times."""
    from candle_fetcher.practice import faults

    driver = world.watch(["BTC/USDT"], every_s=20, max_age_s=5)
    world.network.is_silent = True
    world.exchange.fail(faults.status(503), times=None, match="ticker")
    quotes = driver.run(12)
    assert [quote.is_stale for quote in quotes] == [False]
    assert driver.watcher._delayed == []
    quotes = driver.run(49)
    assert 1 <= len(quotes) <= 3
    assert all(quote.is_stale for quote in quotes)


def test_providers_without_streams_are_polled_within_their_budget(world: LiveWorld) -> None:
    urls = {name: url for name, url in world.exchange.base_urls.items() if not name.endswith("-stream")}
    settings = {"base_urls": urls}
    driver = world.watch(["BTC/USDT", "kraken:BTC/USD"], settings=settings)
    assert driver.live._streaming.lines == []
    world.asked("")
    quotes = driver.run(30)
    assert {quote.provider for quote in quotes} == {"binance", "kraken"}
    assert 10 <= len(world.asked("Ticker")) <= 30


def test_what_cannot_be_had_is_an_error_before_the_first_quote(world: LiveWorld) -> None:
    with pytest.raises(UnknownSymbol, match="NO/SUCH"):
        world.watch(["BTC/USDT", "NO/SUCH"])
    with pytest.raises(AccessDenied, match="key"):
        world.watch(["alpaca:AAPL"])
    for wrong in ("BTC/USDT", [], [1], ["nowhere:BTC/USDT"]):
        with pytest.raises(InputError):
            world.watch(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sink"):
        world.watch(["BTC/USDT"], to=5)


def test_an_update_says_a_part_of_a_quote_and_takes_back_what_there_is_no_more() -> None:
    ticker = merged(None, "BTCUSDT", QuoteUpdate("t", 5.0, 6.0, time_ms=10))
    assert ticker == Ticker("BTCUSDT", 5.0, 6.0, None, None, 10)
    ticker = merged(ticker, "BTCUSDT", QuoteUpdate("b", bid_price=4.0, ask_price=float("nan"), time_ms=8))
    assert ticker == Ticker("BTCUSDT", 5.0, 6.0, 4.0, None, 10)
    assert merged(ticker, "BTCUSDT", QuoteUpdate("b", bid_price=float("nan"))).bid_price is None


def test_after_the_end_nothing_is_yielded(world: LiveWorld) -> None:
    """The loop went on with what was left, which no sink got any more."""
    got: list[object] = []
    driver = world.watch(["BTC/USDT", "ETH/USDT"], to=got.append)
    driver.live.close()
    assert list(driver.live) == []
    assert got == []


def test_a_forked_process_is_told_that_it_cannot_go_on(world: LiveWorld) -> None:
    """It waited for threads that it does not have, and its end cut the connections of its parent."""
    driver = world.watch(["BTC/USDT"])
    parent, driver.live._pid = driver.live._pid, -1
    with pytest.raises(CandleFetcherError, match="forked"):
        next(driver.live)
    driver.live._pid = parent
