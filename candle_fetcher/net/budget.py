"""The memory of a Limiter, as a value and as bytes: what was spent when, and until when nothing may be sent.

The exchange counts in whole intervals of its clock. Near a border between two intervals, the error of our clock decides
in which of them a request is counted: so it counts in both. The times of spending are kept by the steady clock. So a
new offset of the provider's clock moves the borders, and never what was spent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from candle_fetcher.core.call import Limit

# How far the offset of the provider's clock may be wrong in either direction.
GUARD_MS = 100
# One part in so many of a limit is left to other programs on this address.
_MARGIN = 50
# A clock that jumps by less was not set. A jump of up to five minutes is taken for a correction of the clock, a larger
# one for a time of sleep, which has really passed.
STEP_MS = 1_000
_SET_MS = 300_000
# Where the end of a ban is further ahead than the length of the ban, by more than this, the clock was set back.
_SET_BACK_MS = 3_600_000
# After the offset has moved, its uncertainty shrinks by a twentieth of the time that passes, as slowly as clocks are
# adjusted: so no interval becomes shorter by more than that part.
_NARROWS = 20
# An interval is divided into so many parts; the costs in one part are kept as one.
_PARTS = 8
# Bounds that keep a State small: of a ban's message, of the windows, and of the costs in each window.
_MESSAGE_CHARACTERS = 240
_WINDOWS = 16
_COSTS = (20, 8, 4, 2, 1)
_MOST_BYTES = 4_000
_LARGEST = 2**53

_encode = json.JSONEncoder(separators=(",", ":")).encode

# A time of the steady clock in ms, and what was spent at that time or somewhat earlier.
Cost = tuple[int, int]


class Instant(NamedTuple):
    """One moment by two clocks in ms: the provider's, as far as it is known, and this machine's steady one."""

    now_ms: int
    steady_ms: int


class Window(NamedTuple):
    """What was recently spent of one limit, oldest first.

    done: costs of answered requests, dated by their replies. sent: costs of requests under way, dated by their
    reservations. At `moved_ms` of the steady clock, the provider's clock may have been up to `back_ms` behind, or
    `fore_ms` ahead of, its present offset, according to earlier offsets.
    """

    done: tuple[Cost, ...] = ()
    sent: tuple[Cost, ...] = ()
    back_ms: int = 0
    fore_ms: int = 0
    moved_ms: int = 0


class State(NamedTuple):
    """All that a Limiter remembers.

    The keys of `windows` are kind and interval, such as weight/60. A hold and a ban are kept with their length, so that
    a clock that was set back is noticed. `limits` are the provider's own, read at `limits_ms` of its clock. Processes
    that share a State use one offset of the provider's clock: it is `ahead_ms` ahead of the machine's clock, which was
    `boot_ms` ahead of the steady clock when the offset was measured. `ban_stated_ms` is the end of the ban as the
    provider stated it, by its own clock; errors show it.
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
    ban_stated_ms: int = 0


@lru_cache(maxsize=256)  # a few limits, and each request needs them several times
def key_of(limit: Limit) -> str:
    """Return the key of the limit's window."""
    return f"{limit.kind}/{limit.interval_s}"


