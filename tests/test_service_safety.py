"""What the HTTP service refuses, byte by byte: foreign hosts and origins, missing tokens, and what holds it up."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import logging
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from candle_fetcher import InputError
from candle_fetcher.cli import main
from candle_fetcher.practice import faults

pytest.importorskip("fastapi", reason="needs the extra service")
pytest.importorskip("uvicorn", reason="needs the extra service")

from served import UPGRADE, Answer, Served, read_answer
from world import wait_until

from candle_fetcher.service import connections, create_app
from candle_fetcher.service import server as servers

COLD = "/api/candles?symbol=BTC/USDT&timeframe=1h&start=2024-01-01&end=2024-01-02"
TOKEN = "SENTINEL-token-5f1c"
SITE = "https://charts.example.com"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("guarded"), token=TOKEN, allow_origins=[SITE], hosts=["candles.example.com"])
    yield made
    made.close()


@pytest.mark.fault("G04")
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost.",
        "169.254.169.254",
        "127.0.0.1@evil.example",
        "evil.example/127.0.0.1",
        "[::1].evil.example",
        "127.0.0.1:8000:9000",
        "0x7f000001",
    ],
)
def test_a_host_that_is_not_ours_gets_nothing(served: Served, host: str) -> None:
    before = served.asked()
    for path in (COLD, "/", "/docs", "/health", "/openapi.json", "/udf/config", "/binance/api/v3/time", "/nix"):
        answer = served.get(path, host=host)
        assert answer.status == 421, path
        assert answer.document["error"] == "WrongHost"
    answer = served.get("/api/ws", *UPGRADE, host=host)
    assert answer.status in (403, 421)
    assert served.asked() == before


@pytest.mark.fault("G04")
def test_a_host_is_needed_once(served: Served) -> None:
    assert served.get(COLD, host="").status == 400
    assert served.get(COLD, f"Host: 127.0.0.1:{served.port}").status == 400
    with served.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert read_answer(connection).status == 421


def test_our_own_names_are_served(served: Served, guarded: Served) -> None:
    for host in ("localhost", "LOCALHOST:99", "127.0.0.1", "[::1]:8000", f"127.0.0.1:{served.port}"):
        assert served.get("/health", host=host).status == 200, host
    assert guarded.get("/health", host="candles.example.com").status == 200
    assert served.get("/health", host="candles.example.com").status == 421


@pytest.mark.fault("G05")
def test_only_this_machine_is_listened_to(capsys: pytest.CaptureFixture[str]) -> None:
    with servers._listen("127.0.0.1", 0) as listener:
        address, port = listener.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)
    for host in ("0.0.0.0", "192.0.2.1", "::", "example.com"):
        assert main(["serve", "--host", host, "--practice"]) == 2
        said = capsys.readouterr()
        assert "needs a token" in said.err
        assert said.out == ""
        assert len(said.err.strip().splitlines()) <= 3


def test_a_wrong_address_or_token_is_said_in_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CANDLE_FETCHER_TOKEN", "")
    command = ["serve", "--cache-dir", str(tmp_path), "--base-url", "binance=http://127.0.0.1:1"]
    for words, said in (
        (["--port", "99999"], "--port 99999 is not a port"),
        (["--port", "-1"], "--port -1 is not a port"),
        ([], "token must be"),
        (["--token", "x", "--allow-origin", "*"], "origin '*' must be exact"),
    ):
        assert main([*command, *words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert said in lines[0]
        assert "not a setting" not in "".join(lines)


def test_an_empty_token_is_no_token(served: Served) -> None:
    for token in ("", "  ", "a\nb", "ä"):
        with pytest.raises(InputError, match="token"):
            create_app(served.fetcher, token=token)
    for origin in ("*", "https://*.example.com", "example.com", "https://example.com/path", "null"):
        with pytest.raises(InputError, match="origin"):
            create_app(served.fetcher, allow_origins=[origin])


@pytest.mark.fault("G05")
def test_every_route_but_health_needs_the_token(guarded: Served) -> None:
    before = guarded.asked()
    basic = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    wrong = ("", "Authorization: Bearer wrong", f"Authorization: Bearer {TOKEN}x", f"Authorization: {TOKEN}")
    paths = [*guarded.app.openapi()["paths"], "/docs", "/openapi.json", "/nix"]
    for path in paths:
        if path == "/health":
            continue
        for header in wrong:
            answer = guarded.get(path, *([header] if header else []))
            assert answer.status == 401, path
            assert TOKEN not in answer.body.decode()
        assert guarded.get(f"{path}?token={TOKEN}").status == 401
    assert guarded.get("/api/ws", *UPGRADE).status in (401, 403)
    assert guarded.get("/health").status == 200
    assert guarded.asked() == before
    for header in (
        f"Authorization: Bearer {TOKEN}",
        f"authorization: bearer  {TOKEN}",
        f"Authorization: Basic {basic}",
    ):
        assert guarded.get("/api/providers", header).status == 200
    cached = guarded.get(COLD, f"Authorization: Bearer {TOKEN}").headers["cache-control"]
    assert cached.startswith("private")


def test_a_browser_asks_for_the_token(guarded: Served) -> None:
    """Chromium takes two schemes on one line for none: its page would never open."""
    with guarded.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        received = b""
        while piece := connection.recv(1 << 16):
            received += piece
    schemes = re.findall(rb"(?im)^www-authenticate: (.+)\r$", received)
    assert schemes == [b'Basic realm="candle-fetcher; the password is the token"', b"Bearer"]


@pytest.mark.fault("G06")
@pytest.mark.parametrize(
    "header",
    [
        "Origin: https://evil.example",
        "Origin: null",
        "Origin: http://localhost:1",
        "Origin: http://127.0.0.1",
        "Origin: evil",
        "Sec-Fetch-Site: cross-site",
    ],
)
def test_pages_of_other_sites_are_refused(served: Served, header: str) -> None:
    before = served.asked()
    for path in (COLD, "/", "/docs", "/metrics", "/udf/time", "/binance/api/v3/klines?symbol=BTCUSDT&interval=1m"):
        answer = served.get(path, header)
        assert (answer.status, answer.document["error"]) == (403, "ForeignOrigin"), path
        assert not [name for name in answer.headers if name.startswith("access-control")]
    for method in ("POST", "OPTIONS"):
        answer = served.get(COLD, header, "Content-Type: text/plain", method=method, body="x")
        assert answer.status == 403
    assert served.get("/api/ws", *UPGRADE, header).status == 403
    assert served.get("/health", header).status == 200
    assert served.asked() == before


@pytest.mark.fault("G06")
def test_one_other_site_may_be_let_in(guarded: Served) -> None:
    bearer, origin = f"Authorization: Bearer {TOKEN}", f"Origin: {SITE}"
    answer = guarded.get("/udf/config", bearer, origin, "Sec-Fetch-Site: cross-site")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, SITE)
    assert "Origin" in answer.headers["vary"]
    asked = ("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization")
    answer = guarded.get("/udf/config", origin, *asked, method="OPTIONS")
    assert (answer.status, answer.headers["access-control-allow-methods"]) == (204, "GET")
    assert guarded.get("/udf/config", bearer, "Origin: https://charts.example.com.evil.example").status == 403
    assert guarded.get("/udf/config", origin).status == 401


def test_our_own_page_may_ask(served: Served) -> None:
    origin = f"Origin: http://127.0.0.1:{served.port}"
    answer = served.get("/api/providers", origin, "Sec-Fetch-Site: same-origin")
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers


def test_every_reply_has_the_headers_that_browsers_obey(served: Served) -> None:
    for path in ("/", "/docs", "/health", "/api/providers", "/nix", "/api/candles"):
        headers = served.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "server" not in headers


@pytest.mark.fault("G07")
def test_held_up_connections_hold_up_nobody_else(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a request, on many connections: others are served at once, and the connections end."""
    monkeypatch.setattr(connections, "HEAD_S", 1.5)
    threads = threading.active_count()
    held = [served.connect() for _ in range(120)]
    try:
        for number, connection in enumerate(held):
            connection.sendall((b"", b"GET /api/candles HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")[number % 3])
        began = time.monotonic()
        assert served.get(COLD).status == 200
        assert served.get("/health").status == 200
        assert time.monotonic() - began < 10  # on a busy machine; tests/benchmarks/service.py has the figure
        assert threading.active_count() < threads + 20
        for connection in held:
            connection.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    finally:
        for connection in held:
            connection.close()


