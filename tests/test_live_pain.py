"""Pains of live candles, as users of other programs have had them; each test says what must not happen again.

Where each known pain is tested: "connections" is test_live_connections.py, "sockets" test_live_sockets.py, a test
without a file is here. Here and in the first a World without sockets tells the time; the second has sockets, threads.

- bars that never came, without an error (gap): test_messages_that_are_lost_cost_no_candle
- hole after a reconnect (gap): test_follow.py, test_what_closed_during_a_drop_comes_before_anything_newer
- invisible reconnect (gap): test_a_drop_is_told_once_with_how_many_candles_were_filled
- messages lost in a planned reconnect (gap): connections, test_a_planned_end_loses_no_update_…
- socket silent after hours (silence): test_follow.py, test_a_silent_stream_is_replaced_within_a_minute_…
- frozen, while pings go on (silence): test_a_stream_that_pings_and_has_no_candles_is_renewed_…
- half-open for hours, close() hangs (silence): sockets, test_close_returns_although_the_peer_is_dead
- watcher armed by a first message (silence): connections, test_a_connection_that_sends_nothing_from_the_beginning_…
- refused pair that looks quiet (silence): connections, test_one_refused_pair_of_kraken_…;
  test_a_symbol_that_the_stream_refuses_…
- acknowledged, never any data (silence): test_a_stream_without_any_data_costs_no_candle_and_is_told
- acknowledged unknown symbols; 402, 409 stay open (silence): connections, test_a_refused_key_or_plan_of_alpaca_…;
  an unknown symbol is refused by REST before the stream is opened: test_an_unknown_symbol_is_refused_before_…
- reconnect loop without subscriptions (silence): connections, test_a_connection_without_any_subscription_left_…
- pongs feed the idle timer (reconnect): connections, test_pongs_do_not_stand_for_data_…
- an exception in the reader's thread (reconnect): sockets, test_an_error_in_the_reader_is_no_dead_thread_…
- close during a backoff (reconnect): sockets, test_close_during_a_long_pause_is_quick
- 429 in a storm of handshakes (reconnect): connections, test_refused_handshakes_grow_apart_…
- a fast loop bans the address (reconnect): connections, test_connections_that_are_closed_right_after_the_answer_…
- backoff reset too early (reconnect): connections, test_connections_that_are_closed_right_after_the_answer_…
- combined streams are not restored (reconnect): connections, test_every_subscription_is_back_after_a_drop[0]
- not restored after refusals (reconnect): connections, test_every_subscription_is_back_after_a_drop[2]
- never resumed after an outage (reconnect): connections,
  test_data_flows_within_a_minute_after_a_quarter_of_an_hour_…
- messages above 4,096 bytes (protocol): connections, test_four_hundred_symbols_…; connections,
  test_a_message_without_an_answer_…
- too many streams on a connection (protocol): connections, test_fifteen_hundred_streams_…
- a burst of subscriptions loses some (protocol): connections, test_pairs_lost_to_the_message_rate_…
- the only connection is taken (protocol): connections, test_a_key_whose_connection_is_taken_…;
  test_candles_come_by_requests_while_another_program_…
- message too big (protocol): sockets, test_a_large_message_is_read_and_a_huge_one_ends_the_connection
- bytes beside the handshake (protocol): sockets, test_frames_in_one_piece_with_the_handshake_are_read
- acks by position (protocol): connections, test_an_answer_may_come_before_between_or_after_…
- forming candle taken for closed (final): test_a_stall_in_the_middle_of_a_candle_…
- partial snapshot taken for a whole candle (final): test_a_connection_in_the_middle_of_a_candle_…
- every message taken for a closed candle (final): test_only_the_closing_is_a_closed_candle_…
- last update taken for the closing (final): test_only_the_closing_is_a_closed_candle_…
- a bar that changes after it was final (final): test_a_bar_that_is_corrected_…;
  test_a_bar_of_alpaca_waits_for_its_correction_…
- older candles after newer ones (final): test_an_older_candle_after_a_newer_one_…
- minutes without trades (final): test_silent_minutes_are_there_where_the_provider_has_them_…
- the end of a candle taken for its start (final): test_stream_dialects.py,
  test_a_recorded_session_of_kraken_s_candles
- duplicates around a reconnect (order): test_the_same_closing_from_two_connections_is_one_candle
- mixed order (order): test_follow.py, test_shuffled_and_doubled_frames_…
- late closings are taken for faults (order): test_late_closings_cost_at_most_one_warning
- queue that overflows (queue): test_ten_thousand_updates_…
- slow consumer, no pong (queue): sockets, test_pongs_are_sent_while_the_loop_is_blocked
- late pings under load (queue): sockets, test_pongs_are_sent_under_load
- keep-alive missing, cache silently old (silence): a row of `follow` has its own time, and is never repeated; for
  quotes: test_quotes.py, test_a_quote_older_than_asked_for_is_stale
- memory grows with reconnects (memory): sockets, test_two_hundred_reconnections_leave_nothing
- close hangs (close): sockets, test_every_way_out_of_a_loop_ends_its_threads
- close on a dead peer never returns (close): sockets, test_close_returns_although_the_peer_is_dead
- "event loop is already running" (notebook): sockets, test_a_loop_works_inside_a_running_event_loop
- no restart after a stop (notebook): sockets, test_ten_loops_one_after_the_other_each_deliver
- normal closes taken for the end (reconnect): sockets,
  test_each_close_of_the_server_is_followed_by_a_new_connection
- silent change to polling (protocol): test_a_symbol_that_the_stream_refuses_comes_by_requests_with_one_warning
- wrong local clock (order): test_a_wrong_local_clock_changes_no_closing
- unknown and missing keys (protocol): connections, test_a_frame_that_lacks_a_key_…; test_stream_dialects.py
- one bad symbol sinks all (protocol): connections, test_one_bad_symbol_in_a_message_…
- sleep of the machine (reconnect): test_an_hour_of_sleep_is_filled_at_once
"""

