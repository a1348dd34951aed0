"""What a Limiter remembers, as a value: what was spent when, and until when nothing may be sent; and as bytes.

The exchange counts whole intervals of its clock. What is spent around a border between two of them, where a clock error
decides in which one it is counted, counts in both. Times of spending are kept by the steady clock: a new idea of the
provider's clock changes where the borders are thought to be, and never what was spent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from candle_fetcher.core.call import Limit

# How far our idea of the provider's clock may be off, on either side of a border.
GUARD_MS = 100
# The part of a limit left to what we cannot see.
_MARGIN = 50
# A clock that differs by less has not been set; one that was set by less may not have let so much time pass.
STEP_MS = 1_000
_SET_MS = 300_000
# A ban whose end lies farther ahead than it was long, by more than this, was noted by a clock that has been set back.
_SET_BACK_MS = 3_600_000
# The range in which the provider's clock was thought to be narrows by one part in so many of the time that passes, as
# gently as two clocks are brought together: no interval becomes shorter by more than that part.
_NARROWS = 20
# Costs are kept together that were spent in the same one of so many parts of an interval.
_PARTS = 8
# What is kept of a ban's message, of windows, and of the costs in one: a State stays small.
_MESSAGE_CHARACTERS = 240
_WINDOWS = 16
_COSTS = (20, 8, 4, 2, 1)
_MOST_BYTES = 4_000
_LARGEST = 2**53

# A time of the steady clock in ms, and what was spent at that time or somewhat earlier.
Cost = tuple[int, int]


class Instant(NamedTuple):
    """One moment by two clocks: the provider's, as far as it is known, and the steady one of this machine, in ms."""

    now_ms: int
    steady_ms: int


class Window(NamedTuple):
    """What was lately spent of one limit, oldest first.

    `done` was answered, and is dated by the reply; `sent` is under way, and is dated by its reservation. At `moved_ms`
    of the steady clock the provider's could be up to `back_ms` behind the present idea of it, or `fore_ms` ahead: there
    it was thought to be before.
    """

    done: tuple[Cost, ...] = ()
    sent: tuple[Cost, ...] = ()
    back_ms: int = 0
    fore_ms: int = 0
    moved_ms: int = 0


class State(NamedTuple):
    """All that a Limiter remembers.

    Windows by kind and interval, such as weight/60. A hold and a ban are kept with their length, by which a clock that
    was set back is noticed. `limits` are those that the provider told, at `limits_ms` of its clock. All who share count
    intervals and bans by one idea of the provider's clock: `ahead_ms` more than the machine's, which was itself
    `boot_ms` more than the steady one when that was found out.
    """

    windows: Mapping[str, Window] = {}
    held_until_ms: int = 0
    held_ms: int = 0
    banned_until_ms: int = 0
    ban_ms: int = 0
    ban_message: str = ""
    limits: tuple[Limit, ...] = ()
    limits_ms: int = 0
    ahead_ms: int = 0
    boot_ms: int = 0


def reported(limits: Sequence[Limit]) -> str | None:
    """The limit that the used-weight header speaks of: the first by weight."""
    return next((key_of(limit) for limit in limits if limit.kind == "weight"), None)


def key_of(limit: Limit) -> str:
    return f"{limit.kind}/{limit.interval_s}"


def price_of(limit: Limit, cost: int) -> int:
    return cost if limit.kind == "weight" else 1


