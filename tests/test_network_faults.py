"""Whatever goes wrong on the way: the truth, or an error of ours; and the next fetch has the truth."""

from __future__ import annotations

import functools
import gzip
import json
import re
import socket
import struct
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import forks
import pytest
from world import World, ms, same

from candle_fetcher import (
    AccessDenied,
    Banned,
    CandleFetcherWarning,
    FetchManyError,
    IncompleteData,
    InputError,
    ProviderRefused,
    RateLimited,
    ReplyError,
    TransportError,
    UnknownSymbol,
)
from candle_fetcher.core.call import Call
from candle_fetcher.net.transport import Transport
from candle_fetcher.practice import faults
from candle_fetcher.providers import find_provider

SPAN = ("BTC/USDT", "1m", "2024-06-01", "2024-06-03")
DAY = ("BTC/USDT", "1m", "2024-06-01", "2024-06-02")


def quick(world: World, **settings: Any) -> Any:
    """A fetcher that asks REST alone."""
    return world.fetcher(**{"source": "rest", **settings})


def shuffled(body: bytes) -> bytes:
    rows = json.loads(body)
    if isinstance(rows, list) and len(rows) > 3:
        rows[1], rows[2] = rows[2], rows[1]
    return json.dumps(rows, separators=(",", ":")).encode()


def contradicted(body: bytes) -> bytes:
    rows = json.loads(body)
    if isinstance(rows, list) and rows:
        twin = list(rows[0])
        twin[5] = "99.00000000"
        rows.insert(1, twin)
    return json.dumps(rows, separators=(",", ":")).encode()


def doubled(body: bytes) -> bytes:
    rows = json.loads(body)
    return json.dumps(rows[:1] + rows, separators=(",", ":")).encode() if isinstance(rows, list) else body


def spoiled(old: str, new: str) -> Any:
    def change(body: bytes) -> bytes:
        return re.sub(old.encode(), new.encode(), body, count=1)

    return faults.transform(change)


@functools.lru_cache
def packed(unpacked_bytes: int) -> bytes:
    """The gzip body of `faults.bomb`, made in no time: one block, again and again."""
    packer, block, crc = zlib.compressobj(9, zlib.DEFLATED, -15), b"0," * 500_000, zlib.crc32(b"[")
    begin = packer.compress(b"[") + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    count = unpacked_bytes // len(block)
    for _ in range(count):
        crc = zlib.crc32(block, crc)
    end = packer.compress(b"0]") + packer.flush() + struct.pack("<II", zlib.crc32(b"0]", crc), count * len(block) + 3)
    return gzip.compress(b"")[:10] + begin + again * count + end


def bomb(unpacked_bytes: int) -> faults.FaultAction:
    def act(wire: faults.FaultConnection, reply: faults.ServedReply) -> bool:
        packs = (("Content-Encoding", "gzip"),)
        return faults.status(200, packed(unpacked_bytes), packs).act(wire, reply)

    return faults.FaultAction("bomb", act)


PASSING = {
    "500": faults.status(500, b"<html>oops</html>"),
    "503": faults.overloaded(),
    "html with 200": faults.html_200(),
    "html as json": faults.html_200("application/json"),
    "reset": faults.reset(),
    "closed before a reply": faults.close_before_reply(),
    "cut": faults.cut(0.5),
    "cut without a length": faults.cut_unframed(0.7),
    "gzip cut": faults.gzip_cut(0.5),
    "bad gzip": faults.bad_gzip(),
    "unsorted": faults.transform(shuffled),
    "contradiction": faults.transform(contradicted),
    "NaN": spoiled(r'"\d+\.\d+"', "NaN"),
    "null": spoiled(r'"\d+\.\d+"', "null"),
    "a dict": faults.body(b'{"rows": []}'),
    "nested deep": faults.body(b"[" * 100_000),
    "429": faults.rate_limited(0),
    "bomb": bomb(80_000_000),
}


ROWS = {
    "A01": ("cut",),
    "A02": ("cut without a length",),
    "A03": ("gzip cut",),
    "A04": ("bad gzip",),
    "A06": ("html with 200", "html as json"),
    "A08": ("null", "a dict"),
    "A09": ("NaN",),
    "A12": ("unsorted", "contradiction"),
    "A14": ("bomb",),
    "A17": ("reset", "closed before a reply"),
    "A18": ("nested deep",),
    "A19": ("500", "503"),
    "A20": ("429",),
}
ROW_OF = {name: row for row, several in ROWS.items() for name in several}


