"""When a request may go out: Retry (a pure decision), Limiter (the budget of a provider), HostGate (a host in trouble).

The Limiter counts as the exchange does, in whole intervals of the provider's clock, and leaves room for what it
cannot see: a margin for other programs on this address, and the moment around a border between two intervals, in
which a clock error decides where a request is counted. What is spent in that moment counts in both.

Everything it remembers is one State, read by `load` and written by `save` under `locked`: a subclass that keeps the
State in a file shares the budget between processes.
"""

from __future__ import annotations

import datetime as dt
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

from candle_fetcher.core.call import Limit
from candle_fetcher.core.errors import Banned, RateLimited
from candle_fetcher.core.events import Observe, Waited, ignore

# A longer wait is not waited for: the caller is told.
LONGEST_WAIT_S = 300.0
# How far our idea of the provider's clock may be off, on either side of a border.
_GUARD_MS = 100
# The part of a limit left to what we cannot see.
_MARGIN = 50
_FOREVER_S = 1e9

Wait = Callable[[threading.Event, float], bool]


@dataclass(frozen=True)
class Retry:
    """Whether to send a failed request again, and after how long."""

    max_retries: int = 5
    base_s: float = 0.5
    cap_s: float = 30.0

    def wait_s(self, attempt: int, asked_s: float | None, *, random: float) -> float | None:
        """Seconds to wait after request number `attempt` (from 1) failed; None where it must not be sent again.

        A positive `asked_s` (Retry-After) wins, unless it is above 300 s: then None. Else the wait lies between half
        of base_s doubled with each attempt, at most cap_s, and the whole, as `random` from 0 to 1 says.
        """
        if attempt > self.max_retries:
            return None
        if asked_s is not None and asked_s > 0:
            return asked_s if asked_s <= LONGEST_WAIT_S else None
        planned = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 60))
        return planned * (0.5 + 0.5 * random)


class Window(NamedTuple):
    """What was spent of one limit in the present interval, which is number `slot` of the provider's clock.

    `reserved` is under way since this interval, `carried` since the one before: it may be counted in either. `late`
    was answered so near the end that it may be counted in the next one.
    """

    slot: int
    used: int = 0
    reserved: int = 0
    carried: int = 0
    late: int = 0

    @property
    def spent(self) -> int:
        return self.used + self.reserved + self.carried


class State(NamedTuple):
    """All that a Limiter remembers; of plain numbers and text, so that it can be kept in a file.

    Windows by kind and interval, such as weight/60. A hold is kept with its length, by which a clock that was set back
    is noticed.
    """

    windows: Mapping[str, Window] = {}
    held_until_ms: int = 0
    held_ms: int = 0
    banned_until_ms: int = 0
    ban_message: str = ""


class Ticket(NamedTuple):
    """Leave to send one request; to be released, whatever became of it."""

    cost: int
    slots: Mapping[str, int]


class _Pause(NamedTuple):
    reason: str
    seconds: float


