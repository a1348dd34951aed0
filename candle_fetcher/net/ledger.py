"""What a Limiter remembers, as a value: what is spent in each interval, who may not be asked until when; and as bytes.

The exchange counts whole intervals of its clock. What is spent around a border between two of them, where a clock error
decides in which one it is counted, counts in both.
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
# What is kept of a ban's message, and of windows: a State stays small.
_MESSAGE_CHARACTERS = 240
_WINDOWS = 16
_LARGEST = 2**53


class Window(NamedTuple):
    """What was spent of one limit in the present interval, which is number `slot` of the provider's clock.

    `reserved` is under way since this interval, `carried` since the one before: it may be counted in either. `late`
    was answered so near the end that it may be counted in the next one. It was begun at `since_ms` of the steady clock.
    """

    slot: int
    used: int = 0
    reserved: int = 0
    carried: int = 0
    late: int = 0
    since_ms: int = 0

    @property
    def spent(self) -> int:
        return self.used + self.reserved + self.carried


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


def _slot(limit: Limit, now_ms: int) -> int:
    """The interval that we count in: it begins when the provider's surely has begun."""
    return (now_ms - guard_ms(limit)) // (limit.interval_s * 1000)


def is_late(limit: Limit, now_ms: int) -> bool:
    """Whether the provider may be in its next interval already."""
    return _slot(limit, now_ms + 2 * guard_ms(limit)) > _slot(limit, now_ms)


def roll(window: Window | None, limit: Limit, now_ms: int, steady_ms: int) -> Window:
    """The window at that time. A clock that was set back starts no new interval: what was spent stays spent.

    Of two that share, one may be behind at a border, by less than half an interval. It counts in the interval that the
    other one has begun: to go back and forth would forget what was spent.
    """
    slot = _slot(limit, now_ms)
    if window is None:
        return Window(slot, since_ms=steady_ms)
    if slot == window.slot - 1 == _slot(limit, now_ms + limit.interval_s * 500) - 1:
        return window
    if slot == window.slot + 1:
        return Window(slot, used=window.late, carried=window.reserved, since_ms=steady_ms)
    if slot > window.slot:
        return Window(slot, since_ms=steady_ms)
    return window if slot == window.slot else window._replace(slot=slot)


def clocked(state: State, limits: Sequence[Limit], ahead_ms: int, machine_ms: int, steady_ms: int) -> State:
    """The State by another idea of the provider's clock, or after the machine's clock has changed.

    What was spent in an interval stays spent in the present one where the two overlap: it was not time that passed. An
    overlap with one that was over is worth it where it is more than the margin. A change of the machine's clock by
    minutes counts as one that somebody made; one by more as sleep, or a new start. Where the clock is one that changes
    all the time, two intervals of the steady one are enough.
    """
    boot_ms = machine_ms - steady_ms
    set_ms = boot_ms - state.boot_ms
    by_ms = ahead_ms - state.ahead_ms + (set_ms if STEP_MS < abs(set_ms) <= _SET_MS else 0)
    windows = dict(state.windows)
    for limit in limits:
        window = windows.get(key_of(limit))
        if window is not None:
            now_ms = machine_ms + ahead_ms
            interval_ms, slot = limit.interval_s * 1000, _slot(limit, now_ms)
            overlap_ms = (window.slot + 1 - slot) * interval_ms + by_ms
            if steady_ms - window.since_ms > 2 * interval_ms:
                windows[key_of(limit)] = roll(None, limit, now_ms, steady_ms)
            elif _slot(limit, now_ms - by_ms) <= window.slot or overlap_ms * _MARGIN > interval_ms:
                windows[key_of(limit)] = window._replace(slot=slot)
    return state._replace(windows=windows, ahead_ms=ahead_ms, boot_ms=boot_ms)


def usable(limit: Limit) -> int:
    """What may be spent of the limit in one interval, by several requests."""
    return limit.cost - limit.cost // _MARGIN


def fits(window: Window, limit: Limit, price: int) -> bool:
    """Whether the request stays below the limit less the margin; one alone may use the margin."""
    if window.spent == 0:
        return price <= limit.cost
    return window.spent + price <= usable(limit)


def settle(window: Window, sent_in: int, price: int, header: int | None, is_late: bool) -> Window:
    """The window after the reply to a request that was reserved in the interval `sent_in`."""
    late = window.late + price if is_late else window.late
    if sent_in == window.slot:
        used = max(window.used + price, header or 0)
        return window._replace(used=used, reserved=max(0, window.reserved - price), late=late)
    if window.carried >= price:
        return window._replace(used=window.used + price, carried=window.carried - price, late=late)
    return window


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
        mine = windows.get(key, window)
        windows[key] = Window(*map(max, mine, window)) if mine.slot == window.slot else max(mine, window)
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


def pack_state(state: State) -> bytes:
    """The State as bytes, at most 4,000 of them; what is cut off is the end of a ban's message."""
    windows, held_until, held, banned_until, ban, message, limits, limits_ms, ahead, boot = state
    kept = (
        {key: [*map(_bounded, window)] for key, window in list(windows.items())[-_WINDOWS:]},
        *map(_bounded, (held_until, held, banned_until, ban)),
        message[:_MESSAGE_CHARACTERS],
        [(_bounded(limit.cost), limit.interval_s, limit.kind) for limit in limits if _is_sound(limit)],
        _bounded(limits_ms),
        _bounded(ahead),
        _bounded(boot),
    )
    return json.dumps(kept, separators=(",", ":")).encode()


def unpack_state(data: bytes) -> State:
    """The State of these bytes; an empty one where they are none of ours: the provider's header then says what is
    spent."""
    try:
        windows, held_until, held, banned_until, ban, message, limits, limits_ms, ahead, boot = json.loads(data)
        state = State(
            {key: Window(*map(_whole, window)) for key, window in windows.items()},
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
    counts = [count for window in state.windows.values() for count in window[1:5]]
    is_sound = min(counts, default=0) >= 0 and all(map(_is_sound, state.limits))
    return state if is_sound else State()


def _whole(value: Any) -> int:
    """The value, a whole number that clocks and counts can have. Raises ValueError for another."""
    if type(value) is not int or abs(value) > _LARGEST:
        raise ValueError(f"{value!r} is no number of ours")
    return value


def _bounded(value: int) -> int:
    return max(-_LARGEST, min(value, _LARGEST))


def _is_sound(limit: Limit) -> bool:
    return limit.cost >= 0 and 0 < limit.interval_s <= _LARGEST
