"""Keys and passwords stay in the request, whatever goes wrong; foreign text commands no terminal and no spreadsheet.

No provider of ours has a key yet. Here one that looks like Binance sends one, in the query and in a header, as those
with keys will, so that all that a fault leaves behind can be searched for it.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_network_faults import PASSING
from world import World

from candle_fetcher import CandleFetcher, CandleFetcherError, InputError
from candle_fetcher.cli import main
from candle_fetcher.cli.show import table_csv
from candle_fetcher.core.call import Call
from candle_fetcher.core.errors import ReplyError
from candle_fetcher.practice import faults
from candle_fetcher.practice.faults import Action
from candle_fetcher.providers import Provider, find_provider
from candle_fetcher.providers.binance import parse_listing

KEY = "SENTINEL-9f3a"
RANGE = ("BTC/USDT", "1h", "2024-06-01", "2024-06-02")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The exchange on loopback, and a netrc that has a password for it."""
    home = Path(os.environ["HOME"])
    home.mkdir(parents=True, exist_ok=True)
    (home / ".netrc").write_text(f"machine 127.0.0.1 login me password {KEY}\n")
    (home / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    monkeypatch.setenv("CANDLE_FETCHER_MAX_RETRIES", "0")  # of the command line: nobody waits here
    with World(tmp_path / "cache") as made:
        yield made


def keyed(world: World) -> Provider:
    """A provider like Binance whose calls carry a key."""
    usual = find_provider("binance")

    def with_key(call: Callable[..., Call]) -> Callable[..., Call]:
        def made(*arguments: Any) -> Call:
            plain = call(*arguments)
            return plain._replace(params=(*plain.params, ("apikey", KEY)), headers=(("X-MBX-APIKEY", KEY),))

        return made

    feed = usual.feed("candles")
    assert feed.first_call is not None
    assert feed.last_call is not None
    feed = replace(
        feed, call=with_key(feed.call), first_call=with_key(feed.first_call), last_call=with_key(feed.last_call)
    )
    return replace(usual, feeds={"candles": feed}, hosts=(world.exchange.url,), archive=None)


def spoken(error: BaseException | None) -> Iterator[str]:
    """All that an error, those behind it and those it carries say about themselves."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield from (str(one), repr(one), repr(one.args), repr(vars(one)))
        yield from traceback.format_exception(one)
        if isinstance(one, CandleFetcherError):
            yield repr(pickle.dumps(one))
        carried = getattr(one, "refusals", ()), getattr(one, "errors", {})
        waiting += [one.__cause__, one.__context__, *carried[0], *dict(carried[1]).values()]


class Left:
    """All that a run has left: what was said, logged, shown, stored and written."""

    def __init__(self, world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
        self.world = world
        self.caplog = caplog
        self.capsys = capsys
        self.texts: list[str] = []
        caplog.set_level(logging.DEBUG)

    def say(self, *what: object) -> None:
        self.texts += [f"{one!s}{one!r}" for one in what]

    def all(self) -> str:
        shown = self.capsys.readouterr()
        records = [f"{record.getMessage()}{record.args!r}{record.exc_text}" for record in self.caplog.records]
        files = [path for path in self.world.folder.parent.rglob("*") if path.is_file()]
        stored = [f"{path.name}{path.read_bytes()!r}" for path in files]
        return "\n".join([*self.texts, *records, *stored, shown.out, shown.err])


@pytest.fixture
def left(world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Left:
    return Left(world, caplog, capsys)


def attempt(world: World, left: Left, **settings: Any) -> BaseException | None:
    """Fetches, exports, looks into everything there is to look into; the error of the fetch, if there was one."""
    events: list[Any] = []
    settings = {"provider": keyed(world), "base_urls": None, "max_retries": 1, "timeout_s": 0.4, **settings}
    fetcher = world.fetcher(api_keys={"binance": {"key": KEY, "secret": KEY}}, progress=events.append, **settings)
    if isinstance(settings["provider"], Provider):
        fetcher._source(settings["provider"])._asker._wait = lambda stop, seconds: stop.is_set()
    failed: BaseException | None = None
    for call in (
        lambda: fetcher.fetch(*RANGE),
        lambda: fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], *RANGE[1:]),
        lambda: fetcher.export(*RANGE, path=world.folder.parent / "out"),
        lambda: fetcher.plan(*RANGE),
    ):
        try:
            left.say(getattr(call(), "attrs", ""))
        except Exception as error:  # noqa: BLE001 - whatever comes out is searched
            failed = failed or error
            left.texts += spoken(error)
    left.say(fetcher, fetcher._settings, fetcher.cache.stats(), fetcher.monitor.report(), fetcher.monitor.snapshot())
    left.say(fetcher.monitor.to_frame().to_csv(), events)
    fetcher.close()
    return failed


MORE: dict[str, Action] = {
    "nothing wrong": faults.transform(lambda body: body),
    "400": faults.status(400, b'{"code":-1127,"msg":"More than 24 hours between startTime and endTime."}'),
    "401": faults.status(401, b'{"code":-2015,"msg":"Invalid API-key, IP, or permissions for action."}'),
    "403": faults.forbidden(),
    "404": faults.status(404, b"<html>not here</html>"),
    "418": faults.banned(1_718_500_000_000),
    "429 for a day": faults.rate_limited(86_400),
    "451": faults.restricted(),
    "502": faults.status(502),
    "error with 200": faults.body(b'{"code":-2015,"msg":"Invalid API-key."}'),
    "elsewhere": faults.redirect(f"http://127.0.0.2:9/query?apikey={KEY}"),
    "downgrade": faults.redirect(f"http://{KEY}@example.com/"),
    "file": faults.redirect(f"file:///etc/passwd?{KEY}"),
    "itself": faults.redirect(f"/api/v3/klines?apikey={KEY}"),
    "chunk cut": faults.cut_chunked(0.5),
    "chunks cut": faults.cut_chunked(0.5, at_border=True),
    "no headers": faults.no_headers(),
    "gzip plain": faults.bad_gzip("plain"),
    "gzip bare": faults.bad_gzip("bare"),
    "gzip twice": faults.bad_gzip("twice"),
    "gzip nested": faults.bad_gzip("nested"),
    "drip": faults.drip(20),
    "drip of headers": faults.drip_headers(20),
    "silence": faults.hang(5),
    "status 999999": faults.status(999_999),
}
FAULTS = {name: action for name, action in PASSING.items() if name != "bomb"} | MORE


def test_there_are_forty_faults() -> None:
    assert len(FAULTS) >= 40


@pytest.mark.fault("G01", "G02", "A25", "A28")
@pytest.mark.parametrize("name", FAULTS)
def test_a_key_stays_in_the_request_whatever_goes_wrong(world: World, left: Left, name: str) -> None:
    fault = world.exchange.fail(FAULTS[name], times=None, match="klines")
    attempt(world, left)
    assert fault.hits
    assert {request.params.get("apikey") for request in world.exchange.requests if "klines" in request.path} == {KEY}
    found = left.all()
    assert len(found) > 5_000
    assert "urllib3" in "".join(record.name for record in left.caplog.records)
    assert KEY not in found


class Proxy:
    """Answers whatever it is asked with the same bytes, and keeps what it was asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                try:
                    self.asked += connection.recv(65536)
                    connection.sendall(self.answer)
                except OSError:
                    continue

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(2)


PROXIES = {
    "refuses": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "breaks": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\n[",
    "says nothing": b"",
    "is no proxy": b"SSH-2.0-OpenSSH\r\n",
}


@pytest.mark.fault("G01", "G02", "A27", "A28")
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", PROXIES)
def test_the_password_of_a_proxy_stays_in_the_request(
    world: World, left: Left, monkeypatch: pytest.MonkeyPatch, name: str, scheme: str
) -> None:
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable)
    proxy = Proxy(PROXIES[name])
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:{KEY}@127.0.0.1:{proxy.port}")
    provider = replace(keyed(world), hosts=(f"{scheme}://127.0.0.1:{world.exchange.url.rpartition(':')[2]}",))
    error = attempt(world, left, provider=provider)
    proxy.close()
    assert b"Proxy-Authorization: Basic" in proxy.asked or b"proxy-authorization: Basic" in proxy.asked
    assert isinstance(error, CandleFetcherError)
    assert KEY not in left.all()


@pytest.mark.fault("G01")
@pytest.mark.parametrize("url", [f"http://a b:{KEY}@[x", f"http://user:{KEY}@", f"socks9://user:{KEY}@h"])
def test_a_proxy_that_cannot_be_read_is_told_without_its_password(
    world: World, left: Left, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HTTP_PROXY", url)
    assert isinstance(attempt(world, left), InputError)
    assert KEY not in left.all()


@pytest.mark.fault("G01", "G11")
@pytest.mark.parametrize(
    "url",
    [f"https://user:{KEY}@api.binance.com", f"http://{KEY}@127.0.0.1:8700", f"https:/user:{KEY}@host", f"file:///{KEY}",
     f"https://host/?key={KEY}", f"https://host/#{KEY}", f"http://api.binance.com/{KEY}", f"https://user:{KEY}\u2100@host",
     f"https://host:{KEY}", f"ftp://user:{KEY}@host", f"//user:{KEY}@host"],
)  # fmt: skip
def test_a_base_url_that_is_refused_is_not_repeated(
    left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    for given in ({"binance": url}, f"binance={url}"):
        with pytest.raises(InputError) as raised:
            CandleFetcher(base_urls=given, cache_dir=tmp_path / "x")
        left.texts += spoken(raised.value)
    monkeypatch.setenv("CANDLE_FETCHER_BASE_URLS", f"binance={url}")
    with pytest.raises(InputError) as raised:
        CandleFetcher(cache_dir=tmp_path / "x")
    left.texts += spoken(raised.value)
    monkeypatch.delenv("CANDLE_FETCHER_BASE_URLS")
    assert main(["fetch", "BTC/USDT", "1h", "--limit", "5", "--base-url", f"binance={url}", "--debug"]) == 2
    assert KEY not in left.all()


@pytest.mark.fault("G01")
@pytest.mark.parametrize(
    "keys",
    [{"binance": KEY}, {"binance": {"key": 5, KEY: KEY}}, {"nobody": {"key": KEY}}, KEY, [KEY], {"binance": [KEY]}],
)
def test_keys_of_another_shape_are_refused_without_being_shown(left: Left, tmp_path: Path, keys: Any) -> None:
    with pytest.raises(InputError) as raised:
        CandleFetcher(api_keys=keys, cache_dir=tmp_path / "x")
    left.texts += spoken(raised.value)
    assert KEY not in left.all()


@pytest.mark.fault("G02")
def test_the_doctor_and_the_log_file_show_no_key_and_no_password(
    world: World, left: Left, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = Proxy(b"")
    closed.close()
    monkeypatch.setenv("CANDLE_FETCHER_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("CANDLE_FETCHER_LOG_FILE", str(tmp_path / "cache" / "all.log"))
    (tmp_path / "cache").mkdir()
    for proxy in ("", f"http://user:{KEY}@127.0.0.1:{closed.port}"):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        monkeypatch.setenv("NO_PROXY", "" if proxy else "127.0.0.1")
        monkeypatch.setenv("no_proxy", "" if proxy else "127.0.0.1")
        fetcher = world.fetcher(api_keys={"binance": {"key": KEY}}, max_retries=0, timeout_s=0.4)
        frame = fetcher.doctor()
        left.say(frame.to_csv(), frame.to_json())
        attempt(world, left, provider="binance", base_urls=world.exchange.base_urls, max_retries=0)
    logger = logging.getLogger("candle_fetcher")
    for handler in [one for one in logger.handlers if not isinstance(one, logging.NullHandler)]:
        handler.close()
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    assert (tmp_path / "cache" / "all.log").exists()
    assert KEY not in left.all()


# -- foreign text -----------------------------------------------------------------------------------------------------

EVIL = "a\r\nerror: b\x1b[2J\x1b]0;c\x07\u202eevil\u2028\x9b31m\x00\ud800"
SAID = json.dumps({"code": -1127, "msg": EVIL}).encode()

TALKING: dict[str, Action] = {
    **{str(code): faults.status(code, SAID) for code in (400, 401, 404, 418, 429, 451, 500, 503)},
    "ban": faults.status(418, json.dumps({"code": -1003, "msg": f"{EVIL} until 1718500000000."}).encode()),
    "with 200": faults.body(SAID),
    "rows": faults.body(json.dumps([[EVIL]]).encode()),
    "a row": faults.body(json.dumps([[1, EVIL, *["1"] * 4, 1, "1", 1, "1", "1", "0"]]).encode()),
    "bytes": faults.body(EVIL.encode("utf-8", "surrogatepass")),
    "page": faults.body(b"<html>\x1b[2J\r\n\x00" + EVIL.encode("utf-8", "surrogatepass")),
    "location": faults.redirect("http://a\x1b[2J\x9b.example/\x07"),
    "encoding": faults.status(200, b"[]", (("Content-Encoding", "\x1b[2Jgzip"),)),
    "length": faults.status(200, b"[]", (("Content-Length", "\x1b[2J5"),)),
    "transfer": faults.status(200, b"[]", (("Transfer-Encoding", "\x1b[2J"),)),
    "pause": faults.status(429, SAID, (("Retry-After", "\x1b[2J"),)),
    "weight": faults.status(500, SAID, (("X-MBX-USED-WEIGHT-1M", "\x1b[2J9"),)),
}


@pytest.mark.fault("G03")
@pytest.mark.parametrize("name", TALKING)
def test_what_a_provider_says_is_shown_on_a_line_and_commands_nothing(
    world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    caplog.set_level(logging.DEBUG, logger="candle_fetcher")
    world.exchange.fail(TALKING[name], times=None, match="klines")
    fetcher = world.fetcher(max_retries=0, timeout_s=2, source="rest")
    with pytest.raises(CandleFetcherError) as raised:
        fetcher.fetch(*RANGE)
    for error in (raised.value, raised.value.__cause__):
        assert error is None or str(error).isprintable(), repr(str(error))
    assert len(str(raised.value)) < 600
    for record in caplog.records:
        if record.name.startswith("candle_fetcher"):
            assert record.getMessage().isprintable()
    code = main(
        ["fetch", *RANGE[:2], "--start", RANGE[2], "--end", RANGE[3], "--base-url", f"binance={world.exchange.url}",
         "--cache-dir", str(world.folder / "other"), "--source", "rest"]
    )  # fmt: skip
    assert code in (1, 3)
    shown = capsys.readouterr()
    assert all(line.isprintable() for line in (shown.out + shown.err).split("\n"))
    assert "\nerror: b" not in shown.err


def listing(**changed: Any) -> bytes:
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000}
    usual = {"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT"}
    return json.dumps({"rateLimits": [limit], "symbols": [usual, usual | changed]}).encode()


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "\n=1", EVIL, "", "A" * 300, " =1"]


@pytest.mark.fault("F06", "G03")
@pytest.mark.parametrize("field", ["symbol", "baseAsset", "quoteAsset", "status"])
@pytest.mark.parametrize("text", [*FORMULAS, None, 5, ["BTCUSDT"], {"a": 1}])
def test_a_listing_with_a_name_that_a_spreadsheet_would_run_is_refused(field: str, text: Any) -> None:
    with pytest.raises(ReplyError) as raised:
        parse_listing(listing(**{field: text}))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300


@pytest.mark.fault("F06")
def test_no_formula_of_a_provider_comes_into_a_csv(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--base-url", f"binance={world.exchange.url}", "--cache-dir", str(world.folder)]
    out = tmp_path / "symbols.csv"
    fault = world.exchange.fail(faults.body(listing(symbol="=1+1")), times=None, match="exchangeInfo")
    assert main(["symbols", *where, "--out", str(out)]) == 1
    assert not out.exists()
    assert main(["symbols", *where]) == 1
    assert capsys.readouterr().out == ""
    fault.stop()
    for words in (["symbols", "--out", str(out)], ["symbols"], ["gaps", *RANGE[:2], "--start", RANGE[2]]):
        assert main([*words, *where]) == 0
    cells = [cell for line in (capsys.readouterr().out + out.read_text()).splitlines() for cell in line.split(",")]
    assert len(cells) > 100
    assert [cell for cell in cells if cell[:1] in tuple("=+-@\t\r")] == []


@pytest.mark.fault("F06")
def test_text_that_a_spreadsheet_would_run_is_prefixed_and_numbers_are_not() -> None:
    frame = pd.DataFrame({"symbol": ["=1+1", "+1", "-1", "@a", "BTC/USDT"], "value": [-1.5, 2.0, -3.0, 0.0, -1e-9]})
    lines = table_csv(frame).splitlines()
    assert lines == ["symbol,value", "'=1+1,-1.5", "'+1,2.0", "'-1,-3.0", "'@a,0.0", "BTC/USDT,-1e-09"]


@pytest.mark.fault("F04")
def test_a_symbol_that_is_a_path_leaves_no_file_anywhere(world: World, tmp_path: Path) -> None:
    names = ["../../x", "/etc/x", "C:\\x", "a\0b", "A" * 300, "..", ".", "~", "a\\b", "BTC/../x", "%2e%2e", "x.", "-rf",
             "CON/", "a:b", "\n", "a|b", "\u202e", "_", "BTC/USDT/..", "", " ", "a*", "a?", '"', "<x>", "a b", "a,b",
             "=1+1", "@a"]  # fmt: skip
    assert len(names) >= 30
    target = tmp_path / "out"
    fetcher = world.fetcher()
    before = set(tmp_path.rglob("*"))
    for name in names:
        for call in (
            lambda name=name: fetcher.export(name, *RANGE[1:], path=target),
            lambda name=name: fetcher.fetch(name, *RANGE[1:]),
        ):
            with pytest.raises(InputError) as raised:
                call()
            assert str(raised.value).isprintable()
    assert not target.exists()
    assert {path for path in tmp_path.rglob("*") if path not in before and world.folder not in path.parents} <= {
        world.folder
    }
    assert world.asked("") == []


@pytest.mark.fault("F04", "F05")
def test_names_of_devices_and_of_other_scripts_are_files_inside_the_folder(world: World, tmp_path: Path) -> None:
    def is_strange(path: str, params: Mapping[str, str]) -> bool:
        return "klines" in path and params.get("symbol") != "BTCUSDT"

    world.exchange.fail(faults.body(b"[]"), times=None, match=is_strange)
    fetcher = world.fetcher(source="rest")
    made, said = [], []
    for symbol in ("CON", "nul", "com1", "LPT9", "币安人生USDT", "BTC/USDT", "btc-usdt", "con/usdt"):
        for timeframe in ("1m", "1M"):
            try:
                made.append(fetcher.export(symbol, timeframe, "2024-01-01", "2024-02-01", path=tmp_path / "out"))
            except CandleFetcherError as error:
                said.append(str(error))
    assert "".join(said).isprintable()
    names = {path.name for path in made}
    assert {path.parent for path in made} <= {tmp_path / "out"}
    assert len({name.casefold() for name in names}) == len(names) >= 8
    assert not {Path(name).stem.casefold() for name in names} & {"con", "nul", "com1", "lpt9"}