class Limiter:
    """The budget of one provider at one address, shared by all threads.

    `now_ms` is the provider's clock. It may step: nothing then waits longer than an interval or a hold. `steady_ms`
    is a clock for holds that never steps, the provider's if not given. `wait(stop, seconds)` waits, and returns
    whether `stop` was set.
    """

    def __init__(
        self,
        *,
        provider: str,
        limits: Sequence[Limit] = (),
        now_ms: Callable[[], int],
        steady_ms: Callable[[], int] | None = None,
        observe: Observe = ignore,
        wait: Wait = threading.Event.wait,
    ) -> None:
        self._provider = provider
        self._limits = tuple(limits)
        self._now_ms = now_ms
        self._steady_ms = steady_ms or now_ms
        self._observe = observe
        self._wait = wait
        self._lock = threading.Lock()
        self._state = State()

    def locked(self) -> AbstractContextManager[object]:
        """Between entering and leaving nobody else loads or saves."""
        return self._lock

    def load(self) -> State:
        return self._state

    def save(self, state: State) -> None:
        self._state = state

    def set_limits(self, limits: Sequence[Limit]) -> None:
        """Replaces the limits; what was spent of one with the same kind and interval stays spent."""
        with self.locked():
            self._limits = tuple(limits)

    def acquire(self, cost: int, *, stop: threading.Event) -> Ticket:
        """Leave to send a request of this cost, as soon as the budget allows.

        Raises Banned during a ban, RateLimited where the wait would exceed 300 s or the cost a limit, CancelledError
        once `stop` is set.
        """
        while not stop.is_set():
            with self.locked():
                state, answer = self._decide(self.load(), cost)
                self.save(state)
            if isinstance(answer, Ticket):
                return answer
            self._observe(Waited(self._provider, answer.reason, answer.seconds))
            if self._wait(stop, answer.seconds):
                break
        raise CancelledError(f"{self._provider}: cancelled before sending")

    def release(self, ticket: Ticket, *, used: int | None = None) -> None:
        """What was reserved is spent. `used` is the weight that the reply's header reports.

        The header only ever corrects upward: replies come out of order, and a small number may belong to an interval
        that began on the provider's side first. It is not heard where our interval changed on the way: it may then
        still count the one before.
        """
        with self.locked():
            state = self.load()
            windows = dict(state.windows)
            now_ms = self._now_ms()
            for limit in self._limits:
                key = _key(limit)
                if key not in ticket.slots or key not in windows:
                    continue
                window = _roll(windows[key], limit, now_ms)
                cost = _price(limit, ticket.cost)
                header = used if key == self._reported() else None
                windows[key] = _settle(window, ticket.slots[key], cost, header, _is_late(limit, now_ms))
            self.save(state._replace(windows=windows))

    def hold(self, seconds: float) -> None:
        """Nobody sends for so long (429). Holds that overlap do not add up: the latest end counts."""
        held_ms = int(min(max(seconds, 0.0), _FOREVER_S) * 1000) + _GUARD_MS
        with self.locked():
            state = self.load()
            now_ms = self._steady_ms()
            if held_ms > _held_ms(state, now_ms):
                self.save(state._replace(held_until_ms=now_ms + held_ms, held_ms=held_ms))

    def ban(self, until_ms: int, message: str) -> None:
        """Nobody sends before that time of the provider's clock (418); `message` becomes that of the error."""
        with self.locked():
            state = self.load()
            if until_ms > state.banned_until_ms:
                self.save(state._replace(banned_until_ms=until_ms, ban_message=message))

    def _decide(self, state: State, cost: int) -> tuple[State, Ticket | _Pause]:
        now_ms = self._now_ms()
        if now_ms < state.banned_until_ms:
            raise _banned(state, now_ms)
        steady_ms = self._steady_ms()
        held_ms = _held_ms(state, steady_ms)
        if held_ms > 0:
            return state._replace(held_until_ms=steady_ms + held_ms), self._pause("hold", held_ms)
        windows = dict(state.windows)
        wait_ms = 0
        for limit in self._limits:
            key = _key(limit)
            window = _roll(windows.get(key), limit, now_ms)
            windows[key] = window
            if not _fits(window, limit, _price(limit, cost)):
                wait_ms = max(wait_ms, self._until_next(limit, cost, now_ms))
        if wait_ms:
            return state._replace(windows=windows), self._pause("budget", wait_ms)
        slots: dict[str, int] = {}
        for limit in self._limits:
            key = _key(limit)
            slots[key] = windows[key].slot
            windows[key] = windows[key]._replace(reserved=windows[key].reserved + _price(limit, cost))
        return state._replace(windows=windows), Ticket(cost, slots)

    def _pause(self, reason: str, wait_ms: int) -> _Pause:
        """The wait; raises RateLimited where it is too long. The guard does not count."""
        seconds = wait_ms / 1000
        if wait_ms - 2 * _GUARD_MS > LONGEST_WAIT_S * 1000:
            what = "asked for a pause" if reason == "hold" else "has no budget left for this address"
            raise RateLimited(f"{self._provider} {what}; free in {seconds:.0f} s", retry_after_s=seconds)
        return _Pause(reason, seconds)

    def _until_next(self, limit: Limit, cost: int, now_ms: int) -> int:
        if _price(limit, cost) > limit.cost:
            raise RateLimited(
                f"{self._provider}: a request of weight {cost} can never be sent; "
                f"the limit is {limit.cost} in {limit.interval_s} s"
            )
        interval_ms = limit.interval_s * 1000
        return interval_ms - (now_ms - _guard_ms(limit)) % interval_ms

    def _reported(self) -> str | None:
        """The limit that the used-weight header speaks of: the first by weight."""
        return next((_key(limit) for limit in self._limits if limit.kind == "weight"), None)


