"""The one logger. `EventLog` turns events into its records; nothing else in the package logs.

INFO has a line for each public call; WARNING has retries, waits, changes of source and gaps; DEBUG has each request,
look-up and piece of work. Silent by default: CANDLE_FETCHER_LOG_LEVEL and CANDLE_FETCHER_LOG_FILE switch it on.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from candle_fetcher.concurrency.call import tell_caller
from candle_fetcher.core.errors import CandleFetcherError, InputError, unknown
from candle_fetcher.core.events import (
    Connected,
    Disconnected,
    Event,
    Failed,
    Gaps,
    Lookup,
    Missing,
    Noted,
    Operation,
    Rerouted,
    Retried,
    Sent,
    Waited,
    Yielded,
)
from candle_fetcher.core.tracebacks import format_error, report_errors_by

LOG = logging.getLogger("candle_fetcher")
LOG.addHandler(logging.NullHandler())

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_FILE_BYTES = 10_000_000
_OLD_FILES = 3
# Shorter pauses come from a limit per second; they are not reported.
_SHORT_S = 2.0
# Waits of several threads that end within this time of each other are one wait.
_TOGETHER_S = 1.0
_LINE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")


def set_up_logging(environment: Mapping[str, str]) -> None:
    """Set up logging by the two environment variables; a file rotates at 10 MB and keeps three old ones. Safe to
    repeat.

    Raises InputError where the level is unknown or the file cannot be written; a missing folder is made.
    """
    name = environment.get("CANDLE_FETCHER_LOG_LEVEL", "").upper()
    path = environment.get("CANDLE_FETCHER_LOG_FILE")
    if not name and not path:
        return
    if name and name not in LEVELS:
        raise unknown("CANDLE_FETCHER_LOG_LEVEL", name, LEVELS)
    level = getattr(logging, name or "INFO")
    label = f"candle_fetcher {path or 'stderr'}"
    handler = next((one for one in LOG.handlers if one.get_name() == label), None)
    if handler is None:
        handler = _open_file(path) if path else logging.StreamHandler()
        handler.set_name(label)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOG.addHandler(handler)
    handler.setLevel(level)
    LOG.setLevel(min(one.level for one in LOG.handlers if one.level))


def _open_file(path: str) -> logging.Handler:
    from logging.handlers import RotatingFileHandler

    try:
        target = Path(path).expanduser()
        for number in range(_OLD_FILES + 1):
            _check_file(Path(f"{target}.{number}") if number else target)
        target.parent.mkdir(parents=True, exist_ok=True)
        return RotatingFileHandler(target, maxBytes=_FILE_BYTES, backupCount=_OLD_FILES, encoding="utf-8")
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"CANDLE_FETCHER_LOG_FILE {path!r} cannot be written: {why}") from error


def _check_file(path: Path) -> None:
    """Raise InputError where the file exists and is not a log of this package: logging would append to it and move
    it."""
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
            f"CANDLE_FETCHER_LOG_FILE: {str(path)!r} exists and is not a log of candle_fetcher; expected the name"
            " of a new file, or of such a log"
        )


# The levels of the records of events; an event without one is not written. An operation with a label is at INFO.
_LEVELS: dict[type, int] = {
    Operation: logging.DEBUG,
    Sent: logging.DEBUG,
    Lookup: logging.DEBUG,
    Failed: logging.INFO,
    Rerouted: logging.WARNING,
    Gaps: logging.WARNING,
    Connected: logging.INFO,
    Disconnected: logging.WARNING,
    Noted: logging.WARNING,
    Yielded: logging.DEBUG,
}


class EventLog:
    """Writes the events of one fetcher to the logger; an Observe, safe to share between threads.

    A record about a wait, a retry, the end of one or a partial answer has the attribute `notice`: what the command line
    shows of it, without the provider. Threads that wait for the same thing make one record. `clock` counts seconds and
    never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}  # by provider, the end of the latest wait that was written

    def is_on(self, level: int) -> bool:
        """Return whether records of that level are written."""
        return _is_enabled(level)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Waited):
            self._write_wait(event)
        elif isinstance(event, Retried):
            self._extend(event.provider, event.wait_s)
            of = f"/{event.most}" if event.most else ""
            why = f": {event.detail or event.reason}"
            _notify(event.provider, f"retry {event.attempt}{of} in {_seconds(event.wait_s)}{why}")
        elif isinstance(event, Missing):
            _write(logging.WARNING, text := _text(event), text)
        else:
            if isinstance(event, Sent) and self._until and event.status is not None and event.status < 400:
                self._write_end(event.provider)
            level = _LEVELS.get(type(event), 0)
            if level and isinstance(event, Operation) and event.label:
                level = logging.INFO
            if level and _is_enabled(level):
                _write(level, _text(event))

    def _write_wait(self, event: Waited) -> None:
        """Write that all requests of the provider wait, once for each wait."""
        if event.seconds < _SHORT_S or not self._extend(event.provider, event.seconds):
            return
        why = "rate limit near" if event.reason == "budget" else "asked for a pause"
        _notify(event.provider, f"{why}: waiting {_seconds(event.seconds)}")

    def _write_end(self, provider: str) -> None:
        """Write that requests are answered again, once a wait is over."""
        with self._lock:
            if self._clock() < self._until.get(provider, float("inf")):
                return
            del self._until[provider]
        _notify(provider, "going on")

    def _extend(self, provider: str, seconds: float) -> bool:
        """Remember the end of a wait; False where one that ends as late was written before."""
        with self._lock:
            end_s, known_s = self._clock() + seconds, self._until.get(provider, 0.0)
            self._until[provider] = max(end_s, known_s)
            return end_s > known_s + _TOGETHER_S


