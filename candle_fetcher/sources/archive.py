"""A provider's archive: whole files, each verified against its checksum before a row of it is used."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor, Future, wait
from typing import Any, NamedTuple

from candle_fetcher.core.call import Call, Reply
from candle_fetcher.core.candles import Candles
from candle_fetcher.core.errors import ProviderRefused, ReplyError, SourceError
from candle_fetcher.core.events import Observe, Operation
from candle_fetcher.core.files import File, published_end_ms
from candle_fetcher.core.series import Series
from candle_fetcher.providers import Archive
from candle_fetcher.sources.asking import Asker, Errand, Service, date_ms, told_ms

# How long a wait for another thread's file lasts before it looks up again.
_POLL_S = 0.2
# How long a reading of the archive's clock serves, if our two clocks have kept step since; and how far the two may be
# apart and be the same: a date tells the second that has begun, and a reply is some time on its way.
_CLOCK_S = 600.0
_STEP_S = 1.0
_DATE_MS = 2_000


class FileRead(NamedTuple):
    """What came of a file: its candles, or None and why not. `verified` says that its checksum was there and fits.

    trouble: "" where it can be used, "absent" where there is no such file, "rejected" where it is not what it should
    be, and `error` says how. `published_ms` is when the archive says that it was put there.
    """

    file: File
    candles: Candles | None
    verified: bool = True
    trouble: str = ""
    error: ReplyError | None = None
    published_ms: int | None = None


class ArchiveSource:
    """Reads the files of one archive. Shared by all threads of a fetcher."""

    def __init__(
        self, archive: Archive, host: str, *, clock: Callable[[], float], observe: Observe, **how: Any
    ) -> None:
        self.archive = archive
        self._clock = clock
        self._observe = observe
        self._lock = threading.Lock()
        self._flights: dict[str, Future[FileRead]] = {}
        # (offset of the archive's clock from ours in ms, our wall clock then, our monotonic clock then)
        self._reading: tuple[int, float, float] | None = None

        def refuse(reply: Reply, symbol: str, now_ms: int) -> Exception:
            self._heard(reply.headers)  # that a file is absent, too, is said at some time
            return archive.refusal(reply, symbol, now_ms)

        self._asker = Asker(
            Service(archive.name, (host,), (), lambda headers: None, refuse),
            now_ms=self.estimated_ms,
            observe=observe,
            **how,
        )

    def estimated_ms(self) -> int:
        """The archive's clock as far as it is known, our own before it was heard of."""
        return int(self._clock() * 1000) + (self._reading[0] if self._reading else 0)

    def now_ms(self, stop: Errand, series: Series) -> int:
        """The archive's clock in Unix ms, to the second: the hour on the reply to a small request, which is sent where
        the last reading is old or our clock has been set since. Our own where it does not tell."""
        wall_s, monotonic_s = self._clock(), time.monotonic()
        if self._reading is not None:
            _, then_s, monotonic_then_s = self._reading
            since_s = monotonic_s - monotonic_then_s
            if since_s < _CLOCK_S and abs(wall_s - then_s - since_s) < _STEP_S:
                return self.estimated_ms()
        find, at_ms = self.archive.find_file, self.end_ms(series, int(wall_s * 1000)) - 1
        file = find(series, at_ms, monthly=False) or find(series, at_ms, monthly=True)
        if file is not None:
            with contextlib.suppress(ProviderRefused):
                self._asker.ask(Call(f"{file.path}.CHECKSUM"), bytes, stop=stop, hear=self._heard)
        return self.estimated_ms()

    def _heard(self, headers: Mapping[str, str]) -> None:
        """Keeps what a reply tells of the time."""
        wall_s, now_ms = self._clock(), told_ms(headers)
        if now_ms is None:
            return
        offset_ms = now_ms - int(wall_s * 1000)
        self._reading = (0 if abs(offset_ms) < _DATE_MS else offset_ms, wall_s, time.monotonic())

    def read(self, series: Series, file: File, errand: Errand, open_by: Executor) -> FileRead:
        """The file's candles. What does not fit its checksum, or is no sound file, is fetched once more and then
        rejected. `open_by` are the threads that check and read its bytes. Threads that want one file fetch it once.

        Raises TransportError where the archive cannot answer.
        """
        while not errand.is_set():
            with self._lock:
                flight = self._flights.get(file.path)
                mine: Future[FileRead] = Future()
                if flight is None:
                    self._flights[file.path] = mine
            if flight is None:
                return self._fly(mine, series, file, errand, open_by)
            if wait([flight], timeout=_POLL_S).done and not isinstance(flight.exception(), CancelledError):
                return flight.result()
        raise CancelledError

    def _fly(self, flight: Future[FileRead], series: Series, file: File, errand: Errand, open_by: Executor) -> FileRead:
        """Reads the file for all who wait for it; should this one be interrupted, the next of them does."""
        try:
            read = self._read(series, file, errand, open_by)
        except BaseException as error:
            self._flights.pop(file.path)
            flight.set_exception(error if isinstance(error, SourceError) else CancelledError())
            raise
        self._flights.pop(file.path)
        flight.set_result(read)
        return read

    def _read(self, series: Series, file: File, errand: Errand, open_by: Executor) -> FileRead:
        rejected = None
        headers: dict[str, str] = {}
        for _ in range(2):
            try:
                data = self._asker.ask(Call(file.path), bytes, stop=errand, hear=headers.update)
            except ProviderRefused:
                return FileRead(file, None, trouble="absent")
            try:
                expected = self._checksum(file, errand)
                candles = open_by.submit(self._open, data, expected, file, series).result()
            except ReplyError as error:
                rejected = error
                continue
            verified = expected is not None
            return FileRead(file, candles, verified=verified, published_ms=date_ms(headers.get("last-modified")))
        return FileRead(file, None, trouble="rejected", error=rejected)

    def _open(self, data: bytes, expected: str | None, file: File, series: Series) -> Candles:
        began = time.perf_counter()
        if expected is not None and hashlib.sha256(data).hexdigest() != expected:
            raise ReplyError("its bytes are not those of its checksum")
        candles = self.archive.read_file(data, file, series)
        self._observe(Operation("unzip", time.perf_counter() - began, candles.count, len(data)))
        return candles

    def end_ms(self, series: Series, now_ms: int) -> int:
        """Where the newest file that there can be of the series ends."""
        return published_end_ms(lambda ms, monthly: self.archive.find_file(series, ms, monthly=monthly), now_ms)

    def _checksum(self, file: File, errand: Errand) -> str | None:
        """The SHA-256 that the file should have; None where none stands beside it."""
        try:
            text = self._asker.ask(Call(f"{file.path}.CHECKSUM"), bytes, stop=errand)
        except ProviderRefused:
            return None
        return self.archive.find_checksum(text, file.path.rpartition("/")[2])