@lru_cache(maxsize=256)
def guard_ms(limit: Limit) -> int:
    """Return for how long before and after a border it is uncertain in which interval a cost counts."""
    return min(GUARD_MS, limit.interval_s * 1000 // 20)


def reported(limits: Sequence[Limit]) -> str | None:
    """Return the key of the limit that the used-weight header is about: the first by weight."""
    for limit in limits:
        if limit.kind == "weight":
            return key_of(limit)
    return None


def price_of(limit: Limit, cost: int) -> int:
    """Return what a request of this cost spends of the limit."""
    return cost if limit.kind == "weight" else 1


def _range_ms(window: Window, limit: Limit, steady_ms: int) -> tuple[int, int]:
    """Return how far the provider's clock may be behind, and ahead of, its offset, in addition to the guard.

    Both are an interval at most: with a larger range, a border may be anywhere, and a whole interval has to pass. They
    begin to shrink an interval after the offset moved, when the interval of the move is over by either offset.
    """
    if not (window.back_ms or window.fore_ms):
        return 0, 0
    most_ms = limit.interval_s * 1000
    narrowed_ms = max(0, steady_ms - window.moved_ms - most_ms) // _NARROWS
    return max(0, min(window.back_ms, most_ms) - narrowed_ms), max(0, min(window.fore_ms, most_ms) - narrowed_ms)


def _borders(window: Window, limit: Limit, at: Instant) -> tuple[int, int]:
    """Return how long ago the present interval had certainly begun, and for how long before that it is uncertain.

    What was spent in that uncertain time counts in both intervals.
    """
    back_ms, fore_ms = _range_ms(window, limit, at.steady_ms)
    guard, interval_ms = guard_ms(limit), limit.interval_s * 1000
    return (at.now_ms - back_ms - guard) % interval_ms, min(back_ms + fore_ms + 2 * guard, interval_ms)


def _counted(costs: Sequence[Cost], since_ms: int) -> int:
    if not costs:
        return 0
    return sum([cost for ms, cost in costs if ms >= since_ms])


def _since_ms(window: Window, limit: Limit, at: Instant) -> int:
    """Return the earliest time, by the steady clock, at which the provider's present interval can have begun.

    The present interval is the last one that has certainly begun. It began at most an interval ago.
    """
    return at.steady_ms - min(sum(_borders(window, limit, at)), limit.interval_s * 1000)


def spent_of(window: Window, limit: Limit, at: Instant) -> int:
    """Return what counts in the present interval.

    Requests under way count in the interval of their reservation and in the next one. One that takes longer belongs to
    a process that has died.
    """
    if not (window.done or window.sent):
        return 0
    since_ms = _since_ms(window, limit, at)
    return _counted(window.done, since_ms) + _counted(window.sent, since_ms - limit.interval_s * 1000)


def until_free_ms(window: Window, limit: Limit, price: int, at: Instant) -> int:
    """Return the longest time until the price fits, if nothing else is spent and all requests under way are answered.

    The price fits after the next border. Where costs were spent near that border, or its time is not known, it fits a
    whole interval after the costs that leave no room for it.
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
    """Return the window after a request of that price was reserved now."""
    done, sent, back_ms, fore_ms, moved_ms = window
    return Window(done, _added(window, sent, limit, price, at), back_ms, fore_ms, moved_ms)


def settle(window: Window, limit: Limit, price: int, header: int | None, sent_ms: int, at: Instant) -> Window:
    """Return the window after the reply to a request that was reserved at `sent_ms` of the steady clock.

    `header` is what the provider has counted in its interval, by the reply. It can only add to what was spent, and is
    used only where the request was sent in the present interval.
    """
    left = list(window.sent)
    for index, (ms, cost) in enumerate(left):
        if ms >= sent_ms and cost >= price:
            left[index] = ms, cost - price
            break
    sent = tuple([cost for cost in left if cost[1]])
    interval_ms = limit.interval_s * 1000
    age_ms = at.steady_ms - sent_ms
    done = window.done
    if age_ms < 2 * interval_ms:
        if header is not None:
            began_ms, uncertain_ms = _borders(window, limit, at)
            if age_ms <= began_ms:
                since_ms = at.steady_ms - min(began_ms + uncertain_ms, interval_ms)
                price = max(price, header - _counted(done, since_ms))
        done = _added(window, done, limit, price, at)
    return Window(done, sent, window.back_ms, window.fore_ms, window.moved_ms)


def _added(window: Window, costs: tuple[Cost, ...], limit: Limit, price: int, at: Instant) -> tuple[Cost, ...]:
    """Return the costs with a new one. It is added to the last cost if both are in the same part of an interval.

    The parts are counted by the latest time that the provider's clock can show, so that a cost near a border is not
    joined with one before the border.
    """
    if costs:
        ahead_ms = at.now_ms - at.steady_ms + _range_ms(window, limit, at.steady_ms)[1] + guard_ms(limit)
        part_ms = limit.interval_s * 1000 // _PARTS
        if (costs[-1][0] + ahead_ms) // part_ms == (at.steady_ms + ahead_ms) // part_ms:
            price += costs[-1][1]
            costs = costs[:-1]
    return (*costs, (at.steady_ms, price))


def current(window: Window | None, limit: Limit, steady_ms: int) -> Window:
    """Return the window without costs that no longer count, and with no time later than now."""
    if window is None:
        return Window()
    interval_ms = limit.interval_s * 1000
    done, sent, back_ms, fore_ms, moved_ms = window
    if done:
        done = _since(done, steady_ms - interval_ms, steady_ms)
    if sent:
        sent = _since(sent, steady_ms - 2 * interval_ms, steady_ms)
    return Window(done, sent, back_ms, fore_ms, min(moved_ms, steady_ms))


def _since(costs: tuple[Cost, ...], since_ms: int, now_ms: int) -> tuple[Cost, ...]:
    if costs[0][0] >= since_ms and costs[-1][0] <= now_ms:
        return costs
    return tuple([(min(ms, now_ms), cost) for ms, cost in costs if ms >= since_ms])


def clocked(state: State, limits: Sequence[Limit], ahead_ms: int, machine_ms: int, steady_ms: int) -> State:
    """Return the State after the offset of the provider's clock has changed, or the machine's clock was set.

    What was spent stays. Borders become uncertain by as much as the offset has moved, so that those of the old offset
    count too. A step of the machine's clock by up to five minutes is taken for a correction. A larger one is taken for
    sleep or a new start: then so much time has passed that the steady clock did not count.
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
    done, sent = (tuple([(ms - by_ms, cost) for ms, cost in costs]) for costs in (window.done, window.sent))
    return window._replace(done=done, sent=sent, moved_ms=window.moved_ms - by_ms)


def _moved(window: Window, limit: Limit, by_ms: int, steady_ms: int) -> Window:
    """Return the window after the offset of the provider's clock has grown by so much."""
    back_ms, fore_ms = _range_ms(window, limit, steady_ms)
    return window._replace(back_ms=max(0, back_ms + by_ms), fore_ms=max(0, fore_ms - by_ms), moved_ms=steady_ms)


def divided(limit: Limit, share: float, least: int) -> Limit:
    """Return the part of a limit that is for one of several that spend it apart; `share` is above 0 and at most 1.

    A part below `least`, which could let no request through, is that much in an interval that is longer instead.
    """
    part = limit.cost * share
    if share == 1 or part >= least:
        return limit if share == 1 else limit._replace(cost=int(part))
    cost = min(least, limit.cost)
    return limit._replace(cost=cost, interval_s=math.ceil(limit.interval_s * cost / part))


def usable(limit: Limit) -> int:
    """Return how much of the limit may be spent in one interval, without the margin."""
    return limit.cost - limit.cost // _MARGIN


def fits(spent: int, limit: Limit, price: int) -> bool:
    """Return whether a request fits the limit without its margin; the first of an interval may use the margin."""
    if spent == 0:
        return price <= limit.cost
    return spent + price <= limit.cost - limit.cost // _MARGIN


def anchored(state: State, now_ms: int, steady_ms: int) -> State:
    """Return the State with a hold and a ban that end no later than their length from now, even after a clock was set.

    A ban may last an hour longer, since the clocks of two processes may differ.
    """
    if state.held_until_ms - steady_ms > state.held_ms:
        state = state._replace(held_until_ms=steady_ms + state.held_ms)
    if state.banned_until_ms - now_ms > state.ban_ms + _SET_BACK_MS:
        state = state._replace(banned_until_ms=now_ms + state.ban_ms)
    return state


def join_states(one: State, other: State) -> State:
    """Return one State for two that processes changed apart: of each fact, the one that allows fewer requests."""
    windows = dict(one.windows)
    for key, window in other.windows.items():
        windows[key] = _joined(windows.get(key, window), window)
    held = max(one, other, key=lambda state: state.held_until_ms)
    banned = max(one, other, key=lambda state: state.banned_until_ms)
    read = max(one, other, key=lambda state: state.limits_ms)
    clock = max(one, other, key=lambda state: (state.boot_ms, abs(state.ahead_ms), state.ahead_ms))
    return State(
        windows,
        held.held_until_ms,
        held.held_ms,
        banned.banned_until_ms,
        banned.ban_ms,
        banned.ban_message,
        read.limits,
        read.limits_ms,
        clock.ahead_ms,
        clock.boot_ms,
        banned.ban_stated_ms,
    )


def _joined(one: Window, other: Window) -> Window:
    """Return a window with the costs of both; a cost that both have counts once."""
    done, sent = (tuple(sorted({*mine, *theirs})) for mine, theirs in zip(one[:2], other[:2], strict=True))
    return Window(done, sent, *map(max, one[2:], other[2:]))


def pack_state(state: State) -> tuple[bytes, bool]:
    """Return the State as bytes, and whether the bytes hold all of it. They are at most 4,000 where keys are short.

    To fit, the end of a ban's message is cut off, and the oldest costs are joined into one, with the date of the latest
    of them.
    """
    if _is_storable(state):
        data = _encode(state).encode()  # tuples are lists to JSON
        if len(data) <= _MOST_BYTES:
            return data, True
    windows, held_until, held, banned_until, ban, message, limits, limits_ms, ahead, boot, stated = state
    for most in _COSTS:
        kept = (
            {key: _packed(window, most) for key, window in list(windows.items())[-_WINDOWS:]},
            *map(_bounded, (held_until, held, banned_until, ban)),
            message[:_MESSAGE_CHARACTERS],
            [(_bounded(limit.cost), limit.interval_s, limit.kind) for limit in limits if _is_sound(limit)],
            *map(_bounded, (limits_ms, ahead, boot, stated)),
        )
        data = _encode(kept).encode()
        if len(data) <= _MOST_BYTES:
            break
    return data, False


def _is_storable(state: State) -> bool:
    """Return whether the State can be stored unchanged: it has few numbers, and none is too large."""
    windows, held_until, held, banned_until, ban, message, limits, limits_ms, ahead, boot, stated = state
    if len(windows) > _WINDOWS or len(message) > _MESSAGE_CHARACTERS:
        return False
    numbers = [held_until, held, banned_until, ban, limits_ms, ahead, boot, stated]
    for limit in limits:
        if limit.cost < 0 or not 0 < limit.interval_s <= _LARGEST:
            return False
        numbers.append(limit.cost)
    for done, sent, *clock in windows.values():
        if len(done) > _COSTS[0] or len(sent) > _COSTS[0]:
            return False
        numbers += clock
        for cost in done + sent:
            numbers += cost
    return min(numbers) >= -_LARGEST and max(numbers) <= _LARGEST


def _packed(window: Window, most: int) -> list[Any]:
    done, sent = ([[*map(_bounded, cost)] for cost in _fewer(costs, most)] for costs in (window.done, window.sent))
    return [done, sent, *map(_bounded, window[2:])]


def _fewer(costs: tuple[Cost, ...], most: int) -> tuple[Cost, ...]:
    """Return at most so many costs: the oldest ones as one, dated by the latest of them."""
    last = len(costs) - most
    if last <= 0:
        return costs
    return ((costs[last][0], sum(cost for _, cost in costs[: last + 1])), *costs[last + 1 :])


def unpack_state(data: bytes) -> State:
    """Return the State in these bytes. Return an empty one for any other bytes: what is spent is then learned from the
    provider's header."""
    try:
        # The last field is missing in what an older version saved.
        windows, held_until, held, banned_until, ban, message, limits, limits_ms, ahead, boot, *rest = json.loads(data)
        numbers = [held_until, held, banned_until, ban, limits_ms, ahead, boot, *rest[:1]]
        amounts = []
        kept_limits = []
        for cost, interval_s, kind in limits:
            kept_limits.append(Limit(cost, interval_s, str(kind)))
            numbers += cost, interval_s
        kept_windows = {}
        for key, (done, sent, back_ms, fore_ms, moved_ms) in windows.items():
            costs = [[(ms, cost) for ms, cost in pairs] for pairs in (done, sent)]
            kept_windows[key] = Window(tuple(costs[0]), tuple(costs[1]), back_ms, fore_ms, moved_ms)
            numbers.append(moved_ms)
            amounts += [back_ms, fore_ms]
            for ms, cost in costs[0] + costs[1]:
                numbers.append(ms)
                amounts.append(cost)
        numbers += amounts
        # A bool is an int to Python, and no number here.
        if set(map(type, numbers)) != {int} or not -_LARGEST <= min(numbers) <= max(numbers) <= _LARGEST:
            return State()
        if min(amounts, default=0) < 0:
            return State()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return State()
    if not all(map(_is_sound, kept_limits)):
        return State()
    times = held_until, held, banned_until, ban
    return State(kept_windows, *times, str(message), tuple(kept_limits), limits_ms, ahead, boot, *rest[:1])


def _bounded(value: int) -> int:
    return max(-_LARGEST, min(value, _LARGEST))


def _is_sound(limit: Limit) -> bool:
    return limit.cost >= 0 and 0 < limit.interval_s <= _LARGEST
