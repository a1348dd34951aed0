"""Corporate actions, and the settings that name an adjusted series after them.

A split or a dividend changes every adjusted price before it. So the settings of an adjusted series state which actions
its prices include. A new action starts a new series, which shares no stored candle with the old one. Providers state
neither how soon they list an action nor how soon their prices include it. So from the day before an action until a week
after it, and for a week after the list changed unexpectedly, each day has a series of its own.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable
from typing import NamedTuple, TypeGuard

import numpy as np

from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS, MINUTE_MS
from candle_fetcher.core.zones import zone

Settings = tuple[tuple[str, str], ...]

# "No guarantees on the creation time of corporate actions" (Alpaca). Prices adjusted for a wrong dividend were seen two
# days after it. A week is a cautious guess.
RECENT_DAYS = 7
# How long the list is not requested again after a request for it failed.
_FAILED_MS = HOUR_MS
# How far a new reading of the provider's clock may go back.
_STEP_MS = MINUTE_MS
_NO_DAY = "none"
_DIGEST_BYTES = 6
_MOST_USED = 8


class Action(NamedTuple):
    """A corporate action.

    day: the day from which it changes prices, by the exchange's calendar, such as 2024-06-10.
    terms: a text that describes it; actions with different effects have different terms.
    counts: whether it changes the prices of this series.
    """

    day: str
    terms: str
    counts: bool = True


class Known(NamedTuple):
    """The corporate actions of a symbol as its provider listed them at `asked_ms` (UTC).

    listed: past and announced actions; empty if the list was never received.
    changed_ms: when the list last changed unexpectedly: an action that already counts was added, removed or altered.
    error: why the last request got no list; `listed` is then older.
    used: the settings that series got from these actions, the newest first.
    """

    asked_ms: int
    listed: tuple[Action, ...] = ()
    changed_ms: int = 0
    error: str = ""
    used: tuple[Settings, ...] = ()

    def with_list(self, listed: Iterable[Action], asked_ms: int, zone_name: str | None) -> Known:
        """Return this with the list that was received at that time."""
        news = tuple(sorted(listed))
        before, after = (_effective(one, asked_ms, zone_name) for one in (self.listed, news))
        is_changed = bool(self.listed) and before != after
        return Known(asked_ms, news, asked_ms if is_changed else self.changed_ms, "", self.used)

    def with_use(self, settings: Settings, *, is_newest: bool = True) -> Known:
        """Return this with these settings among those that series got."""
        others = tuple(one for one in self.used if one != settings)
        used = (settings, *others) if is_newest else (*others, settings)
        return self if settings in self.used and not is_newest else self._replace(used=used[:_MOST_USED])

    def serves(self, now_ms: int, zone_name: str | None) -> bool:
        """Return whether the list need not be requested again: until the day ends, in UTC or at the exchange."""
        if not self.asked_ms - _STEP_MS <= now_ms < self.asked_ms + (_FAILED_MS if self.error else DAY_MS):
            return False
        return _days(self.asked_ms, zone_name) == _days(now_ms, zone_name)

    def is_recent(self, now_ms: int, zone_name: str | None) -> bool:
        """Return whether the provider's prices may still lack the newest actions."""
        today = _days(now_ms, zone_name)[1]
        ages = [today - _number(one.day) for one in self.listed if one.counts]
        return now_ms < self.changed_ms + RECENT_DAYS * DAY_MS or any(-1 <= age <= RECENT_DAYS for age in ages)

    def settings(self, now_ms: int, zone_name: str | None) -> Settings:
        """Return the settings of a series with prices that are requested at that time.

        `as_of` is the day of the newest action that counts by then. It is the current day in UTC where prices may
        change soon or there is no list. `actions` identifies all actions that count by then; without a list it is
        absent.
        """
        today = str(np.datetime64(now_ms, "ms").astype("datetime64[D]"))
        if self.error or not self.listed:
            return (("as_of", today),)
        counting = _effective(self.listed, now_ms, zone_name)
        text = "\n".join(f"{one.day} {one.terms}" for one in counting)
        digest = hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()
        actions = f"{len(counting)}-{digest}"
        if self.is_recent(now_ms, zone_name):  # prices may still change: a series of this day alone
            return (("as_of", today), ("actions", f"{actions}-recent"))
        return (("as_of", counting[-1].day if counting else _NO_DAY), ("actions", actions))


def is_day(text: object) -> TypeGuard[str]:
    """Return whether the value is a day such as 2024-06-10."""
    try:
        return isinstance(text, str) and len(text) == 10 and str(dt.date.fromisoformat(text)) == text
    except ValueError:
        return False


def _effective(listed: Iterable[Action], now_ms: int, zone_name: str | None) -> list[Action]:
    """Return the actions that change prices by that time, in order."""
    today = _days(now_ms, zone_name)[1]
    return [one for one in sorted(listed) if one.counts and _number(one.day) <= today]


def _number(day: str) -> int:
    return int(np.datetime64(day, "D").astype(np.int64))


def _days(ms: int, zone_name: str | None) -> tuple[int, int]:
    """Return the day in UTC and the day at the exchange, in days since 1970."""
    local_ms = ms if zone_name is None else int(zone(zone_name).to_local(np.array([ms], np.int64))[0])
    return ms // DAY_MS, local_ms // DAY_MS