def _is_enabled(level: int) -> bool:
    """Return what `LOG.isEnabledFor` does, without the lock of logging. The caller's thread may hold it: a signal has
    interrupted that thread inside logging, and the signal's handler waits for this thread."""
    return not LOG.disabled and LOG.manager.disable < level and level >= LOG.getEffectiveLevel()


def _notify(provider: str, notice: str) -> None:
    _write(logging.WARNING, f"{provider}: {notice}", notice)


def _write(level: int, text: str, notice: str | None = None) -> None:
    tell_caller(_write_here, level, text, {} if notice is None else {"notice": notice})


def _write_here(level: int, text: str, facts: dict[str, str]) -> None:
    LOG.log(level, "%s", text, extra=facts)


def _write_error(error: CandleFetcherError) -> None:
    """Write an error with the tracebacks that its caller does not see, and those of all that it came of."""
    if _is_enabled(logging.DEBUG):
        lines = format_error(error).splitlines()
        text = "\n".join(line if line.isprintable() else ascii(line)[1:-1] for line in lines)
        tell_caller(_write_traceback, f"{type(error).__name__}, and what it came of:", text)


def _write_traceback(text: str, lines: str) -> None:
    record = LOG.makeRecord(LOG.name, logging.DEBUG, __file__, 0, "%s", (text,), None)
    record.exc_text = lines  # as text, since the error is handed on without its tracebacks
    LOG.handle(record)


report_errors_by(_write_error)


def _text(event: Event) -> str:
    if isinstance(event, Operation):
        label = f"{event.name} {event.label}".rstrip()
        size = f", {event.bytes:,} bytes" if event.bytes else ""
        rows = f"{event.candles:,} rows in " if event.candles or event.name == "fetch" else ""
        return f"{label}: {rows}{event.seconds:.3f} s{size}"
    if isinstance(event, Failed):
        return f"{event.name} {event.label}: failed after {event.seconds:.3f} s: {event.reason}"
    if isinstance(event, Gaps):
        candles, gaps = "candle" if event.candles == 1 else "candles", "gap" if event.gaps == 1 else "gaps"
        return f"{event.label}: the provider lacks {event.candles:,} {candles} in {event.gaps:,} {gaps}"
    if isinstance(event, Missing):
        candles, why = "candle" if event.candles == 1 else "candles", f": {event.reason}" if event.reason else ""
        return f"{event.label}: partial, {event.candles:,} {candles} not fetched{why}"
    if isinstance(event, Rerouted):
        return f"{event.provider}: going on with {event.to}: {event.reason}"
    if isinstance(event, Lookup):
        return f"{event.tier}: {event.hits:,} found, {event.misses:,} not found"
    if isinstance(event, Sent):
        status = "no reply" if event.status is None else f"status {event.status}"
        return f"{event.provider} {event.path}: {status} in {event.seconds:.3f} s, {event.bytes:,} bytes"
    return _live_text(event)


def _live_text(event: Event) -> str:
    if isinstance(event, Connected):
        return f"{event.provider} {event.path}: connected, {event.channels:,} channels"
    if isinstance(event, Disconnected):
        after = f" after {_seconds(event.seconds)}" if event.seconds else ""
        return f"{event.provider} {event.path}: no stream{after}: {event.reason}"
    if isinstance(event, Noted):
        return f"{event.provider}: {event.text}"
    if isinstance(event, Yielded):
        return f"{event.label}: {event.candles:,} {event.kind}, {event.lag_s:.3f} s after the close"
    return str(event)


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
