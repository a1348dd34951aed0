"""A provider's archive: whole files, each verified against its checksum before a row of it is used."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

from candle_fetcher.concurrency import SingleFlight
from candle_fetcher.core.call import Call
from candle_fetcher.core.candles import Candles
from candle_fetcher.core.errors import ProviderRefused, ReplyError
from candle_fetcher.core.events import Observe, Operation
from candle_fetcher.core.files import File, published_end_ms
from candle_fetcher.core.series import Series
from candle_fetcher.providers import Archive
from candle_fetcher.sources.asking import Asker, Errand, Service
from candle_fetcher.sources.clock import Heard, Reading, ServerClock, date_ms, measure_date


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
        self._server_clock = ServerClock(clock)
        self.estimated_ms = self._server_clock.estimated_ms
        self._observe = observe
        self._flights: SingleFlight[str, FileRead] = SingleFlight()
        self._asker = Asker(
            Service(archive.name, (host,), (), lambda headers: None, archive.refusal),
            clock=self._server_clock,
            observe=observe,
            **how,
        )

    def now_ms(self, stop: Errand, series: Series) -> int:
        """The archive's clock in Unix ms, to the second: the Date header of the reply to a small request, which is sent
        where the last reading is old or this machine's clock has been set since. This machine's where there is none."""
        known_ms = self._server_clock.known_ms()
        if known_ms is not None:
            return known_ms
        find, at_ms = self.archive.find_file, self.end_ms(series, int(1000 * self._server_clock.moment().wall_s)) - 1
        file = find(series, at_ms, monthly=False) or find(series, at_ms, monthly=True)
        if file is None:
            return self.estimated_ms()
        call = Call(f"{file.path}.CHECKSUM")

        def read_clock(*, again: bool) -> Reading | None:
            heard: list[Heard] = []
            with contextlib.suppress(ProviderRefused):  # that a file is absent, too, is said at some time
                self._asker.ask(call, bytes, stop=stop, hear=heard.append)
            return measure_date(heard[-1])

        return self._server_clock.read(self.archive.name, read_clock)

    def read(self, series: Series, file: File, errand: Errand, open_by: Executor) -> FileRead:
        """The file's candles. What does not fit its checksum, or is no sound file, is fetched once more and then
        rejected. `open_by` are the threads that check and read its bytes. Threads that want one file fetch it once.

        Raises TransportError where the archive cannot answer.
        """
        return self._flights.run(file.path, lambda: self._read(series, file, errand, open_by), errand)

    def _read(self, series: Series, file: File, errand: Errand, open_by: Executor) -> FileRead:
        rejected = None
        heard: list[Heard] = []
        for _ in range(2):
            try:
                data = self._asker.ask(Call(file.path), bytes, stop=errand, hear=heard.append)
            except ProviderRefused:
                return FileRead(file, None, trouble="absent")
            finally:
                if heard:
                    self._server_clock.note(measure_date(heard[-1]))
            try:
                expected = self._checksum(file, errand)
                candles = open_by.submit(self._open, data, expected, file, series).result()
            except ReplyError as error:
                rejected = error
                continue
            verified = expected is not None
            return FileRead(file, candles, verified=verified, published_ms=_published_ms(heard[-1]))
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


def _published_ms(heard: Heard) -> int | None:
    """When the archive put the file there, by the reply: at the latest when the reply was made. None where it does not
    say."""
    published_ms, made_ms = date_ms(heard.headers.get("last-modified")), heard.made_ms
    return published_ms if published_ms is None or made_ms is None else min(published_ms, made_ms)
