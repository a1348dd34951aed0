"""The one logger: silent by default, switched on by CANDLE_FETCHER_LOG_LEVEL and CANDLE_FETCHER_LOG_FILE."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from candle_fetcher.core.errors import InputError, unknown

LOG = logging.getLogger("candle_fetcher")
LOG.addHandler(logging.NullHandler())

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_FILE_BYTES = 10_000_000


def set_up_logging(environment: Mapping[str, str]) -> None:
    """Obeys the two environment variables; a file rotates at 10 MB and keeps three old ones. Safe to call again."""
    level = environment.get("CANDLE_FETCHER_LOG_LEVEL", "").upper()
    path = environment.get("CANDLE_FETCHER_LOG_FILE")
    if not level and not path:
        return
    if level and level not in _LEVELS:
        raise unknown("CANDLE_FETCHER_LOG_LEVEL", level, _LEVELS)
    LOG.setLevel(level or "INFO")
    name = f"candle_fetcher {path or 'stderr'}"
    if any(handler.get_name() == name for handler in LOG.handlers):
        return
    handler: logging.Handler = logging.StreamHandler()
    if path:
        from logging.handlers import RotatingFileHandler

        try:
            handler = RotatingFileHandler(path, maxBytes=_FILE_BYTES, backupCount=3, encoding="utf-8")
        except OSError as error:
            raise InputError(f"CANDLE_FETCHER_LOG_FILE {path!r} cannot be written: {error.strerror}") from error
    handler.set_name(name)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOG.addHandler(handler)
