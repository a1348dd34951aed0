"""When a request may go out: Retry (a pure decision), Limiter (the budget of a provider), HostGate (a host in trouble).

The Limiter counts as the exchange does, in whole intervals of the provider's clock, and leaves room for what it
cannot see: a margin for other programs on this address, and the moment around a border between two intervals, in
which a clock error decides where a request is counted. What is spent in that moment counts in both. Where a new reading
moves the provider's clock, that moment is as much longer, and shrinks again slowly: nothing spent is ever refunded.

Everything it remembers is one State. Where it is given something Shared to keep the State in, all who share that have
one budget, one hold and one ban between them. What a process had reserved when it died counts as spent, for it may have
been sent, and is forgotten with its interval.
"""

from __future__ import annotations

import datetime as dt
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType
from typing import NamedTuple, Protocol

from candle_fetcher.concurrency import pause
from candle_fetcher.core.call import Limit
from candle_fetcher.core.errors import Banned, RateLimited
from candle_fetcher.core.events import Observe, Waited, ignore
from candle_fetcher.net.ledger import (
    GUARD_MS,
    STEP_MS,
    Instant,
    State,
    Window,
    anchored,
    clocked,
    current,
    fits,
    join_states,
    key_of,
    pack_state,
    price_of,
    reported,
    reserve,
    settle,
    spent_of,
    unpack_state,
    until_free_ms,
    usable,
)

# A longer wait is not waited for: the caller is told.
LONGEST_WAIT_S = 300.0
_FOREVER_S = 1e9
# How far two clocks may seem to differ that are one, and within what time three are read at once.
_SAME_MS = 20
_AT_ONCE_MS = 5
# How long limits that one process has read serve all processes.
_LIMITS_MS = 3_600_000
# No pause and no ban is believed to be longer: 3 days is the longest ban that Binance documents.
_LONGEST_HOLD_S = 86_400.0
_LONGEST_BAN_MS = 3 * 86_400_000
# From this refusal in a row on, a pause of unknown length lasts two intervals; the longest interval of such a pause.
_STUBBORN = 3
_LONGEST_INTERVAL_S = 300
# How long such a pause lasts where there is no limit.
_PAUSE_S = 1.0

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


class Shared(Protocol):
    """Where Limiters keep one State between them: a few hundred bytes, and locks that end with their holder."""

    def locked(self) -> AbstractContextManager[object]:
        """Between entering and leaving nobody else loads or saves."""

    def load(self) -> Sequence[bytes]:
        """What was saved last: nothing, one State, or several that went apart."""

    def save(self, data: bytes, /) -> None:
        """Keeps it in place of what was there."""

    def take(self, key: str, /) -> bool:
        """Takes a claim, where it is free."""

    def free(self, key: str, /) -> None:
        """Frees it."""


class Ticket(NamedTuple):
    """Leave to send one request; to be released, whatever became of it.

    It was reserved at `sent_ms` of the steady clock, of the limits with these keys.
    """

    cost: int
    sent_ms: int
    keys: frozenset[str]


class _Pause(NamedTuple):
    reason: str
    seconds: float