def marked(*without: str) -> list[Any]:
    """The names of the faults, each with its row and D24: whatever it was, it must not become permanent."""
    return [pytest.param(name, marks=pytest.mark.fault(ROW_OF[name], "D24")) for name in PASSING if name not in without]


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("name", marked())
def test_a_fault_that_passes_is_mended_and_leaves_nothing_in_the_cache(world: World, name: str) -> None:
    world.exchange.fail(PASSING[name], times=2, match="klines")
    fetcher = quick(world)
    frame = fetcher.fetch(*DAY)
    same(frame, world.truth("BTCUSDT", *DAY[1:]))
    same(world.fetcher(source="cache").fetch(*DAY), world.truth("BTCUSDT", *DAY[1:]))


@pytest.mark.slow(keep=[names[0] for names in ROWS.values() if names[0] not in ("429", "bomb")])
@pytest.mark.parametrize("name", marked("429", "bomb"))
def test_a_fault_that_stays_is_an_error_of_ours_and_the_next_fetch_has_the_truth(world: World, name: str) -> None:
    fault = world.exchange.fail(PASSING[name], times=None, match="klines")
    fetcher = quick(world, max_retries=1)
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch(*DAY)
    assert isinstance(raised.value.cause, TransportError | ReplyError)
    assert sum(gap.count for gap in raised.value.missing) == 1440
    assert {gap.cause for gap in raised.value.missing} == {"fetch_failed"}
    assert len(str(raised.value.cause)) < 300
    assert len(str(raised.value)) < 500
    fault.stop()
    same(quick(world).fetch(*DAY), world.truth("BTCUSDT", *DAY[1:]))


def refusing(code: int) -> Any:
    return faults.body(b'{"code":%d,"msg":"IP banned until 1717243200000. Invalid symbol."}' % code)


@pytest.mark.slow(
    keep=("-1121-UnknownSymbol-1", "-2015-AccessDenied-1", "0-ProviderRefused-1", "-1003-RateLimited-3",
          "-1000-TransportError-3")
)  # fmt: skip
@pytest.mark.fault("A07", "D24")
@pytest.mark.parametrize(
    ("code", "error", "requests"),
    [(-1121, UnknownSymbol, 1), (-2015, AccessDenied, 1), (-2014, AccessDenied, 1), (-1127, ProviderRefused, 1),
     (0, ProviderRefused, 1), (-1003, RateLimited, 3), (-429, RateLimited, 3), (429, RateLimited, 3),
     (-1000, TransportError, 3), (-503, TransportError, 3)],
)  # fmt: skip
def test_an_error_object_with_status_200_is_the_error_that_it_tells(
    world: World, code: int, error: type[Exception], requests: int
) -> None:
    fault = world.exchange.fail(refusing(code), times=None, match="klines")
    fetcher = quick(world, max_retries=2)
    span = ("BTC/USDT", "1h", "2024-06-01", "2024-06-02")
    with pytest.raises((error, IncompleteData)) as raised:
        fetcher.fetch(*span)
    found = raised.value.cause if isinstance(raised.value, IncompleteData) else raised.value
    assert type(found) is error
    assert len(str(raised.value)) < 500
    assert len(world.asked()) == requests
    fault.stop()
    with pytest.raises(IncompleteData):
        world.fetcher(source="cache").fetch(*span)
    same(quick(world).fetch(*span), world.truth("BTCUSDT", *span[1:]))


@pytest.mark.fault("A07")
def test_an_error_object_in_place_of_funding_rates_is_the_error_that_it_tells(world: World) -> None:
    fault = world.exchange.fail(refusing(-1121), times=None, match="fundingRate")
    fetcher = world.fetcher(provider="binance-um", max_retries=2)
    with pytest.raises(UnknownSymbol, match="BTC/USDT"):
        fetcher.fetch_funding("BTC/USDT", "2024-06-01", "2024-06-02")
    assert fault.hits == 1


