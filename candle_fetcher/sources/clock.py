"""The clock of a service, as far as its replies tell it.

A reply says what the time was at some moment between the sending of the request and the arrival of the reply. So each
reading has bounds, as far apart as that journey was long. A reading after a long journey is not kept, and a reading
that contradicts this machine's clock counts once a second reply confirms it.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from candle_fetcher.core.candles import iso
from candle_fetcher.core.errors import InputError, ReplyError, shown
from candle_fetcher.core.timeframe import DAY_MS

# How long a reading serves while the machine's two clocks keep step, and for how long where no other can be had.
_SERVES_S = 600.0
_LASTS_S = 3_600.0
# The wall clock was set, or the machine slept, where it parts from the steady clock by more.
_STEP_S = 1.0
# A reading is kept where its journey was shorter.
_JOURNEY_S = 1.0
# A larger difference from this machine's clock, or from the last reading, has to be confirmed.
_CONFIRM_MS = 5_000
_READINGS = 3
# A Date header tells the second that has begun; servers renew it with some delay.
_DATE_STEP_MS = 1_000
_DATE_LATE_MS = 500
# A Date header that differs by more is not believed.
FARTHEST_MS = 370 * DAY_MS
# The years 1970 to 9999, in seconds.
_LAST_S = 253_402_300_800.0


class Moment(NamedTuple):
    """The time of day and the steady clock of this machine, in seconds, read together."""

    wall_s: float
    steady_s: float


class Heard(NamedTuple):
    """A reply without its body: the headers, and this machine's clocks before it was sent and after it came."""

    headers: Mapping[str, str]
    sent: Moment
    came: Moment

    @property
    def made_ms(self) -> int | None:
        """When the reply was made, by its Date header; None where it has none."""
        return date_ms(self.headers.get("date"))

    @property
    def server_ms(self) -> int | None:
        """The time by the reply: when it was made, and for how long it lay in a cache since, a day at most."""
        made_ms, age = self.made_ms, self.headers.get("age", "")
        if made_ms is None:
            return None
        age_ms = 1000 * int(age) if re.fullmatch("[0-9]{1,5}", age) else 0
        return made_ms + (age_ms if age_ms <= DAY_MS else 0)


class Reading(NamedTuple):
    """A service's clock, read once: between `least_ms` and `most_ms` ahead of this machine's, which showed `came`.

    `step_ms` is the unit in which the service states the time. `is_steady` is False where this machine's clock was set
    on the way.
    """

    least_ms: int
    most_ms: int
    step_ms: int
    came: Moment
    journey_s: float
    is_steady: bool

    @property
    def offset_ms(self) -> int:
        """How far the service's clock is ahead. The least it can be, so that nothing settles too early; 0 where the
        service tells seconds and this machine's clock agrees with it."""
        is_right = self.step_ms > 0 and self.least_ms <= 0 <= self.most_ms + _DATE_LATE_MS
        return 0 if is_right and self.is_short else self.least_ms

    @property
    def skew_ms(self) -> int:
        """How far this machine's clock is wrong; 0 where it lies within the bounds, and may be right."""
        if self.least_ms <= 0 <= self.most_ms:
            return 0
        return self.least_ms if self.is_short or self.least_ms > 0 else self.most_ms

    @property
    def is_short(self) -> bool:
        return self.is_steady and self.journey_s <= _JOURNEY_S


def measure(server_ms: int, heard: Heard, step_ms: int = 0) -> Reading:
    """Return the reading of a reply that states the time `server_ms`, in units of `step_ms`."""
    journey_s = max(0.0, heard.came.steady_s - heard.sent.steady_s)
    least_ms = server_ms - int(1000 * heard.came.wall_s)
    parted_s = heard.came.wall_s - heard.sent.wall_s - journey_s
    return Reading(
        least_ms, least_ms + int(1000 * journey_s) + step_ms, step_ms, heard.came, journey_s, abs(parted_s) < _STEP_S
    )


def measure_date(heard: Heard) -> Reading | None:
    """The reading that the Date header of a reply gives; None where it has none."""
    server_ms = heard.server_ms
    return None if server_ms is None else measure(server_ms, heard, _DATE_STEP_MS)


