"""What a cache does with a file, by name: import, backup, restore."""

from __future__ import annotations

from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from candle_fetcher.cache import CandleCache
from candle_fetcher.concurrency import Cancel
from candle_fetcher.core.events import Operation
from candle_fetcher.core.reports import Backup, Imported, Restored
from candle_fetcher.files.backup import back_up
from candle_fetcher.files.importing import Fetcher, import_file
from candle_fetcher.files.restoring import restore


def work_on_file(
    work: str, cache: CandleCache, fetcher: Fetcher, path: object, now_ms: int, cancel: Cancel, **given: Any
) -> tuple[Imported | Backup | Restored, Operation]:
    """Do the work on the cache and the file; return its report, and what the listeners get, but for its duration."""

    def pause() -> None:
        if cancel.is_set():
            raise CancelledError

    if work == "import":
        imported = import_file(cache, fetcher, path, now_ms, **given)
        size, label = Path(imported.path).stat().st_size, f"{imported.symbol} {imported.timeframe}"
        return imported, Operation(work, 0.0, imported.rows, size, label)
    do = back_up if work == "backup" else restore
    done = do(cache, path, now_ms, observe=fetcher.observe, pause=pause)
    return done, Operation(work, 0.0, done.candles, Path(done.path).stat().st_size, Path(done.path).name)
