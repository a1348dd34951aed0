"""Converts between UTC and the local time of a time zone, whole columns at a time."""

from __future__ import annotations

import datetime as dt
import functools
from dataclasses import dataclass
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

Int64s = npt.NDArray[np.int64]

NEW_YORK = "America/New_York"
_YEARS = (1970, 2100)
# No zone of the tz database changes its offset twice within three days since 1970; the shortest interval is seven days,
# in Brazil in 2000 and in future years of the West Bank.
_STEP_S = 3 * 86_400


@dataclass(frozen=True, eq=False)
class Zone:
    """A time zone as its changes from 1970 to 2099.

    changes_ms: the instants (UTC ms) at which the offset changes.
    offsets_ms: the offsets before, between and after the changes; one more than there are changes.
    """

    changes_ms: Int64s
    offsets_ms: Int64s

    def to_utc(self, local_ms: Int64s) -> Int64s:
        """Return the instants of these local times, which count like Unix ms.

        Of a local time that occurs twice, the first is meant. A skipped one is read with the offset after the change.
        """
        found: Int64s = local_ms - self.offsets_ms[np.searchsorted(self._borders_ms, local_ms, side="right")]
        return found

    def to_local(self, utc_ms: Int64s) -> Int64s:
        """Return the local times of these instants."""
        found: Int64s = utc_ms + self.offsets_ms[np.searchsorted(self.changes_ms, utc_ms, side="right")]
        return found

    def begins_ms(self, local_ms: Int64s) -> Int64s:
        """Return the first instants at which local clocks show these times; for a skipped time, the change."""
        found = self.to_utc(local_ms)
        is_skipped = self.to_local(found) < local_ms
        if not is_skipped.any():
            return found
        changes: Int64s = self.changes_ms[np.searchsorted(self.changes_ms, found[is_skipped], side="right")]
        found[is_skipped] = changes
        return found

    def midnight_ms(self, utc_ms: Int64s) -> Int64s:
        """Return when the local days that hold these instants began."""
        return self.begins_ms(self.to_local(utc_ms) // DAY_MS * DAY_MS)

    @functools.cached_property
    def _borders_ms(self) -> Int64s:
        """Return the local times at which the offset changes."""
        borders: Int64s = self.changes_ms + self.offsets_ms[:-1]
        return borders


@functools.cache
def zone(name: str) -> Zone:
    """Return the zone by its name in the tz database. Raises InputError for an unknown name."""
    try:
        info = ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError, TypeError):
        raise InputError(
            f"zone {shown(name)} is not in this machine's tz database; expected a name such as {NEW_YORK} (the package "
            "tzdata brings the database where the system has none)"
        ) from None

    def offset_s(at_s: int) -> int:
        offset = dt.datetime.fromtimestamp(at_s, info).utcoffset()
        return 0 if offset is None else int(offset.total_seconds())

    first_s, last_s = (int(dt.datetime(year, 1, 1, tzinfo=dt.timezone.utc).timestamp()) for year in _YEARS)
    changes, offsets = [], [offset_s(first_s)]
    for start_s in range(first_s, last_s, _STEP_S):
        before_s, after_s = start_s, start_s + _STEP_S
        if offset_s(after_s) == offsets[-1]:
            continue
        while after_s - before_s > 1:
            middle_s = (before_s + after_s) // 2
            if offset_s(middle_s) == offsets[-1]:
                before_s = middle_s
            else:
                after_s = middle_s
        changes.append(after_s)
        offsets.append(offset_s(after_s))
    return Zone(np.array(changes, np.int64) * 1000, np.array(offsets, np.int64) * 1000)


def clock_ms(stamps: Int64s) -> Int64s | None:
    """Return local times written as integers such as 20171218145600, as Unix ms.

    None where one is not a time of the years 1970 to 2099.
    """
    days, clocks = np.divmod(stamps, 1_000_000)
    months, day = np.divmod(days, 100)
    years, month = np.divmod(months, 100)
    hours, rest = np.divmod(clocks, 10_000)
    minutes, seconds = np.divmod(rest, 100)
    number = (years - 1970) * 12 + month - 1
    first = number.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    length = (number + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) - first
    fine = (years >= _YEARS[0]) & (years < _YEARS[1]) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= length)
    fine &= (hours < 24) & (minutes < 60) & (seconds < 60)
    if not fine.all():
        return None
    found: Int64s = (first + day - 1) * DAY_MS + hours * HOUR_MS + minutes * MINUTE_MS + seconds * SECOND_MS
    return found
