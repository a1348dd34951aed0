"""What a provider says of its limits, of pauses and of bans, with any status, and plans for limits by the day."""

from __future__ import annotations

import email.utils
import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import Asked, Loopback, Said
from world import World, ms, same

from candle_fetcher import (
    AccessDenied,
    Banned,
    CandleFetcherWarning,
    IncompleteData,
    ProviderRefused,
    RateLimited,
    ReplyError,
    TransportError,
)
from candle_fetcher.core.call import Reply
from candle_fetcher.core.errors import SourceError
from candle_fetcher.practice import faults
from candle_fetcher.providers import find_provider

SPAN = ("BTC/USDT", "1h", "2024-06-01", "2024-06-02")


def quick(world: World, **settings: Any) -> tuple[Any, list[float]]:
    """A fetcher that asks REST alone, and its waits."""
    return world.fetcher(**{"source": "rest", **settings}), world.waits


# -- limits ------------------------------------------------------------------------------------------------------------


def telling(**changed: Any) -> faults.FaultAction:
    """exchangeInfo with another limit by weight."""

    def change(body: bytes) -> bytes:
        info = json.loads(body)
        for entry in info["rateLimits"]:
            if entry["rateLimitType"] == "REQUEST_WEIGHT":
                entry.update(changed)
        return json.dumps(info).encode()

    return faults.transform(change)


