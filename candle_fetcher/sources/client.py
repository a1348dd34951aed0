"""Requests to one service: budget, retries and hosts on the way out, and what is wrong with a reply on the way in."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from candle_fetcher.core.call import Call, Limit, Reply
from candle_fetcher.core.candles import Candles
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
from candle_fetcher.core.events import Operation, Rerouted, Retried
from candle_fetcher.core.keys import Keys
from candle_fetcher.net.host_gate import HostGate
from candle_fetcher.net.limiter import Limiter
from candle_fetcher.net.places import Places
from candle_fetcher.sources.clock import ReplyHead, ServerClock
from candle_fetcher.sources.keyring import FixedKeys
from candle_fetcher.sources.scope import CallScope
from candle_fetcher.sources.wire import Wire

Parsed = TypeVar("Parsed")
NO_KEYS_NEEDED = FixedKeys()

# A host to which no connection can be made is tried again this often: a user without a network should soon know.
_UNREACHED_RETRIES = 2
_DENIALS = (403, 451)  # a firewall, a region; a 401 is about a key
_DETAIL_CHARACTERS = 80


class NextStep(Enum):
    """What may be done after a request has failed."""

    OTHER_HOST = "send it to the next host, once to each"
    NEW_KEY = "send it with another key, once"
    WAIT = "wait, and send it again"


# What is done after an error. The first row decides that fits its class and status; an empty tuple fits each status. Of
# its steps, the first one that is possible is taken. Where none is, the error is raised.
_STEPS: tuple[tuple[type[SourceError], tuple[int | None, ...], tuple[NextStep, ...]], ...] = (
    (Banned, (), ()),
    (RateLimited, (), (NextStep.WAIT,)),
    (AccessDenied, _DENIALS, (NextStep.OTHER_HOST,)),
    (AccessDenied, (401,), (NextStep.NEW_KEY,)),  # a token may have expired on the way
    (AccessDenied, (), ()),
    (TransportError, (None,), (NextStep.OTHER_HOST, NextStep.WAIT)),  # out of reach, or cut
    (TransportError, (), (NextStep.WAIT,)),
    (ReplyError, (), (NextStep.WAIT,)),
)


def steps_after(error: SourceError) -> tuple[NextStep, ...]:
    """Return what may be done after the error, in this order."""
    status = getattr(error, "status", None)
    for kind, statuses, steps in _STEPS:
        if isinstance(error, kind) and (not statuses or status in statuses):
            return steps
    return ()


def detail_of(error: SourceError) -> str:
    """Return what happened, in a few words: `status 503`, else the first words of the error, on one line."""
    status = getattr(error, "status", None)
    if status is not None:
        return f"status {status}"
    text = " ".join(str(error.args[0] if error.args else "").split())
    if len(text) <= _DETAIL_CHARACTERS:
        return text
    return f"{text[:_DETAIL_CHARACTERS].rpartition(' ')[0] or text[:_DETAIL_CHARACTERS]} ..."


class Service(NamedTuple):
    """A service and the facts stated of it.

    hosts: root URLs of the same data, the preferred one first. refusal: the error that a reply other than 200 stands
    for, given the symbol and the time of the reply in ms. used: the weight that the headers of a reply report.
    keys: sent with each request, to these hosts alone; no reply and no error shows them. account: identifies the keys
    where the service counts the requests of each key. least: by kind; a lower limit of the service is not obeyed.
    """

    name: str
    hosts: tuple[str, ...]
    refusal: Callable[[Reply, str, int], Exception]
    limits: tuple[Limit, ...] = ()
    used: Callable[[Mapping[str, str]], int | None] = lambda headers: None
    keys: FixedKeys = NO_KEYS_NEEDED
    account: str = ""
    least: Mapping[str, int] = MappingProxyType({})


class _Tries:
    """The tries of one request: the host to send it to, the hosts left, and how many tries have failed."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self.host, *self.spare = hosts
        self.failed = 0
        self.has_new_key = False