@pytest.mark.fault("A24")
@pytest.mark.parametrize(("status", "code"), [(400, -2014), (400, -2015), (401, -2015), (401, 0)])
def test_a_key_that_is_wrong_or_missing_is_told_at_once_and_not_shown(world: World, status: int, code: int) -> None:
    body = b'{"code":%d,"msg":"API-key format invalid."}' % code
    world.exchange.fail(faults.status(status, body), times=None, match="klines")
    with pytest.raises(AccessDenied, match="api_keys") as raised:
        quick(world, api_keys={"binance": {"key": "SENTINEL"}}).fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-02")
    assert raised.value.status == status
    assert "SENTINEL" not in f"{raised.value!s}{raised.value!r}{vars(raised.value)}"
    assert len(world.asked()) == 1


HOSTILE = {
    "nested deep": b"[" * 100_000,
    "infinite": b'{"serverTime":Infinity,"rateLimits":[],"symbols":NaN}',
    "nothing": b"",
}


@pytest.mark.slow(
    keep=[f"{name}-klines" for name in HOSTILE] + ["nested deep-time", "infinite-time", "infinite-exchangeInfo"]
)
@pytest.mark.fault("A08", "A18")
@pytest.mark.parametrize("where", ["klines", "time", "exchangeInfo"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_an_error_of_ours_wherever_it_comes(world: World, name: str, where: str) -> None:
    world.exchange.fail(faults.body(HOSTILE[name]), times=None, match=where)
    fetcher = quick(world, max_retries=1)
    span = ("BTC/USDT", "1h", "2024-06-14")
    if where == "exchangeInfo":  # a limit that is not told keeps nobody from the candles
        same(fetcher.fetch(*span), world.truth("BTCUSDT", *span[1:], "2024-06-15T12:00"))
        return
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch(*span)
    assert isinstance(raised.value.cause, ReplyError)
    assert len(str(raised.value)) < 500


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak out of /proc")
@pytest.mark.fault("A14")
@pytest.mark.parametrize("action", [faults.bomb(200_000_000), faults.endless()], ids=["200 MB in gzip", "endless"])
def test_a_body_without_bounds_ends_at_the_cap_and_takes_little_memory(world: World, action: Any) -> None:
    world.exchange.fail(action, times=None)

    def send() -> None:
        Path("/proc/self/clear_refs").write_text("5")
        before = int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])
        began = time.perf_counter()
        try:
            call = Call("/api/v3/klines", (("symbol", "BTCUSDT"), ("interval", "1h")))
            Transport(timeout_s=60, user_agent="test").send(world.exchange.url, call)
        except ReplyError as error:
            seconds = time.perf_counter() - began
            peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
            sys.stdout.write(json.dumps([peak - before, seconds, str(error)]))

    grown_kb, seconds, said = json.loads(forks.run(send, timeout_s=60).out)
    assert "expected a body of at most 67,108,864 bytes" in said
    assert grown_kb < 4 * 64 * 1024
    assert seconds < 45  # most of it until the cap, on a busy machine


@pytest.mark.fault("A12")
def test_equal_duplicates_are_dropped(world: World) -> None:
    world.exchange.fail(faults.transform(doubled), times=None, match="klines")
    same(quick(world).fetch(*SPAN), world.truth("BTCUSDT", *SPAN[1:]))


@pytest.mark.fault("A19")
@pytest.mark.parametrize("retries", [0, 2, 5])
def test_a_server_error_is_retried_as_often_as_allowed_and_not_once_more(world: World, retries: int) -> None:
    world.exchange.fail(faults.status(500), times=None, match="klines")
    fetcher = quick(world, max_retries=retries)
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-02")
    assert len(world.asked()) == retries + 1
    assert raised.value.cause.attempts == retries + 1
    assert raised.value.cause.status == 500


@pytest.mark.slow
@pytest.mark.fault("C02", "C11")
def test_one_chunk_that_fails_for_good_loses_no_other(world: World) -> None:
    span = ("BTC/USDT", "1m", "2024-05-25", "2024-06-03")
    chunk = ms("2024-06-01") // 60_000_000 * 60_000_000
    fault = world.exchange.fail(
        faults.status(500), times=None, match=lambda path, params: params.get("startTime") == str(chunk)
    )
    with pytest.raises(IncompleteData) as raised:
        quick(world, max_retries=1).fetch(*span)
    (missing,) = raised.value.missing
    assert (missing.first_ms, missing.count) == (chunk, 1000)
    assert len(raised.value.frame) == 9 * 1440 - 1000
    fault.stop()
    world.asked()
    same(quick(world).fetch(*span), world.truth("BTCUSDT", *span[1:]))
    assert [one["startTime"] for one in world.asked()] == [str(chunk)]