class Limiter:
    """The budget of one provider at one address, shared by all threads, and by all who have the same `shared`.

    `limits` count until the provider's own are set. Of those, none below `least` (by kind) is obeyed: it would let
    nothing through. `now_ms` is the provider's clock as far as it is known here. It may step: nothing then
    waits longer than an interval or a hold. `steady_ms` is a clock for holds that never steps, the provider's if not
    given; it begins anew when the machine does, and a hold then lasts for its length at most.
    `machine_ms` is the machine's own clock, the provider's if not given. Where processes share, these two are the same
    in all of them, as time.monotonic and time.time are on one machine. `wait(stop, seconds)` waits, and returns whether
    `stop` was set.

    All who share count by one idea of the provider's clock, that of whoever learned something of it last: whose
    `now_ms` began to differ otherwise from `machine_ms`. It is void when the machine's clock is set, and then that of
    the first who has one of its own.
    """

    def __init__(
        self,
        *,
        provider: str,
        limits: Sequence[Limit] = (),
        least: Mapping[str, int] = MappingProxyType({}),
        now_ms: Callable[[], int],
        steady_ms: Callable[[], int] | None = None,
        machine_ms: Callable[[], int] | None = None,
        shared: Shared | None = None,
        observe: Observe = ignore,
        wait: Wait = pause,
    ) -> None:
        self._provider = provider
        self._documented = self._limits = tuple(limits)
        self._least = least
        self._now_ms = now_ms
        self._steady_ms = steady_ms or now_ms
        self._machine_ms = machine_ms or now_ms
        self._ahead_ms = 0  # of our own idea of the provider's clock, when it last changed
        self._boot_ms: int | None = None  # when we saw it change last
        self._counted_ms = 0  # how far ahead that clock is as all count it
        self._observe = observe
        self._wait = wait
        self._shared = shared
        self._lock = threading.Lock()  # over the state and the claims of a Limiter that shares with nobody
        self._state = State()
        self._asking = threading.Lock()
        self._asking_thread: int | None = None  # which finds out the limits
        self._refusals = 0  # in a row, each after the pause before it was over

    def set_limits(self, limits: Sequence[Limit]) -> list[Limit]:
        """Replaces the limits, for all; what was spent of one with the same kind and interval stays spent.

        Returns those that are too low to be obeyed. The documented ones of their kind stay in force.
        """
        refused = [limit for limit in limits if not self._is_obeyed(limit)]
        kinds = {limit.kind for limit in refused}
        kept = [limit for limit in limits if limit not in refused]
        kept += [limit for limit in self._documented if limit.kind in kinds - {limit.kind for limit in kept}]
        if kept:
            with self._locked():
                self._limits = tuple(kept)
                self._save(self._load()._replace(limits=self._limits, limits_ms=self._now_ms()))
        return refused

    def knows_limits(self) -> bool:
        """Whether the provider told its limits in the last hour, to this Limiter or another one that shares."""
        state = self.load()
        return bool(state.limits) and abs(self._now_ms() - state.limits_ms) < _LIMITS_MS

    @contextmanager
    def asking_limits(self, stop: threading.Event, *, patience_s: float = 10.0) -> Iterator[bool]:
        """One at a time, of threads and of processes, finds out the limits: True for the one whose turn it is.

        False where the patience ended first. Requests of the thread whose turn it is keep to the documented limits
        alone, so that no other limit prevents asking for the limits again. Raises CancelledError once `stop` is set.
        """
        pause_s, waited_s, taken = 0.02, 0.0, self._take_asking()
        while not taken and waited_s < patience_s:
            if self._wait(stop, pause_s):
                raise CancelledError(f"{self._provider}: cancelled before sending")
            waited_s += pause_s
            taken = self._take_asking()
        try:
            if taken:
                self._asking_thread = threading.get_ident()
            yield taken
        finally:
            if taken:
                self._asking_thread = None
                self._free_asking()

    def acquire(self, cost: int, *, stop: threading.Event) -> Ticket:
        """Leave to send a request of this cost, as soon as the budget allows.

        Raises Banned during a ban, RateLimited where the wait would exceed 300 s or the cost a limit, CancelledError
        once `stop` is set.
        """
        while not stop.is_set():
            with self._locked():
                state, at = self._load_now()
                try:
                    state, answer = self._decide(state, cost, at)
                finally:
                    self._save(state)
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
        with self._locked():
            state, at = self._load_now()
            windows = dict(state.windows)
            limits = self._in_force(state)
            for key, limit in _by_key(limits, self._documented).items():
                if key in ticket.keys:
                    window = current(windows.get(key), limit, at.steady_ms)
                    header = used if key == reported(limits) else None
                    windows[key] = settle(window, limit, price_of(limit, ticket.cost), header, ticket.sent_ms, at)
            self._save(state._replace(windows=windows))

    def hold(self, seconds: float) -> None:
        """Lets nothing out for so long, a day at most. Holds that overlap do not add up: the latest end counts."""
        with self._locked():
            state, at = self._load_now()
            self._save(_held(state, seconds, at.steady_ms))

    def pause(self, asked_s: float | None) -> None:
        """Lets nothing out for as long as a 429 asks for.

        Where it does not say (None or 0), until the present interval of the limits is over, and from the third such
        reply in a row for two intervals. What was sent before a pause began and is refused in it adds nothing.
        """
        with self._locked():
            state, at = self._load_now()
            if asked_s:
                self._save(_held(state, asked_s, at.steady_ms))
                return
            if at.steady_ms >= state.held_until_ms:
                self._refusals += 1
                state = _held(state, self._unknown_pause_s(state, at.now_ms), at.steady_ms)
            self._save(state)

    def answered(self) -> None:
        """Notes that a request was answered: refusals before it are not in a row with those to come."""
        self._refusals = 0

    def _unknown_pause_s(self, state: State, now_ms: int) -> float:
        """How long a pause of unknown length lasts: it goes by the limit by weight, else by the longest interval."""
        limits = [limit for limit in self._in_force(state) if limit.interval_s <= _LONGEST_INTERVAL_S]
        limit = next((limit for limit in limits if limit.kind == "weight"), None) or max(
            limits, key=lambda limit: limit.interval_s, default=None
        )
        if limit is None:
            return _PAUSE_S
        if self._refusals >= _STUBBORN:
            return 2.0 * limit.interval_s
        interval_ms = limit.interval_s * 1000
        return (interval_ms - now_ms % interval_ms) / 1000

    def ban(self, until_ms: int, message: str, *, seconds: float = 0.0) -> None:
        """Nobody sends before that time of the provider's clock (418), nor for so long, should our idea of that clock
        be wrong; after three days at most one is sent to see. `message` becomes that of the error."""
        with self._locked():
            state, (now_ms, _) = self._load_now()
            until_ms = max(until_ms, now_ms + int(1000 * min(seconds, _FOREVER_S)))
            until_ms = min(until_ms, now_ms + _LONGEST_BAN_MS)
            if until_ms > state.banned_until_ms:
                ban_ms = max(0, until_ms - now_ms)
                state = state._replace(banned_until_ms=until_ms, ban_ms=ban_ms, ban_message=message)
            self._save(state)

    def now_ms(self) -> int:
        """The provider's clock as all who share counted by it when last a request was sent or answered here."""
        return self._machine_ms() + self._counted_ms

    def left(self) -> list[tuple[Limit, int]]:
        """The limits in force, each with what it lets through before its present interval ends."""
        with self._locked():
            state, at = self._load_now()
        found = []
        for limit in self._in_force(state):
            spent = spent_of(current(state.windows.get(key_of(limit)), limit, at.steady_ms), limit, at)
            found.append((limit, max(0, usable(limit) - spent)))
        return found

    def load(self) -> State:
        """What is remembered now."""
        with self._locked():
            return self._load()

    # -- the State, wherever it is kept -------------------------------------------------------------------------------

    def _locked(self) -> AbstractContextManager[object]:
        return self._lock if self._shared is None else self._shared.locked()

    def _load(self) -> State:
        if self._shared is None:
            return self._state
        states = [unpack_state(data) for data in self._shared.load()]
        return reduce(join_states, states) if states else State()

    def _load_now(self) -> tuple[State, Instant]:
        """The State, and the provider's clock as all count by it. The State is to be saved: it may hold our news of
        that clock."""
        state = self._load()
        machine_ms, own_ms, steady_ms = self._read_clocks()
        ahead_ms, boot_ms = own_ms - machine_ms, machine_ms - steady_ms
        is_set = self._boot_ms is not None and abs(boot_ms - self._boot_ms) > STEP_MS
        is_news = abs(ahead_ms - self._ahead_ms) > _SAME_MS or (is_set and abs(ahead_ms) > _SAME_MS)
        if is_news:
            self._ahead_ms = ahead_ms
        if is_news or is_set or self._boot_ms is None:
            self._boot_ms = boot_ms
        was_set_ms = abs(boot_ms - state.boot_ms)
        if was_set_ms > _SAME_MS or is_news:
            limits = tuple(_by_key(self._in_force(state), self._documented).values())
            counted_ms = ahead_ms if was_set_ms > STEP_MS or is_news else state.ahead_ms
            state = clocked(state, limits, counted_ms, machine_ms, steady_ms)
        self._counted_ms = state.ahead_ms
        at = Instant(machine_ms + state.ahead_ms, steady_ms)
        return anchored(state, *at), at

    def _read_clocks(self) -> tuple[int, int, int]:
        """The machine's clock, our own idea of the provider's, and the steady one, at one moment if at all possible."""
        for _ in range(10):
            steady_ms = self._steady_ms()
            machine_ms, own_ms = self._machine_ms(), self._now_ms()
            if self._steady_ms() - steady_ms <= _AT_ONCE_MS:
                break
        return machine_ms, own_ms, steady_ms

    def _save(self, state: State) -> None:
        if self._shared is None:
            self._state = state
        else:
            self._shared.save(pack_state(state))

    def _take_asking(self) -> bool:
        return self._asking.acquire(blocking=False) if self._shared is None else self._shared.take("limits")

    def _free_asking(self) -> None:
        if self._shared is None:
            self._asking.release()
        else:
            self._shared.free("limits")

    # -- deciding -----------------------------------------------------------------------------------------------------

    def _in_force(self, state: State) -> tuple[Limit, ...]:
        """The provider's own limits, without those that would let nothing through; else the documented ones."""
        return tuple(filter(self._is_obeyed, state.limits)) or self._limits

    def _is_obeyed(self, limit: Limit) -> bool:
        return limit.cost >= self._least.get(limit.kind, 1)

    def _decide(self, state: State, cost: int, at: Instant) -> tuple[State, Ticket | _Pause]:
        if state.ban_ms > 0 and at.now_ms < state.banned_until_ms:
            raise _banned(self._provider, state, at.now_ms)
        if at.steady_ms < state.held_until_ms:
            return state, self._pause("hold", state.held_until_ms - at.steady_ms)
        windows = dict(state.windows)
        limits = self._in_force(state)
        bounds = self._documented if self._asking_thread == threading.get_ident() else limits
        counted = _by_key(limits, bounds)
        for key, limit in counted.items():
            windows[key] = current(windows.get(key), limit, at.steady_ms)
        waits_ms = [
            self._until_free(windows[key_of(limit)], limit, cost, at)
            for limit in bounds
            if not fits(spent_of(windows[key_of(limit)], limit, at), limit, price_of(limit, cost))
        ]
        if waits_ms:
            return state._replace(windows=windows), self._pause("budget", max(waits_ms))
        for key, limit in counted.items():
            windows[key] = reserve(windows[key], limit, price_of(limit, cost), at)
        return state._replace(windows=windows), Ticket(cost, at.steady_ms, frozenset(counted))

    def _pause(self, reason: str, wait_ms: int) -> _Pause:
        """The wait; raises RateLimited where it is too long. The guard does not count."""
        seconds = wait_ms / 1000
        if wait_ms - 2 * GUARD_MS > LONGEST_WAIT_S * 1000:
            what = "asked for a pause" if reason == "hold" else "has no budget left for this address"
            raise RateLimited(f"{self._provider} {what}; free in {seconds:.0f} s", retry_after_s=seconds)
        return _Pause(reason, seconds)

    def _until_free(self, window: Window, limit: Limit, cost: int, at: Instant) -> int:
        price = price_of(limit, cost)
        if price > limit.cost:
            raise RateLimited(
                f"{self._provider}: a request of weight {cost} can never be sent; "
                f"the limit is {limit.cost} in {limit.interval_s} s"
            )
        return until_free_ms(window, limit, price, at)


def _by_key(*limits: Sequence[Limit]) -> dict[str, Limit]:
    """The limits that are counted apart from each other, by kind and interval."""
    return {key_of(limit): limit for several in reversed(limits) for limit in several}


def _held(state: State, seconds: float, steady_ms: int) -> State:
    held_ms = int(min(max(seconds, 0.0), _LONGEST_HOLD_S) * 1000) + GUARD_MS
    if steady_ms + held_ms <= state.held_until_ms:
        return state
    return state._replace(held_until_ms=steady_ms + held_ms, held_ms=held_ms)


def _banned(provider: str, state: State, now_ms: int) -> Banned:
    until_ms = max(0, min(state.banned_until_ms, 253402300799000))  # years 1970 to 9999
    until = dt.datetime.fromtimestamp(until_ms / 1000, tz=dt.timezone.utc)
    seconds = math.ceil((state.banned_until_ms - now_ms) / 1000)
    message = state.ban_message or f"{provider} has banned this address until {until:%Y-%m-%d %H:%M:%S} UTC"
    return Banned(message, until=until, retry_after_s=float(seconds))


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
