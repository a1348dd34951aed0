"""Whether a failed request is sent again, and when: a pure decision."""

from __future__ import annotations

from typing import NamedTuple

# A longer wait is an error for the caller.
LONGEST_WAIT_S = 300.0


class Retry(NamedTuple):
    """Whether to send a failed request again, and after how long."""

    max_retries: int = 5
    base_s: float = 0.5
    cap_s: float = 30.0

    def wait_s(self, attempt: int, asked_s: float | None, *, random: float) -> float | None:
        """Return the seconds to wait after request number `attempt` (from 1) failed; None where it is not sent again.

        A positive `asked_s` (Retry-After) wins, unless it is above 300 s: then None. Else the planned wait is base_s,
        doubled with each attempt, at most cap_s; the wait lies between half of it and all of it, as `random` from 0 to
        1 says.
        """
        if attempt > self.max_retries:
            return None
        if asked_s is not None and asked_s > 0:
            return asked_s if asked_s <= LONGEST_WAIT_S else None
        planned = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 60))
        return planned * (0.5 + 0.5 * random)
