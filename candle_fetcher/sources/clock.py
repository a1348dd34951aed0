"""The clock of a service, by the times that its replies state.

The service makes its reply, and states the time, at some instant between sending the request and receiving the reply.
So each reading is an interval, as long as the request took. A reading by a long request is not kept. A reading that
contradicts this machine's clock is only believed when a second reply confirms it.
"""

from __future__ import annotations

import email.utils
import functools
import re
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from candle_fetcher.core.errors import InputError, ReplyError, shown
from candle_fetcher.core.gap import iso
from candle_fetcher.core.timeframe import DAY_MS

# How long a reading is used while this machine's two clocks keep step; and how long where no newer one can be read.
_SERVES_S = 600.0
_LASTS_S = 3_600.0
# Where the wall clock moves away from the steady clock by more, it was set, or the machine slept.
_STEP_S = 1.0
# A reading is kept where its request was shorter.
_SHORT_S = 1.0
# A reading that differs by more from this machine's clock and from the last reading has to be confirmed.
_CONFIRM_MS = 5_000
_READINGS = 3
# A Date header states whole seconds, rounded down, and servers update it with some delay.
_DATE_STEP_MS = 1_000
_DATE_LATE_MS = 500
# How far two clocks of one provider may be apart, since a Date header states whole seconds.
HOSTS_MS = 2_000
# A Date header that differs by more is ignored.
_FARTHEST_MS = 370 * DAY_MS
# The years 1970 to 9999, in seconds.
_LAST_S = 253_402_300_800.0


class Moment(NamedTuple):
    """This machine's time of day and its steady clock, in seconds, read together."""

    wall_s: float
    steady_s: float


class ReplyHead(NamedTuple):
    """A reply without its body: the headers, and this machine's clocks before the request and after the reply."""

    headers: Mapping[str, str]
    sent: Moment
    came: Moment

    def times_alone(self) -> ReplyHead:
        """Return the head with the headers of times alone, for an error, which a user may show to others."""
        return self._replace(headers={name: text for name, text in self.headers.items() if name in ("date", "age")})

    @property
    def made_ms(self) -> int | None:
        """Return when the reply was made, in Unix ms, by its Date header; None where it has none."""
        return date_ms(self.headers.get("date"))

    @property
    def server_ms(self) -> int | None:
        """Return the service's time at the reply's arrival: Date plus Age, for which a cache kept it; or None."""
        made_ms, age = self.made_ms, self.headers.get("age", "")
        if made_ms is None:
            return None
        age_ms = 1000 * int(age) if re.fullmatch("[0-9]{1,5}", age) else 0
        return made_ms + (age_ms if age_ms <= DAY_MS else 0)


class Reading(NamedTuple):
    """A reading of a service's clock: `least_ms` to `most_ms` ahead of this machine's clocks, which showed `came`.

    step_ms: the unit in which the service states the time; 0 for ms. took_s: how long the request took. is_steady:
    False where this machine's clock was set meanwhile.
    """

    least_ms: int
    most_ms: int
    step_ms: int
    came: Moment
    took_s: float
    is_steady: bool

    @property
    def offset_ms(self) -> int:
        """Return how far the service's clock is ahead: the lower bound, so that no candle settles too early. Return 0
        where the service states whole seconds, and this machine's clock lies within them."""
        is_right = self.step_ms > 0 and self.least_ms <= 0 <= self.most_ms + _DATE_LATE_MS
        return 0 if is_right and self.is_short else self.least_ms

    @property
    def skew_ms(self) -> int:
        """Return how far this machine's clock is wrong at least; 0 where it lies within the bounds."""
        if self.least_ms <= 0 <= self.most_ms:
            return 0
        return self.least_ms if self.is_short or self.least_ms > 0 else self.most_ms

    @property
    def is_short(self) -> bool:
        return self.is_steady and self.took_s <= _SHORT_S


def measure(server_ms: int, head: ReplyHead, step_ms: int = 0) -> Reading:
    """Return the reading of a reply that states the time `server_ms`, in units of `step_ms`."""
    took_s = max(0.0, head.came.steady_s - head.sent.steady_s)
    least_ms = server_ms - int(1000 * head.came.wall_s)
    parted_s = head.came.wall_s - head.sent.wall_s - took_s
    return Reading(
        least_ms, least_ms + int(1000 * took_s) + step_ms, step_ms, head.came, took_s, abs(parted_s) < _STEP_S
    )


def measure_date(head: ReplyHead) -> Reading | None:
    """Return the reading by the Date header of a reply; None where it has none."""
    server_ms = head.server_ms
    return None if server_ms is None else measure(server_ms, head, _DATE_STEP_MS)


