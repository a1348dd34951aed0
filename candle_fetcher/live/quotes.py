"""Quotes of now: symbols of several providers, asked side by side within one time, each with an error of its own.

    symbols -> Wanted (provider, id) -> _Asking, one for each provider: its requests in threads of its own -> Quotes

A provider that hangs, waits for its budget or tries again holds no thread that another one needs. When the time is
over, what is under way is broken off. A symbol has a quote where all of its requests came, else an error, with the
last known quote where there is one. Where a provider refuses a request for several symbols, each is asked apart.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple, Protocol

from candle_fetcher.cache import CandleCache
from candle_fetcher.concurrency import POLL_S
from candle_fetcher.concurrency.pool import ThreadPool
from candle_fetcher.core.arguments import is_several, read_number
from candle_fetcher.core.errors import (
    AccessDenied,
    CandleFetcherError,
    InputError,
    ProviderRefused,
    ReplyError,
    UnknownSymbol,
    shown,
)
from candle_fetcher.core.events import Operation
from candle_fetcher.core.faults import brief
from candle_fetcher.core.quote import Quote, Quotes, Ticker, make_quote
from candle_fetcher.live.kept import LastKnown, Received
from candle_fetcher.providers import Provider, QuoteFeed, QuoteRequest, split_symbol
from candle_fetcher.settings import Settings
from candle_fetcher.sources import CallScope, RestSource, Wire
from candle_fetcher.sources.clock import ReplyHead, measure_date

_LONGEST_S = 3_600.0
_OLDEST_S = 1e9
# Threads that send the requests of one provider at once.
_THREADS = 8
# A provider's clock that is this far from what is known of it is read.
_DOUBTED_MS = 5_000
# How long all threads together may take to end once their requests were broken off.
_PATIENCE_S = 0.25
_FIGURES = ("last_price", "volume", "bid_price", "ask_price")


class Desk(Protocol):
    """What a fetcher has for quotes."""

    settings: Settings
    clock: Callable[[], float]
    wire: Wire
    last_known: LastKnown

    @property
    def cache(self) -> CandleCache: ...
    def scope(self) -> AbstractContextManager[CallScope]: ...
    def stop(self, scope: CallScope, /) -> None: ...
    def observe(self, event: Operation, /) -> None: ...
    def split_symbol(self, symbol: str, provider: str | Provider | None, /) -> tuple[Provider, str]: ...
    def rest(self, provider: Provider, /) -> RestSource: ...
    def origin(self, provider: Provider, /) -> str | None: ...
    def is_offline(self) -> bool: ...


class Wanted(NamedTuple):
    """A symbol that is asked for: its name, its provider's id and the source that has it; or why there is none."""

    symbol: str
    provider: str
    provider_symbol: str = ""
    source: RestSource | None = None
    error: str = ""


def ask_quotes(
    desk: Desk,
    symbols: Iterable[str],
    provider: str | Provider | None,
    timeout_s: float,
    max_age_s: float | None,
    refused: dict[str, Exception] | None = None,
) -> Quotes:
    """Return the quotes of `CandleFetcher.quotes`. `refused` gets the errors of symbols that no waiting heals."""
    began_s = time.perf_counter()
    names = read_names(symbols)
    timeout_s = read_number("timeout_s", timeout_s, 0, _LONGEST_S, is_open=True)
    if max_age_s is not None:
        max_age_s = read_number("max_age_s", max_age_s, 0, _OLDEST_S)
    clock_s = desk.wire.steady_s
    ends_s = clock_s() + timeout_s
    wanted = [find_wanted(desk, name, provider) for name in names]
    asked: dict[int, _Asking] = {}
    for one in wanted:
        if one.source is not None:
            asked.setdefault(id(one.source), _Asking(desk, one.source)).add(one.provider_symbol)
    if not desk.is_offline():
        with desk.scope() as scope:
            _run(list(asked.values()), scope, lambda: ends_s - clock_s(), f"no answer within {timeout_s:g} s")
    quotes = Quotes(
        _failed(one) if one.source is None else asked[id(one.source)].quote(one, max_age_s) for one in wanted
    )
    if refused is not None:
        for name, one in zip(names, wanted, strict=True):
            error = None if one.source is None else asked[id(one.source)].refusal(one)
            refused.update({} if error is None else {name: error})
    label = f"{len(names)} symbols" if len(names) != 1 else names[0]
    desk.observe(Operation("quotes", time.perf_counter() - began_s, label=label))
    return quotes