@pytest.mark.slow
@pytest.mark.fault("A20")
@pytest.mark.parametrize("asks", [faults.rate_limited(2), faults.body(b'{"code":-1003,"msg":"Too many requests."}')])
def test_a_pause_that_is_asked_for_holds_every_thread(world: World, asks: Any) -> None:
    came_s: list[float] = []
    told_s: list[float] = []

    def is_third(path: str, params: dict[str, str]) -> bool:
        if "klines" not in path:
            return False
        came_s.append(time.monotonic())
        told_s.extend(came_s[2:3] if not told_s else [])
        return len(came_s) == 3

    world.now_s += 27.8  # what names no pause holds until the minute is over
    fault = world.exchange.fail(asks, match=is_third)
    frame = world.fetcher(waits=True).fetch("BTC/USDT", "1m", "2024-05-20", "2024-06-03", source="rest")
    same(frame, world.truth("BTCUSDT", "1m", "2024-05-20", "2024-06-03"))
    assert [at_s for at_s in came_s if 1 < at_s - told_s[0] < 1.95] == [], "beyond what was under way"
    assert came_s[-1] - told_s[0] >= 1.95
    assert fault.hits == 1
    assert len(world.asked()) == 21 + 1


@pytest.mark.fault("A22")
def test_a_pause_of_more_than_five_minutes_is_not_waited_for(world: World) -> None:
    world.exchange.fail(faults.rate_limited(86_400), times=None, match="klines")
    began = time.monotonic()
    with pytest.raises(IncompleteData) as raised:
        world.fetcher(source="rest").fetch(*SPAN)
    assert isinstance(raised.value.cause, RateLimited)
    assert time.monotonic() - began < 60
    assert len(world.asked()) <= 3


@pytest.mark.fault("A21")
@pytest.mark.parametrize("ahead_s", [0, 3600])
def test_a_ban_is_told_at_once_and_nothing_goes_out_before_it_ends(world: World, ahead_s: float) -> None:
    until_ms = int((world.now_s + 600) * 1000)
    world.exchange.fail(faults.banned(until_ms), times=None, match="klines")
    fetcher = world.fetcher(clock=lambda: world.now_s + ahead_s)  # by which it may be over already
    with pytest.raises(Banned) as raised:
        fetcher.fetch(*SPAN)
    assert raised.value.until.timestamp() * 1000 == until_ms
    world.asked("")
    for _ in range(20):
        with pytest.raises(Banned) as raised:
            fetcher.fetch(SPAN[0], SPAN[1], "2024-05-01", "2024-05-02")
        assert raised.value.until.timestamp() * 1000 == until_ms  # not by the clock that is ahead
    # Requests of the first fetch may still be on their way when that raises: for June, and one for its limits.
    asked = world.asked("")
    assert [one for one in asked if int(one.get("startTime", ms("2024-06-01"))) < ms("2024-06-01")] == []
    assert len([one for one in asked if "startTime" not in one]) <= 1


@pytest.mark.parametrize(
    ("action", "error", "said"),
    [
        pytest.param(faults.forbidden(), AccessDenied, "firewall", marks=pytest.mark.fault("A23")),
        pytest.param(faults.restricted(), AccessDenied, "region", marks=pytest.mark.fault("A23")),
        (faults.status(400, b'{"code":-1127,"msg":"More than XX hours"}'), ProviderRefused, "-1127"),
        (faults.status(400, b'{"code":-1121,"msg":"Invalid symbol."}'), UnknownSymbol, "BTC/USDT"),
    ],
)
def test_a_refusal_comes_at_once_and_as_it_is(world: World, action: Any, error: type[Exception], said: str) -> None:
    world.exchange.fail(action, times=None, match="klines")
    fetcher = world.fetcher()
    with pytest.raises(error, match=said):
        fetcher.fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-02")  # the archive refuses it too
    assert len(world.asked("/api/v3/klines")) == 1


