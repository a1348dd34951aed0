"""A screen of each command, as a terminal of 80 columns shows it, against the practice exchange.

    python tests/screens.py               # every command
    python tests/screens.py gaps vault    # these commands alone

`COLUMNS=120 python tests/screens.py` shows another width. Needs a system with fork and pseudo-terminals.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # this checkout, not an installed package

import forks
from test_width import COLUMNS, LINES, free_port, in_folder


def main(words: list[str]) -> int:
    """Run the command."""
    columns = os.environ.get("COLUMNS", str(COLUMNS))
    for lines in LINES.values():
        if words and lines[-1].split()[0] not in words:
            continue
        port = free_port()
        with tempfile.TemporaryDirectory() as folder:
            for number, line in enumerate(lines, start=1):
                code, shown = forks.run_on_terminal(
                    in_folder(Path(folder), line, port), TERM="dumb", COLUMNS=columns, NO_COLOR="1"
                )
                if number == len(lines):
                    shown = re.sub(r"[^\n]*\r", "", shown)  # what a bar replaced
                    print(f"$ candle-fetcher {line}\n{shown.rstrip()}\n[exit {code}]\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