def read_names(symbols: Any) -> list[str]:
    """Return the symbols, in the order given. Raises InputError where they are not several texts."""
    if not is_several(symbols):
        raise InputError(
            f"symbols {shown(symbols)} is not a list; expected a list such as ['BTC/USDT', 'kraken:ETH/USD']"
        )
    names = list(symbols)
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"symbols {shown(names)} must all be text; expected a list such as ['BTC/USDT', 'ETH/USDT']")
    return names


def find_wanted(desk: Desk, name: str, provider: str | Provider | None) -> Wanted:
    """Return what the name stands for; its error where it is no symbol of a provider with quotes."""
    named, rest = split_symbol(name)
    given = provider.name if isinstance(provider, Provider) else provider if isinstance(provider, str) else ""
    about = Wanted(rest, named or given)
    try:
        found, rest = desk.split_symbol(name, provider)
        about = Wanted(rest.strip(), found.name)
        if found.quotes is None:
            return about._replace(error=f"{found.name} has no quotes; choose another provider")
        own = found.provider_symbol(rest, "candles")
        symbol = desk.cache.listings.unified_symbol(found, desk.origin(found), own)
        return Wanted(symbol, found.name, own, desk.rest(found))
    except InputError as error:
        return about._replace(error=str(error))
    except CandleFetcherError:
        raise  # of the fetcher, which is closed
    except Exception as error:  # noqa: BLE001 - a provider of another package may raise anything
        return about._replace(error=_said_of(error))


def _failed(wanted: Wanted) -> Quote:
    return Quote(wanted.symbol, provider=wanted.provider, error=wanted.error)


class _Answered(NamedTuple):
    """What came of a job of a provider: tickers and the head of their reply; an error; or neither, of its clock."""

    asking: _Asking
    request: QuoteRequest | None
    tickers: Sequence[Ticker] = ()
    head: ReplyHead | None = None
    error: BaseException | None = None


class _Part:
    """What has come for one symbol: the parts of its quote, how many are on their way, and what is wrong."""

    def __init__(self) -> None:
        self.left = 0
        self.ticker: Ticker | None = None
        self.received_ms = math.inf
        self.error: BaseException | None = None

    def take(self, ticker: Ticker, received_ms: int) -> None:
        """Add a part."""
        self.ticker = ticker if self.ticker is None else self.ticker.joined(ticker)
        self.received_ms = min(self.received_ms, received_ms)