class ServiceClient:
    """Sends requests to one service. Shared by all threads of a fetcher.

    Clients with the same shared states, in other processes too, have one budget, one hold and one ban between them.
    """

    def __init__(self, service: Service, wire: Wire, clock: ServerClock | None = None) -> None:
        self._service = service
        self._wire = wire
        self._clock = clock or wire.server_clock()
        self.gate = HostGate()
        self._reached = True  # False where no connection could be made when the service failed last
        self._parsing = threading.Lock()
        self._places = Places(wire.at_once)  # given back before a reply is parsed, so that the next request is sent
        self.limiter = self.budget(service.limits)

    def budget(self, limits: Sequence[Limit], name: str = "") -> Limiter:
        """Return a budget by the service's clock, for requests that it counts apart from the others; see `request`.

        Clients of the same service share the budget by this name. Its hosts have one budget, as the provider counts
        them together. Another first host, such as a practice exchange, makes another service.
        """
        names = (self._service.name, self._service.hosts[0], name, *filter(None, [self._service.account]))
        shared = self._wire.shared_states.state("|".join(names)) if self._wire.shared_states else None
        clocks = self._wire.limiter_clocks(self._clock)
        return Limiter(
            provider=self._service.name,
            limits=limits,
            least=self._service.least,
            share=self._wire.share,
            now_ms=clocks.now_ms,
            steady_ms=clocks.steady_ms,
            machine_ms=clocks.machine_ms,
            shared=shared,
            observe=self._wire.observe,
            wait=self._wire.wait,
        )

    def request(
        self,
        call: Call,
        parse: Callable[[bytes], Parsed],
        *,
        symbol: str = "",
        scope: CallScope,
        budget: Limiter | None = None,
    ) -> tuple[Parsed, ReplyHead]:
        """Return the parsed reply and its head, after as many retries as are needed and allowed.

        Each try is counted in `budget` too, where one is given. Raises the error of the last try; a ProviderRefused has
        the head of the reply, and a ReplyError names the service."""
        service, transport, tries = self._service, self._wire.transport, _Tries(self._open_hosts())
        while True:
            keys = None
            try:
                keys = service.keys.keys(scope)
                if budget is not None:
                    # It counts as spent at once: until the reply, seconds pass, which a budget of minutes can ignore.
                    budget.release(budget.acquire(1, stop=scope))
                self._places.take(scope)
                try:
                    ticket = self.limiter.acquire(call.cost, stop=scope)
                    used = None
                    sent = self._clock.moment()
                    try:
                        reply = transport.send(tries.host, call, provider=service.name, stop=scope, keys=keys)
                        head = ReplyHead(reply.headers, sent, self._clock.moment())
                        used = service.used(reply.headers)
                    finally:
                        self.limiter.release(ticket, used=used)
                finally:
                    self._places.give_back()
                parsed = self._read(reply, head, parse, symbol)
            except (TransportError, ReplyError, RateLimited, AccessDenied) as error:
                if not self._recovers(error, tries, keys, scope):
                    raise
            else:
                self.limiter.answered(ticket)
                self.gate.ok(tries.host)
                return parsed, head

    def _recovers(self, error: SourceError, tries: _Tries, keys: Keys | None, scope: CallScope) -> bool:
        """Take the first step after the error that can be taken, and return whether there was one.

        Raises CancelledError where the call is cancelled while it waits.
        """
        for step in steps_after(error):
            if step is NextStep.OTHER_HOST and tries.spare:
                self.gate.failed(tries.host, self._wire.steady_s())
                tries.host = tries.spare.pop(0)
                self._wire.observe(Rerouted(self._service.name, tries.host, detail_of(error)))
                return True
            if step is NextStep.NEW_KEY and keys is not None and not tries.has_new_key:
                tries.has_new_key = self._service.keys.renew(keys, scope)
                return tries.has_new_key
            if step is NextStep.WAIT and self._waits(error, tries, scope):
                return True
        if isinstance(error, TransportError):
            self.gate.failed(tries.host, self._wire.steady_s())
            self._reached = error.reached
            error.attempts = tries.failed + 1
        elif isinstance(error, ReplyError):
            error.args = (f"a reply of {self._service.name} cannot be used: {error.reason}",)
        return False

    def _waits(self, error: SourceError, tries: _Tries, scope: CallScope) -> bool:
        """Wait before the next try; return False at once where there is none."""
        tries.failed += 1
        asked_s = error.retry_after_s if isinstance(error, RateLimited) else None
        wait_s = self._wire.retry.wait_s(tries.failed, asked_s, random=random.random())
        is_unreached = isinstance(error, TransportError) and not error.reached
        if wait_s is None or (is_unreached and tries.failed > _UNREACHED_RETRIES):
            tries.failed -= 1
            return False
        scope.retries += 1
        kind, most = type(error).__name__, self._wire.retry.max_retries
        self._wire.observe(Retried(self._service.name, kind, tries.failed, wait_s, most, detail_of(error)))
        if self._wire.wait(scope, wait_s):
            raise CancelledError from None
        return True

    def renew(self) -> None:
        """Send the next requests on new connections, since replies on the old ones may belong to other requests."""
        for host in self._service.hosts:
            self._wire.transport.renew(host)

    def _open_hosts(self) -> list[str]:
        now_s = self._wire.steady_s()
        open_hosts = [host for host in self._service.hosts if self.gate.is_open(host, now_s)]
        if open_hosts:
            return open_hosts
        if len(self._service.hosts) > 1:
            return list(self._service.hosts[-1:])
        raise TransportError(
            f"{self._service.hosts[0]} keeps failing, so no request is sent to it for a while", reached=self._reached
        )

    def _read(self, reply: Reply, head: ReplyHead, parse: Callable[[bytes], Parsed], symbol: str) -> Parsed:
        """Return what the parser makes of the reply; raise the error that it stands for."""
        try:
            if reply.status != 200:
                raise self._refusal(reply, symbol, head)
            # Parsing holds Python's interpreter lock most of the time: threads that parse in turn switch less often.
            with self._parsing:
                began_s = time.perf_counter()
                try:
                    parsed = parse(reply.body)
                except CandleFetcherError:
                    raise
                except Exception as error:  # the parser may be that of another package
                    raise ReplyError(f"its parser raised {type(error).__name__}: {str(error)[:160]!r}") from error
        except ReplyError:
            self.renew()  # an earlier request on this connection may be the one that was answered
            raise
        except RateLimited as error:
            raise self._paused(error, reply, symbol, head) from None
        except ProviderRefused as error:
            error.head = head.times_alone()
            raise
        count = parsed.count if isinstance(parsed, Candles) else 0
        self._wire.observe(Operation("parse", time.perf_counter() - began_s, count, len(reply.body)))
        return parsed

    def _refusal(self, reply: Reply, symbol: str, head: ReplyHead) -> Exception:
        """Return the error for a status other than 200. No other status of 2xx comes with a whole reply."""
        if 200 < reply.status < 300:
            return TransportError(f"{self._service.name} sent part of a reply ({reply.status})", status=reply.status)
        return self._service.refusal(reply, symbol, self._now_ms(head))

    def _now_ms(self, head: ReplyHead) -> int:
        """Return the service's time when it sent the reply: the reply's date, or an estimate for an impossible date."""
        made_ms = self._clock.made_ms(head)
        return self.limiter.now_ms() if made_ms is None else made_ms

    def _paused(self, error: RateLimited, reply: Reply, symbol: str, head: ReplyHead) -> RateLimited:
        """Set the pause or ban that the error asks for, in all processes, and return the error."""
        if reply.status == 200:
            # The parser that raised the error had no clock to turn a stated end into a length: do it again with one.
            dated = self._service.refusal(reply, symbol, self._now_ms(head))
            error = dated if isinstance(dated, RateLimited) else error
        if isinstance(error, Banned):
            stated_ms = round(1000 * error.until.timestamp())
            until_ms = self.limiter.now_ms() + stated_ms - self._now_ms(head)
            self.limiter.ban(until_ms, str(error), seconds=error.retry_after_s or 0.0, stated_ms=stated_ms)
        else:
            self.limiter.pause(error.retry_after_s)
        error.status = reply.status
        return error


def is_denial(error: BaseException) -> bool:
    """Return whether the error is a refusal of this address or its region: another host or source may have the data."""
    return isinstance(error, AccessDenied) and error.status in _DENIALS


def ends_call(error: SourceError, *, has_archive: bool = False) -> bool:
    """Return whether the error ends a call. After any other error the call goes on with other requests and sources.

    A ban and a refusal of the request end it; a denial does so only without an archive that may serve the call.
    """
    if isinstance(error, Banned):
        return True
    return not (isinstance(error, TransportError | ReplyError | RateLimited) or (has_archive and is_denial(error)))