from __future__ import annotations

import json
import re
import tracemalloc
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_world import Driver, LiveWorld
from world import ms, same

from candle_fetcher import CandleFetcherWarning, UnknownSymbol
from candle_fetcher.core.errors import TransportError
from candle_fetcher.core.frame import index_ms

MINUTE = 60_000
NOON = "2024-06-15T12:00"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LiveWorld]:
    with LiveWorld(tmp_path, now="2024-06-15T12:00:30", outages=()) as world:
        yield world


def minutes(count: int, start: str = NOON) -> list[int]:
    return [ms(start) + MINUTE * number for number in range(count)]


def follow(world: LiveWorld, symbols: list[str], **given: Any) -> Driver:
    """A call of `follow` whose stream is connected."""
    driver = world.follow(symbols, "1m", **given)
    driver.run(1)
    return driver


def pass_minutes(driver: Driver, count: int, *offsets: float) -> None:
    """Let so many minutes pass, and look at these seconds of each."""
    base_s = driver.world.now_s // 60 * 60
    for number in range(1, count + 1):
        driver.run_to(base_s + 60 * number + offset for offset in offsets or (0.1, 2.1, 3.0, 15.0, 30.0, 45.0))


def of_klines(change: Callable[[dict[str, Any]], Iterable[dict[str, Any]]]) -> Callable[[bytes], Iterator[bytes]]:
    """Return what replaces each kline by those that `change` makes of it."""

    def frames(text: bytes) -> Iterator[bytes]:
        body = json.loads(text)
        if body.get("data", {}).get("e") != "kline":
            yield text
            return
        for kline in change(body["data"]["k"]):
            yield json.dumps({**body, "data": {**body["data"], "k": kline}}).encode()

    return frames


def test_each_test_that_the_table_above_names_is_there() -> None:
    folder, table = Path(__file__).parent, __doc__ or ""
    files = {"connections": "test_live_connections.py", "sockets": "test_live_sockets.py", "": "test_live_pain.py"}
    pains = [" ".join(row.split()) for row in table.split("\n- ")[1:]]
    assert len(pains) == 54
    named = [re.findall(r"(?:(\w+(?:\.py)?), )?(test_\w+)(?!\w*\.py)", pain) for pain in pains]
    for pain, tests in zip(pains, named, strict=True):
        for where, test in tests:
            source = (folder / files.get(where, where)).read_text(encoding="utf-8")
            assert f"def {test}" in source, pain
    assert all(named)


# Gaps


