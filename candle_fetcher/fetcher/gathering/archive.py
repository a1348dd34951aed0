"""The archive's files in a gathering: which to read, and what they bring of each chunk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import itemgetter

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.candles import Candles, find_holes
from candle_fetcher.core.entry import Entry, Hole, HoleState
from candle_fetcher.core.errors import AccessDenied, SourceError
from candle_fetcher.core.facts import News
from candle_fetcher.core.files import DEFAULT_LAGS, File, choose_files
from candle_fetcher.core.plan import Ask, Plan, chunk_span, chunks_of, find_unconfirmed, make_plan
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.fetcher.gathering.state import Gathering, Provenance
from candle_fetcher.fetcher.policy import ARCHIVE, FetchPolicy
from candle_fetcher.fetcher.request import Request
from candle_fetcher.sources import FileRead

_NOT_ASKED = HoleState.DUE, HoleState.UNASKED  # holes about which REST was not asked


def choose_files_for(
    request: Request,
    cache: CandleCache,
    span: Span,
    now_ms: int,
    policy: FetchPolicy,
    tried: Collection[str] = (),
    *,
    forced: bool = False,
    asks_holes: bool = False,
) -> Callable[[Sequence[Ask]], list[File]]:
    """Return the function that chooses the archive's files to read for Asks: where they cost less than REST, or at any
    cost if no other source may be asked, or it is `forced`.

    `tried` are paths of files that are not read again. A confirmed hole is for REST alone, unless `asks_holes`.
    """
    archive, series = request.archive, request.series
    forced = forced or policy.is_archive_only

    def choose(asks: Sequence[Ask]) -> list[File]:
        if archive is None or not policy.allows(ARCHIVE) or not asks:
            return []
        facts = cache.facts.get(series)
        return choose_files(
            [ask.span.clip(span) if forced else ask.span for ask in asks if asks_holes or not ask.again],
            series.timeframe,
            lambda ms, monthly: archive.archive.find_file(series, ms, monthly=monthly),
            now_ms=now_ms,
            rows_per_call=request.feed.limit,
            is_absent=lambda path: path in tried or facts.is_absent(path, now_ms),
            read_lags=lambda: cache.facts.lags(series),
            forced=forced,
        )

    return choose


class ArchiveFiles:
    """The files that are read in one gathering: what they bring, by chunk, and what became of the others."""

    def __init__(self, gathering: Gathering) -> None:
        self._gathering = gathering
        self._pieces: dict[int, list[tuple[Span, Candles]]] = {}  # by chunk
        self._published: list[tuple[File, int]] = []
        self._absent: list[File] = []
        self._carried: dict[File, FileRead] = {}  # files that reach beyond the span: the call's next part needs them
        self.unread: list[tuple[File, SourceError]] = []
        self.rejected: list[str] = []
        self.unverified: list[File] = []
        self._ends_ms: list[int] = []  # of the files that were read

    @property
    def read_until_ms(self) -> int:
        """Where the newest file that was read ends; 0 where none was."""
        return max(self._ends_ms, default=0)

    def plan(
        self,
        lacking: dict[int, list[Ask]],
        tried: Collection[str] = (),
        *,
        forced: bool = False,
        asks_holes: bool = False,
    ) -> Plan:
        """Return the plan for what the chunks lack; see `choose_files_for`."""
        gathering = self._gathering
        choose = choose_files_for(
            gathering.request,
            gathering.cache,
            gathering.span,
            gathering.now_ms,
            gathering.policy,
            tried,
            forced=forced,
            asks_holes=asks_holes,
        )
        return make_plan(lacking, choose, timeframe=gathering.timeframe, rows_per_call=gathering.feed.limit)

    def is_useful(self, file: File, chunks: Sequence[int]) -> bool:
        """Return whether the file still brings something that the chunks lack: another thread may have stored it."""
        gathering = self._gathering
        lacking = gathering.missing(chunks)
        if not any(ask.span.clip(file.span) for asks in lacking.values() for ask in asks):
            return False
        return gathering.forces_files or file in self.plan(lacking).files

    def read(self, file: File) -> None:
        """Read the file, and keep its candles for the chunks that they belong to."""
        gathering = self._gathering
        archive, series, scope = gathering.archive, gathering.series, gathering.scope
        assert archive is not None
        try:
            read = scope.kept.get(file) or archive.read(series, file, scope, gathering.resources.pools.files)
        except SourceError as error:
            if isinstance(error, AccessDenied) and gathering.policy.is_archive_only:
                raise
            self.unread.append((file, error))  # REST is asked instead
            return
        if file.span.end_ms > gathering.span.end_ms:
            self._carried[file] = read
        if read.trouble == "absent":
            self._absent.append(file)
        elif read.error is not None:
            self.rejected.append(file.path)
            self.unread.append((file, read.error))
        if read.candles is not None:
            self._take(file, read, read.candles)

    def _take(self, file: File, read: FileRead, candles: Candles) -> None:
        gathering = self._gathering
        self._ends_ms.append(file.span.end_ms)
        if not read.verified:
            self.unverified.append(file)
        if read.published_ms is not None:
            self._published.append((file, read.published_ms))
        whole = file.span
        if read.published_ms is not None and read.published_ms >= file.span.end_ms:
            # The last candle of a month may end after it, and after the file was made.
            settled = gathering.settling.settled(candles, read.published_ms)
            if settled.count < candles.count:
                first_ms = int(candles.open_ms[settled.count])
                whole = Span(whole.start_ms, gathering.timeframe.floor_ms(first_ms))
            candles = settled
        for chunk in chunks_of(gathering.timeframe, whole):
            for span in subtract(chunk_span(gathering.timeframe, chunk).clip(whole), file.disputed):
                self._pieces.setdefault(chunk, []).append((span, candles.trim(span)))

    def drop(self, chunk: int) -> None:
        """Free what files brought of the chunk, once its entry holds it."""
        self._pieces.pop(chunk, None)

    def fill(self, chunk: int, entry: Entry | None) -> tuple[Entry | None, list[Provenance]]:
        """Return the chunk's entry with what files brought of the rest of it, and the spans that they filled.

        Holes in what they brought are due at once: REST decides about them.
        """
        pieces = self._pieces.get(chunk)
        if not pieces:
            return entry, []
        facts, now_ms = self._gathering.facts, self._gathering.now_ms
        inner = [
            (part, candles)
            for span, candles in sorted(pieces, key=itemgetter(0))
            if (part := facts.bounds(span, now_ms))
        ]
        entry, filled = self._fill_holes(entry, inner)
        if entry is None and inner:
            # An entry covers one span: that run of files which has most of what is wanted.
            runs = merge(span for span, _ in inner)
            best = max(runs, key=self._wanted_ms)
            inner = [piece for piece in inner if best.holds(piece[0])]
        return self._extend(entry, inner, filled)

    def _extend(
        self, entry: Entry | None, inner: list[tuple[Span, Candles]], filled: list[Provenance]
    ) -> tuple[Entry | None, list[Provenance]]:
        """Add to the entry the pieces that touch it, one after the other."""
        from_ms = None if entry is None else find_unconfirmed(entry, self._gathering.settling)
        while True:
            covered = None if entry is None else entry.covered
            # What does not touch it is left out.
            at = next((at for at, (span, _) in enumerate(inner) if covered is None or span.touches(covered)), None)
            if at is None:
                return entry, filled
            span, candles = inner.pop(at)
            if covered is not None and from_ms is not None and span.end_ms > covered.end_ms:
                covered = Span(covered.start_ms, from_ms)  # what was read soon after its close is read once more
            for part in [span] if covered is None else subtract(span, [covered]):
                entry = self._add(entry, part, candles)
                filled.append(Provenance(part, "archive"))

    def _wanted_ms(self, run: Span) -> int:
        wanted = run.clip(self._gathering.span)
        return wanted.end_ms - wanted.start_ms

    def _fill_holes(
        self, entry: Entry | None, pieces: Sequence[tuple[Span, Candles]]
    ) -> tuple[Entry | None, list[Provenance]]:
        """Fill those holes of the entry about which REST was not asked."""
        filled: list[Provenance] = []
        holes: list[Hole] = [] if entry is None else [hole for hole in entry.holes if hole.state in _NOT_ASKED]
        for hole in holes:
            for span, candles in pieces:
                part = span.clip(hole.span)
                # A day's file may have what the month's file lacked.
                if part and (hole.state is HoleState.UNASKED or candles.trim(part).count):
                    entry = self._add(entry, part, candles)
                    filled.append(Provenance(part, "archive"))
        return entry, filled

    def _add(self, entry: Entry | None, span: Span, candles: Candles) -> Entry | None:
        gathering, found = self._gathering, candles.trim(span)
        holes = find_holes(found.open_ms, gathering.timeframe, span)
        return gathering.absorb(entry, span, found, holes, state=HoleState.DUE)

    def error_of(self, span: Span) -> SourceError | None:
        """Return why the files of the span could not be read; None where there is no such error."""
        return next((error for file, error in self.unread if file.span.clip(span)), None)

    def end(self) -> None:
        """Store which files are absent and how late files come; leave those that reach beyond the span to the call."""
        gathering, cache, series = self._gathering, self._gathering.cache, self._gathering.series
        carried = {
            file: read for file, read in gathering.scope.kept.items() if file.span.end_ms > gathering.span.end_ms
        }
        gathering.scope.kept = {**carried, **self._carried}
        if self._absent:
            gathering.learn(News(absent=self._absent))
        lags = cache.facts.lags(series) if self._absent or self._published else DEFAULT_LAGS
        learned = lags
        for file, published_ms in sorted(self._published, key=lambda one: one[0].span):
            learned = learned.found(file, published_ms)
        for file in self._absent:
            learned = learned.missed(file, gathering.now_ms)
        if learned != lags:
            cache.facts.save_lags(series, learned)
