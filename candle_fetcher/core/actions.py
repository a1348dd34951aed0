"""Corporate actions, and as of which of them prices are adjusted.

A split or a dividend changes every adjusted price before it. So the settings of an adjusted series say as of which
actions it is adjusted: an action makes another series of it, in which nothing is older than the action. Providers do
not state when their prices follow an action, or how soon they list one; for some days around an action, and after a
list has changed otherwise than by a day that came, a series is that of the day as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple, TypeGuard

import numpy as np

from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS, MINUTE_MS
from candle_fetcher.core.zones import zone

Settings = tuple[tuple[str, str], ...]

# "No guarantees on the creation time of corporate actions" (Alpaca); prices of a wrong dividend were still there two
# days after it. A week is a guess on the careful side.
RECENT_DAYS = 7
# For how long the provider is not asked again after it gave no list.
_FAILED_MS = HOUR_MS
# How far a new reading of the provider's clock may set it back.
_STEP_MS = MINUTE_MS
_NO_DAY = "none"
_DIGEST_BYTES = 6
_MOST_USED = 8


class Action(NamedTuple):
    """A corporate action: the day from which on it counts, by the exchange's calendar, such as 2024-06-10; its terms, a
    text in which two actions differ where their effects may; and whether it changes the prices of the series at all."""

    day: str
    terms: str
    counts: bool = True


class Known(NamedTuple):
    """What a provider said of the corporate actions of a symbol when it was last asked, at `asked_ms` (UTC).

    `listed` are those that are over and those that are announced, none where there never was a list; `error` says why
    there was none this time, and they are those of an earlier time. `changed_ms` is when the list last differed from
    the one before otherwise than by a day that came. `used` are the settings that series had by it, the newest first.
    """

    asked_ms: int
    listed: tuple[Action, ...] = ()
    changed_ms: int = 0
    error: str = ""
    used: tuple[Settings, ...] = ()

    def with_list(self, listed: Iterable[Action], asked_ms: int, zone_name: str | None) -> Known:
        """The same, and what was listed at that time."""
        news = tuple(sorted(listed))
        before, after = (_effective(one, asked_ms, zone_name) for one in (self.listed, news))
        is_changed = bool(self.listed) and before != after
        return Known(asked_ms, news, asked_ms if is_changed else self.changed_ms, "", self.used)

    def with_use(self, settings: Settings, *, is_newest: bool = True) -> Known:
        """The same, and the settings among those that series have had."""
        others = tuple(one for one in self.used if one != settings)
        used = (settings, *others) if is_newest else (*others, settings)
        return self if settings in self.used and not is_newest else self._replace(used=used[:_MOST_USED])

    def serves(self, now_ms: int, zone_name: str | None) -> bool:
        """Whether it need not be asked for again: until the day ends, in UTC or at the exchange."""
        if not self.asked_ms - _STEP_MS <= now_ms < self.asked_ms + (_FAILED_MS if self.error else DAY_MS):
            return False
        return _days(self.asked_ms, zone_name) == _days(now_ms, zone_name)

    def is_recent(self, now_ms: int, zone_name: str | None) -> bool:
        """Whether the provider's prices may not have followed the actions yet."""
        today = _days(now_ms, zone_name)[1]
        ages = [today - _number(one.day) for one in self.listed if one.counts]
        return now_ms < self.changed_ms + RECENT_DAYS * DAY_MS or any(-1 <= age <= RECENT_DAYS for age in ages)

    def settings(self, now_ms: int, zone_name: str | None) -> Settings:
        """The settings of a series whose prices are asked for at that time.

        `as_of` is the day of the newest action, or the present day in UTC where prices may change soon or no list could
        be had; `actions` stands for all that count by then, and is not there without a list.
        """
        today = str(np.datetime64(now_ms, "ms").astype("datetime64[D]"))
        if self.error or not self.listed:
            return (("as_of", today),)
        counting = _effective(self.listed, now_ms, zone_name)
        text = "\n".join(f"{one.day} {one.terms}" for one in counting)
        digest = hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()
        actions = f"{len(counting)}-{digest}"
        if self.is_recent(now_ms, zone_name):  # on the day of an action, too, it is another series than later
            return (("as_of", today), ("actions", f"{actions}-recent"))
        return (("as_of", counting[-1].day if counting else _NO_DAY), ("actions", actions))


def is_day(text: object) -> TypeGuard[str]:
    """Whether it is a day such as 2024-06-10."""
    try:
        return isinstance(text, str) and len(text) == 10 and str(np.datetime64(text, "D")) == text
    except ValueError:
        return False


def _effective(listed: Iterable[Action], now_ms: int, zone_name: str | None) -> list[Action]:
    """Those that count by then, in order."""
    today = _days(now_ms, zone_name)[1]
    return [one for one in sorted(listed) if one.counts and _number(one.day) <= today]


def _number(day: str) -> int:
    return int(np.datetime64(day, "D").astype(np.int64))


def _days(ms: int, zone_name: str | None) -> tuple[int, int]:
    """The day in UTC and the one at the exchange, in days since 1970."""
    local_ms = ms if zone_name is None else int(zone(zone_name).to_local(np.array([ms], np.int64))[0])
    return ms // DAY_MS, local_ms // DAY_MS
