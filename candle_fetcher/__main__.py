"""`python -m candle_fetcher`: the same as the command candle-fetcher."""

import sys

from candle_fetcher.cli import main

if __name__ == "__main__":
    sys.exit(main())