class _Asking:
    """The requests for the symbols of one provider, in threads of its own. Its methods are called by one thread."""

    def __init__(self, desk: Desk, source: RestSource) -> None:
        feed = source.provider.quotes
        assert feed is not None
        self._feed: QuoteFeed = feed
        self._desk, self._source = desk, source
        self._name = source.provider.name
        self._settings = desk.settings.provider_settings.get(self._name, {})
        self._parts: dict[str, _Part] = {}
        self._scope = CallScope()
        self._pool: ThreadPool | None = None
        self._is_clock_read = False
        self._why_none = f"source='cache' sends no request, and no quote of {self._name} was asked for before"

    def add(self, symbol: str) -> None:
        """Ask for the quote of the provider's symbol too."""
        self._parts.setdefault(symbol, _Part())

    # -- requests -------------------------------------------------------------------------------------------------

    def start(self, done: queue.SimpleQueue[_Answered]) -> int:
        """Send the requests; return how many."""
        try:
            requests = self._feed.requests(tuple(self._parts), self._settings)
        except Exception as error:  # noqa: BLE001 - a provider of another package may raise anything
            for part in self._parts.values():
                part.error = error
            return 0
        self._pool = ThreadPool(f"quotes-{self._name}", min(len(requests), _THREADS) or 1)
        return self._send(requests, done)

    def _send(self, requests: Sequence[QuoteRequest], done: queue.SimpleQueue[_Answered]) -> int:
        assert self._pool is not None
        for request in requests:
            for symbol in request.symbols:
                self._parts.setdefault(symbol, _Part()).left += 1
        for request in requests:
            self._pool.submit(self._ask, request, done)
        return len(requests)

    def _ask(self, request: QuoteRequest, done: queue.SimpleQueue[_Answered]) -> None:
        """Send one request, and put down what came of it. Runs in a thread of the pool."""
        try:
            tickers, head = self._request(request)
        except BaseException as error:  # noqa: BLE001 - it is the error of the symbols
            done.put(_Answered(self, request, error=error))
        else:
            done.put(_Answered(self, request, tickers, head))

    def _request(self, request: QuoteRequest) -> tuple[Sequence[Ticker], ReplyHead]:
        return self._source.request(
            request.call,
            lambda body: _checked(request.parse(body)),
            symbol=", ".join(request.symbols),
            scope=self._scope,
            budget=self._desk.last_known.budget(self._source),
        )

    def receive(self, answered: _Answered, done: queue.SimpleQueue[_Answered]) -> int:
        """Take what came of a job; return how many jobs were begun because of it."""
        request = answered.request
        if request is None:
            return 0
        for symbol in request.symbols:
            self._parts[symbol].left -= 1
        error, apart = answered.error, self._feed.apart
        if error is not None:
            if isinstance(error, UnknownSymbol | ProviderRefused) and len(request.symbols) > 1 and apart is not None:
                return self._send(apart(request.symbols, self._settings), done)
            for symbol in request.symbols:
                self._parts[symbol].error = error
            return 0
        assert answered.head is not None
        received_ms = int(answered.head.came.wall_s * 1000)
        for ticker in answered.tickers:
            if ticker.symbol in request.symbols:
                self._parts[ticker.symbol].take(ticker, received_ms)
        return self._look_at_clock(request, answered.head, done)

    def stop(self, why: str) -> None:
        """Break off what is under way; `why` is the error of what did not come."""
        tries = self._scope.retries
        self._why_none = f"{why}, after {tries} failed {'try' if tries == 1 else 'tries'}" if tries else why
        self._desk.stop(self._scope)

    def close(self, patience_s: float) -> None:
        """End the threads, and wait for them so long at most."""
        if self._pool is not None:
            self._pool.close(cancels=True, patience_s=patience_s)

    # -- the provider's clock -------------------------------------------------------------------------------------

    def _look_at_clock(self, request: QuoteRequest, head: ReplyHead, done: queue.SimpleQueue[_Answered]) -> int:
        """Keep the time that the reply states, or have the clock read where it contradicts what is known of it."""
        clock, reading = self._source.server_clock, measure_date(head)
        if reading is None or not reading.is_short or self._is_clock_read:
            return 0
        known_ms = clock.estimated_ms() - int(clock.moment().wall_s * 1000)
        if abs(reading.offset_ms - known_ms) <= _DOUBTED_MS:
            clock.note(reading)
            return 0
        self._is_clock_read = True
        assert self._pool is not None
        self._pool.submit(self._read_clock, request, head, done)
        return 1

    def _read_clock(self, request: QuoteRequest, head: ReplyHead, done: queue.SimpleQueue[_Answered]) -> None:
        """Read the provider's clock: by its own request, else by the dates of two replies. Runs in a thread of the
        pool. What fails leaves what is known."""
        try:
            if self._source.provider.clock is not None:
                self._source.now_ms(self._scope, None, is_doubted=True)
            else:
                read = lambda again: measure_date(self._request(request)[1] if again else head)  # noqa: E731
                self._source.server_clock.read(self._name, read)
        except (CandleFetcherError, CancelledError):
            pass
        finally:
            done.put(_Answered(self, None))

    # -- quotes ---------------------------------------------------------------------------------------------------

    def quote(self, wanted: Wanted, max_age_s: float | None) -> Quote:
        """Return the quote of the symbol, or why there is none; the last known one where no newer one came."""
        part, symbol = self._parts[wanted.provider_symbol], wanted.provider_symbol
        error, ticker = part.error, part.ticker
        if error is None and (part.left or (ticker is None and self._pool is None)):
            return self._last_known(wanted, self._why_none, max_age_s)
        if isinstance(error, InputError):
            said = str(UnknownSymbol(wanted.symbol, self._name)) if isinstance(error, UnknownSymbol) else str(error)
            return self._without(wanted, said)
        if error is not None:
            cancelled = isinstance(error, CancelledError)
            return self._last_known(wanted, self._why_none if cancelled else _said_of(error), max_age_s)
        if ticker is None:
            return self._without(wanted, str(UnknownSymbol(wanted.symbol, self._name)))
        if ticker.refusal or not ticker.has_price:
            why = f" ({brief(ticker.refusal)})" if ticker.refusal else ""
            return self._without(wanted, f"{self._name} states no price of {wanted.symbol}{why}")
        received = Received(ticker._replace(symbol=symbol), int(part.received_ms))
        self._desk.last_known.keep(self._source, received)
        return self._made(wanted, received, max_age_s)

    def refusal(self, wanted: Wanted) -> Exception | None:
        """Return why there will be no quote of the symbol; None where there is one, or may be later."""
        part = self._parts[wanted.provider_symbol]
        if isinstance(part.error, UnknownSymbol):
            return UnknownSymbol(wanted.symbol, self._name)
        if isinstance(part.error, InputError | AccessDenied | ProviderRefused):
            return part.error
        is_unknown = part.error is None and part.ticker is None and not part.left and self._pool is not None
        return UnknownSymbol(wanted.symbol, self._name) if is_unknown else None

    def _last_known(self, wanted: Wanted, why: str, max_age_s: float | None) -> Quote:
        received = self._desk.last_known.find(self._source, wanted.provider_symbol)
        return self._without(wanted, why) if received is None else self._made(wanted, received, max_age_s, why)

    def _made(self, wanted: Wanted, received: Received, max_age_s: float | None, error: str | None = None) -> Quote:
        ticker = received.ticker
        now_ms = int(self._desk.clock() * 1000)
        return make_quote(
            ticker,
            symbol=wanted.symbol,
            type=self._type_of(wanted.provider_symbol),
            exchange=self._feed.exchange,
            provider=self._name,
            received_ms=received.ms,
            age_s=ticker.age_s(received.ms, now_ms, self._source.estimated_ms()),
            max_age_s=max_age_s,
            error=error,
        )

    def _type_of(self, symbol: str) -> str | None:
        with suppress(Exception):  # a provider of another package may raise anything
            return self._feed.type_of(symbol)
        return None

    def _without(self, wanted: Wanted, error: str) -> Quote:
        return Quote(
            wanted.symbol,
            self._type_of(wanted.provider_symbol),
            self._feed.exchange,
            provider=self._name,
            error=error,
            provider_symbol=wanted.provider_symbol,
        )


