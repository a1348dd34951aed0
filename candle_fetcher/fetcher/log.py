"""The one logger: silent by default, switched on by CANDLE_FETCHER_LOG_LEVEL and CANDLE_FETCHER_LOG_FILE."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from candle_fetcher.core.errors import InputError, unknown

LOG = logging.getLogger("candle_fetcher")
LOG.addHandler(logging.NullHandler())

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_FILE_BYTES = 10_000_000
_OLD_FILES = 3
_LINE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")


def set_up_logging(environment: Mapping[str, str]) -> None:
    """Obeys the two environment variables; a file rotates at 10 MB and keeps three old ones. Safe to call again."""
    level = environment.get("CANDLE_FETCHER_LOG_LEVEL", "").upper()
    path = environment.get("CANDLE_FETCHER_LOG_FILE")
    if not level and not path:
        return
    if level and level not in LEVELS:
        raise unknown("CANDLE_FETCHER_LOG_LEVEL", level, LEVELS)
    LOG.setLevel(level or "INFO")
    name = f"candle_fetcher {path or 'stderr'}"
    if any(handler.get_name() == name for handler in LOG.handlers):
        return
    handler: logging.Handler = logging.StreamHandler()
    if path:
        from logging.handlers import RotatingFileHandler

        try:
            for file in (path, *(f"{path}.{number}" for number in range(1, _OLD_FILES + 1))):
                _check_file(Path(file))
            handler = RotatingFileHandler(path, maxBytes=_FILE_BYTES, backupCount=_OLD_FILES, encoding="utf-8")
        except OSError as error:
            raise InputError(f"CANDLE_FETCHER_LOG_FILE {path!r} cannot be written: {error.strerror}") from error
    handler.set_name(name)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOG.addHandler(handler)


def _check_file(path: Path) -> None:
    """Raises InputError where there is a file of the name that is no log of ours, or no plain file: it would be
    appended to, and in the end moved away."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    is_ours = stat.S_ISREG(found.st_mode)
    if is_ours and found.st_size:
        with path.open("rb") as file:
            is_ours = _LINE.match(file.read(64)) is not None
    if not is_ours:
        raise InputError(
            f"CANDLE_FETCHER_LOG_FILE: {str(path)!r} is there and is no log of candle_fetcher; expected the name of a"
            " new file, or of such a log"
        )