def _key(limit: Limit) -> str:
    return f"{limit.kind}/{limit.interval_s}"


def _price(limit: Limit, cost: int) -> int:
    return cost if limit.kind == "weight" else 1


def _guard_ms(limit: Limit) -> int:
    return min(_GUARD_MS, limit.interval_s * 1000 // 20)


def _slot(limit: Limit, now_ms: int) -> int:
    """The interval that we count in: it begins when the provider's surely has begun."""
    return (now_ms - _guard_ms(limit)) // (limit.interval_s * 1000)


def _is_late(limit: Limit, now_ms: int) -> bool:
    """Whether the provider may be in its next interval already."""
    return _slot(limit, now_ms + 2 * _guard_ms(limit)) > _slot(limit, now_ms)


def _roll(window: Window | None, limit: Limit, now_ms: int) -> Window:
    """The window at that time. A clock that was set back starts no new interval: what was spent stays spent."""
    slot = _slot(limit, now_ms)
    if window is None:
        return Window(slot)
    if slot == window.slot + 1:
        return Window(slot, used=window.late, carried=window.reserved)
    if slot > window.slot:
        return Window(slot)
    return window if slot == window.slot else window._replace(slot=slot)


def _fits(window: Window, limit: Limit, price: int) -> bool:
    """Whether the request stays below the limit less the margin; one alone may use the margin."""
    if window.spent == 0:
        return price <= limit.cost
    return window.spent + price <= limit.cost - limit.cost // _MARGIN


def _settle(window: Window, sent_in: int, price: int, header: int | None, is_late: bool) -> Window:
    """The window after the reply to a request that was reserved in the interval `sent_in`."""
    late = window.late + price if is_late else window.late
    if sent_in == window.slot:
        used = max(window.used + price, header or 0)
        return window._replace(used=used, reserved=max(0, window.reserved - price), late=late)
    if window.carried >= price:
        return window._replace(used=window.used + price, carried=window.carried - price, late=late)
    return window


def _held_ms(state: State, steady_ms: int) -> int:
    """How long the hold still lasts; never longer than it was asked for, whatever the clock did."""
    return min(state.held_until_ms - steady_ms, state.held_ms)


def _banned(state: State, now_ms: int) -> Banned:
    until = dt.datetime.fromtimestamp(min(state.banned_until_ms, 253402300799000) / 1000, tz=dt.timezone.utc)
    seconds = math.ceil((state.banned_until_ms - now_ms) / 1000)
    return Banned(state.ban_message, until=until, retry_after_s=float(seconds))


class HostGate:
    """Leaves a host alone for `cool_s` seconds after `failures` failed calls in a row; then one failure is enough."""

    def __init__(self, *, failures: int = 3, cool_s: float = 30.0) -> None:
        self._failures = failures
        self._cool_s = cool_s
        self._lock = threading.Lock()
        self._hosts: dict[str, tuple[int, float]] = {}  # failures in a row, closed until

    def is_open(self, host: str, now_s: float) -> bool:
        """Whether the host may be asked."""
        return self.wait_s(host, now_s) <= 0

    def wait_s(self, host: str, now_s: float) -> float:
        """Seconds until the host may be asked; 0.0 where it may be now."""
        until_s = self._hosts.get(host, (0, 0.0))[1]
        return min(max(0.0, until_s - now_s), self._cool_s)

    def failed(self, host: str, now_s: float) -> None:
        with self._lock:
            failures = self._hosts.get(host, (0, 0.0))[0] + 1
            self._hosts[host] = (failures, now_s + self._cool_s if failures >= self._failures else 0.0)

    def ok(self, host: str) -> None:
        with self._lock:
            self._hosts.pop(host, None)