class ServerClock:
    """The clock of one service: this machine's clock, and the offset of the service's clock from it. Shared by threads.

    clock: this machine's time of day in Unix seconds. steady: seconds of a clock that is never set.
    """

    def __init__(self, clock: Callable[[], float], steady: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steady = steady
        self._reading: Reading | None = None
        self._date_lag_ms = 0  # of Date headers behind the time that the service states

    def moment(self) -> Moment:
        """Return both of this machine's clocks, read within 5 ms if possible."""
        for _ in range(10):
            steady_s = self._steady()
            wall_s = self._clock()
            if self._steady() - steady_s <= 0.005:
                break
        return Moment(wall_s, steady_s)

    def estimated_ms(self) -> int:
        """Return the service's clock in Unix ms by the last reading; this machine's clock without a reading."""
        return int(self._clock() * 1000) + (self._reading.offset_ms if self._reading else 0)

    def made_ms(self, head: ReplyHead) -> int | None:
        """Return when the reply was made, by its Date header; None where it has none, or one that is a year off."""
        made_ms = head.made_ms
        if made_ms is None or abs(made_ms - self.estimated_ms()) > _FARTHEST_MS:
            return None
        return made_ms + self._date_lag_ms

    def note_lag(self, server_ms: int, head: ReplyHead) -> None:
        """Note how far the Date header of a reply is behind the time that its body states."""
        made_ms = head.made_ms
        lag_ms = 0 if made_ms is None else server_ms - made_ms
        self._date_lag_ms = lag_ms if lag_ms > HOSTS_MS else 0

    def known_ms(self, *, at_least_s: float = _SERVES_S) -> int | None:
        """Return the service's clock by the last reading, if it is younger than `at_least_s` and this machine's clock
        was not set since; else None."""
        reading, now = self._reading, self.moment()
        if reading is None or not reading.is_short:
            return None
        since_s = now.steady_s - reading.came.steady_s
        if since_s >= at_least_s or abs(now.wall_s - reading.came.wall_s - since_s) >= _STEP_S:
            return None
        return int(now.wall_s * 1000) + reading.offset_ms

    def lasting_ms(self) -> int | None:
        """Return the service's clock by a reading of the last hour, where no newer one can be read; else None."""
        return self.known_ms(at_least_s=_LASTS_S)

    @property
    def skew_s(self) -> float:
        """Return by how many seconds at least the service's clock is ahead of this machine's; 0 without a reading."""
        return self._reading.skew_ms / 1000 if self._reading else 0.0

    def read(self, name: str, read_once: Callable[[bool], Reading | None]) -> int:
        """Return the service's clock, after as many readings as it takes to confirm one.

        `read_once(again)` returns one reading, with `again` by a request for it; or None where the service does not
        state the time: then this machine's clock counts. Where no reading is confirmed, the one nearest to this
        machine's clock counts. Raises ReplyError where all are a year off.
        """
        readings: list[Reading] = []
        for _ in range(_READINGS):
            reading = read_once(bool(readings))
            if reading is None:
                break
            readings.append(reading)
            if reading.is_short and self._is_confirmed(reading, readings):
                break
            if sum(not one.is_short for one in readings) > 1:
                break  # the network is slow, and another reading does not help
        if not readings:
            return self.estimated_ms()
        best = min(readings, key=lambda one: (not one.is_short, abs(one.offset_ms)))
        if best.step_ms and abs(best.offset_ms) > _FARTHEST_MS:
            own_ms = int(self._clock() * 1000)
            theirs = iso(own_ms + best.offset_ms)
            raise ReplyError(
                f"{name} dates its replies {theirs}, but this machine's clock says {iso(own_ms)}; "
                "set this machine's clock, or look for a proxy that stores replies"
            )
        if best.is_short or self.lasting_ms() is None:
            self._reading = best
        return int(self._clock() * 1000) + best.offset_ms

    def note(self, reading: Reading | None) -> None:
        """Keep the reading from a reply to any request, if it agrees with this machine's clock or the last reading."""
        if reading is not None and reading.is_short and self._is_confirmed(reading, [reading]):
            self._reading = reading

    def _is_confirmed(self, reading: Reading, readings: list[Reading]) -> bool:
        """Return whether the reading agrees with this machine's clock, the kept reading, or an earlier one."""
        known_ms = self.lasting_ms()
        others = [0, *(one.offset_ms for one in readings[:-1] if one.is_short)]
        if known_ms is not None and self._reading is not None:
            others.append(self._reading.offset_ms)
        return any(abs(reading.offset_ms - other_ms) <= _CONFIRM_MS for other_ms in others)


def check_clock(clock: object) -> Callable[[], float]:
    """Return a clock of Unix seconds that raises InputError where the user's `clock` returns another value.

    None gives time.time. Raises InputError where the clock cannot be called, or is wrong when it is read once.
    """
    if clock is None or clock is time.time:
        return time.time
    if not callable(clock):
        raise InputError(f"clock {shown(clock)} cannot be called; expected a callable like time.time")

    def checked() -> float:
        now_s = clock()
        try:
            is_time = not isinstance(now_s, bool | str | bytes) and 0 <= float(now_s) < _LAST_S
        except (TypeError, ValueError, OverflowError):
            is_time = False
        if not is_time:
            raise InputError(
                f"clock returned {shown(now_s)}; expected the time of day in Unix seconds, as of time.time"
            )
        return float(now_s)

    checked()
    checked.__wrapped__ = clock  # type: ignore[attr-defined]
    return checked


@functools.lru_cache(maxsize=64)  # replies of the same second have the same text, and each is parsed several times
def date_ms(text: str | None) -> int | None:
    """Return the instant of an HTTP date in Unix ms; None where the text is not one."""
    try:
        return None if text is None else int(email.utils.parsedate_to_datetime(text).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError):
        return None
