"""A check, and checks as a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from candle_fetcher.core.html import WholeFrame

PASS, FAIL, SKIPPED = "pass", "fail", "skipped"


class Check(NamedTuple):
    """One check of one subject: pass, fail or skipped, what was found, and what to do about it."""

    name: str
    subject: str
    verdict: str
    found: str
    fix: str = ""


def as_frame(checks: Sequence[Check]) -> pd.DataFrame:
    """Return a row for each check: check, subject, passed (boolean, NA where skipped), found, what_to_do."""
    verdicts: dict[str, bool | None] = {PASS: True, FAIL: False, SKIPPED: None}
    frame = WholeFrame(
        [(one.name, one.subject, verdicts[one.verdict], one.found, one.fix) for one in checks],
        columns=["check", "subject", "passed", "found", "what_to_do"],
    )
    frame["passed"] = frame["passed"].astype("boolean")
    return frame