@pytest.mark.slow(every=4)
@pytest.mark.fault("K15")
@pytest.mark.parametrize(
    "changed",
    [{"limit": 1}, {"limit": 0}, {"limit": -6000}, {"limit": 21}, {"limit": 6000.5}, {"limit": "6000"}, {"limit": None},
     {"limit": True}, {"intervalNum": 0}, {"interval": "FORTNIGHT"}, {"intervalNum": 2, "interval": "DAY"}],
)  # fmt: skip
def test_a_limit_that_cannot_be_is_warned_of_once_and_the_candles_come(world: World, changed: dict[str, Any]) -> None:
    fault = world.exchange.fail(telling(**changed), times=None, match="exchangeInfo")
    fetcher, waits = quick(world)
    with pytest.warns(CandleFetcherWarning, match="binance states a limit of .* the documented limits apply"):
        same(fetcher.fetch(*SPAN), truth(world))
    same(fetcher.fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-05"), truth(world, "1m", "2024-06-05"))
    assert waits == []
    assert fault.hits == 1
    # Nor another process on that cache.
    fault.stop()
    same(world.fetcher(source="rest").fetch("BTC/USDT", "5m", *SPAN[2:]), truth(world, "5m"))


@pytest.mark.slow(every=3)
@pytest.mark.fault("K15")
@pytest.mark.parametrize(
    "limits",
    [[{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": None}],
     [{"rateLimitType": "REQUEST_WEIGHT"}], [{"rateLimitType": None}], [{"rateLimitType": ["RAW_REQUESTS"]}],
     [{}], [None], ["6000"], [7], [[]]],
)  # fmt: skip
def test_a_malformed_limit_takes_nothing_from_the_listing_and_the_documented_limits_stay(
    world: World, limits: list[Any]
) -> None:
    def change(body: bytes) -> bytes:
        return json.dumps({**json.loads(body), "rateLimits": limits}).encode()

    fault = world.exchange.fail(faults.transform(change), times=None, match="exchangeInfo")
    fetcher, _ = quick(world)
    with pytest.warns(CandleFetcherWarning, match="binance states a limit of .* the documented limits apply") as said:
        assert "BTC/USDT" in set(fetcher.symbols()["symbol"])
    assert len(said) == 1
    assert fault.hits == 1
    left = fetcher._runtime.rest(find_provider("binance")).limits.left()
    assert [limit for limit, _ in left] == list(find_provider("binance").default_limits)
    same(fetcher.fetch(*SPAN), truth(world))


def truth(world: World, timeframe: str = "1h", end: str = SPAN[3], *, start: str = SPAN[2]) -> dict[str, Any]:
    return dict(world.truth("BTCUSDT", timeframe, start, end))


@pytest.mark.slow(only=("22", "23"))
@pytest.mark.fault("K15")
@pytest.mark.parametrize("limit", [22, 23, 10**12])
def test_a_limit_that_lets_a_chunk_through_is_obeyed_without_a_word(world: World, limit: int) -> None:
    world.exchange.fail(telling(limit=limit), times=None, match="exchangeInfo")
    fetcher, waits = quick(world)
    same(fetcher.fetch(*SPAN), truth(world))
    same(fetcher.fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-10"), truth(world, "1m", "2024-06-10"))
    assert bool(waits) == (limit < 100)


# -- pauses ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("K14")
@pytest.mark.parametrize("retry_after", [None, 0])
def test_an_address_that_is_refused_for_minutes_is_asked_a_few_times_and_not_banned(
    world: World, retry_after: int | None
) -> None:
    world.exchange.fail(faults.rate_limited(retry_after), times=4, match="klines")
    fetcher, waits = quick(world)
    span = ("BTC/USDT", "1h", "2024-06-01", "2024-06-02")
    same(fetcher.fetch(*span), truth(world))
    assert len(world.asked("klines")) == 5
    held = [seconds for seconds in waits if seconds > 15]
    assert [110 < seconds <= 120.1 for seconds in held[2:]] == [True, True]
    assert all(seconds <= 60.1 for seconds in held[:2])


@pytest.mark.fault("K14", "A22")
@pytest.mark.parametrize("ahead_s", [0, 86_400, -86_400])
def test_a_pause_and_a_ban_that_end_at_an_hour_are_counted_by_the_clock_of_the_reply(
    world: World, ahead_s: float
) -> None:
    """The fetcher's clock is wrong, and nothing has shown that yet: the range is long over."""
    world.exchange.fail(
        faults.status(429, b"", (("Retry-After", email.utils.formatdate(world.now_s + 40, usegmt=True)),)),
        match="exchangeInfo",
    )
    fetcher, waits = quick(world, clock=lambda: world.now_s + ahead_s)
    same(
        fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-02"),
        world.truth("BTCUSDT", "1h", "2024-01-01", "2024-01-02"),
    )
    assert 39 <= max(waits) <= 41
    world.exchange.fail(faults.banned(int(world.now_s * 1000) + 600_000, retry_after_s=0), match="klines")
    with pytest.raises(Banned):
        fetcher.fetch("BTC/USDT", "1h", "2023-01-01", "2023-01-02")
    with pytest.raises(Banned, match="until 2024-06-15") as raised:
        fetcher.fetch("BTC/USDT", "1h", "2023-01-01", "2023-01-02")
    assert raised.value.retry_after_s == pytest.approx(600, abs=2)


IN_A_200 = {
    "binance": [b'{"code":-1003,"msg":"Too many requests."}', b'{"code":-429,"msg":"x"}', b'{"code":429,"msg":"x"}',
                b'{"code":-1034,"msg":"Too many connections."}'],
    "binance-um": [b'{"code":-1003,"msg":"Too many requests."}', b'{"code":-429,"msg":"x"}'],
    "binance-cm": [b'{"code":-1003,"msg":"Too many requests."}', b'{"code":-429,"msg":"x"}'],
    "binance-us": [b'{"code":-1003,"msg":"Too many requests."}', b'{"code":-429,"msg":"x"}'],
    "kraken": [b'{"error":["EAPI:Rate limit exceeded"]}', b'{"error":["EGeneral:Too many requests"]}',
               b'{"error":["EService:Throttled: 1718452860"]}'],
    "alpaca": [b'{"code":42910000,"message":"rate limit exceeded"}', b'{"code":429,"message":"too many requests."}'],
    "alpaca-crypto": [b'{"code":42910000,"message":"rate limit exceeded"}'],
    "alphavantage": [b'{"Information":"Please spread out your free API requests (1 request per second)."}',
                     b'{"Note":"Our standard API call frequency is 5 calls per minute."}'],
    "coingecko": [b'{"status":{"error_code":429,"error_message":"You have exceeded the Rate Limit."}}',
                  b'{"error":{"status":{"error_code":429,"error_message":"x"}}}'],
    "tradestation": [b'{"Error":"TooManyRequests","Message":"Slow down"}'],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.fault("J11")
@pytest.mark.parametrize(("name", "body"), [(name, body) for name, bodies in IN_A_200.items() for body in bodies])
def test_an_error_of_a_limit_with_status_200_is_waited_for(tmp_path: Path, name: str, body: bytes) -> None:
    provider = find_provider(name)
    feed = provider.feed("candles")
    symbol = {"alpaca": "AAPL", "tradestation": "AAPL", "alphavantage": "IBM"}.get(name, "BTC/USD")
    keys = {
        key.name: "a-long-key"
        for key in provider.keys
        if key.name in ("key_id", "secret_key", "apikey", "access_token")
    }
    calls = 0

    def answer(asked: Asked) -> Said:
        nonlocal calls
        calls += 1
        return Said(body)

    names = (name, *([provider.token.name] if provider.token else []))
    with Loopback(tmp_path, names, answer, now="2024-06-15T12:00:30") as server:
        fetcher = server.fetcher(max_retries=1, source="rest", **({"api_keys": {name: keys}} if keys else {}))
        with pytest.raises((RateLimited, IncompleteData)) as raised:
            fetcher.fetch(symbol, feed.timeframes[-1], "2024-01-01", "2024-02-01")
    found = raised.value if isinstance(raised.value, RateLimited) else raised.value.cause
    assert type(found) is RateLimited
    assert calls >= 2


@pytest.mark.fault("J11", "A21")
def test_a_ban_with_status_200_is_one(world: World) -> None:
    until_ms = int(world.now_s * 1000) + 120_000
    body = b'{"code":-418,"msg":"IP banned until %d."}' % until_ms
    world.exchange.fail(faults.body(body), match="klines")
    fetcher, _ = quick(world)
    for _ in range(2):
        with pytest.raises(Banned) as raised:
            fetcher.fetch(*SPAN)
        assert raised.value.until.timestamp() * 1000 == pytest.approx(until_ms, abs=1000)
    assert len(world.asked("klines")) == 1


# -- replies that are none ---------------------------------------------------------------------------------------------


@pytest.mark.slow(every=3)
@pytest.mark.fault("K22")
@pytest.mark.parametrize(
    ("status", "match"),
    [*((status, "klines") for status in (201, 202, 203, 204, 205, 206, 226)), (204, "exchangeInfo"), (203, "/time")],
)
def test_a_status_beside_200_is_tried_again(world: World, status: int, match: str) -> None:
    fault = world.exchange.fail(faults.status(status, b"[]"), times=2, match=match)
    fetcher, waits = quick(world)
    same(
        fetcher.fetch("BTC/USDT", "1h", "2024-06-14", "2024-06-15T12:00"),
        truth(world, start="2024-06-14", end="2024-06-15T12:00"),
    )
    assert fault.hits == len(waits) == 2


@pytest.mark.fault("K22")
def test_a_part_of_a_file_is_not_a_file(world: World) -> None:
    fault = world.exchange.fail(faults.status(206, b"PK"), times=2, match="data/spot")
    fetcher = world.fetcher(source="archive")
    same(fetcher.fetch(*SPAN), truth(world))
    assert fault.hits == len(world.waits) == 2


# -- messages ----------------------------------------------------------------------------------------------------------

PAGE = b"<html><head><title>502 Bad Gateway</title></head></html>"


@pytest.mark.fault("J21")
@pytest.mark.parametrize("name", sorted(IN_A_200))
def test_a_message_says_a_thing_once(name: str) -> None:
    statuses, bodies = (
        (400, 401, 403, 404, 418, 429, 451, 500, 503),
        (b"", PAGE, b'{"code":-1,"msg":"No.","message":"No."}'),
    )
    for status, body in itertools.product(statuses, bodies):
        error = find_provider(name).refuse(Reply(status, {}, body, 0.0), "AAPL", ms("2024-06-15"))
        said = str(error).lower()
        assert said.count(str(status)) <= 1, said
        for words in ("none", "?", "''", "status 0"):
            assert words not in said.replace("did you mean", ""), said
        for words in ("try again", "call it again", "wait ", "api_keys"):
            assert said.count(words) <= 1, said


@pytest.mark.fault("J21")
@pytest.mark.parametrize("action", [faults.status(500), faults.status(503, PAGE), faults.cut(0.5), faults.reset()])
@pytest.mark.parametrize("provider", ["binance", "binance-um"])
def test_an_error_that_shows_another_one_says_a_thing_once(
    world: World, action: faults.FaultAction, provider: str
) -> None:
    world.exchange.fail(action, times=None, match="1/klines")
    world.exchange.fail(action, times=None, match="3/klines")
    world.exchange.fail(action, times=None, match="fundingRate")
    fetcher = world.fetcher(source="rest", provider=provider, max_retries=0)
    calls: list[Callable[[], Any]] = [lambda: fetcher.fetch(*SPAN)]
    if provider == "binance-um":
        calls.append(lambda: fetcher.fetch_funding("BTC/USDT", "2024-05-01", "2024-05-02"))
    for call in calls:
        with pytest.raises(IncompleteData) as raised:
            call()
        said = str(raised.value).lower()
        assert said.count("again") <= 1, said
        assert said.count("500") + said.count("503") <= 1, said
        assert isinstance(raised.value.cause, TransportError | ReplyError)
        assert raised.value.cause.reason.lower() in said
        assert str(raised.value.cause).startswith(raised.value.cause.reason)


@pytest.mark.fault("J21")
def test_the_reason_of_an_error_is_its_message_without_what_to_do() -> None:
    for error, reason in (
        (AccessDenied("no key", fix="Get one"), "no key"),
        (ProviderRefused("it said no", status=400), "it said no"),
        (SourceError("what; what to do"), "what"),
        (TransportError("cut"), "cut"),
    ):
        assert error.reason == reason
        assert error.fix in str(error)
        assert str(error).count(error.fix) == 1


# -- plans -------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("J10")
@pytest.mark.parametrize("months", [23, 24, 25, 26, 49, 50, 51])
def test_a_plan_for_a_budget_by_the_day_counts_days(tmp_path: Path, months: int) -> None:
    with Loopback(tmp_path, ("alphavantage",), lambda asked: Said(b"{}"), now="2024-06-15T12:00:30") as server:
        fetcher = server.fetcher(api_keys={"alphavantage": {"apikey": "a-long-key"}})
        plan = fetcher.plan("IBM", "1h", start_of(months), "2024-06-01")
        assert server.asked() == []
    assert months <= plan.requests <= months + 2  # some lie in two months by the clock of New York
    days = max(0, -(-(plan.requests - 25) // 25))
    assert days * 86_400 <= plan.seconds < days * 86_400 + 3_600
    note = [note for note in plan.notes if "allows 25 requests in 1 day" in note]
    assert len(note) == bool(days)
    if days:
        assert f"this takes {plan.requests}: {days} day{'s' if days > 1 else ''} and more" in note[0]
        assert "RateLimited" in str(plan)
        assert f"about {('24.0 h', '2.0 days')[days - 1]}" in str(plan)


def start_of(months: int) -> str:
    month = 2024 * 12 + 5 - months
    return f"{month // 12}-{month % 12 + 1:02}-01"


@pytest.mark.fault("J10")
def test_a_plan_counts_what_is_left_of_the_day(tmp_path: Path) -> None:
    with Loopback(tmp_path, ("alphavantage",), lambda asked: Said(b"{}"), now="2024-06-15T12:00:30") as server:
        fetcher = server.fetcher(api_keys={"alphavantage": {"apikey": "a-long-key"}})
        limiter = fetcher._runtime.rest(fetcher._runtime.find("alphavantage"))._client.limiter
        for _ in range(20):
            limiter.release(limiter.acquire(1, stop=threading.Event()))
        plan = fetcher.plan("IBM", "1h", start_of(10), "2024-06-01")
    assert any(f"5 are left, and this takes {plan.requests}: 1 day and more" in note for note in plan.notes)
    assert plan.seconds >= 86_400
