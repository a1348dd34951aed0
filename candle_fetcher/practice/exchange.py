"""The practice exchange: REST APIs of Binance and of others, and Binance's public archive, on a loopback port, with
faults on request."""

from __future__ import annotations

import email.utils
import gzip as gzip_module
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote

import numpy.typing as npt

from candle_fetcher.practice.alpaca import Bars
from candle_fetcher.practice.alpaca_streams import ALPACA_ROOT, AlpacaStreams
from candle_fetcher.practice.archive import PracticeArchive
from candle_fetcher.practice.binance import ROOTS, Endpoint, find_endpoint, read_params
from candle_fetcher.practice.binance_streams import STREAM_ROOTS, BinanceStreams
from candle_fetcher.practice.faults import Fault, FaultAction, Match, ServedReply
from candle_fetcher.practice.kraken import Kraken
from candle_fetcher.practice.kraken_streams import KrakenStreams
from candle_fetcher.practice.limits import Budget, Counts, Verdict
from candle_fetcher.practice.listings import PROVIDERS
from candle_fetcher.practice.request import Refused, View, dump
from candle_fetcher.practice.series import KINDS, Series, Tape
from candle_fetcher.practice.server import ClientConnection, HttpServer, Incoming
from candle_fetcher.practice.streams import PracticeStreams, StreamDialect
from candle_fetcher.practice.text import FIELDS
from candle_fetcher.practice.vision import PublicationLags
from candle_fetcher.practice.websocket import is_upgrade

_DOCUMENTED_LIMITS = {"binance": 6000, "binance-us": 6000, "binance-um": 2400, "binance-cm": 2400}
_FUNDING = "binance-um funding"
_JSON = ("Content-Type", "application/json;charset=UTF-8")


class ServedRequest(NamedTuple):
    """One request; `time` in s by the exchange's clock, `status` None where a fault took the reply.

    `market` is a provider id or "archive", which has no weights. Calls of providers that count no weight have one of 1.
    """

    time: float
    method: str
    path: str
    params: dict[str, str]
    status: int | None
    weight: int
    market: str
    headers: dict[str, str]


class Dialect(Protocol):
    """The REST dialect of a provider other than Binance: its paths, its replies, and the true candles."""

    name: str

    def answers(self, path: str) -> bool:
        """Return whether the path is one of its own."""

    def answer(self, path: str, pairs: Sequence[tuple[str, str]], headers: Mapping[str, str]) -> ServedReply:
        """Return the reply without the headers that all replies have."""

    def truth(self, symbol: str, timeframe: str, start_ms: int, end_ms: int) -> dict[str, npt.NDArray[Any]]:
        """Return the candles that open in [start_ms, end_ms) and have opened by now."""


