"""Log records on stderr while a command runs: waits and retries, and with --log-level all of them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from candle_fetcher.cli.talk import Talk
from candle_fetcher.console import above_bars
from candle_fetcher.log import LEVELS, LOG
from candle_fetcher.settings import LOG_FILE, LOG_LEVEL, one_of


class _Notices(logging.Handler):
    """Shows a record that has a `notice` as a line of the talk, above a progress bar that is drawn."""

    def __init__(self, talk: Talk) -> None:
        super().__init__(logging.WARNING)
        self._talk = talk

    def emit(self, record: logging.LogRecord) -> None:
        notice = getattr(record, "notice", None)
        if notice is not None:
            with above_bars():
                self._talk.notice(notice)


@contextlib.contextmanager
def logging_to(talk: Talk, level: str | None) -> Iterator[None]:
    """Show notices while the block runs, and obey --log-level, which wins over the environment.

    Afterwards the logger and the environment are as they were. Raises InputError for an unknown level.
    """
    before, kept, named = list(LOG.handlers), LOG.level, os.environ.get(LOG_LEVEL)
    if level is not None:
        os.environ[LOG_LEVEL] = one_of("--log-level", level.upper(), LEVELS)
    # A log on stderr shows the same.
    shows_log = os.environ.get(LOG_LEVEL) and not os.environ.get(LOG_FILE)
    if not (shows_log and os.environ[LOG_LEVEL].upper() in ("DEBUG", "INFO", "WARNING")):
        LOG.addHandler(_Notices(talk))
    try:
        yield
    finally:
        for handler in [one for one in LOG.handlers if one not in before]:
            LOG.removeHandler(handler)
            handler.close()
        LOG.setLevel(kept)
        if level is not None:
            os.environ.pop(LOG_LEVEL)
            if named is not None:
                os.environ[LOG_LEVEL] = named
