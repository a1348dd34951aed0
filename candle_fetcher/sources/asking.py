"""One question at a time: pacing, retries and hosts on the way out, and what is wrong with a reply on the way in."""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from candle_fetcher.concurrency import Stop, pause, wait_for
from candle_fetcher.core.call import Call, Limit, Reply
from candle_fetcher.core.candles import Candles
from candle_fetcher.core.entry import Entry
from candle_fetcher.core.errors import (
    AccessDenied,
    Banned,
    CandleFetcherError,
    ProviderRefused,
    RateLimited,
    ReplyError,
    SourceError,
    TransportError,
)
from candle_fetcher.core.events import Observe, Operation, Rerouted, Retried
from candle_fetcher.core.keys import Keys
from candle_fetcher.core.spans import Span
from candle_fetcher.net.pacing import HostGate, Limiter, Retry
from candle_fetcher.net.transport import Transport
from candle_fetcher.sources.clock import FARTHEST_MS, Heard, ServerClock
from candle_fetcher.sources.keyring import Fixed, Keyholder
from candle_fetcher.store.shared import Desk

if TYPE_CHECKING:
    from candle_fetcher.core.files import File
    from candle_fetcher.sources.archive import FileRead
    from candle_fetcher.sources.rest import Page

Answer_ = TypeVar("Answer_")
Kept = TypeVar("Kept")
NO_KEYHOLDER = Fixed()

# A host to which no connection can be made is tried again this often: who has no network should hear of it soon.
_UNREACHED_RETRIES = 2
_KEPT_REPLIES = 32
_DENIALS = (403, 451)  # a firewall, a region; a 401 is about a key


class Replies(Generic[Kept]):
    """Replies by call, so that what is asked for once in an errand is sent once; only the newest are kept."""

    def __init__(self) -> None:
        self._asked: OrderedDict[Call, tuple[int, Future[Kept]]] = OrderedDict()
        self._lock = threading.Lock()

    def once(
        self,
        call: Call,
        ask: Callable[[], Kept],
        stop: threading.Event,
        *,
        now_ms: int,
        since_ms: int,
        anew: bool = False,
    ) -> Kept:
        """The reply to the call: `ask` gets it, or another thread that is at it; its error is that of all. `anew` gets
        it once more, and so does who needs one that was asked for at `since_ms` or later."""
        with self._lock:
            asked_ms, found = self._asked.get(call, (0, None))
            if anew or asked_ms < since_ms:
                found = None
            if found is None:
                mine: Future[Kept] = Future()
                self._asked[call] = max(now_ms, since_ms), mine
                self._asked.move_to_end(call)
                while len(self._asked) > _KEPT_REPLIES:
                    self._asked.popitem(last=False)
        if found is None:
            try:
                mine.set_result(ask())
            except BaseException as error:
                mine.set_exception(error if isinstance(error, CandleFetcherError) else CancelledError())
                raise
            return mine.result()
        wait_for([found], stop)
        return found.result()


_MOST_DETAIL = 80


class AsOf(NamedTuple):
    """The instant that a public call is about, in ms of the provider's clock, while this machine's clock showed
    `wall_s`. `is_checked` says that the provider's clock was asked for it."""

    ms: int
    wall_s: float
    is_checked: bool = False


class SharedChunk(NamedTuple):
    """A chunk and what is known of it; `spans` were asked for in this call, with the source that answered for each."""

    chunk: int
    tier: str
    entry: Entry
    spans: tuple[tuple[Span, str], ...]


class Errand(Stop):
    """One public call on its way. Once set, nothing more is sent for it.

    `as_of` is the instant that decides what is settled; it is read once. `retries` counts what was sent again.
    `clock_error` is why the provider's clock could not be had, once it was asked. `doubts_clock` says that the instant
    was read again, and lies earlier: a reply was sent before the span that it is about had settled.
    `denial` is why REST is not asked again: it does not serve this address, and the archive may. `warned` holds what
    the caller was warned of.
    `span` is the range of the call, once both of its ends are known.
    `kept` are the archive's files that reach beyond the last span gathered: a stream goes on with them. `replies` are
    the newest replies that answer for more than one chunk, by call. `renewed` are the chunks that a refresh has asked
    for again, by the key of the series; a series is there once its facts have been forgotten. `shared` is the last
    chunk of the span gathered last, by the key of the series, where it reaches beyond: the next piece of a stream needs
    it too.
    """

    as_of: AsOf | None = None
    retries = 0
    clock_error: SourceError | None = None
    denial: SourceError | None = None
    doubts_clock = False
    span: Span | None = None
    kept: Mapping[File, FileRead] = MappingProxyType({})

    def __init__(self) -> None:
        super().__init__()
        self.replies: Replies[Page] = Replies()
        self.warned: set[str] = set()
        self.renewed: dict[str, set[int]] = {}
        self.shared: dict[Hashable, SharedChunk] = {}