def test_a_failing_exchange_info_keeps_nobody_from_the_candles(world: World) -> None:
    world.exchange.fail(faults.status(500), times=None, match="exchangeInfo")
    same(quick(world, max_retries=0).fetch(*SPAN), world.truth("BTCUSDT", *SPAN[1:]))


@pytest.mark.slow
@pytest.mark.fault("A27")
def test_no_network_is_one_clear_error_and_what_is_stored_still_serves(world: World) -> None:
    world.fetcher().fetch(*SPAN)
    late = quick(world, max_retries=1)
    world.exchange.close()
    same_as_before = late.fetch(*SPAN)
    assert len(same_as_before) == 2880
    with pytest.raises(IncompleteData) as raised:
        late.fetch("BTC/USDT", "1m", "2024-05-01", "2024-06-03")
    assert isinstance(raised.value.cause, TransportError)
    assert raised.value.cause.status is None
    assert len(raised.value.frame) == 2880


@pytest.mark.slow
@pytest.mark.fault("A25")
def test_a_base_url_of_the_caller_is_the_only_host(world: World) -> None:
    other = socket.create_server(("127.0.0.1", 0))
    other.settimeout(0.2)
    world.exchange.fail(faults.redirect(f"http://127.0.0.2:{other.getsockname()[1]}/"), times=None, match="klines")
    with pytest.raises(IncompleteData) as raised:
        quick(world, max_retries=0).fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-02")
    assert isinstance(raised.value.cause, ReplyError)
    with pytest.raises(TimeoutError):
        other.accept()
    other.close()
    with pytest.raises(InputError):
        world.fetcher(base_urls={"binance": "http://user:secret@127.0.0.1"})


@pytest.mark.slow
@pytest.mark.fault("A21")
def test_threads_never_run_into_the_limit_of_an_exchange_that_allows_little(world: World, tmp_path: Path) -> None:
    # Real minutes would take too long: the limit is what one minute of the exchange's stopped clock allows.
    with World(tmp_path / "limited", weight_limit=200) as limited:
        fetcher = limited.fetcher(timeout_s=5)
        frame = fetcher.fetch("BTC/USDT", "1m", "2024-05-01", "2024-06-01", source="rest")
        same(frame, limited.truth("BTCUSDT", "1m", "2024-05-01", "2024-06-01"))
        assert all(request.status == 200 for request in limited.exchange.requests)
        assert sum(request.weight for request in limited.exchange.requests) <= 200


def test_without_a_network_a_range_up_to_now_is_served_as_far_as_it_is_stored(world: World) -> None:
    world.fetcher().fetch("BTC/USDT", "1m", "2024-06-15T11:00")
    late = quick(world, max_retries=0)
    world.exchange.close()
    assert len(late.fetch("BTC/USDT", "1m", "2024-06-15T11:00", "2024-06-15T12:00")) == 60
    world.now_s += 600
    with pytest.raises(IncompleteData) as raised:
        late.fetch("BTC/USDT", "1m", "2024-06-15T11:00")
    assert len(raised.value.frame) == 60
    assert sum(gap.count for gap in raised.value.missing) == 10


def test_while_the_clock_cannot_be_had_nothing_near_to_now_is_asked_for(world: World) -> None:
    world.exchange.fail(faults.status(500), times=None, match="time")
    wrong_by_a_day = quick(world, max_retries=0, clock=lambda: world.now_s + 86_400)
    with pytest.raises(IncompleteData) as raised:
        wrong_by_a_day.fetch("BTC/USDT", "1h", "2024-04-01", "2024-06-15T18:00")
    same(raised.value.frame, world.truth("BTCUSDT", "1h", "2024-04-01", "2024-06-14T12:00"))
    world.asked()


def test_without_the_clock_of_rest_that_of_the_archive_tells_what_is_near(world: World) -> None:
    world.exchange.fail(faults.status(500), times=None, match="time")
    wrong_by_a_day = quick(world, max_retries=0, source="auto", clock=lambda: world.now_s + 86_400)
    with pytest.raises(IncompleteData, match="source='archive'") as raised:
        wrong_by_a_day.fetch("BTC/USDT", "1h", "2024-04-01", "2024-06-15T18:00")
    # Of the newest two days the archive has one.
    same(raised.value.frame, world.truth("BTCUSDT", "1h", "2024-04-01", "2024-06-15"))
    assert [(gap.first, gap.count) for gap in raised.value.missing] == [("2024-06-15T00:00:00Z", 12)]
    assert max(int(one["endTime"]) for one in world.asked("/api/v3/klines")) < ms("2024-06-13T12:00")


