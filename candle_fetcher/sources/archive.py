"""A provider's archive: whole files, each verified against its checksum before a row of it is used."""

from __future__ import annotations

import functools
import hashlib
import time
from concurrent.futures import Executor
from typing import TYPE_CHECKING, NamedTuple

from candle_fetcher.concurrency import SingleFlight
from candle_fetcher.core.call import Call
from candle_fetcher.core.candles import Candles
from candle_fetcher.core.errors import ProviderRefused, ReplyError
from candle_fetcher.core.events import Operation
from candle_fetcher.core.files import File, published_end_ms
from candle_fetcher.core.series import Series
from candle_fetcher.providers import Archive
from candle_fetcher.sources.client import Service, ServiceClient
from candle_fetcher.sources.clock import Reading, ReplyHead, date_ms, measure_date
from candle_fetcher.sources.scope import CallScope
from candle_fetcher.sources.wire import Wire

if TYPE_CHECKING:
    from candle_fetcher.sources.bucket import BucketSource


class FileRead(NamedTuple):
    """A file of the archive as it was read: its candles, or None where it cannot be used.

    verified: whether it has a checksum, and matches it. trouble: "" where the file can be used, "absent" where the
    archive has none, "rejected" where its bytes or rows are wrong, as `error` says. published_ms: when the archive
    published it, by the headers of the reply.
    """

    file: File
    candles: Candles | None
    verified: bool = True
    trouble: str = ""
    error: ReplyError | None = None
    published_ms: int | None = None


class ArchiveSource:
    """Reads the files of one archive. Shared by all threads of a fetcher. The host `listing`, if any, lists them."""

    def __init__(self, archive: Archive, host: str, wire: Wire, *, listing: str | None) -> None:
        self.archive = archive
        self.host = host
        self._listing = listing
        self._wire = wire
        self._server_clock = wire.server_clock()
        self.estimated_ms = self._server_clock.estimated_ms
        self._observe = wire.observe
        self._reads: SingleFlight[str, FileRead] = SingleFlight()
        self._client = ServiceClient(Service(archive.name, (host,), archive.refusal), wire, self._server_clock)

    @functools.cached_property
    def bucket(self) -> BucketSource | None:
        """The listing of the archive's files; None where there is none."""
        if self._listing is None:
            return None
        from candle_fetcher.sources.bucket import BucketSource  # when used: few do

        return BucketSource(self._listing, self._wire)

    def now_ms(self, scope: CallScope, series: Series) -> int:
        """Return the archive's clock in Unix ms, to the second; this machine's where the archive's cannot be read.

        Where the last reading is old, or this machine's clock was set since, a small request is sent, and the Date
        header of its reply is the time.
        """
        known_ms = self._server_clock.known_ms()
        if known_ms is not None:
            return known_ms
        find, at_ms = self.archive.find_file, self.end_ms(series, int(1000 * self._server_clock.moment().wall_s)) - 1
        file = find(series, at_ms, monthly=False) or find(series, at_ms, monthly=True)
        if file is None:
            return self.estimated_ms()
        call = Call(f"{file.path}.CHECKSUM")

        def read_clock(again: bool) -> Reading | None:
            try:
                _, head = self._client.request(call, bytes, scope=scope)
            except ProviderRefused as error:  # the reply to an absent file has a date too
                head = error.head
            return measure_date(head)

        return self._server_clock.read(self.archive.name, read_clock)

    def read(self, series: Series, file: File, scope: CallScope, open_by: Executor) -> FileRead:
        """Return the file's candles. A file that does not match its checksum, or is malformed, is fetched a second
        time, and then rejected.

        `open_by`: the pool of threads that check and read its bytes. Threads that need the same file share one request.
        Raises TransportError where the archive cannot answer.
        """
        return self._reads.run(file.path, lambda: self._read(series, file, scope, open_by), scope)

    def _read(self, series: Series, file: File, scope: CallScope, open_by: Executor) -> FileRead:
        rejected = None
        for _ in range(2):
            try:
                data, head = self._client.request(Call(file.path), bytes, scope=scope)
            except ProviderRefused as error:
                self._server_clock.note(measure_date(error.head))
                return FileRead(file, None, trouble="absent")
            self._server_clock.note(measure_date(head))
            try:
                expected = self._checksum(file, scope)
                candles = open_by.submit(self._open, data, expected, file, series).result()
            except ReplyError as error:
                rejected = error
                continue
            verified = expected is not None
            return FileRead(file, candles, verified=verified, published_ms=_published_ms(head))
        return FileRead(file, None, trouble="rejected", error=rejected)

    def _open(self, data: bytes, expected: str | None, file: File, series: Series) -> Candles:
        began = time.perf_counter()
        if expected is not None and hashlib.sha256(data).hexdigest() != expected:
            raise ReplyError("its bytes do not match its checksum (SHA-256)")
        candles = self.archive.read_file(data, file, series)
        self._observe(Operation("unzip", time.perf_counter() - began, candles.count, len(data)))
        return candles

    def end_ms(self, series: Series, now_ms: int) -> int:
        """Return the end of the newest file of the series that can exist by now, in Unix ms."""
        return published_end_ms(lambda ms, monthly: self.archive.find_file(series, ms, monthly=monthly), now_ms)

    def first_ms(self, series: Series, scope: CallScope, open_by: Executor) -> int | None:
        """Return when the first candle of the series in the archive opens; None where it lists no file of the series.

        The listing names the oldest day and the oldest month, and the candle is read from that file. Raises ReplyError
        where the file cannot be used, and what requests for the listing and the file raise.
        """
        first_ms: int | None = None
        for file in self._first_files(series, scope):
            if first_ms is None or file.span.start_ms < first_ms:
                read = self.read(series, file, scope, open_by)
                if read.candles is None or not read.candles.count:
                    raise read.error or ReplyError(f"the archive lists {file.path}, but the file has no candle")
                opens_ms = int(read.candles.open_ms[0])
                first_ms = opens_ms if first_ms is None else min(first_ms, opens_ms)
        return first_ms

    def _first_files(self, series: Series, scope: CallScope) -> list[File]:
        """Return the oldest listed file of a month and of a day, in the order of their times."""
        found = []
        for monthly in (True, False):
            file = self.archive.find_file(series, 0, monthly=monthly)
            if file is None or self.bucket is None:
                continue
            folder = file.path.rpartition("/")[0].lstrip("/") + "/"
            at_ms = self.bucket.first_ms(folder, scope)
            oldest = None if at_ms is None else self.archive.find_file(series, at_ms, monthly=monthly)
            found += [] if oldest is None else [oldest]
        return sorted(found, key=lambda file: file.span)

    def _checksum(self, file: File, scope: CallScope) -> str | None:
        """Return the SHA-256 that the file should have; None where the archive states none."""
        try:
            text, _ = self._client.request(Call(f"{file.path}.CHECKSUM"), bytes, scope=scope)
        except ProviderRefused:
            return None
        return self.archive.find_checksum(text, file.path.rpartition("/")[2])


def _published_ms(head: ReplyHead) -> int | None:
    """Return when the file was published, by the reply's headers, but no later than the reply was made; None without
    such a header."""
    published_ms, made_ms = date_ms(head.headers.get("last-modified")), head.made_ms
    return published_ms if published_ms is None or made_ms is None else min(published_ms, made_ms)