def detail_of(error: SourceError) -> str:
    """What happened, in a few words: `status 503`, else the first words of the error, on one line."""
    status = getattr(error, "status", None)
    if status is not None:
        return f"status {status}"
    text = " ".join(str(error.args[0] if error.args else "").split())
    if len(text) <= _MOST_DETAIL:
        return text
    return f"{text[:_MOST_DETAIL].rpartition(' ')[0] or text[:_MOST_DETAIL]} ..."


class Service(NamedTuple):
    """Whom to ask: root URLs of the same data, the preferred one first, and the facts that are stated of them.

    What `keys` holds goes along with each request, to these hosts alone; nothing that comes back shows it. `account`
    stands for whoever has these keys, where the service counts what each spends. A limit that the service tells is not
    obeyed where it is below `least`, by kind.
    """

    name: str
    hosts: tuple[str, ...]
    limits: tuple[Limit, ...]
    used: Callable[[Mapping[str, str]], int | None]
    refusal: Callable[[Reply, str, int], Exception]
    keys: Keyholder = NO_KEYHOLDER
    account: str = ""
    least: Mapping[str, int] = MappingProxyType({})


class Asker:
    """Asks one service. Shared by all threads of a fetcher.

    Those who have the same desk, in other processes too, share budgets, holds and bans.
    """

    def __init__(
        self,
        service: Service,
        *,
        transport: Transport,
        retry: Retry,
        clock: ServerClock,
        observe: Observe,
        desk: Desk | None = None,
        wait: Callable[[threading.Event, float], bool] = pause,
    ) -> None:
        self._service = service
        self._desk = desk
        self._transport = transport
        self._retry = retry
        self._clock = clock
        self._observe = observe
        self._wait = wait
        self._gate = HostGate()
        self._reached = True  # False where no connection could be made when the service failed last
        self._parsing = threading.Lock()
        self.limiter = self.budget(service.limits)

    def budget(self, limits: Sequence[Limit], name: str = "") -> Limiter:
        """A budget on the service's clock, for requests that it counts apart from the others; see `ask`.

        By this name it is shared with those who ask the same service. Its other hosts count as the first one, for the
        provider counts them as one; another root, such as a practice exchange's, is another service.
        """
        names = (self._service.name, self._service.hosts[0], name, *filter(None, [self._service.account]))
        shared = self._desk.state("|".join(names)) if self._desk else None
        return Limiter(
            provider=self._service.name,
            limits=limits,
            least=self._service.least,
            now_ms=self._clock.estimated_ms,
            steady_ms=lambda: int(time.monotonic() * 1000),
            machine_ms=lambda: int(time.time() * 1000),
            shared=shared,
            observe=self._observe,
            wait=self._wait,
        )

    def ask(
        self,
        call: Call,
        parse: Callable[[bytes], Answer_],
        *,
        symbol: str = "",
        stop: Errand,
        budget: Limiter | None = None,
        hear: Callable[[Heard], object] | None = None,
    ) -> Answer_:
        """The parsed reply, after as many retries as it takes and is allowed. Raises the last error.

        Each try is counted in `budget` too, where there is one. `hear` gets the headers and times of the reply that
        is parsed, or that refuses the request for good.
        """
        has_renewed = False
        spare = list(self._open_hosts())
        host = spare.pop(0)
        attempt = 1  # how many requests have failed, once one has
        while True:
            try:
                keys = self._service.keys.keys(stop)
                return self._once(host, call, parse, keys, symbol, stop, budget, hear)
            except Banned:
                raise
            except (TransportError, ReplyError, RateLimited, AccessDenied) as error:
                asked_s = None
                if isinstance(error, AccessDenied) or (isinstance(error, TransportError) and error.status is None):
                    # Out of reach or not served here: the provider's other hosts have the same data, each is tried
                    # once.
                    if spare and (not isinstance(error, AccessDenied) or is_denial(error)):
                        self._gate.failed(host, time.monotonic())
                        host = spare.pop(0)
                        self._observe(Rerouted(self._service.name, host, detail_of(error)))
                        continue
                    if isinstance(error, AccessDenied):
                        # A key that lives for minutes may have ended on the way.
                        if error.status != 401 or has_renewed or not self._service.keys.renew(keys, stop):
                            raise
                        has_renewed = True
                        continue
                if isinstance(error, RateLimited):
                    asked_s = error.retry_after_s
                wait_s = self._retry.wait_s(attempt, asked_s, random=random.random())
                if isinstance(error, TransportError) and not error.reached and attempt > _UNREACHED_RETRIES:
                    wait_s = None
                if wait_s is None:
                    if isinstance(error, TransportError):
                        self._gate.failed(host, time.monotonic())
                        self._reached = error.reached
                        error.attempts = attempt
                    raise
                stop.retries += 1
                kind, most = type(error).__name__, self._retry.max_retries
                self._observe(Retried(self._service.name, kind, attempt, wait_s, most, detail_of(error)))
                attempt += 1
                if self._wait(stop, wait_s):
                    raise CancelledError from None

    def renew(self) -> None:
        """Let the next requests go out on new connections: what a reply says is no proof of itself."""
        for host in self._service.hosts:
            self._transport.renew(host)

    def _open_hosts(self) -> list[str]:
        now = time.monotonic()
        open_ = [host for host in self._service.hosts if self._gate.is_open(host, now)]
        if open_:
            return open_
        if len(self._service.hosts) > 1:
            return list(self._service.hosts[-1:])
        raise TransportError(
            f"{self._service.hosts[0]} keeps failing and is left alone for a while", reached=self._reached
        )

    def _once(
        self,
        host: str,
        call: Call,
        parse: Callable[[bytes], Answer_],
        keys: Keys,
        symbol: str,
        stop: Errand,
        budget: Limiter | None,
        hear: Callable[[Heard], object] | None,
    ) -> Answer_:
        if budget is not None:
            # Spent at once: the few seconds of the reply do not matter to a budget of minutes.
            budget.release(budget.acquire(1, stop=stop))
        ticket = self.limiter.acquire(call.cost, stop=stop)
        used = None
        sent = self._clock.moment()
        try:
            reply = self._transport.send(host, call, provider=self._service.name, stop=stop, keys=keys)
            heard = Heard(reply.headers, sent, self._clock.moment())
            used = self._service.used(reply.headers)
        finally:
            self.limiter.release(ticket, used=used)
        try:
            if reply.status != 200:
                raise self._refusal(reply, symbol, heard)
            # A parse holds the interpreter most of the time; taking turns spares the threads handing it to and fro.
            with self._parsing:
                began = time.perf_counter()
                answer = self._read(parse, reply.body)
        except ReplyError:
            self.renew()  # it may be the reply to another request
            raise
        except RateLimited as error:
            raise self._paused(error, reply, symbol, heard) from None
        except ProviderRefused:
            if hear is not None:
                hear(heard)
            raise
        if hear is not None:
            hear(heard)
        self.limiter.answered()
        self._gate.ok(host)
        count = answer.count if isinstance(answer, Candles) else 0
        self._observe(Operation("parse", time.perf_counter() - began, count, len(reply.body)))
        return answer

    def _refusal(self, reply: Reply, symbol: str, heard: Heard) -> Exception:
        """The error that the reply stands for. Of the other 2xx none is a whole reply."""
        if 200 < reply.status < 300:
            return TransportError(
                f"{self._service.name} sent no whole reply (status {reply.status})", status=reply.status
            )
        return self._service.refusal(reply, symbol, self._now_ms(heard))

    def _now_ms(self, heard: Heard) -> int:
        """The service's clock when it sent the reply, by which times in it count: by its date, if that can be."""
        made_ms, now_ms = heard.made_ms, self.limiter.now_ms()
        return made_ms if made_ms is not None and abs(made_ms - now_ms) < FARTHEST_MS else now_ms

    def _paused(self, error: RateLimited, reply: Reply, symbol: str, heard: Heard) -> RateLimited:
        """Return the error, after the pause or ban that it stands for is set for all processes."""
        if reply.status == 200:
            # A parser has no clock from which to count until the time that the provider names.
            dated = self._service.refusal(reply, symbol, self._now_ms(heard))
            error = dated if isinstance(dated, RateLimited) else error
        if isinstance(error, Banned):
            left_s = error.until.timestamp() - self._now_ms(heard) / 1000
            self.limiter.ban(self.limiter.now_ms() + int(1000 * left_s), str(error), seconds=error.retry_after_s or 0.0)
        else:
            self.limiter.pause(error.retry_after_s)
        error.status = reply.status
        return error

    def _read(self, parse: Callable[[bytes], Answer_], body: bytes) -> Answer_:
        """What is made of the body. A parser that fails otherwise than by an error of ours could not read it: it may
        be that of a provider from elsewhere."""
        try:
            return parse(body)
        except CandleFetcherError:
            raise
        except Exception as error:
            raise ReplyError(
                f"the parser of {self._service.name} failed on a reply: {type(error).__name__}: {str(error)[:160]!r}"
            ) from error


def is_denial(error: BaseException) -> bool:
    """Whether a host refuses this address or its region, so that another host or source of the data may serve."""
    return isinstance(error, AccessDenied) and error.status in _DENIALS
