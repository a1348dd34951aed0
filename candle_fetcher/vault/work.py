"""The updates of one call: series side by side, each by one thread that holds its lock."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future, wait
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from candle_fetcher.concurrency import POLL_S
from candle_fetcher.concurrency.call import counting_requests
from candle_fetcher.console import make_progress
from candle_fetcher.core.errors import About, CandleFetcherError, InputError, complete_error
from candle_fetcher.core.events import Progress
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.fetcher.request import Range
from candle_fetcher.vault.homes import Home
from candle_fetcher.vault.opening import Options, fetched_columns, make_rows
from candle_fetcher.vault.source import FetcherSource, Resolved, resolve
from candle_fetcher.vault.state import NOTHING, Entry, SeriesId, VaultDocument
from candle_fetcher.vault.tables import REPORT, names_of, table
from candle_fetcher.vault.update import Updated, update_series
from candle_fetcher.workers import lost_job

# More than are under way at once: a write waits for the disk while others fetch.
_THREADS = 16
# What an update of one series may fail with, while the others go on.
_FAILURES = (CandleFetcherError, OSError)
# What the report says of an update of which a part could not be fetched.
IS_PARTIAL = "candles could not be fetched; the next update asks for them"


class Job(NamedTuple):
    """A series to update: by what its error is named, the series as it was named, and the error that came before."""

    label: str
    typed: SeriesId
    named: Resolved | None
    start_ms: int | None
    error: Exception | None = None


class Updates:
    """The updates of one call."""

    def __init__(
        self, home: Home, options: Options, fetcher: CandleFetcher, wanted: Range, partial: str = "raise"
    ) -> None:
        self.home, self._options, self._fetcher, self._wanted = home, options, fetcher, wanted
        self._partial = partial
        self.jobs: list[Job] = []
        self._rows: dict[int, tuple[Any, ...]] = {}
        self._errors: dict[int, Exception] = {}
        self._stop = threading.Event()

    # -- what is to be done -------------------------------------------------------------------------------------------

    def add_symbol(self, symbol: str, timeframe: str, provider: Any, kind: str) -> None:
        """Add a series by the words of the user. A series that is named twice is updated once."""
        try:
            named = resolve(self._fetcher, symbol, timeframe, provider, kind)
        except InputError as error:
            name = str(provider or self._fetcher._runtime.provider.name)
            typed = SeriesId(name, str(symbol), str(symbol), str(timeframe), str(kind))
            self.jobs.append(Job(str(symbol), typed, None, None, error))
            return
        if all(job.typed.key != named.series.key for job in self.jobs):
            self.jobs.append(Job(symbol, named.series, named, None))

    def add_entry(self, entry: Entry) -> None:
        """Add a series of the vault."""
        series = entry.series
        named, error = None, None
        try:
            named = resolve(self._fetcher, series.provider_symbol, series.timeframe, series.provider, series.kind)
            if named.series.key != series.key:
                wanted = ", ".join(f"{name}={value}" for name, value in series.settings) or "the default settings"
                raise InputError(
                    f"{label_of(series)} was made with {wanted}; use a fetcher with the same provider_settings"
                )
        except InputError as caught:
            named, error = None, caught
        self.jobs.append(Job(label_of(series), series, named, entry.start_ms, error))

    def run(
        self,
        progress: bool | Callable[[Progress], object] | None,
        by_workers: Callable[[Updates, Callable[[], object]], object] | None = None,
        threads: Executor | None = None,
    ) -> tuple[pd.DataFrame, dict[str, Exception]]:
        """Do all of it, and return the report and the errors by label: by threads of ours, of an executor, or by a
        function that has it done elsewhere."""
        observe = None if progress is None else make_progress(progress, "series")
        self.home.settle()  # no slot is touched before it is lasting which one is current
        self._tell(observe, "start", 0)
        if by_workers is not None:
            by_workers(self, lambda: self._tell(observe, "advance", 1))
        else:
            self._run_by_threads(lambda: self._tell(observe, "advance", 1), threads or _Threads())
        self._tell(observe, "end", 0)
        self.home.settle()
        rows = [self._rows[at] for at in range(len(self.jobs))]
        return table(rows, REPORT), {self.jobs[at].label: self._errors[at] for at in sorted(self._errors)}

    def _run_by_threads(self, tell: Callable[[], object], threads: Executor) -> None:
        waiting = collections.deque(range(len(self.jobs)))
        wake = threading.Semaphore(0)
        count = max(1, min(len(self.jobs), _THREADS))
        parts: list[Future[None]] = []
        with contextlib.suppress(RuntimeError):  # the executor was shut down: what is left then is lost
            parts.extend(threads.submit(self._work, waiting, wake) for _ in range(count))
        are_over = False
        try:
            for _ in self.jobs:
                while not wake.acquire(timeout=POLL_S):
                    if are_over:
                        self._note_rest(parts)
                        return
                    are_over = all(part.done() for part in parts)
                tell()
        finally:
            self._stop.set()
            for part in parts:
                part.cancel()
        wait([part for part in parts if not part.cancelled()])

    def _note_rest(self, parts: Sequence[Future[None]]) -> None:
        """Raise the fault of ours that ended a thread; else the executor was shut down, and the rest is lost."""
        for part in parts:
            if not part.cancelled():
                part.result()
        for at in range(len(self.jobs)):
            if at not in self._rows:
                self.note_lost(at, lost_job(CancelledError()))

    def _tell(self, observe: Callable[[Any], object] | None, phase: str, done: int) -> None:
        if observe is not None:
            observe(Progress(phase, f"{len(self.jobs)} series", done, len(self.jobs)))

    def _work(self, waiting: collections.deque[int], done: threading.Semaphore) -> None:
        """Do one job after the other; a series that another writer holds comes after the others."""
        passed = 0
        while not self._stop.is_set():
            try:
                at = waiting.popleft()
            except IndexError:
                return
            if not self.do(at):
                waiting.append(at)
                passed += 1
                if passed >= len(waiting):
                    self._stop.wait(POLL_S)
                    passed = 0
                continue
            passed = 0
            done.release()

    def do(self, at: int) -> bool:
        """Update the series, and note its row. Return False where another writer holds it."""
        job, began = self.jobs[at], time.perf_counter()
        updated, path = Updated(None), None
        with counting_requests() as requests:
            try:
                if job.error is not None or job.named is None:
                    raise job.error or InputError(f"{job.label} is not known")
                entry, document = self._register(job, job.named)
                if not self.home.try_acquire(entry.name):
                    return False
                if not self._is_there(entry):  # it was removed meanwhile: it begins again
                    self.home.release(entry.name)
                    return False
                files = self.home.files(document, entry)
                try:
                    updated = self._update(job, job.named, document, entry)
                except _FAILURES:
                    with contextlib.suppress(*_FAILURES):
                        updated = Updated(files.load())
                        if updated.state is None:
                            self.home.change(lambda found: found.without(entry.series))
                    raise
                finally:
                    self.home.release(entry.name)
                    if updated.state is not None:
                        path = files.path(updated.state)
            except _FAILURES as error:
                self._errors[at] = error
        self._note(at, updated, path, len(requests), time.perf_counter() - began)
        return True

    def _note(self, at: int, updated: Updated, path: Path | str | None, requests: int, seconds: float) -> None:
        piece = NOTHING if updated.state is None else updated.state.piece
        failed = self._errors.get(at)
        said = None if failed is None else f"{type(failed).__name__}: {failed}"
        if failed is None and updated.missing:
            said = f"{updated.missing:,} {IS_PARTIAL}"
        counts = piece.rows, updated.added, updated.revised, updated.gaps, piece.first_ms, piece.last_ms, requests
        self._rows[at] = (*names_of(self.jobs[at].typed, path), *counts, round(seconds, 3), said)

    def note(self, at: int, row: tuple[Any, ...], error: Exception | None) -> None:
        """Note what another process made of the job, as `result` gives it there."""
        self._rows[at] = row
        if error is not None:
            self._errors[at] = error

    def note_lost(self, at: int, error: Exception) -> None:
        """Note that an update was not done, or not to its end; the row shows what is there."""
        self._errors[at] = error
        series, updated, path = self.jobs[at].typed, Updated(None), None
        if isinstance(error, CandleFetcherError):
            complete_error(error, About(series.provider, series.symbol, series.timeframe))
        with contextlib.suppress(*_FAILURES):
            document = self.home.load()
            entry = None if document is None else document.find(series)
            if document is not None and entry is not None:
                files = self.home.files(document, entry)
                state = files.load()
                updated, path = Updated(state), None if state is None else files.path(state)
        self._note(at, updated, path, 0, 0.0)

    def result(self, at: int) -> tuple[tuple[Any, ...], Exception | None]:
        """Return the row and the error of a job that was done."""
        return self._rows[at], self._errors.get(at)

    def _update(self, job: Job, named: Resolved, document: VaultDocument, entry: Entry) -> Updated:
        source = FetcherSource(self._fetcher, named, fetched_columns(document), self._partial)
        now_ms = int(self._fetcher._runtime.clock() * 1000)
        start_ms = self._start_ms(now_ms)
        updated = update_series(
            source,
            self.home.files(document, entry),
            make_rows(self._options, document),
            entry.series,
            entry.start_ms if start_ms is None else start_ms,
            self._wanted.end_ms,
            now_ms,
        )
        if start_ms is not None and start_ms < entry.start_ms:
            self.home.change(lambda found: found.with_start(entry.series, start_ms))
        return updated

    def _start_ms(self, now_ms: int) -> int | None:
        """Return the start that was asked for; None where none was."""
        wanted = self._wanted
        return now_ms - wanted.back_ms if wanted.back_ms is not None else wanted.start_ms

    # -- vault.json ---------------------------------------------------------------------------------------------------

    def _register(self, job: Job, named: Resolved) -> tuple[Entry, VaultDocument]:
        """Return the series as vault.json has it, and what that says; a new series is written into it first."""
        origin = named.stored.origin
        document = self.home.load()
        entry = None if document is None else document.find(named.series)
        if document is not None:
            self._check_origin(document, named.series, origin)
        if document is not None and entry is not None:
            return entry, document
        start_ms = self._start_ms(int(self._fetcher._runtime.clock() * 1000))
        if start_ms is None:
            raise InputError(
                f"{label_of(named.series)} is not in the vault yet and start is missing; give one, such as "
                "start='2024-01-01', or 'first' for all there is"
            )

        def with_series(found: VaultDocument) -> VaultDocument:
            self._check_origin(found, named.series, origin)
            return found if found.find(named.series) else found.with_series(named.series, start_ms, origin)

        document = self.home.change(with_series)
        entry = document.find(named.series)
        assert entry is not None
        return entry, document

    def _is_there(self, entry: Entry) -> bool:
        document = self.home.load()
        return document is not None and document.find(entry.series) is not None

    def _check_origin(self, document: VaultDocument, series: SeriesId, origin: str | None) -> None:
        origins = dict(document.origins)
        if series.provider in origins and origins[series.provider] != origin:
            was, is_now = (one or "the provider's own hosts" for one in (origins[series.provider], origin))
            raise InputError(
                f"the vault in {self.home} has candles of {series.provider} from {was}, and these are from "
                f"{is_now}; use another vault for them"
            )

    def remove(self, entry: Entry) -> None:
        """Remove the series, once no writer holds it: first its files, then from the document, so that a removal
        that was cut can be done again."""
        with self.home.hold(entry.name):
            document = self.home.load()
            if document is not None:
                self.home.files(document, entry).remove()
            self.home.change(lambda found: found.without(entry.series))


class _Threads(Executor):
    """A daemon thread for each part; a program that is interrupted does not wait for them."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
                    future.set_exception(error)

        threading.Thread(target=work, name="candle-vault", daemon=True).start()
        return future


def label_of(series: SeriesId) -> str:
    """Return the series as messages show it."""
    return series.label