def guard_ms(limit: Limit) -> int:
    return min(GUARD_MS, limit.interval_s * 1000 // 20)


def _range_ms(window: Window, limit: Limit, steady_ms: int) -> tuple[int, int]:
    """How far the provider's clock may be behind the idea of it, and ahead, beyond the guard.

    Both are an interval at most: beyond it nothing is known of the borders, and a whole interval has to pass. They
    begin to narrow an interval after the move: the one in which it happened is over then by either idea.
    """
    if not (window.back_ms or window.fore_ms):
        return 0, 0
    most_ms = limit.interval_s * 1000
    narrowed_ms = max(0, steady_ms - window.moved_ms - most_ms) // _NARROWS
    back_ms, fore_ms = (max(0, min(part, most_ms) - narrowed_ms) for part in (window.back_ms, window.fore_ms))
    return back_ms, fore_ms


def _borders(window: Window, limit: Limit, at: Instant) -> tuple[int, int]:
    """How long ago the present interval surely had begun, and for how long before it was uncertain whether it had.

    What was spent in between counts on both sides of the border.
    """
    back_ms, fore_ms = _range_ms(window, limit, at.steady_ms)
    guard, interval_ms = guard_ms(limit), limit.interval_s * 1000
    return (at.now_ms - back_ms - guard) % interval_ms, min(back_ms + fore_ms + 2 * guard, interval_ms)


def _counted(costs: Sequence[Cost], since_ms: int) -> int:
    return sum(cost for ms, cost in costs if ms >= since_ms)


def _since_ms(window: Window, limit: Limit, at: Instant) -> int:
    """When, by the steady clock, the present interval of the provider can have begun at the earliest.

    It is the last one that has surely begun. What was spent a whole interval ago is in none that is not over.
    """
    return at.steady_ms - min(sum(_borders(window, limit, at)), limit.interval_s * 1000)


def spent_of(window: Window, limit: Limit, at: Instant) -> int:
    """What counts in the present interval.

    What is under way counts in the interval of its reservation and in the next: then its process has died.
    """
    since_ms = _since_ms(window, limit, at)
    return _counted(window.done, since_ms) + _counted(window.sent, since_ms - limit.interval_s * 1000)


def until_free_ms(window: Window, limit: Limit, price: int, at: Instant) -> int:
    """How long it takes at most until the price fits, where nothing else is spent and what is under way is answered.

    That is at the next border, or where the cost was spent around it or nothing is known of borders, a whole interval
    after the costs that stand in the way.
    """
    interval_ms = limit.interval_s * 1000
    border_ms = interval_ms - _borders(window, limit, at)[0]
    since_ms = _since_ms(window, limit, at)
    left = [cost for cost in window.done if cost[0] >= since_ms]
    if fits(sum(cost for _, cost in left), limit, price):
        return border_ms
    while not fits(sum(cost for _, cost in left), limit, price):
        last_ms, _ = left.pop(0)
    passed_ms = last_ms + interval_ms + 1 - at.steady_ms
    later = Instant(at.now_ms + border_ms, at.steady_ms + border_ms)
    rest = _counted(window.done, later.steady_ms - _borders(window, limit, later)[1])
    return min(border_ms, passed_ms) if fits(rest, limit, price) else passed_ms


def reserve(window: Window, limit: Limit, price: int, at: Instant) -> Window:
    """The window with a price that is under way from now on."""
    return window._replace(sent=_added(window, window.sent, limit, price, at))


def settle(window: Window, limit: Limit, price: int, header: int | None, sent_ms: int, at: Instant) -> Window:
    """The window after the reply to a request that was reserved at `sent_ms` of the steady clock.

    `header` is what the provider counted in its interval. It is obeyed where the request was sent in the present one,
    and only ever adds.
    """
    sent = list(window.sent)
    for index, (ms, cost) in enumerate(sent):
        if ms >= sent_ms and cost >= price:
            sent[index] = ms, cost - price
            break
    window = window._replace(sent=tuple(cost for cost in sent if cost[1]))
    interval_ms = limit.interval_s * 1000
    age_ms = at.steady_ms - sent_ms
    if age_ms >= 2 * interval_ms:
        return window
    if header is not None and age_ms <= _borders(window, limit, at)[0]:
        price = max(price, header - _counted(window.done, _since_ms(window, limit, at)))
    return window._replace(done=_added(window, window.done, limit, price, at))


def _added(window: Window, costs: tuple[Cost, ...], limit: Limit, price: int, at: Instant) -> tuple[Cost, ...]:
    """The costs with one of now, together with the last one where that was spent in the same part of an interval.

    The parts begin by the latest that the provider's clock can be, so that a cost near to a border stays apart.
    """
    ahead_ms = at.now_ms - at.steady_ms + _range_ms(window, limit, at.steady_ms)[1] + guard_ms(limit)
    part_ms = limit.interval_s * 1000 // _PARTS
    if costs and (costs[-1][0] + ahead_ms) // part_ms == (at.steady_ms + ahead_ms) // part_ms:
        price += costs[-1][1]
        costs = costs[:-1]
    return (*costs, (at.steady_ms, price))


def current(window: Window | None, limit: Limit, steady_ms: int) -> Window:
    """The window without what counts no more. The steady clock was never later than now, whatever it says."""
    if window is None:
        return Window()
    interval_ms = limit.interval_s * 1000
    done = _since(window.done, steady_ms - interval_ms, steady_ms)
    sent = _since(window.sent, steady_ms - 2 * interval_ms, steady_ms)
    return window._replace(done=done, sent=sent, moved_ms=min(window.moved_ms, steady_ms))


def _since(costs: tuple[Cost, ...], since_ms: int, now_ms: int) -> tuple[Cost, ...]:
    if not costs or (costs[0][0] >= since_ms and costs[-1][0] <= now_ms):
        return costs
    return tuple((min(ms, now_ms), cost) for ms, cost in costs if ms >= since_ms)


def clocked(state: State, limits: Sequence[Limit], ahead_ms: int, machine_ms: int, steady_ms: int) -> State:
    """The State by another idea of the provider's clock, or after the machine's clock has changed.

    What was spent stays as it is. Borders are uncertain by as much as the idea has moved, so that the old one counts
    too. A change of the machine's clock by minutes counts as one that somebody made; one by more as sleep, or a new
    start: then so much time has passed, which the steady clock has not seen.
    """
    boot_ms = machine_ms - steady_ms
    set_ms = boot_ms - state.boot_ms
    slept_ms = set_ms if abs(set_ms) > _SET_MS else 0
    by_ms = ahead_ms - state.ahead_ms + set_ms - slept_ms
    windows = dict(state.windows)
    for limit in limits:
        window = windows.get(key_of(limit))
        if window is not None:
            windows[key_of(limit)] = _moved(_earlier(window, slept_ms), limit, by_ms, steady_ms)
    return state._replace(windows=windows, ahead_ms=ahead_ms, boot_ms=boot_ms)


def _earlier(window: Window, by_ms: int) -> Window:
    done, sent = (tuple((ms - by_ms, cost) for ms, cost in costs) for costs in (window.done, window.sent))
    return window._replace(done=done, sent=sent, moved_ms=window.moved_ms - by_ms)


def _moved(window: Window, limit: Limit, by_ms: int, steady_ms: int) -> Window:
    """The window where the provider's clock is thought to be later by so much."""
    back_ms, fore_ms = _range_ms(window, limit, steady_ms)
    return window._replace(back_ms=max(0, back_ms + by_ms), fore_ms=max(0, fore_ms - by_ms), moved_ms=steady_ms)


def usable(limit: Limit) -> int:
    """What may be spent of the limit in one interval, by several requests."""
    return limit.cost - limit.cost // _MARGIN


def fits(spent: int, limit: Limit, price: int) -> bool:
    """Whether the request stays below the limit less the margin; one alone may use the margin."""
    if spent == 0:
        return price <= limit.cost
    return spent + price <= usable(limit)


def anchored(state: State, now_ms: int, steady_ms: int) -> State:
    """The State with a hold and a ban that last for their length at most, whatever the clocks did since.

    A little more is let pass in a ban: clocks of two processes may differ.
    """
    if state.held_until_ms - steady_ms > state.held_ms:
        state = state._replace(held_until_ms=steady_ms + state.held_ms)
    if state.banned_until_ms - now_ms > state.ban_ms + _SET_BACK_MS:
        state = state._replace(banned_until_ms=now_ms + state.ban_ms)
    return state


def join_states(one: State, other: State) -> State:
    """One State for two that went apart: of each thing what lets less go out."""
    windows = dict(one.windows)
    for key, window in other.windows.items():
        windows[key] = _joined(windows.get(key, window), window)
    held = max(one, other, key=lambda state: state.held_until_ms)
    banned = max(one, other, key=lambda state: state.banned_until_ms)
    told = max(one, other, key=lambda state: state.limits_ms)
    clock = max(one, other, key=lambda state: (state.boot_ms, abs(state.ahead_ms), state.ahead_ms))
    return State(
        windows,
        held.held_until_ms,
        held.held_ms,
        banned.banned_until_ms,
        banned.ban_ms,
        banned.ban_message,
        told.limits,
        told.limits_ms,
        clock.ahead_ms,
        clock.boot_ms,
    )


def _joined(one: Window, other: Window) -> Window:
    """What either has: a cost that both have is one."""
    done, sent = (tuple(sorted({*mine, *theirs})) for mine, theirs in zip(one[:2], other[:2], strict=True))
    return Window(done, sent, *map(max, one[2:], other[2:]))


def pack_state(state: State) -> bytes:
    """The State as bytes, at most 4,000 of them where keys are short; what is cut off is the end of a ban's message.

    Where there are too many costs, the oldest ones are put together, and dated by the latest of them.
    """
    windows, held_until, held, banned_until, ban, message, limits, limits_ms, ahead, boot = state
    for most in _COSTS:
        kept = (
            {key: _packed(window, most) for key, window in list(windows.items())[-_WINDOWS:]},
            *map(_bounded, (held_until, held, banned_until, ban)),
            message[:_MESSAGE_CHARACTERS],
            [(_bounded(limit.cost), limit.interval_s, limit.kind) for limit in limits if _is_sound(limit)],
            _bounded(limits_ms),
            _bounded(ahead),
            _bounded(boot),
        )
        data = json.dumps(kept, separators=(",", ":")).encode()
        if len(data) <= _MOST_BYTES:
            break
    return data


def _packed(window: Window, most: int) -> list[Any]:
    done, sent = ([[*map(_bounded, cost)] for cost in _fewer(costs, most)] for costs in (window.done, window.sent))
    return [done, sent, *map(_bounded, window[2:])]


def _fewer(costs: tuple[Cost, ...], most: int) -> tuple[Cost, ...]:
    """At most so many costs: the oldest ones as one, dated by the latest of them."""
    last = len(costs) - most
    if last <= 0:
        return costs
    return ((costs[last][0], sum(cost for _, cost in costs[: last + 1])), *costs[last + 1 :])


def unpack_state(data: bytes) -> State:
    """The State of these bytes; an empty one where they are none of ours: the provider's header then says what is
    spent."""
    try:
        windows, held_until, held, banned_until, ban, message, limits, limits_ms, ahead, boot = json.loads(data)
        state = State(
            {key: _unpacked(*window) for key, window in windows.items()},
            _whole(held_until),
            _whole(held),
            _whole(banned_until),
            _whole(ban),
            str(message),
            tuple(Limit(_whole(cost), _whole(interval_s), str(kind)) for cost, interval_s, kind in limits),
            _whole(limits_ms),
            _whole(ahead),
            _whole(boot),
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        return State()
    return state if all(map(_is_sound, state.limits)) else State()


def _unpacked(done: Any, sent: Any, back_ms: Any, fore_ms: Any, moved_ms: Any) -> Window:
    done, sent = (tuple((_whole(ms), _count(cost)) for ms, cost in pairs) for pairs in (done, sent))
    return Window(done, sent, _count(back_ms), _count(fore_ms), _whole(moved_ms))


def _count(value: Any) -> int:
    if _whole(value) < 0:
        raise ValueError(f"{value!r} must not be negative")
    return int(value)


def _whole(value: Any) -> int:
    """The value, a whole number that clocks and counts can have. Raises ValueError for another."""
    if type(value) is not int or abs(value) > _LARGEST:
        raise ValueError(f"{value!r} is no number of ours")
    return value


def _bounded(value: int) -> int:
    return max(-_LARGEST, min(value, _LARGEST))


def _is_sound(limit: Limit) -> bool:
    return limit.cost >= 0 and 0 < limit.interval_s <= _LARGEST