class Ask(Protocol):
    """Gets one reading, `again` by a request of its own."""

    def __call__(self, *, again: bool) -> Reading | None: ...


class ServerClock:
    """The clock of one service, as this machine's clock and how far that is off. Shared by threads.

    `clock` tells this machine's time of day in Unix seconds, `steady` one that is never set.
    """

    def __init__(self, clock: Callable[[], float], steady: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steady = steady
        self._reading: Reading | None = None

    def moment(self) -> Moment:
        """This machine's clocks at one moment, if at all possible."""
        for _ in range(10):
            steady_s = self._steady()
            wall_s = self._clock()
            if self._steady() - steady_s <= 0.005:
                break
        return Moment(wall_s, steady_s)

    def estimated_ms(self) -> int:
        """The service's clock as far as it is known; this machine's where it is not."""
        return int(self._clock() * 1000) + (self._reading.offset_ms if self._reading else 0)

    def known_ms(self, *, at_least_s: float = _SERVES_S) -> int | None:
        """The service's clock by a reading that is younger; None where there is none, and after this machine's clock
        was set."""
        reading, now = self._reading, self.moment()
        if reading is None or not reading.is_short:
            return None
        since_s = now.steady_s - reading.came.steady_s
        if since_s >= at_least_s or abs(now.wall_s - reading.came.wall_s - since_s) >= _STEP_S:
            return None
        return int(now.wall_s * 1000) + reading.offset_ms

    def lasting_ms(self) -> int | None:
        """The service's clock by an older reading, for a time at which no other can be had."""
        return self.known_ms(at_least_s=_LASTS_S)

    @property
    def skew_s(self) -> float:
        """How far the service's clock is surely ahead of this machine's, in seconds; 0 while it is not known."""
        return self._reading.skew_ms / 1000 if self._reading else 0.0

    def read(self, name: str, ask: Ask) -> int:
        """The service's clock, by as many readings as it takes to believe one; `ask(again=…)` gets each.

        None of `ask` says that the service does not tell the time: this machine's clock stands then. Of readings that
        contradict it, the one that does so least counts. Raises ReplyError where all tell another year.
        """
        readings: list[Reading] = []
        for _ in range(_READINGS):
            reading = ask(again=bool(readings))
            if reading is None:
                break
            readings.append(reading)
            if reading.is_short and self._is_confirmed(reading, readings):
                break
            if sum(not one.is_short for one in readings) > 1:
                break  # the line is slow, and asking again does not help
        if not readings:
            return self.estimated_ms()
        best = min(readings, key=lambda one: (not one.is_short, abs(one.offset_ms)))
        if best.step_ms and abs(best.offset_ms) > FARTHEST_MS:
            own_ms = int(self._clock() * 1000)
            theirs = iso(own_ms + best.offset_ms)
            raise ReplyError(
                f"{name} dates its replies {theirs}, and this machine's clock says {iso(own_ms)}; "
                "set this machine's clock, or look for a proxy that stores replies"
            )
        if best.is_short or self.lasting_ms() is None:
            self._reading = best
        return int(self._clock() * 1000) + best.offset_ms

    def note(self, reading: Reading | None) -> None:
        """Keeps a reading that came along with another reply, where it agrees with what is known."""
        if reading is not None and reading.is_short and self._is_confirmed(reading, [reading]):
            self._reading = reading

    def _is_confirmed(self, reading: Reading, readings: list[Reading]) -> bool:
        """Whether this machine's clock, the last reading, or one of the others says the same."""
        known_ms = self.lasting_ms()
        others = [0, *(one.offset_ms for one in readings[:-1] if one.is_short)]
        if known_ms is not None and self._reading is not None:
            others.append(self._reading.offset_ms)
        return any(abs(reading.offset_ms - other_ms) <= _CONFIRM_MS for other_ms in others)


def check_clock(clock: Callable[[], float]) -> Callable[[], float]:
    """The clock, each reading of which is Unix seconds. The function raises InputError for any other."""

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

    return checked


def date_ms(text: str | None) -> int | None:
    """The instant of an HTTP date; None where it is none."""
    try:
        return None if text is None else int(email.utils.parsedate_to_datetime(text).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError):
        return None