@pytest.mark.slow
def test_messages_that_are_lost_cost_no_candle(world: LiveWorld) -> None:
    """290 of 960 bars of a session never came, and nothing said so (alpaca-trade-api-python, issue 588)."""
    world.network.change = of_klines(lambda k: [] if k["t"] // MINUTE % 3 == 0 else [k])
    driver = follow(world, ["BTC/USDT"])
    pass_minutes(driver, 60, 0.1, 2.1, 30.0)
    assert driver.opens("BTC/USDT") == minutes(60)
    same(driver.frame("BTC/USDT"), world.truth("BTCUSDT", "1m", NOON, "2024-06-15T13:00"))
    assert driver.stats.backfilled >= 20


def test_a_drop_is_told_once_with_how_many_candles_were_filled(world: LiveWorld) -> None:
    """A reconnect was invisible, so that users could not know of missing data (Polymarket/ts-sdk, issue 285)."""
    driver = follow(world, ["BTC/USDT"])
    pass_minutes(driver, 2)
    world.network.drop()
    world.network.refuse = lambda now_s: TransportError("refused") if now_s < back_s else None
    back_s = world.now_s + 200
    pass_minutes(driver, 6)
    kinds = [type(event).__name__ for event in world.events if getattr(event, "reason", "") != "refused"]
    assert kinds.count("Disconnected") == 1
    assert kinds.count("Connected") == 2
    assert driver.stats.reconnects == 1
    assert driver.stats.backfilled == driver.stats.candles - driver.stats.confirmed == 5
    assert driver.opens("BTC/USDT") == minutes(8)


# Silence


def test_a_stream_that_pings_and_has_no_candles_is_renewed_within_a_few_of_them(world: LiveWorld) -> None:
    """Streams froze for 1.5 h while the connection was "connected"."""
    driver = follow(world, ["BTC/USDT"])
    pass_minutes(driver, 2)
    world.network.change = of_klines(lambda k: [])
    pass_minutes(driver, 3)
    (first, *_) = world.network.conns
    assert sum("SUBSCRIBE" in text for text in first.sent) == 2
    pass_minutes(driver, 3)
    assert len(world.network.attempts) == 2
    assert driver.opens("BTC/USDT") == minutes(8)


@pytest.mark.slow
def test_a_stream_without_any_data_costs_no_candle_and_is_told(world: LiveWorld) -> None:
    """USD-M acknowledges klines on a path that has none, and stays silent."""
    world.network.change = of_klines(lambda k: [])
    driver = follow(world, ["binance-um:BTC/USDT"])
    pass_minutes(driver, 8)
    assert driver.opens("binance-um:BTC/USDT") == minutes(8)
    reasons = [event.reason for event in world.events if type(event).__name__ == "Disconnected"]
    assert reasons
    assert all("btcusdt@kline_1m" in reason for reason in reasons)


def test_an_unknown_symbol_is_refused_before_the_stream_is_opened(world: LiveWorld) -> None:
    """Streams acknowledge symbols that do not exist."""
    with pytest.raises(UnknownSymbol):
        follow(world, ["BTC/USDT", "NOSUCH/USDT"])
    assert world.network.attempts == []


@pytest.mark.slow
def test_a_symbol_that_the_stream_refuses_comes_by_requests_with_one_warning(world: LiveWorld) -> None:
    """A change of a library made every pair fall back to REST, unnoticed for days (freqtrade, issue 12596)."""
    said = {
        "error": "Currency pair not supported ETH/USD",
        "method": "subscribe",
        "success": False,
        "symbol": "ETH/USD",
    }

    def refuse(text: bytes) -> Iterator[bytes]:
        if b'"ETH/USD"' not in text:
            yield text
        elif b'"success":true' in text:
            yield json.dumps(said).encode()

    world.network.change = world.network.change_answers = refuse
    with pytest.warns(CandleFetcherWarning, match=r"ETH/USD.*by requests") as warned:
        driver = follow(world, ["kraken:BTC/USD", "kraken:ETH/USD"])
        pass_minutes(driver, 4)
    assert len(warned) == 1
    assert driver.opens("kraken:ETH/USD") == minutes(4)
    assert driver.opens("kraken:BTC/USD") == minutes(4)
    assert len(world.network.attempts) == 1


# What is final


@pytest.mark.slow
def test_a_stall_in_the_middle_of_a_candle_does_not_close_it_with_what_it_had(world: LiveWorld) -> None:
    """The forming candle was merged as closed after a stall: 85.75 instead of 84.89 (freqtrade, PR 13397)."""
    driver = follow(world, ["BTC/USDT"], include_open=True)
    pass_minutes(driver, 2)
    driver.run(20)
    world.network.change = of_klines(lambda k: [])
    driver.run(50)
    world.network.change = lambda text: (text,)
    pass_minutes(driver, 3)
    assert driver.opens("BTC/USDT") == minutes(len(driver.opens("BTC/USDT")))
    end = f"2024-06-15T12:{len(driver.opens('BTC/USDT')):02d}"
    same(driver.frame("BTC/USDT"), world.truth("BTCUSDT", "1m", NOON, end))


def test_a_connection_in_the_middle_of_a_candle_does_not_close_it_by_what_it_heard(world: LiveWorld) -> None:
    """A first, partial snapshot counted as a finished candle (passivbot, PR 1429)."""
    symbol = "kraken:BTC/USD"
    driver = follow(world, [symbol], include_open=True)
    pass_minutes(driver, 3)
    open_rows = [frame for _, frame in driver.items if not frame["is_closed"].all()]
    assert open_rows
    assert driver.opens(symbol) == minutes(3)
    truth = world.truth("XBTUSD", "1m", NOON, "2024-06-15T12:03", provider="kraken")
    same(driver.frame(symbol), truth)


def test_only_the_closing_is_a_closed_candle_and_carries_its_values(world: LiveWorld) -> None:
    """Users took each message for a closed candle, and the last update for the closing (python-binance 196,
    Binance.Net 1191)."""
    world.network.change = of_klines(lambda k: [k] if k["x"] else [{**k, "c": "1.0"}])
    driver = follow(world, ["BTC/USDT"], include_open=True)
    driver.run(31 + 60 + 3, 1.0)
    rows = [(frame["is_closed"].iloc[0], frame) for _, frame in driver.items]
    closed = [frame for is_closed, frame in rows if is_closed]
    assert [index_ms(frame).tolist() for frame in closed] == [[one] for one in minutes(2)]
    assert len(rows) > 30
    assert all(frame["close"].iloc[0] == 1.0 for is_closed, frame in rows if not is_closed)
    assert all(frame["close"].iloc[0] > 1_000 for frame in closed)
    assert driver.stats.confirmed == 2


def test_a_bar_that_is_corrected_is_handed_out_again_and_agrees_with_a_later_fetch(world: LiveWorld) -> None:
    """A third of Alpaca's corrections change the close of a bar that was sent as closed."""
    driver = follow(world, ["BTC/USDT"], revisions=True)
    pass_minutes(driver, 2)
    world.exchange.restate("binance", "BTCUSDT", "1m", ms("2024-06-15T12:01"), volume=1.5)
    pass_minutes(driver, 3)
    revised = [frame for _, frame in driver.items if frame["is_revised"].all()]
    assert [index_ms(frame).tolist() for frame in revised] == [[ms("2024-06-15T12:01")]]
    assert revised[0]["volume"].tolist() == [1.5]
    assert driver.stats.revised == 1
    again = world.fetcher().fetch("BTC/USDT", "1m", NOON, "2024-06-15T12:05")
    assert driver.frame("BTC/USDT").equals(again)


@pytest.mark.slow
def test_an_older_candle_after_a_newer_one_is_not_handed_out_again(world: LiveWorld) -> None:
    """Streams brought older candles after newer ones (bitfinex-api-py, issue 226)."""
    old: list[dict[str, Any]] = []

    def repeat(k: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield k
        if k["x"]:
            old.append(k)
        elif old:
            yield {**old[0], "c": "7.0", "x": False}
            yield {**old[0], "c": "7.0"}

    world.network.change = of_klines(repeat)
    driver = follow(world, ["BTC/USDT"], revisions=True)
    pass_minutes(driver, 5)
    assert driver.opens("BTC/USDT") == minutes(5)
    assert [frame for _, frame in driver.items if frame["is_revised"].any()] == []
    same(driver.frame("BTC/USDT"), world.truth("BTCUSDT", "1m", NOON, "2024-06-15T12:05"))


@pytest.mark.slow
def test_silent_minutes_are_there_where_the_provider_has_them_and_missing_where_it_has_not(tmp_path: Path) -> None:
    """No message comes for a minute without trades; Kraken's REST has a row of it, Alpaca's has none."""
    with LiveWorld(tmp_path, now="2026-07-01T16:05:30", outages=()) as world:
        driver = follow(world, ["kraken:BTC/USDT"])
        pass_minutes(driver, 4)
        start = "2026-07-01T16:05"
        assert driver.opens("kraken:BTC/USDT") == minutes(4, start)
        truth = world.truth("XBTUSDT", "1m", start, "2026-07-01T16:09", provider="kraken")
        assert (truth["trades"] == 0).any()
        same(driver.frame("kraken:BTC/USDT"), truth)
        settings = {"api_keys": world.exchange.api_keys}
        stock = follow(world, ["alpaca:GENC"], settings=settings)
        pass_minutes(stock, 25)
        end = world.now_ms // MINUTE * MINUTE
        found = stock.opens("alpaca:GENC")
        truth = world.exchange.truth("alpaca", "GENC", "1m", ms("2026-07-01T16:09"), end - MINUTE)
        assert found == truth["open_time"].tolist()
        assert 0 < len(found) < 20


@pytest.mark.slow
def test_a_stock_without_trades_costs_few_requests(tmp_path: Path) -> None:
    """It was asked for eight times a minute, so that thirty quiet stocks took more than the whole budget."""
    with LiveWorld(tmp_path, now="2026-07-01T16:05:30", outages=()) as world:
        driver = follow(world, ["alpaca:GENC"], settings={"api_keys": world.exchange.api_keys})
        driver.run(120, 2.0)
        world.asked("")
        driver.run(300, 2.0)
        asked = [one for one in world.asked("bars") if "end" in one]  # the others read the clock
        assert len(asked) <= 18
        assert driver.follower.lanes[0].ledger.next_ms >= world.now_ms - 3 * MINUTE


@pytest.mark.slow
def test_a_bar_of_alpaca_waits_for_its_correction_and_comes_once_with_it(tmp_path: Path) -> None:
    """A bar comes again half a minute later with late trades; a third of these change the close."""
    with LiveWorld(tmp_path, now="2026-07-01T16:05:30", outages=()) as world:
        driver = follow(world, ["alpaca:AAPL"], settings={"api_keys": world.exchange.api_keys})
        first = ms("2026-07-01T16:05")
        driver.run_to([first / 1000 + 61])
        (conn,) = world.network.conns
        assert conn._session.subscribed == ["bars AAPL", "updatedBars AAPL"]
        tape: Any = world.exchange._tape
        bars = world.exchange.alpaca
        tape.series("alpaca", bars.listing("AAPL"), "1m", "candles").restate(first, {"volume": "77"})
        driver.run_to(first / 1000 + 60 + late_s for late_s in (10, 29, 31, 32, 60, 90, 92))
        assert driver.opens("alpaca:AAPL") == minutes(2, "2026-07-01T16:05")
        assert driver.frame("alpaca:AAPL")["volume"].iloc[0] == 77.0
        assert (driver.stats.confirmed, driver.stats.differing) == (2, 0)


@pytest.mark.slow
def test_candles_come_by_requests_while_another_program_has_the_only_connection(tmp_path: Path) -> None:
    """A second process took or lost the only connection of a key, and had no data (alpaca-trade-api-python 287)."""
    with LiveWorld(tmp_path, now="2026-07-01T16:05:30", outages=()) as world:
        settings = {"api_keys": world.exchange.api_keys}
        first = follow(world, ["alpaca:AAPL"], settings=settings)
        second = follow(world, ["alpaca:SPY"], settings={**settings, "cache_dir": tmp_path / "second"})
        for driver in (first, second):
            driver.world.now_s = ms("2026-07-01T16:06") / 1000 + 32
            driver.run(70, 5.0)
        assert first.stats.confirmed >= 1
        opens = second.opens("alpaca:SPY")
        assert opens == minutes(len(opens), "2026-07-01T16:05")
        assert len(opens) >= 2
        assert second.stats.connections > 1
        reasons = {event.reason for event in world.events if type(event).__name__ == "Disconnected"}
        assert any("another connection of this key is open" in reason for reason in reasons)


# Order


def test_the_same_closing_from_two_connections_is_one_candle(world: LiveWorld) -> None:
    """Both connections of a renewal brought the same closing (hummingbot, issue 6889)."""
    world.network.change = of_klines(lambda k: [k, k] if k["x"] else [k])
    driver = follow(world, ["BTC/USDT"])
    pass_minutes(driver, 4)
    assert driver.opens("BTC/USDT") == minutes(4)
    assert driver.stats.candles == driver.stats.confirmed == 4


@pytest.mark.parametrize("late_s", [2, 40])
def test_late_closings_cost_at_most_one_warning(world: LiveWorld, late_s: int) -> None:
    """A thousand warnings came in 17 h because candles were a little late (freqtrade, issue 13459).

    A stream that is very late costs one: its candles come by requests, and count as backfilled.
    """
    held: list[tuple[float, bytes]] = []

    def delay(text: bytes) -> Iterator[bytes]:
        if b'"x":true' in text:
            held.append((world.now_s + late_s, text))
        else:
            yield text
        while held and held[0][0] <= world.now_s:
            yield held.pop(0)[1]

    world.network.change = delay
    driver = follow(world, ["BTC/USDT"])
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        pass_minutes(driver, 5)
    said = [str(one.message) for one in given]
    assert (
        said == [] if late_s == 2 else [one.partition(" closed ")[0] for one in said] == ["the stream of BTC/USDT 1m"]
    )
    assert driver.opens("BTC/USDT") == minutes(5)
    same(driver.frame("BTC/USDT"), world.truth("BTCUSDT", "1m", NOON, "2024-06-15T12:05"))
    assert (driver.stats.backfilled == 0) == (late_s == 2)


@pytest.mark.parametrize("off_s", [-90, 90])
def test_a_wrong_local_clock_changes_no_closing(tmp_path: Path, off_s: int) -> None:
    """Candles were closed too early or late by the machine's clock, which may be minutes off."""
    with LiveWorld(tmp_path, now="2024-06-15T12:00:30", outages=()) as world:
        driver = follow(world, ["BTC/USDT"], settings={"clock": lambda: world.now_s + off_s})
        closed: list[tuple[float, int]] = []
        base_s = world.now_s // 60 * 60
        for number in range(1, 5):
            for offset in (0.5, 1.5, 2.5, 20.0, 40.0):
                driver.run_to([base_s + 60 * number + offset])
                closed += [(offset, one) for one in driver.opens("BTC/USDT")[len(closed) :]]
        assert [one for _, one in closed] == minutes(4)
        assert {offset for offset, _ in closed[1:]} == {2.5}
        same(driver.frame("BTC/USDT"), world.truth("BTCUSDT", "1m", NOON, "2024-06-15T12:04"))


def test_an_hour_of_sleep_is_filled_at_once(world: LiveWorld) -> None:
    """With the lid closed sockets die, and the clock jumps."""
    driver = follow(world, ["BTC/USDT"])
    pass_minutes(driver, 2)
    world.network.drop()
    world.now_s += 3600
    driver.run(3)
    assert driver.opens("BTC/USDT")[-1] == (world.now_ms - 2_000) // MINUTE * MINUTE - MINUTE
    assert driver.opens("BTC/USDT") == minutes(len(driver.opens("BTC/USDT")))
    assert len(world.network.attempts) == 2


# Queues


@pytest.mark.slow
def test_ten_thousand_updates_are_merged_into_the_newest_and_closings_are_kept(world: LiveWorld) -> None:
    """Queues overflowed, and the connection died with them (python-binance, issues 1016, 1295 and 1647)."""
    world.network.change = of_klines(lambda k: [k] if k["x"] else [{**k, "n": k["n"] + n} for n in range(400)])
    driver = follow(world, ["BTC/USDT"], include_open=True)
    driver.run(29)
    before = len(driver.items)
    tracemalloc.start()
    base_bytes, _ = tracemalloc.get_traced_memory()
    for now_s in (2.1, 20.0, 40.0, 62.1, 80.0, 100.0, 122.1):
        world.now_s = ms(NOON) / 1000 + 60 + now_s
        driver.work()  # the user's loop sleeps
    grown_bytes = tracemalloc.get_traced_memory()[0] - base_bytes
    tracemalloc.stop()
    driver.run(3)
    rows = driver.items[before:]
    assert driver.stats.messages > 2_000
    assert grown_bytes < 20e6
    assert driver.opens("BTC/USDT") == minutes(3)
    assert sum(not frame["is_closed"].iloc[0] for _, frame in rows) <= 2
    assert driver.stats.merged > 1_000
    assert len(world.network.attempts) == 1
