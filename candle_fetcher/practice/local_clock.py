"""The local time of an exchange in North America, and the sessions of its stocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS

Int64s = npt.NDArray[np.int64]

_MINUTE_MS = 60_000
_CLOSED = """
2023-01-02 2023-01-16 2023-02-20 2023-04-07 2023-05-29 2023-06-19 2023-07-04 2023-09-04 2023-11-23 2023-12-25
2024-01-01 2024-01-15 2024-02-19 2024-03-29 2024-05-27 2024-06-19 2024-07-04 2024-09-02 2024-11-28 2024-12-25
2025-01-01 2025-01-09 2025-01-20 2025-02-17 2025-04-18 2025-05-26 2025-06-19 2025-07-04 2025-09-01 2025-11-27
2025-12-25 2026-01-01 2026-01-19 2026-02-16 2026-04-03 2026-05-25 2026-06-19 2026-07-03 2026-09-07 2026-11-26
2026-12-25
"""
_CLOSED_AT_13 = """
2023-07-03 2023-11-24 2024-07-03 2024-11-29 2024-12-24 2025-07-03 2025-11-28 2025-12-24 2026-11-27 2026-12-24
"""


def days_of(text: str) -> Int64s:
    """Return the numbers of the days, counted from 1970."""
    return np.array(text.split(), "datetime64[D]").astype(np.int64)


_HOLIDAYS, _EARLY = days_of(_CLOSED), days_of(_CLOSED_AT_13)


class LocalClock:
    """Local time that is `west_h` hours behind UTC in winter: 5 for New York, 6 for Chicago."""

    def __init__(self, west_h: int) -> None:
        self._west_h = west_h

    def offsets_ms(self, utc_ms_: Int64s) -> Int64s:
        """Return local time minus UTC in ms: summer time runs from 02:00 of the second Sunday in March to 02:00 of
        the first one in November (2007 to today)."""
        january = utc_ms_.astype("datetime64[ms]").astype("datetime64[Y]").astype(np.int64) * 12
        march, november = (
            month.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
            for month in (january + 2, january + 10)
        )
        starts = (march + (3 - march) % 7 + 7) * DAY_MS + (self._west_h + 2) * HOUR_MS
        ends = (november + (3 - november) % 7) * DAY_MS + (self._west_h + 1) * HOUR_MS
        summer = (starts <= utc_ms_) & (utc_ms_ < ends)
        return (summer.astype(np.int64) - self._west_h) * HOUR_MS

    def midnights_ms(self, days: Int64s) -> Int64s:
        """Return the instants at which the local days begin."""
        winter_ms: Int64s = days * DAY_MS + self._west_h * HOUR_MS
        return days * DAY_MS - self.offsets_ms(winter_ms)

    def opens_ms(self, minutes_ms: Int64s, timeframe: tuple[int, str]) -> Int64s:
        """Return the open times of the bars that hold the minutes."""
        count, unit = timeframe
        if unit in "mh":
            step_ms = count * (_MINUTE_MS if unit == "m" else HOUR_MS)
            return minutes_ms // step_ms * step_ms
        days = (minutes_ms + self.offsets_ms(minutes_ms)) // DAY_MS
        if unit == "w":
            days = (days + 3) // 7 * 7 - 3
        if unit == "M":
            months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) // count * count
            days = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
        return self.midnights_ms(days)

    def month(self, ms: int) -> int:
        """Return the number of the local month that holds the instant, counted from 1970."""
        local = np.array([ms]) + self.offsets_ms(np.array([ms]))
        return int(local.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)[0])

    def month_ms(self, month: int) -> int:
        """Return the instant at which the local month begins."""
        return int(self.midnights_ms(np.array([month], "datetime64[M]").astype("datetime64[D]").astype(np.int64))[0])

    def in_session(self, utc_ms_: Int64s) -> npt.NDArray[np.bool_]:
        """Return whether stocks trade at each instant."""
        days, clock_ms = np.divmod(utc_ms_ + self.offsets_ms(utc_ms_), DAY_MS)
        closing_ms = np.where(np.isin(days, _EARLY), 13 * HOUR_MS, 16 * HOUR_MS)
        is_open = (days + 3) % 7 < 5  # 1970-01-01 was a Thursday
        is_open &= ~np.isin(days, _HOLIDAYS) & (clock_ms >= 9.5 * HOUR_MS) & (clock_ms < closing_ms)
        return is_open
