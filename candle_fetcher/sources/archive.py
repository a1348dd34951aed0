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
from candle_fetcher.providers.binance_bucket import find_first_ms
from candle_fetcher.sources.asking import Asker, Errand, Service
from candle_fetcher.sources.bucket import BucketSource
from candle_fetcher.sources.clock import Heard, Reading, ServerClock, date_ms, measure_date

# Keys are in the order of their dates: the first zip is what is wanted, and no page of a thousand.
_FIRST_KEYS = 20


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
    """Reads the files of one archive. Shared by all threads of a fetcher. `bucket` lists them, where anything does."""

    def __init__(
        self,
        archive: Archive,
        host: str,
        *,
        bucket: BucketSource | None,
        clock: Callable[[], float],
        observe: Observe,
        **how: Any,
    ) -> None:
        self.archive = archive
        self._bucket = bucket
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

    def first_ms(self, series: Series, stop: Errand, open_by: Executor) -> int | None:
        """Return when the first candle that the archive has of the series opens; None where it lists no file of it.

        The listing names the oldest day and the oldest month; the candle itself is read out of the file. Raises
        ReplyError where that cannot be used, and what the listing and the file refuse.
        """
        first_ms: int | None = None
        for file in self._first_files(series, stop):
            if first_ms is None or file.span.start_ms < first_ms:
                read = self.read(series, file, stop, open_by)
                if read.candles is None or not read.candles.count:
                    raise read.error or ReplyError(f"{file.path} is listed, and has no candle")
                opens_ms = int(read.candles.open_ms[0])
                first_ms = opens_ms if first_ms is None else min(first_ms, opens_ms)
        return first_ms

    def _first_files(self, series: Series, stop: Errand) -> list[File]:
        """The oldest month's file and the oldest day's file that are listed, in the order of their times."""
        found = []
        for monthly in (True, False):
            file = self.archive.find_file(series, 0, monthly=monthly)
            if file is None or self._bucket is None:
                continue
            folder = file.path.rpartition("/")[0].lstrip("/") + "/"
            times = (find_first_ms(page.keys) for page in self._bucket.pages(folder, stop, most=_FIRST_KEYS))
            at_ms = next((ms for ms in times if ms is not None), None)
            oldest = None if at_ms is None else self.archive.find_file(series, at_ms, monthly=monthly)
            found += [] if oldest is None else [oldest]
        return sorted(found, key=lambda file: file.span)

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
