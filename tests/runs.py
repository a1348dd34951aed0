"""How often the long tests inject their faults, and how many examples properties are held against."""

from __future__ import annotations

import os

from hypothesis import settings

# The part of what the fault matrix asks for. In a full run, `FAULT_RUNS=1`, it is all of that.
FAULT_RUNS = float(os.environ.get("FAULT_RUNS", "0.2"))
IS_QUICK = "FAULT_RUNS" not in os.environ
# Examples of a property that says no other number.
EXAMPLES = 25 if IS_QUICK else 100


def examples(count: int = 100) -> settings:
    """Return settings with that part of so many examples, a tenth in a quick run: for what most examples show if
    broken."""
    return settings(max_examples=max(1, round(count * (0.1 if IS_QUICK else FAULT_RUNS))))