def _said_of(error: BaseException) -> str:
    """Return the message of an error, which may be one of another package's code."""
    return str(error) if isinstance(error, CandleFetcherError) else f"{type(error).__name__}: {str(error)[:160]!r}"


def _checked(tickers: Any) -> Sequence[Ticker]:
    """Return the tickers, which another package's parser may have made. Raises ReplyError for what are none."""
    found = tuple(tickers)
    for one in found:
        figures = [getattr(one, name) for name in _FIGURES] if isinstance(one, Ticker) else [math.nan]
        if not all(figure is None or math.isfinite(figure) for figure in figures):
            raise ReplyError(f"expected tickers with finite numbers, got {brief(one)}")
    return found


def _run(askings: Sequence[_Asking], scope: CallScope, left_s: Callable[[], float], why: str) -> None:
    """Have all providers asked, until each has answered or no time is left; `why` is the error of those that have not.

    Raises CancelledError once the scope is set.
    """
    done: queue.SimpleQueue[_Answered] = queue.SimpleQueue()
    try:
        left = sum(asking.start(done) for asking in askings)
        while left and (wait_s := left_s()) > 0:
            if scope.is_set():
                raise CancelledError
            with suppress(queue.Empty):
                answered = done.get(timeout=min(POLL_S, wait_s))
                left += answered.asking.receive(answered, done) - 1
        with suppress(queue.Empty):
            while left:  # what came in the last moment
                answered = done.get_nowait()
                left += answered.asking.receive(answered, done) - 1
    finally:
        for asking in askings:
            asking.stop(why)
        ends_s = time.monotonic() + _PATIENCE_S
        for asking in askings:
            asking.close(max(0.0, ends_s - time.monotonic()))
