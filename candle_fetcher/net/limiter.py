"""The budget of a provider: when a request may go out.

The Limiter counts as the exchange does, in whole intervals of the provider's clock. It leaves a margin for other
programs on this address. Near a border between two intervals, the error of our clock decides in which of them a request
is counted: so it counts in both. Where a new reading moves the provider's clock, this uncertain time around the border
becomes longer by as much, and shrinks again slowly. So what was spent is never forgotten too early.

All that a Limiter remembers is one State. Processes that keep the State in one place (`Shared`) have one budget, one
hold and one ban. A request that a process had reserved when it died counts as spent until its interval ends, since it
may have been sent.
"""

from __future__ import annotations

import datetime as dt
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, reduce
from types import MappingProxyType
from typing import NamedTuple, Protocol

from candle_fetcher.concurrency import Wait, pause
from candle_fetcher.core.call import Limit
from candle_fetcher.core.errors import Banned, RateLimited
from candle_fetcher.core.events import Observe, Waited, ignore
from candle_fetcher.net.budget import (
    GUARD_MS,
    STEP_MS,
    Instant,
    State,
    Window,
    anchored,
    clocked,
    current,
    divided,
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
from candle_fetcher.net.retry import LONGEST_WAIT_S

_FOREVER_S = 1e9
# Readings of equal clocks may differ by this much; and three clocks that are read within this time are read at once.
_SAME_MS = 20
_AT_ONCE_MS = 5
# How long limits that one process has read serve all processes.
_LIMITS_MS = 3_600_000
# Longer pauses and bans are cut to this: 3 days is the longest ban that Binance documents.
_LONGEST_HOLD_S = 86_400.0
_LONGEST_BAN_MS = 3 * 86_400_000
# From this refusal in a row on, a pause of unknown length lasts two intervals. Longer intervals are not used for it.
_STUBBORN = 3
_LONGEST_INTERVAL_S = 300
# The pause of unknown length where there is no limit.
_PAUSE_S = 1.0


class Shared(Protocol):
    """A place where Limiters of several processes share one State: some hundred bytes, and locks that end with their
    process."""

    def locked(self) -> AbstractContextManager[object]:
        """Exclude other threads and processes from `load` and `save` while it is entered."""

    def load(self) -> Sequence[bytes]:
        """Return what was saved last: no State, one, or several that processes changed apart; see `join_states`."""

    def save(self, data: bytes, /) -> None:
        """Replace the saved bytes by these."""

    def acquire(self, key: str, /) -> bool:
        """Lock the key; return False where it is locked already."""

    def release(self, key: str, /) -> None:
        """Unlock the key."""


class Ticket(NamedTuple):
    """Permission to send one request. It has to be released, also where the request failed.

    `cost` was reserved at `sent_ms` of the steady clock, in the windows with these keys.
    """

    cost: int
    sent_ms: int
    keys: frozenset[str]


class _Pause(NamedTuple):
    reason: str
    seconds: float


class Limiter:
    """The budget of one provider at one address, shared by all threads, and by all Limiters with the same `shared`.

    limits: count until the provider's own are set. least: by kind; a lower limit of the provider is not obeyed, since
    it would let no request through. share: the part of each limit that is for this Limiter, above 0 and at most 1,
    where others that do not share its State spend the rest.
    now_ms: the provider's clock as far as it is known here. It may step: no wait then lasts longer than an interval or
    a hold. steady_ms: never steps; the provider's clock if not given. It begins at 0 when the machine starts, and a
    hold then lasts for its length at most. machine_ms: the machine's time of day; the provider's clock if not given.
    Where processes share a State, the last two are the same in all of them, as time.monotonic and time.time are.
    wait: waits for so many seconds, or until `stop` is set, and returns whether it is set.

    Processes that share a State use one offset of the provider's clock from the machine's: the most recently measured
    one. The offset is void once the machine's clock is set; then the first process that measured one provides it.
    """

    def __init__(
        self,
        *,
        provider: str,
        limits: Sequence[Limit] = (),
        least: Mapping[str, int] = MappingProxyType({}),
        share: float = 1.0,
        now_ms: Callable[[], int],
        steady_ms: Callable[[], int] | None = None,
        machine_ms: Callable[[], int] | None = None,
        shared: Shared | None = None,
        observe: Observe = ignore,
        wait: Wait = pause,
    ) -> None:
        self._provider = provider
        self._least, self._share = least, share
        self._stated = tuple(limits)  # in the documentation; below are the parts of limits that are for this Limiter
        self._documented = self._limits = self._parts(limits)
        self._now_ms = now_ms
        self._steady_ms = steady_ms or now_ms
        self._machine_ms = machine_ms or now_ms
        self._ahead_ms = 0  # the offset of the provider's clock as measured here, when it last changed
        self._boot_ms: int | None = None  # the machine's clock less the steady one at that time
        self._counted_ms = 0  # the offset that all processes count by
        self._observe = observe
        self._wait = wait
        self._shared = shared
        self._lock = threading.Lock()  # over the state and the locks of a Limiter without a shared state
        self._state = State()
        self._saved = b"", State()  # what this Limiter saved last, and mostly loads next
        self._asking = threading.Lock()
        self._asking_thread: int | None = None  # the one that reads the limits
        self._refusals = 0  # in a row, each after the pause before it was over
        self._refused_ms = 0  # of the steady clock, when the last one came
        self._in_force_of: tuple[tuple[Limit, ...], tuple[Limit, ...]] = (), ()  # the provider's limits, those obeyed

    def set_limits(self, limits: Sequence[Limit]) -> list[Limit]:
        """Replace the limits, for all processes, and return those that are too low to be obeyed.

        What was spent of a limit with the same kind and interval stays spent. For a kind with a limit that is too low,
        the documented limits stay in force.
        """
        refused = [limit for limit in limits if not self._is_obeyed(limit)]
        kinds = {limit.kind for limit in refused}
        kept = [limit for limit in limits if limit not in refused]
        kept += [limit for limit in self._stated if limit.kind in kinds - {limit.kind for limit in kept}]
        if kept:
            with self._locked():
                self._limits = self._parts(kept)
                self._save(self._load()._replace(limits=tuple(kept), limits_ms=self._now_ms()))
        return refused

    def knows_limits(self) -> bool:
        """Return whether any Limiter that shares the State has read the provider's limits in the last hour."""
        with self._locked():
            state = self._load()
        return bool(state.limits) and abs(self._now_ms() - state.limits_ms) < _LIMITS_MS

    @contextmanager
    def asking_limits(self, stop: threading.Event, *, patience_s: float = 10.0) -> Iterator[bool]:
        """Let one thread of all processes at a time read the limits. Yield True where it is this thread's turn.

        Yield False where the turn did not come within `patience_s`. The thread that reads the limits obeys the
        documented ones alone, so that no wrong limit can prevent the reading. Raises CancelledError once `stop` is set.
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
        """Return permission to send a request of this cost, as soon as the budget allows.

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
        """Note that the reserved cost is spent. `used` is the weight that the reply's header reports.

        The header can only raise what is counted as spent: replies arrive out of order, and a small number may belong
        to an interval that has already begun for the provider. It is ignored where an interval ended between request
        and reply, since it may still count the old interval.
        """
        with self._locked():
            state, at = self._load_now()
            windows = dict(state.windows)
            limits = self._in_force(state)
            reported_key = None if used is None else reported(limits)
            for key, limit in _by_key(limits, self._documented).items():
                if key in ticket.keys:
                    window = current(windows.get(key), limit, at.steady_ms)
                    header = int(used * self._share) if used is not None and key == reported_key else None
                    windows[key] = settle(window, limit, price_of(limit, ticket.cost), header, ticket.sent_ms, at)
            self._save(State(windows, *state[1:]))

    def hold(self, seconds: float) -> None:
        """Let no request out for so many seconds, a day at most. Of holds that overlap, the latest end counts."""
        with self._locked():
            state, at = self._load_now()
            self._save(_held(state, seconds, at.steady_ms))

    def pause(self, asked_s: float | None) -> None:
        """Let no request out for the time that a 429 asks for.

        Where it states no time (None or 0), pause until the present interval of the limits ends; from the third such
        reply in a row on, for two intervals. A request that was sent before a pause and is refused in it adds nothing.
        """
        with self._locked():
            state, at = self._load_now()
            if asked_s:
                self._save(_held(state, asked_s, at.steady_ms))
                return
            if at.steady_ms >= state.held_until_ms:
                self._refusals += 1
                self._refused_ms = at.steady_ms
                state = _held(state, self._unknown_pause_s(state, at.now_ms), at.steady_ms)
            self._save(state)

    def answered(self, ticket: Ticket) -> None:
        """Note that a request was answered: this ends a row of refusals that came before it was sent."""
        if ticket.sent_ms > self._refused_ms:
            self._refusals = 0

    def _unknown_pause_s(self, state: State, now_ms: int) -> float:
        """Return the length of a pause for which the provider stated none: by the interval of the limit by weight, else
        by the longest interval."""
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

    def ban(self, until_ms: int, message: str, *, seconds: float = 0.0, stated_ms: int = 0) -> None:
        """Let no request out before that time of the provider's clock, nor for so many seconds, as a 418 asks for.

        The seconds count even if the clock is wrong. A ban lasts three days at most; then one request is sent again.
        `message` becomes the message of the error. Its `until` is `stated_ms`, the end as the provider stated it, or
        `until_ms` without that.
        """
        with self._locked():
            state, (now_ms, _) = self._load_now()
            until_ms = max(until_ms, now_ms + int(1000 * min(seconds, _FOREVER_S)))
            until_ms = min(until_ms, now_ms + _LONGEST_BAN_MS)
            if until_ms > state.banned_until_ms:
                ban_ms = max(0, until_ms - now_ms)
                state = state._replace(
                    banned_until_ms=until_ms, ban_ms=ban_ms, ban_message=message, ban_stated_ms=stated_ms
                )
            self._save(state)

    def now_ms(self) -> int:
        """Return the provider's clock, by the offset that all processes used when this Limiter was last called."""
        return self._machine_ms() + self._counted_ms

    def left(self) -> list[tuple[Limit, int]]:
        """Return the limits in force, each with the weight or requests left until its present interval ends."""
        with self._locked():
            state, at = self._load_now()
        found = []
        for limit in self._in_force(state):
            spent = spent_of(current(state.windows.get(key_of(limit)), limit, at.steady_ms), limit, at)
            found.append((limit, max(0, usable(limit) - spent)))
        return found

    def load(self) -> State:
        """Return what is remembered now."""
        with self._locked():
            return self._load()

    # -- the State, wherever it is kept -------------------------------------------------------------------------------

    def _locked(self) -> AbstractContextManager[object]:
        return self._lock if self._shared is None else self._shared.locked()

    def _load(self) -> State:
        if self._shared is None:
            return self._state
        found = self._shared.load()
        if len(found) == 1 and found[0] == self._saved[0]:
            return self._saved[1]
        states = [unpack_state(data) for data in found]
        return reduce(join_states, states) if states else State()

    def _load_now(self) -> tuple[State, Instant]:
        """Return the State and the present time, by the offset of the provider's clock that all processes use.

        The caller has to save the State, since it may hold a new offset.
        """
        state = self._load()
        machine_ms, own_ms, steady_ms = self._read_clocks()
        ahead_ms, boot_ms = own_ms - machine_ms, machine_ms - steady_ms
        is_set = self._boot_ms is not None and abs(boot_ms - self._boot_ms) > STEP_MS
        is_new = abs(ahead_ms - self._ahead_ms) > _SAME_MS or (is_set and abs(ahead_ms) > _SAME_MS)
        if is_new:
            self._ahead_ms = ahead_ms
        if is_new or is_set or self._boot_ms is None:
            self._boot_ms = boot_ms
        was_set_ms = abs(boot_ms - state.boot_ms)
        if was_set_ms > _SAME_MS or is_new:
            limits = tuple(_by_key(self._in_force(state), self._documented).values())
            counted_ms = ahead_ms if was_set_ms > STEP_MS or is_new else state.ahead_ms
            state = clocked(state, limits, counted_ms, machine_ms, steady_ms)
        self._counted_ms = state.ahead_ms
        at = Instant(machine_ms + state.ahead_ms, steady_ms)
        return anchored(state, *at), at

    def _read_clocks(self) -> tuple[int, int, int]:
        """Return the machine's clock, the provider's as known here, and the steady one, at one moment if possible."""
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
            data, is_whole = pack_state(state)
            self._saved = (data, state) if is_whole else (b"", State())
            self._shared.save(data)

    def _take_asking(self) -> bool:
        return self._asking.acquire(blocking=False) if self._shared is None else self._shared.acquire("limits")

    def _free_asking(self) -> None:
        if self._shared is None:
            self._asking.release()
        else:
            self._shared.release("limits")

    # -- deciding -----------------------------------------------------------------------------------------------------

    def _in_force(self, state: State) -> tuple[Limit, ...]:
        """Return the provider's own limits without those that are too low to be obeyed; else the documented ones."""
        limits, obeyed = self._in_force_of
        if limits != state.limits:
            limits, obeyed = state.limits, self._parts(filter(self._is_obeyed, state.limits))
            self._in_force_of = limits, obeyed
        return obeyed or self._limits

    def _is_obeyed(self, limit: Limit) -> bool:
        return limit.cost >= self._least.get(limit.kind, 1)

    def _parts(self, limits: Iterable[Limit]) -> tuple[Limit, ...]:
        return tuple([divided(limit, self._share, self._least.get(limit.kind, 1)) for limit in limits])

    def _decide(self, state: State, cost: int, at: Instant) -> tuple[State, Ticket | _Pause]:
        if state.ban_ms > 0 and at.now_ms < state.banned_until_ms:
            raise _banned(self._provider, state, at.now_ms)
        if at.steady_ms < state.held_until_ms:
            return state, self._pause("hold", state.held_until_ms - at.steady_ms)
        windows = dict(state.windows)
        limits = self._in_force(state)
        bounds = self._documented if self._asking_thread == threading.get_ident() else limits
        counted = _by_key(limits, bounds)
        wait_ms = 0
        for key, limit in counted.items():
            windows[key] = current(windows.get(key), limit, at.steady_ms)
        for limit in bounds:
            window, price = windows[key_of(limit)], price_of(limit, cost)
            if not fits(spent_of(window, limit, at), limit, price):
                wait_ms = max(wait_ms, self._until_free(window, limit, price, at))
        if wait_ms:
            return State(windows, *state[1:]), self._pause("budget", wait_ms)
        for key, limit in counted.items():
            windows[key] = reserve(windows[key], limit, price_of(limit, cost), at)
        return State(windows, *state[1:]), Ticket(cost, at.steady_ms, frozenset(counted))

    def _pause(self, reason: str, wait_ms: int) -> _Pause:
        """Return the wait. Raises RateLimited where it is longer than 300 s, the guard at both ends not counted."""
        seconds = wait_ms / 1000
        if wait_ms - 2 * GUARD_MS > LONGEST_WAIT_S * 1000:
            what = "asked for a pause" if reason == "hold" else "has no budget left for this address"
            raise RateLimited(
                f"{self._provider} {what}; the next request is free in {seconds:.0f} s", retry_after_s=seconds
            )
        return _Pause(reason, seconds)

    def _until_free(self, window: Window, limit: Limit, price: int, at: Instant) -> int:
        if price > limit.cost:
            raise RateLimited(
                f"{self._provider} allows no request of weight {price}; "
                f"the limit is {limit.cost} in {limit.interval_s} s"
            )
        return until_free_ms(window, limit, price, at)


@lru_cache(maxsize=64)  # a few sets of limits, and each request needs one of them several times
def _by_key(*limits: tuple[Limit, ...]) -> Mapping[str, Limit]:
    """Return the limits that are counted apart from each other, by kind and interval."""
    return {key_of(limit): limit for several in reversed(limits) for limit in several}


def _held(state: State, seconds: float, steady_ms: int) -> State:
    held_ms = int(min(max(seconds, 0.0), _LONGEST_HOLD_S) * 1000) + GUARD_MS
    if steady_ms + held_ms <= state.held_until_ms:
        return state
    return state._replace(held_until_ms=steady_ms + held_ms, held_ms=held_ms)


def _banned(provider: str, state: State, now_ms: int) -> Banned:
    until_ms = max(0, min(state.ban_stated_ms or state.banned_until_ms, 253402300799000))  # years 1970 to 9999
    until = dt.datetime.fromtimestamp(until_ms / 1000, tz=dt.timezone.utc)
    seconds = math.ceil((state.banned_until_ms - now_ms) / 1000)
    message = state.ban_message or f"{provider} has banned this address until {until:%Y-%m-%d %H:%M:%S} UTC"
    return Banned(message, until=until, retry_after_s=float(seconds))
