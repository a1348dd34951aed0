"""The practice exchange as a process of its own, so that a client's CPU time is the client's. Started by run.py.

python tests/benchmarks/server.py DELAY_S [KEY ...]    prints its root URL, and ends when its input does

The files of the archive with these keys are made before, and kept.
"""

from __future__ import annotations

import sys

from candle_fetcher.practice import PracticeExchange

# No client is held back: what is measured is work, not waiting.
NO_LIMIT = 10**9


def main() -> None:
    with PracticeExchange(delay_s=float(sys.argv[1]), weight_limit=NO_LIMIT, log=False) as exchange:
        for key in sys.argv[2:]:
            data = exchange.archive.read(key)
            if data is not None:
                exchange.archive.load(key, data)
        print(exchange.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