@pytest.mark.fault("G07")
@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100 + b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        (
            b"GET /api/ws HTTP/1.1\r\nHost: \xec\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ),
        b"GET  /  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_a_bad_request(served: Served, data: bytes) -> None:
    with served.connect() as connection:
        connection.sendall(data)
        answer = read_answer(connection)
    assert 400 <= answer.status < 502
    assert set(answer.document) >= {"error", "message"}
    assert served.get("/health").status == 200


def test_many_small_headers_do_no_harm(served: Served) -> None:
    assert served.get("/health", *(f"X-{number}: a" for number in range(150))).status == 200


HOSTILE_SYMBOLS = (
    "http://169.254.169.254/latest", "https://evil.example/x", "//evil.example", "file:///etc/passwd", "/etc/passwd",
    "../../etc/passwd", "..\\..\\windows", "BTC/USDT/../..", "BTC/USDT\r\nX: y", "BTC/USDT\x00", "", " ", "a" * 65,
    "BTC/USDT?x=y", "BTC/USDT#x", "BTC/USDT&symbol=ETHUSDT", "{{7*7}}", "${jndi:ldap://evil.example}",
    "'; DROP TABLE x",
    "<script>alert(1)</script>", "evil:BTC/USDT", "binance-evil:BTC/USDT", "user@host:BTC/USDT", "http:BTC/USDT",
    "%2e%2e",
)  # fmt: skip
HOSTILE_QUERIES = (
    "symbol=BTC/USDT&timeframe=1m&start=2017-08-17", "symbol=BTC/USDT&timeframe=1s&days=365",
    "symbol=BTC/USDT&timeframe=1m&start=first", "symbol=BTC/USDT&timeframe=1m&start=0001-01-01&end=9999-12-31",
    "symbol=BTC/USDT&timeframe=1m&limit=9999999", "symbol=BTC/USDT&timeframe=1m&limit=99999999999999999999",
    "symbol=BTC/USDT&timeframe=1m&days=1e300", "symbol=BTC/USDT&timeframe=1m&days=nan",
    "symbol=BTC/USDT&timeframe=99999w&start=2024-01-01x", "symbol=BTC/USDT&timeframe=0m",
    "symbol=BTC/USDT&timeframe=1h&start=-99999999999999999", "symbol=BTC/USDT&timeframe=1h&start=1e99",
    "symbol=BTC/USDT&timeframe=1h&provider=http://169.254.169.254", "symbol=BTC/USDT&timeframe=1h&provider=../x",
    "symbol=BTC/USDT&timeframe=1h&base_urls=binance=http://evil.example", "symbol=BTC/USDT&timeframe=1h&cache_dir=/tmp",
    "symbol=BTC/USDT&timeframe=1h&api_keys=x", "symbol=BTC/USDT&timeframe=1h&path=/tmp/x",
    "symbol=BTC/USDT&timeframe=1h&url=x",
    "symbol=BTC/USDT&timeframe=1h&source=archive", "symbol=BTC/USDT&timeframe=1h&refresh=true",
    "symbol=BTC/USDT&timeframe=1h&kind=../mark", "symbol=BTC/USDT&timeframe=1h&columns=*",
    "symbol=BTC/USDT&timeframe=1h&format=pickle", "symbol=BTC/USDT&timeframe=1h&token=x", "&" * 3000, "=" * 5000,
)  # fmt: skip


@pytest.mark.fault("G08")
def test_hostile_parameters_reach_no_provider(served: Served) -> None:
    from urllib.parse import quote

    assert served.get("/api/candles?symbol=BTC/USDT&timeframe=1h&start=2022-01-01&end=2022-01-02").status == 200
    before = served.asked()
    assert before > 0  # the exchange counts
    queries = [*HOSTILE_QUERIES, *(f"symbol={quote(name)}&timeframe=1h&days=1" for name in HOSTILE_SYMBOLS)]
    for query in queries:
        for path in ("/api/candles", "/api/gaps", "/api/plan") if "limit=" not in query else ("/api/candles",):
            answer = served.get(f"{path}?{query}")
            expected = (400, 404, 413) if path != "/api/plan" else (200, 400, 404)
            assert answer.status in expected, (path, query, answer)
            assert set(answer.document) >= {"message"} or path == "/api/plan"
    assert served.asked() == before


@pytest.mark.fault("G08")
def test_only_a_path_is_a_target(served: Served) -> None:
    for target in ("http://169.254.169.254/latest", "http://127.0.0.1/health", "evil.example:443", "*"):
        for method in ("GET", "CONNECT", "OPTIONS"):
            answer = served.get(target, method=method)
            assert answer.status in (400, 405), (target, method)


FAULTS = {
    "500": faults.status(500),
    "403": faults.forbidden(),
    "451": faults.restricted(),
    "429": faults.rate_limited(3600),
    "reset": faults.reset(),
    "close": faults.close_before_reply(),
    "cut": faults.cut(0.5),
    "html": faults.html_200(),
    "gzip": faults.bad_gzip(),
    "nothing": faults.body(b""),
    "secrets": faults.status(500, b'{"msg": "/etc/secret/path/key"}'),
}


@pytest.mark.fault("G09")
@pytest.mark.parametrize(
    "name",
    [one if one in ("500", "451", "html", "secrets") else pytest.param(one, marks=pytest.mark.slow) for one in FAULTS],
)
def test_a_provider_that_fails_is_an_error_without_secrets(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(tmp_path / "cache")
    try:
        served.exchange.fail(FAULTS[name], times=None)
        with caplog.at_level(logging.DEBUG, logger="candle_fetcher.service"):
            answers = [served.get(COLD), served.get("/api/gaps?symbol=BTC/USDT&timeframe=1h&days=2")]
            dialect = served.get("/binance/api/v3/klines?symbol=BTCUSDT&interval=1h&startTime=1704067200000&limit=5")
            chart = served.get("/udf/history?symbol=BTC/USDT&resolution=60&from=1704067200&to=1704167200")
    finally:
        served.close()
    for answer in answers:
        assert answer.status in (409, 429, 502, 503), answer
        assert _is_harmless(answer, tmp_path)
    assert dialect.status in (418, 429, 503)
    assert set(dialect.document) == {"code", "msg"}
    assert chart.document["s"] == "error"
    assert _is_harmless(chart, tmp_path)
    assert "Traceback" not in caplog.text
    if name == "429":
        assert int(answers[0].headers["retry-after"]) > 300


def _is_harmless(answer: Answer, folder: Path) -> bool:
    text = answer.body.decode()
    found = re.findall(r"Traceback|File \"|\.py\b|SENTINEL|/etc/|/site-packages/", text)
    assert not found
    assert str(folder) not in text
    assert str(Path.home()) not in text
    return True


def test_an_unknown_symbol_is_told_where_the_symbols_are(served: Served) -> None:
    answer = served.get("/api/candles?symbol=ZZZZQQQQ&timeframe=1h&days=1")
    assert answer.status == 404
    assert answer.document["fix"] == "/api/symbols lists the symbols"
    assert answer.document["message"].endswith("/api/symbols lists the symbols")


def test_a_fault_of_the_service_tells_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(**words: Any) -> Any:
        raise RuntimeError("/home/someone/secret.py SENTINEL")

    monkeypatch.setattr(served.fetcher, "symbols", fails)
    with caplog.at_level(logging.INFO, logger="candle_fetcher.service"):
        answer = served.get("/api/symbols")
    assert (answer.status, answer.document["error"]) == (500, "Fault")
    assert _is_harmless(answer, Path("/home/someone"))
    assert "RuntimeError" in caplog.text
    assert served.get("/health").status == 200


def test_one_client_cannot_use_up_a_provider(tmp_path: Path) -> None:
    served = Served(tmp_path, requests_per_minute=3)
    try:
        query = "/api/candles?symbol=BTC/USDT&timeframe=1h&start={0}-01-01&end={0}-01-03"
        statuses = [served.get(query.format(year)).status for year in (2020, 2021, 2022, 2023, 2024)]
        assert statuses[0] == 200
        assert statuses[-1] == 429
        answer = served.get(query.format(2024))
        assert answer.document["error"] == "TooManyRequests"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert served.get(query.format(2020)).status == 200  # what is stored costs nothing
        dialect = served.get("/binance/api/v3/klines?symbol=ETHUSDT&interval=1h&startTime=1504067200000&limit=5")
        assert (dialect.status, dialect.document["code"]) == (429, -1003)
    finally:
        served.close()


def test_clients_that_leave_pay_for_what_they_caused(tmp_path: Path) -> None:
    """A fetch whose client has left goes on, for the cache; it was counted before it began."""
    served = Served(tmp_path, requests_per_minute=3)
    try:
        assert served.get("/api/symbols?query=btc").status == 200  # one of the three
        served.exchange.clear_log()
        served.exchange.fail(faults.hang(0.1), times=None, match="klines")
        for year in range(2019, 2025):
            with served.connect() as connection:
                path = f"/api/candles?symbol=BTC/USDT&timeframe=1h&start={year}-06-01&end={year}-06-03"
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        replies = served.app.state.service.traffic.replies
        wait_until(lambda: sum(count for (route, _), count in replies.copy().items() if route == "/api/candles") == 6)
        chunks = [one for one in served.exchange.requests if one.params.get("limit") == "1000"]
        assert len(chunks) == 2
        assert replies["/api/candles", 429] == 4
        span = f"start={chunks[0].params['startTime']}&end={chunks[0].params['endTime']}"
        stored = served.get(f"/api/candles?symbol=BTC/USDT&timeframe=1h&{span}")
        assert stored.status == 200  # what they caused is there for the next client
    finally:
        served.close()


def test_a_chart_that_is_too_long_is_refused_in_words(served: Served) -> None:
    answer = served.get("/api/chart?symbol=BTC/USDT&timeframe=1m&start=2017-08-17")
    assert (answer.status, answer.document["most"]) == (413, 1_000_000)
    assert answer.document["fix"] == "choose a shorter range, or a longer timeframe"


def test_more_spans_than_an_answer_has_are_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from candle_fetcher.service import chart as charts

    words = "symbol=BTC/USDT&timeframe=1h&start=2017-08-15&end=2017-08-20"
    assert served.get(f"/api/candles?{words}").status == 200
    assert len(served.get(f"/api/coverage?{words}").document) == 2
    monkeypatch.setattr(charts, "_MOST_SPANS", 1)
    answer = served.get(f"/api/coverage?{words}")
    assert (answer.status, answer.document["error"], answer.document["rows"]) == (413, "TooManyRows", 2)


@pytest.mark.slow
def test_few_long_charts_hold_their_candles_at_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from candle_fetcher.service import budget
    from candle_fetcher.service import chart as charts

    path = "/api/chart?symbol=BTC/USDT&timeframe=1m&start=2024-01-01&limit=60000"
    assert served.get(path).status == 200
    lock, at_once, most, thin = threading.Lock(), [0], [0], charts.thin

    def counted(*words: Any) -> Any:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.1)
        try:
            return thin(*words)
        finally:
            with lock:
                at_once[0] -= 1

    monkeypatch.setattr(charts, "thin", counted)
    threads = [threading.Thread(target=served.get, args=(path,)) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert 1 <= most[0] <= budget.LONG


def test_the_log_has_a_line_for_each_reply_and_no_secret(guarded: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="candle_fetcher.service"):
        guarded.get(f"/api/plan?symbol=BTC/USDT&timeframe=1h&token={TOKEN}", f"Authorization: Bearer {TOKEN}")
        guarded.get("/health?a=%0d%0aforged%1b[31m", f"Authorization: Bearer {TOKEN}")
        guarded.get("/%0d%0a%1b[31mforged")
    lines = [record.getMessage() for record in caplog.records if record.name == "candle_fetcher.service"]
    assert len(lines) == 3
    assert TOKEN not in caplog.text
    assert lines[0].startswith("127.0.0.1 GET /api/plan?symbol=BTC/USDT&timeframe=1h&… 400 ")
    assert all(line.isprintable() for line in lines)


def test_a_slow_reader_is_dropped_and_holds_nobody_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALLED_S", 1.0)
    path = "/api/candles?symbol=BTC/USDT&timeframe=1m&start=2024-01-01&limit=60000&format=csv"
    assert len(served.get(path).body) > 3_000_000
    served.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)  # of connections from now on
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", served.port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert served.get(COLD).status == 200
        held = served.server.server_state.connections
        wait_until(lambda: any(getattr(one, "_stalled", None) is not None for one in held.copy()))
        wait_until(lambda: not held)
        connection.settimeout(20)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                received += len(piece)
        assert received < 3_000_000
    assert served.get("/health").status == 200


def hostile_requests(count: int, seed: int) -> Iterator[bytes]:
    """Yield requests of which each is wrong in some way: bytes changed, cut, repeated, or put in."""
    choose = random.Random(seed)
    seeds = [
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        for path in (COLD, "/udf/history?symbol=BTC/USDT&resolution=60&from=1704067200&to=1704167200", "/health")
    ]
    seeds.append(
        b"\r\n".join([b"GET /api/ws HTTP/1.1", b"Host: 127.0.0.1", *(one.encode() for one in UPGRADE), b"", b""])
    )
    for _ in range(count):
        data = bytearray(choose.choice(seeds))
        for _ in range(choose.randint(1, 6)):
            at = choose.randrange(len(data))
            kind = choose.randrange(4)
            if kind == 0:
                data[at] = choose.randrange(256)
            elif kind == 1:
                del data[at : at + choose.randrange(8)]
            elif kind == 2:
                data[at:at] = choose.choice((b"\r\n", b"%00", b"%ff", b"\0", b"&&", b"Host: x\r\n", b"9" * 50, b"../"))
            else:
                data[at:at] = data[: choose.randrange(60)]
            data = data or bytearray(b"x")
        yield bytes(data)


@pytest.mark.parametrize("count", [60, pytest.param(10_000, marks=pytest.mark.slow)])
def test_hostile_bytes_do_no_harm(served: Served, count: int, caplog: pytest.LogCaptureFixture) -> None:
    assert served.get(COLD).status == 200
    with caplog.at_level(logging.ERROR):
        for data in hostile_requests(count, seed=7):
            with served.connect() as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                received = b""
                try:
                    while piece := connection.recv(1 << 16):
                        received += piece
                except ConnectionResetError:
                    continue
            assert b"Traceback" not in received
            assert not received.startswith(b"HTTP/1.1 500"), data
    assert "Traceback" not in caplog.text
    assert served.get("/health").status == 200


@pytest.mark.slow
def test_hostile_bytes_leave_nothing_behind(served: Served) -> None:
    """What is there after one round of hostile requests is all that there will ever be: threads and descriptors are
    kept for the next requests, and no round adds to them. What reached the exchange is a question that it was asked."""
    assert served.get(COLD).status == 200
    held = []
    for turn in range(3):
        served.exchange.clear_log()
        for data in hostile_requests(1_500, seed=20 + turn):
            with served.connect() as connection, contextlib.suppress(OSError):
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass
        wait_until(lambda: not served.server.server_state.connections)
        gc.collect()
        folder = Path("/proc/self/fd")
        descriptors = len(list(folder.iterdir())) if folder.is_dir() else 0
        held.append((descriptors, threading.active_count(), len(gc.get_objects())))
        for one in served.exchange.requests:
            assert one.path.endswith(("/klines", "/exchangeInfo", "/time")), one
            assert re.fullmatch(r"[A-Z0-9]{0,20}", one.params.get("symbol", "")), one
    first, second, third = held
    assert max(second[0], third[0]) <= first[0] + 4
    assert max(second[1], third[1]) <= first[1] + 8
    assert third[2] - second[2] < 1_500  # less than one object for each request


def test_a_client_that_leaves_while_its_stream_is_accepted_is_no_error(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])
        raise ConnectionResetError("the client has gone")

    scope = {
        "type": "websocket",
        "path": "/api/ws",
        "raw_path": b"/api/ws",
        "query_string": b"symbols=BTC/USDT",
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
    }
    caplog.set_level(logging.WARNING)
    asyncio.run(create_app(served.fetcher)(scope, receive, send))
    assert sent == ["websocket.accept"]
    assert caplog.messages == []