def on_hosts(world: World, *hosts: str, **settings: Any) -> Any:
    """A fetcher for a provider like Binance that has those hosts of its own."""
    provider = replace(find_provider("binance"), hosts=hosts)
    return world.fetcher(provider=provider, base_urls=None, **settings)


@pytest.mark.fault("A23")
@pytest.mark.parametrize("how", ["unreachable", "restricted", "forbidden"])
def test_where_the_first_host_is_out_of_reach_the_other_host_of_the_provider_serves(
    world: World, tmp_path: Path, how: str
) -> None:
    with World(tmp_path / "first") as first:
        url = first.exchange.url
        if how == "unreachable":
            first.exchange.close()
        else:
            first.exchange.fail(getattr(faults, how)(), times=None)
        fetcher = on_hosts(world, url, world.exchange.url)
        same(fetcher.fetch(*SPAN), world.truth("BTCUSDT", *SPAN[1:]))
        assert fetcher.fetch(*SPAN).attrs["candle_fetcher"]["origin"] == url  # not Binance's own, whatever its name
        if how != "unreachable":
            assert len(first.exchange.requests) <= 12
            fetcher.fetch("ETH/USDT", *SPAN[1:])
            assert len(first.exchange.requests) <= 12  # a host that keeps failing is left alone


@pytest.mark.slow
@pytest.mark.fault("C02")
def test_of_a_chunk_of_many_calls_what_came_before_the_failure_is_kept(world: World) -> None:
    fetcher = world.fetcher(provider="binance-cm", max_retries=0, source="rest")
    fetcher.fetch("BTC/USD", "1d", "2020-09-01", "2020-09-02", kind="mark")
    world.asked()
    fault = world.exchange.fail(
        faults.status(500), times=None, match=lambda path, params: int(params.get("endTime", 0)) > ms("2023-01-01")
    )
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch("BTC/USD", "1d", "2021-06-01", "2024-01-01")
    assert len(raised.value.frame) > 100
    fault.stop()
    world.asked()
    whole = world.fetcher(provider="binance-cm").fetch("BTC/USD", "1d", "2021-06-01", "2024-01-01", columns="all")
    same(whole, world.truth("BTCUSD_PERP", "1d", "2021-06-01", "2024-01-01", provider="binance-cm"))
    assert min(int(one["startTime"]) for one in world.asked()) > ms("2022-01-01")


def test_limits_that_could_not_be_read_for_a_refusal_are_read_by_the_next_fetch(world: World) -> None:
    fault = world.exchange.fail(faults.forbidden(), times=None, match="exchangeInfo")
    fetcher = world.fetcher()
    with pytest.warns(CandleFetcherWarning, match="firewall"):
        fetcher.fetch(*SPAN)
    fault.stop()
    world.exchange.clear_log()
    same(fetcher.fetch("ETH/USDT", *SPAN[1:]), world.truth("ETHUSDT", *SPAN[1:]))
    assert len(world.asked("exchangeInfo")) == 1


@pytest.mark.slow
@pytest.mark.fault("J22")
def test_a_slow_reply_ends_with_its_time_and_loses_no_other_symbol(world: World) -> None:
    is_slow = world.exchange.fail(
        faults.drip(100), times=None, match=lambda path, params: params.get("symbol") == "ETHUSDT" and "lines" in path
    )
    fetcher = world.fetcher(source="rest", timeout_s=0.5, max_retries=0)
    fetcher.fetch("BTC/USDT", "1h", "2024-05-01", "2024-05-02")
    began = time.monotonic()
    with pytest.raises(FetchManyError) as raised:
        fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], "1h", "2024-06-01", "2024-06-02")
    assert 0.5 <= time.monotonic() - began < 20
    assert "no complete reply within 0.5 s" in str(raised.value.errors["ETH/USDT"])
    same(raised.value.frames["BTC/USDT"], world.truth("BTCUSDT", "1h", "2024-06-01", "2024-06-02"))
    is_slow.stop()
