"""How often the long tests inject their faults."""

from __future__ import annotations

import os

# The part of what the fault matrix asks for. In a full run, `FAULT_RUNS=1`, it is all of that.
FAULT_RUNS = float(os.environ.get("FAULT_RUNS", "0.2"))