class PracticeExchange:
    """A loopback HTTP server that answers as Binance spot, Binance.US, USD-M and COIN-M do, as their archive does, and
    as the other providers of `base_urls` do.

    `weight_limit` None is the documented weight per whole minute of its clock, each market by itself; one above 500
    allows as many requests for funding rates in five minutes, too. More than `patience` refusals in one minute are a
    ban of `ban_s`. `delay_s` is slept before every reply. `page_cap` serves fewer rows than asked for. `outages` None
    are the real stops of Binance spot; otherwise pairs (stop ms, resume ms).
    The archive has a file of a day or a month `daily_lag_h` or `monthly_lag_h` hours after its end.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        clock: Callable[[], float] = time.time,
        seed: int = 1,
        weight_limit: int | None = None,
        patience: int = 10,
        ban_s: float = 120,
        delay_s: float = 0.0,
        gzip: bool = False,
        page_cap: int | None = None,
        outages: Sequence[tuple[int, int]] | None = None,
        daily_lag_h: float = 5,
        monthly_lag_h: float = 8,
        faults: Iterable[Fault] = (),
        log: bool = True,
    ) -> None:
        self._address = (host, port)
        self._clock = clock
        self._limits = {market: weight_limit or documented for market, documented in _DOCUMENTED_LIMITS.items()}
        ban_ms = round(ban_s * 1000)
        self._budgets = {
            market: Budget(limit, patience=patience, ban_ms=ban_ms) for market, limit in self._limits.items()
        }
        self._budgets[_FUNDING] = Budget(
            max(500, weight_limit or 0), window_ms=300_000, patience=patience, ban_ms=ban_ms
        )
        self._delay_s = delay_s
        self._gzip = gzip
        self._page_cap = page_cap
        self._faults = list(faults)
        self._log: list[ServedRequest] | None = [] if log else None
        self._lock = threading.Lock()
        self._tape = Tape(seed, outages)
        self._archive = PracticeArchive(self._tape, self._now_ms, PublicationLags(daily_lag_h, monthly_lag_h))
        self.kraken = Kraken(self._tape, self._now_ms)
        self.alpaca, self.alpaca_crypto = (
            Bars(name, self._tape, self._now_ms, page_cap=page_cap) for name in ("alpaca", "alpaca-crypto")
        )
        self._dialects: tuple[Dialect, ...] = (self.kraken, self.alpaca, self.alpaca_crypto)
        binance = (BinanceStreams(provider, self._tape) for provider in PROVIDERS)
        alpaca = (AlpacaStreams(bars) for bars in (self.alpaca, self.alpaca_crypto))
        dialects: list[StreamDialect] = [*binance, KrakenStreams(self.kraken, self._tape), *alpaca]
        self.streams = PracticeStreams(dialects, self._now_ms, log=log)
        self._server: HttpServer | None = None
        self._date = (0, "")

    def __enter__(self) -> PracticeExchange:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> PracticeExchange:
        """Start to listen, and return the exchange. A port of 0 takes a free one."""
        if self._server is None:
            self._server = HttpServer(*self._address, self._respond)
        return self

    def close(self) -> None:
        """End every connection and thread. A second call does nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    @property
    def url(self) -> str:
        """The root URL of all markets but Binance.US."""
        if self._server is None:
            raise RuntimeError("the practice exchange is not running; call start() or use it in a with statement")
        return f"http://{self._server.host}:{self._server.port}"

    @property
    def base_urls(self) -> dict[str, str]:
        """Root URLs by provider id, as CandleFetcher takes them; those of streams end in `-stream`."""
        roots = {provider: self.url + ROOTS[provider] for provider in PROVIDERS}
        roots |= {dialect.name: self.url for dialect in self._dialects}
        streams = {f"{provider}-stream": root for provider, root in self.stream_urls.items()}
        return roots | {"binance-archive": self.url} | streams

    @property
    def stream_urls(self) -> dict[str, str]:
        """Root URLs of streams by provider id."""
        root = self.url.replace("http:", "ws:", 1)
        others = {"kraken": "/kraken", "alpaca": ALPACA_ROOT, "alpaca-crypto": ALPACA_ROOT}
        return {provider: root + below for provider, below in (STREAM_ROOTS | others).items()}

    @property
    def api_keys(self) -> dict[str, dict[str, str]]:
        """The keys that it lets in, as CandleFetcher takes them."""
        return {"alpaca": self.alpaca.keys, "alpaca-crypto": self.alpaca.keys}

    @property
    def archive(self) -> PracticeArchive:
        """The public archive: what is spoiled in it, and files of your own."""
        return self._archive

    @property
    def requests(self) -> list[ServedRequest]:
        """Every request so far, in the order of the replies."""
        with self._lock:
            return list(self._log or ())

    def clear_log(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            if self._log is not None:
                self._log.clear()

    @property
    def counts(self) -> dict[str, Counts]:
        """What the weight counters hold, by market."""
        return {market: budget.counts() for market, budget in self._budgets.items()}

    def truth(
        self, provider: str, symbol: str, timeframe: str, start_ms: int, end_ms: int, *, kind: str = "candles"
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the candles that open in [start_ms, end_ms) and have opened by now, as the printed rows read.

        Columns open_time, close_time (ms) and trades are int64, the others float64. Loaded and corrected candles count,
        hidden ones too: hiding is a fault of what is served, not of the market.
        """
        dialect = next((one for one in self._dialects if one.name == provider), None)
        if dialect is not None:
            return dialect.truth(symbol, timeframe, start_ms, end_ms)
        return self._series(provider, symbol, timeframe, kind).truth(start_ms, end_ms, self._now_ms())

    def load(
        self,
        provider: str,
        symbol: str,
        timeframe: str,
        body_rows: bytes | Sequence[Sequence[Any]],
        *,
        kind: str = "candles",
    ) -> None:
        """Serve these rows (a JSON list of 12-field rows) in place of the market's, value for value.

        They may lie off the grid, end early and have holes. A symbol that the market does not have becomes listed.
        """
        _check(provider, kind)
        rows = json.loads(body_rows) if isinstance(body_rows, bytes) else body_rows
        self._tape.load(provider, symbol, timeframe, rows, kind)

    def restate(self, provider: str, symbol: str, timeframe: str, open_ms: int, **fields: Any) -> None:
        """Correct the candle that opens then, in this timeframe only: `volume=12.5`, `close="42000.10"` …

        The archive's file is made again with it; `archive.spoil(…, damage.revise(…))` changes the file alone.
        """
        for field in fields:
            if field not in FIELDS:
                raise ValueError(f"unknown field {field!r}; expected one of {', '.join(FIELDS)}")
        self._series(provider, symbol, timeframe, "candles").restate(open_ms, fields)

    def hide(self, provider: str, symbol: str, span: tuple[int, int]) -> None:
        """Serve no row of the symbol that opens in [start ms, end ms), in no timeframe, by REST or in the archive."""
        self._tape.hide(provider, symbol, span)

    def unhide(self, provider: str, symbol: str, span: tuple[int, int] | None = None) -> None:
        """Serve these rows again; where no span is given, those of all hidden spans of the symbol."""
        self._tape.unhide(provider, symbol, span)

    def fail(self, action: FaultAction, *, times: int | None = 1, match: Match = None, after: int = 0) -> Fault:
        """Show a fault to the next `times` requests that match (None: until stopped), after `after` that pass.

        `match` is a part of the path or a function of path and parameters. The fault switched on first comes first.
        """
        fault = Fault(action, times=times, match=match, after=after)
        with self._lock:
            self._faults.append(fault)
        return fault

    def _series(self, provider: str, symbol: str, timeframe: str, kind: str) -> Series:
        _check(provider, kind)
        listing = self._tape.find(provider, symbol)
        if listing is None:
            raise ValueError(f"the practice market of {provider} has no symbol {symbol!r}")
        return self._tape.series(provider, listing, timeframe, kind)

    def _now_ms(self) -> int:
        return round(self._clock() * 1000)

    def _respond(self, connection: ClientConnection, incoming: Incoming) -> bool:
        """Answer one request; return whether the connection stays open."""
        now_ms = self._now_ms()
        path, _, query = incoming.target.partition("?")
        path = unquote(path)
        pairs = parse_qsl(query, keep_blank_values=True)
        params = dict(pairs)
        stream = self.streams.find(path) if is_upgrade(incoming.headers) else None
        if stream is not None:
            return self._respond_to_handshake(connection, incoming, stream, path, pairs)
        endpoint = find_endpoint(path)
        dialect = next((one for one in self._dialects if one.answers(path)), None)
        if incoming.method == "GET" and self._archive.answers(path, params):
            market, weight = "archive", 0
            reply = self._archive.answer(path, params)
            reply = reply._replace(headers=(*reply.headers, *self._headers(now_ms)[1:]))
        elif incoming.method == "GET" and dialect is not None:
            market, weight = dialect.name, 1
            reply = dialect.answer(path, pairs, incoming.headers)
            reply = reply._replace(headers=(*reply.headers, *self._headers(now_ms)[1:]))
        elif endpoint is None or incoming.method != "GET":
            missing = endpoint is None
            market, weight, headers = "", 0, self._headers(now_ms)
            body = dump({"code": -1000, "msg": "Path not found." if missing else "Request method not supported."})
            reply = ServedReply(404 if missing else 405, headers, body)
        else:
            market, weight = endpoint.provider, endpoint.weight(params)
            reply = self._reply(endpoint, pairs, weight, now_ms, "gzip" in incoming.headers.get("accept-encoding", ""))
        if self._delay_s and connection.wait(self._delay_s):
            return False
        fault = self._find_fault(path, params)
        status = None if fault else reply.status
        self._note(
            ServedRequest(now_ms / 1000, incoming.method, path, params, status, weight, market, incoming.headers)
        )
        if fault is None:
            connection.send(reply.whole())
            return True
        return fault.action.act(connection, reply)

    def _respond_to_handshake(
        self,
        connection: ClientConnection,
        incoming: Incoming,
        stream: StreamDialect,
        path: str,
        pairs: Sequence[tuple[str, str]],
    ) -> bool:
        """Answer the handshake of a WebSocket, and play its streams until one side ends the connection."""
        now_s, params = self._now_ms() / 1000, dict(pairs)
        session, reply = self.streams.open(stream, path, pairs, incoming.headers)
        fault = self._find_fault(path, params)
        status = None if fault else reply.status
        self._note(
            ServedRequest(now_s, incoming.method, path, params, status, 1, f"{stream.name}-stream", incoming.headers)
        )
        if fault is not None:
            return fault.action.act(connection, reply)
        if session is None:
            connection.send(reply.whole())
            return True
        self.streams.serve(connection, session, reply, stream, path)
        return False

    def _note(self, request: ServedRequest) -> None:
        with self._lock:
            if self._log is not None:
                self._log.append(request)

    def _find_fault(self, path: str, params: dict[str, str]) -> Fault | None:
        if not self._faults:
            return None
        with self._lock:
            faults = list(self._faults)
        return next((fault for fault in faults if fault.take(path, params)), None)

    def _reply(
        self, endpoint: Endpoint, pairs: Sequence[tuple[str, str]], weight: int, now_ms: int, packs: bool
    ) -> ServedReply:
        budget = self._budgets[_FUNDING if endpoint.funding else endpoint.provider]
        verdict = budget.spend(weight, now_ms)
        shown = self._budgets[endpoint.provider].spend(0, now_ms).used if endpoint.funding else verdict.used
        headers = self._headers(now_ms, endpoint.provider, shown)
        if verdict.status != 200:
            return _refusal(verdict, budget.limit, now_ms, headers)
        view = View(endpoint.provider, self._tape, now_ms, self._limits[endpoint.provider], self._page_cap)
        try:
            body = endpoint.answer(view, read_params(endpoint, pairs))
        except Refused as refused:
            return ServedReply(refused.status, headers, refused.body)
        if self._gzip and packs:
            return ServedReply(200, (*headers, ("Content-Encoding", "gzip")), gzip_module.compress(body, 1))
        return ServedReply(200, headers, body)

    def _headers(self, now_ms: int, market: str = "", used: int = 0) -> tuple[tuple[str, str], ...]:
        second, date = self._date
        if second != now_ms // 1000:
            second, date = now_ms // 1000, email.utils.formatdate(now_ms // 1000, usegmt=True)
            self._date = (second, date)
        headers = (_JSON, ("Date", date), ("Connection", "keep-alive"))
        if not market:
            return headers
        weight = ("X-MBX-USED-WEIGHT-1M", str(used))
        return (
            (*headers, weight)
            if market in ("binance-um", "binance-cm")
            else (*headers, ("X-MBX-USED-WEIGHT", str(used)), weight)
        )


def _check(provider: str, kind: str) -> None:
    if provider not in PROVIDERS:
        raise ValueError(f"unknown provider {provider!r}; expected one of {', '.join(PROVIDERS)}")
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; expected one of {', '.join(KINDS)}")


def _refusal(verdict: Verdict, limit: int, now_ms: int, headers: tuple[tuple[str, str], ...]) -> ServedReply:
    """Return the reply 429 until the next window, 418 until the end of the ban."""
    if verdict.status == 418:
        message = (
            f"Way too much request weight used; IP banned until {verdict.until_ms}. "
            "Please use WebSocket Streams for live updates to avoid bans."
        )
    else:
        message = (
            f"Too much request weight used; current limit is {limit} request weight per 1 MINUTE. "
            "Please use WebSocket Streams for live updates to avoid polling the API."
        )
    wait_s = -(-(verdict.until_ms - now_ms) // 1000)
    body = dump({"code": -1003, "msg": message})
    return ServedReply(verdict.status, (*headers, ("Retry-After", str(wait_s))), body)
