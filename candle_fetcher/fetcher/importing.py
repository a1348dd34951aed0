"""Files that people have, into the cache: read to the end and checked, then laid into what is stored of the series."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from candle_fetcher.cache import LOOK, CandleCache, Imported
from candle_fetcher.core.candles import (
    COLUMNS,
    INTEGERS,
    MISSING,
    OHLCV,
    Candles,
    check,
    have_prices,
    in_order,
    iso,
    join,
    no_candles,
    widen,
)
from candle_fetcher.core.coverage import fill
from candle_fetcher.core.csv import MARKS, read_rows
from candle_fetcher.core.decimals import CSV_PIECE_BYTES
from candle_fetcher.core.entry import Entry, HoleState
from candle_fetcher.core.errors import BadFile, CacheError, InputError, ReplyError, shown
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.facts import News, Unverified
from candle_fetcher.core.files import File
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.frame import MANIFEST, Manifest, frame_of
from candle_fetcher.core.merging import Merged
from candle_fetcher.core.naming import text_of
from candle_fetcher.core.plan import chunk_of, chunk_span, chunks_of
from candle_fetcher.core.revisions import find_revisions
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.core.timeframe import DAY_MS, SECOND_MS, Timeframe, parse_timeframe
from candle_fetcher.exports import find_home, manifest_path, read_manifest
from candle_fetcher.fetcher.adjusting import note_import
from candle_fetcher.providers import Provider, all_providers
from candle_fetcher.providers import files as forms
from candle_fetcher.providers.files import OF_ARCHIVE, OF_KRAKEN, OURS, Told

_ALL_TIME = Span(0, 253_402_300_800_000)
_HEAD_BYTES = 4_096
# Chunks that are stored at once.
_BATCH = 32
# More chunks than any file has rows in: what covers so many is most likely of another timeframe.
_MOST_CHUNKS = 200_000
# So many rows on a coarser grid are no accident.
_SURE_ROWS = 12
_MOST_STEPS = 1_000


class Chosen(NamedTuple):
    """The series that a file is for, and how its rows come: in blocks, from the beginning each time. `spans` are those
    of which it holds all candles, None where it tells nothing of what lies before its first row and after its last."""

    path: Path
    provider: Provider
    series: Series
    symbol: str
    blocks: Callable[[], Iterator[Candles]]
    spans: tuple[Span, ...] | None = None
    verified: bool | None = None
    archive_path: str = ""
    are_holes_facts: bool = False

    @property
    def settling(self) -> Settling:
        return self.provider.feed(self.series.kind).settling(self.series)

    def settled(self, block: Candles, now_ms: int) -> Candles:
        """The candles of the block that the provider made and that are final: none that was invented, or that was
        still forming when the file was written."""
        for name, value in (("is_synthetic", 0.0), ("is_closed", 1.0)):
            if name in block.names:
                block = Candles(block.names, block.block[:, block.floats(name) == value])
        return self.settling.settled(block, now_ms)


def import_file(
    cache: CandleCache,
    path: Path,
    symbol: str | None,
    timeframe: str | None,
    kind: str | None,
    *,
    provider: Provider | None,
    usual: Provider,
    find: Callable[[str], Provider],
    series_of: Callable[[Provider, str, str, str], tuple[Series, str, Timeframe]],
    now_ms: int,
) -> Imported:
    """Imports a file; see `CandleCache.import_file`. `provider` is the one that was named, `usual` that of calls that
    name none, `find` the one of an id, `series_of` the series, symbol and timeframe of what a file is of."""
    try:
        head = _read_head(path)
        form = forms.find_form(head)
        known = all_providers()
        if provider is not None and provider.name not in known:
            known[provider.name] = provider
        told = forms.read_name(form, path.absolute().parts, known)
        beside = read_manifest(path) if form == OURS else None
        if beside is not None:
            told = _obey(told, beside, known)
        found = _find_provider(form, told, provider, usual, find)
        chosen = _choose(path, form, told, head, found, (symbol, timeframe, kind), series_of)
        if form == OURS:
            chosen = chosen._replace(series=_series_of_file(chosen, told, known, beside))
        seen = _look(chosen, now_ms)
        _check_grid(chosen, seen)
        done = _store(cache, chosen, seen, now_ms)
        own = {one.name for one in chosen.provider.settings}
        if set(dict(chosen.series.settings)) - own:
            note_import(cache, chosen.series, own)
        return done
    except (ReplyError, BadFile) as error:
        raise BadFile(f"{path.name} is not whole: {error.args[0]}") from error
    except InputError as error:
        if type(error) is not InputError:
            raise
        raise InputError(f"{path.name} cannot be imported: {error.args[0]}") from error


def read_frame(path: object) -> pd.DataFrame:
    """Read a CSV that `export` wrote; see `candle_fetcher.read_csv`."""
    file = find_home(path, "the name of a CSV that export wrote")
    try:
        head = _read_head(file)
        if forms.find_form(head) != OURS:
            raise InputError(f"it is not {OURS}; expected one, which begins with timestamp,")
        names = head.removeprefix(b"\xef\xbb\xbf").splitlines()[0].decode("utf-8", "replace").split(",")[1:]
        blocks = list(_in_order(read_rows(_pieces(file), None)))
        beside = read_manifest(file)
    except (ReplyError, BadFile) as error:
        raise BadFile(f"{file.name} is not whole: {error.args[0]}") from error
    except InputError as error:
        raise InputError(f"{file.name} cannot be read: {error.args[0]}") from error
    candles = join(blocks) if blocks else no_candles(in_order(("open_time", *names)))
    frame = frame_of(candles, names)
    for name in MARKS:
        if name in frame:
            frame[name] = frame[name] == 1
    if beside is not None:
        frame.attrs[MANIFEST] = Manifest(beside)
    return frame


# -- what it is ---------------------------------------------------------------------------------------------------


def _read_head(path: Path) -> bytes:
    """The beginning of the file. Raises BadFile for text whose last line has no end."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if not head:
            raise BadFile("there is nothing in it")
        if not head.startswith(b"PK"):
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                raise BadFile("its last line has no end, so that it was cut")
    return head


def _obey(told: Told, beside: Mapping[str, Any], known: Mapping[str, Provider]) -> Told:
    """What the manifest beside the file says. Raises InputError where the file's name says something else."""
    texts = [beside[name] for name in ("provider", "symbol", "timeframe", "kind")]
    settings = beside.get("settings", {})
    if not isinstance(settings, dict) or not all(isinstance(text, str) for text in (*texts, *settings.values())):
        raise InputError("the manifest beside it does not say what it is of; move it away")
    owner, symbol, timeframe, kind = texts
    if owner not in known:
        raise InputError(f"the manifest beside it says provider {shown(owner)}, which is not known here")
    if told.symbol is not None:
        named = {one.name for one in known[owner].settings}
        chosen = {name: value for name, value in settings.items() if name in named}
        names = told.provider, told.kind, told.timeframe, told.symbol.removesuffix("_"), dict(told.settings or ())
        facts = owner, kind, timeframe, text_of(symbol).removesuffix("_"), chosen
        for name, fact in zip(names, facts, strict=True):
            if name != fact:
                raise InputError(f"its name says {name}, and the manifest beside it {fact}; they must agree")
    return Told(owner, symbol, timeframe, kind, settings=tuple(settings.items()))


def _series_of_file(
    chosen: Chosen, told: Told, known: Mapping[str, Provider], beside: Mapping[str, Any] | None
) -> Series:
    """The series that name and manifest say, whatever settings the fetcher has. Raises InputError where it is none."""
    series = chosen.series
    if beside is not None and beside["origin"] != series.origin:
        hosts = [shown(url) if url else "the provider's own host" for url in (beside["origin"], series.origin)]
        raise InputError(
            f"its candles are of {hosts[0]}, by the manifest beside it, and this CandleFetcher asks {hosts[1]}; "
            "expected a CandleFetcher with the same base_urls"
        )
    if told.settings is None:  # its name does not say what it is: it is what the arguments and the fetcher say
        return series
    provider = known[series.provider]
    said = dict(told.settings)
    settings = []
    for setting in (one for one in provider.settings if one.is_of_series):
        value = said.pop(setting.name, setting.allowed[0])
        if value not in setting.allowed:
            raise InputError(f"it says {setting.name}={shown(value)}; expected one of {', '.join(setting.allowed)}")
        settings.append((setting.name, value))
    series = series._replace(settings=(*settings, *said.items()))
    restates = bool(settings) and provider.feed(series.kind).restates(series)
    if said and not restates:
        raise InputError(f"it says {next(iter(said))}, and {provider.name} has no such setting of a series")
    if restates and not said:
        raise InputError(
            "its prices are adjusted as of some day, and change as a whole later; expected the manifest beside it "
            f"({manifest_path(chosen.path).name}), which says the day"
        )
    return series


def _find_provider(
    form: str, told: Told, given: Provider | None, usual: Provider, find: Callable[[str], Provider]
) -> Provider:
    """The provider whose candles they are, as far as name, argument and form agree on one."""
    if told.provider is not None:
        if given is not None and given.name != told.provider:
            raise InputError(f"it is of {told.provider}, and provider={given.name!r} was given; give one of them")
        return given or find(told.provider)
    found = given or usual
    if form == OF_ARCHIVE and not forms.is_of_archive(found):
        raise InputError(f"it is {OF_ARCHIVE}, which {found.name} has none of; give the provider, such as 'binance-um'")
    return found


def _choose(
    path: Path,
    form: str,
    told: Told,
    head: bytes,
    provider: Provider,
    given: tuple[str | None, str | None, str | None],
    series_of: Callable[[Provider, str, str, str], tuple[Series, str, Timeframe]],
) -> Chosen:
    """The series, as name and arguments agree on one, and how to read the rows."""
    symbol, timeframe, kind = given
    if kind is not None and told.kind is not None and kind != told.kind:
        raise InputError(f"it is of {told.kind!r} candles, and kind={kind!r} was given; give one of them")
    kind = kind or told.kind or "candles"
    named = None if told.timeframe is None else parse_timeframe(told.timeframe)
    if None not in (timeframe, named) and parse_timeframe(timeframe or "") != named:
        raise InputError(f"it is of {named}, and timeframe={timeframe!r} was given; give one of them")
    timeframe = timeframe or told.timeframe
    if timeframe is None or (symbol is None and told.symbol is None):
        what = "timeframe" if timeframe is None else "symbol"
        raise InputError(f"its name does not say which {what} it is of; give the {what}")
    if symbol is None:
        assert told.symbol is not None
        symbol = forms.find_symbol(form, told.symbol, provider, kind)
    elif told.symbol is not None and not _is_named(form, told.symbol, symbol, provider, kind):
        raise InputError(f"it is of {told.symbol}, and symbol={symbol!r} was given; give one of them")
    series, name, wanted = series_of(provider, symbol, timeframe, kind)
    if series.timeframe != wanted:
        raise InputError(
            f"candles of {wanted} are made of those of {series.timeframe} at {provider.name}; import these instead"
        )
    chosen = Chosen(path, provider, series, name, lambda: iter(()))
    if form != OF_ARCHIVE:
        columns = provider.feed(kind).columns
        if have_prices(columns):  # what others have of a candle is left out
            columns = in_order((*columns, *COLUMNS))
        read = forms.read_kraken if form == OF_KRAKEN else partial(read_rows, columns=(*columns, *MARKS))
        return chosen._replace(blocks=lambda: _in_order(read(_pieces(path))), are_holes_facts=form == OF_KRAKEN)
    return _open_archive(chosen, told, head)


def _is_named(form: str, told: str, symbol: str, provider: Provider, kind: str) -> bool:
    """Whether the name's symbol is the one that was given."""
    own = provider.provider_symbol(symbol, kind)
    if form == OURS:
        named = text_of(told).removesuffix("_")
        return named in {text_of(one) for one in (symbol.upper(), own, provider.unified(own))}
    return provider.provider_symbol(told, kind) == own


def _open_archive(chosen: Chosen, told: Told, head: bytes) -> Chosen:
    """A file of the archive, read as a fetch would: whole, sorted, and without what is known to be wrong in it."""
    path, series = chosen.path, chosen.series
    archive, span = chosen.provider.archive, told.span
    assert archive is not None and span is not None  # noqa: PT018 - of this form
    stem = path.name.rpartition(".")[0]
    monthly = span.end_ms - span.start_ms > DAY_MS
    file = archive.find_file(series, span.start_ms, monthly=monthly)
    if file is None or file.path.rpartition("/")[2] != f"{stem}.zip" or file.span != span:
        file = File(f"/{stem}.zip", span)
    data = path.read_bytes()
    verified = False
    if head.startswith(b"PK"):
        expected = _read_checksum(chosen)
        if expected is not None and hashlib.sha256(data).hexdigest() != expected:
            raise BadFile("its bytes are not those of its checksum")
        verified = expected is not None
        candles = archive.read_file(data, file._replace(path=f"/{stem}.zip"), series)
        head = forms.head_of(data)
    else:
        candles = forms.read_archive_csv(data, file, series)
    forms.check_market(chosen.provider, series.symbol, series.kind, head, candles)
    spans = subtract(_known(candles, series.timeframe, span), file.disputed)
    return chosen._replace(
        blocks=lambda: iter([candles]), spans=tuple(spans), verified=verified, archive_path=file.path
    )


def _known(candles: Candles, timeframe: Timeframe, span: Span) -> Span:
    """What the file has the last word of: a candle longer than a day may end after the file was made."""
    if timeframe.nominal_ms <= DAY_MS:
        return span
    for open_ms in candles.open_ms[::-1].tolist():
        if timeframe.close_ms(open_ms) <= span.end_ms:
            break
        span = span.before(timeframe.floor_ms(open_ms))
    return span


def _read_checksum(chosen: Chosen) -> str | None:
    """The SHA-256 beside the zip; None where there is none."""
    beside = chosen.path.with_name(f"{chosen.path.name}.CHECKSUM")
    if not beside.is_file():
        return None
    with beside.open("rb") as file:
        text = file.read(_HEAD_BYTES)
    assert chosen.provider.archive is not None
    return chosen.provider.archive.find_checksum(text, chosen.path.name)


# -- its rows -----------------------------------------------------------------------------------------------------


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CSV_PIECE_BYTES):
            yield piece


def _in_order(blocks: Iterable[Candles]) -> Iterator[Candles]:
    """The blocks, checked like any reply, each against the last candle of the one before."""
    last: Candles | None = None
    for block in blocks:
        if not block.count:
            continue
        whole = block if last is None else join([last, block])
        checked = check(whole.pick(("open_time", *OHLCV)) if have_prices(whole.names) else whole, _ALL_TIME)
        if checked.count < whole.count:
            twins = np.flatnonzero(np.diff(whole.open_ms) == 0) + 1
            differing = (whole.block[:, twins] != whole.block[:, twins - 1]).any(axis=0)
            if differing.any():
                at = iso(int(whole.open_ms[twins[int(np.argmax(differing))]]))
                raise ReplyError(f"there are two candles of {at}, which are not the same")
            whole = Candles(whole.names, np.delete(whole.block, twins, axis=1))
        yield whole if last is None else Candles(whole.names, whole.block[:, 1:])
        last = Candles(whole.names, whole.block[:, -1:])


@dataclass
class Seen:
    """What a look through the whole file tells: its settled candles, and the distances between all of them."""

    count: int = 0
    unsettled: int = 0
    first_ms: int = 0
    last_ms: int = 0
    columns: set[str] = field(default_factory=set)
    steps: Counter[int] = field(default_factory=Counter)
    slots: int = 0  # the greatest number of slots that all distances are multiples of


def _look(chosen: Chosen, now_ms: int) -> Seen:
    """Reads the file to its end. Raises what reading and checking it raise."""
    timeframe, seen = chosen.series.timeframe, Seen()
    last_ms: int | None = None
    for block in chosen.blocks():
        opens = block.open_ms if last_ms is None else np.concatenate(([last_ms], block.open_ms))
        last_ms = int(opens[-1])
        steps, counts = np.unique(np.diff(opens), return_counts=True)
        seen.steps.update(dict(zip(steps.tolist(), counts.tolist(), strict=True)))
        if len(seen.steps) > _MOST_STEPS:
            seen.steps = Counter(dict(seen.steps.most_common(_MOST_STEPS // 2)))
        seen.slots = math.gcd(seen.slots, int(np.gcd.reduce(np.diff(timeframe.ordinals(opens)), initial=0)))
        settled = chosen.settled(block, now_ms)
        seen.unsettled += block.count - settled.count
        if settled.count:
            seen.first_ms = seen.first_ms if seen.count else int(settled.open_ms[0])
            seen.last_ms = int(settled.open_ms[-1])
            seen.count += settled.count
            seen.columns |= {name for name in settled.names if _has_any(settled, name)}
    if not seen.count and seen.unsettled:
        raise InputError(
            f"all its candles lie in the future of this machine's clock, {iso(now_ms)}, form still, or are invented"
        )
    return seen


def _has_any(candles: Candles, name: str) -> bool:
    if name in INTEGERS:
        return bool((candles.integers(name) != MISSING).any())
    return not np.isnan(candles.floats(name)).all()


def _check_grid(chosen: Chosen, seen: Seen) -> None:
    """Raises InputError where the distances of the rows are those of another timeframe."""
    timeframe = chosen.series.timeframe
    if not seen.steps:
        return
    usual_ms = seen.steps.most_common(1)[0][0]
    shortest_ms = timeframe.step_ms or timeframe.count * 28 * DAY_MS
    if usual_ms < shortest_ms:
        raise InputError(
            f"its rows are mostly {_length(usual_ms)} apart, closer than candles of {timeframe}; give their timeframe"
        )
    if seen.slots > 1 and seen.count >= _SURE_ROWS:
        raise InputError(
            f"all its rows lie {seen.slots} or more slots of {timeframe} apart, mostly {_length(usual_ms)}; "
            "give their timeframe"
        )
    slots = timeframe.ordinal(seen.last_ms) - timeframe.ordinal(seen.first_ms)
    if slots > _MOST_CHUNKS * 1_000:
        raise InputError(f"its rows reach over {slots:,} slots of {timeframe}; give their timeframe")


def _length(ms: int) -> str:
    """The distance as a timeframe has it, where there is one."""
    if ms % SECOND_MS:
        return f"{ms / SECOND_MS:g} s"
    if 27 * DAY_MS < ms < 32 * DAY_MS:
        return "1M"
    seconds = ms // SECOND_MS
    return parse_timeframe(f"{seconds}s").name if 0 < seconds < 100_000 else f"{seconds / 86_400:g}d"


# -- into the cache -----------------------------------------------------------------------------------------------


@dataclass
class _Tally:
    """What has become of the rows so far."""

    rows: int = 0
    added: int = 0
    differing: int = 0
    ignored: int = 0
    chunks: int = 0
    first_ms: int = FOREVER_MS
    last_ms: int = -FOREVER_MS


def _store(cache: CandleCache, chosen: Chosen, seen: Seen, now_ms: int) -> Imported:
    """Lays the rows into the stored chunks, some chunks at a time."""
    series, timeframe = chosen.series, chosen.series.timeframe
    columns = chosen.provider.feed(series.kind).columns
    names = tuple(name for name in columns if name in seen.columns)
    spans = _spans(chosen, seen, now_ms)
    tally = _Tally()
    if seen.count and spans:
        cache.contradict(series, _slots(seen, timeframe))
        try:
            _lay_all_in(cache, chosen, _by_chunk(chosen, spans, names, now_ms), tally, now_ms)
        finally:
            cache.drop_frames(series)
        cache.learn(series, News(filled=spans), now_ms)
    return Imported(
        path=str(chosen.path),
        provider=series.provider,
        symbol=chosen.symbol,
        timeframe=timeframe.name,
        kind=series.kind,
        rows=tally.rows,
        added=tally.added,
        differing=tally.differing,
        ignored=seen.count + seen.unsettled - tally.rows,
        chunks=tally.chunks,
        first=iso(tally.first_ms) if tally.rows else None,
        last=iso(tally.last_ms) if tally.rows else None,
        lacking=tuple(name for name in columns if name not in names),
        verified=chosen.verified,
    )


def _spans(chosen: Chosen, seen: Seen, now_ms: int) -> list[Span]:
    """What the file answers for, as far as it has settled; of the time after its last row, as far as no row can be
    late."""
    if not seen.count:
        return []
    slots = _slots(seen, chosen.series.timeframe)
    if chosen.spans is None:
        return [slots]
    known = Span(0, max(slots.end_ms, chosen.settling.known_ms(now_ms)))
    return [part for span in chosen.spans if (part := span.clip(known))]


def _slots(seen: Seen, timeframe: Timeframe) -> Span:
    """From the slot of the first row to the end of that of the last one."""
    first, last = timeframe.ordinal(seen.first_ms), timeframe.ordinal(seen.last_ms)
    return timeframe.span(first, last + 1)


def _by_chunk(
    chosen: Chosen, spans: Sequence[Span], names: Sequence[str], now_ms: int
) -> Iterator[tuple[int, Span, Candles]]:
    """The settled candles chunk by chunk, each with the part of a span that it lies in; chunks without one too."""
    timeframe = chosen.series.timeframe
    todo = iter([(chunk, part) for span in spans for chunk, part in _cut(timeframe, span)])
    current = next(todo, None)
    rest: Candles | None = None
    for block in chosen.blocks():
        settled = chosen.settled(block, now_ms).pick(names)
        rest = settled if rest is None else join([rest, settled])
        reached = chunk_of(timeframe, int(rest.open_ms[-1])) if rest.count else 0
        while current is not None and rest.count and current[0] < reached:
            yield current[0], current[1], rest.trim(current[1])
            current = next(todo, None)
        rest = rest.trim(Span(current[1].start_ms, _ALL_TIME.end_ms)) if current is not None else rest
    while current is not None and rest is not None:
        yield current[0], current[1], rest.trim(current[1])
        current = next(todo, None)


def _cut(timeframe: Timeframe, span: Span) -> Iterator[tuple[int, Span]]:
    for chunk in chunks_of(timeframe, span):
        yield chunk, chunk_span(timeframe, chunk).clip(span)


def _lay_all_in(
    cache: CandleCache, chosen: Chosen, pieces: Iterable[tuple[int, Span, Candles]], tally: _Tally, now_ms: int
) -> None:
    batch: dict[int, list[tuple[Span, Candles]]] = {}
    for chunk, span, candles in pieces:
        if chunk not in batch and len(batch) >= _BATCH:
            _lay_in(cache, chosen, batch, tally, now_ms)
            batch = {}
        batch.setdefault(chunk, []).append((span, candles))
    _lay_in(cache, chosen, batch, tally, now_ms)


def _lay_in(
    cache: CandleCache, chosen: Chosen, batch: dict[int, list[tuple[Span, Candles]]], tally: _Tally, now_ms: int
) -> None:
    """Lays the rows into the chunks. Raises CacheError where the disk does not take them."""
    series = chosen.series
    feed = chosen.provider.feed(series.kind)

    def change(stored: dict[int, Entry]) -> dict[int, Merged]:
        merged: dict[int, Merged] = {}
        revisions = []
        for chunk, pieces in batch.items():
            entry = stored.get(chunk)
            filled: list[Span] = []
            for span, candles in pieces:
                if entry is not None:
                    found = find_revisions(entry, Entry(span, now_ms, (), candles))
                    revisions += found
                    tally.differing += len({revision.open_ms for revision in found})
                before = 0 if entry is None else entry.candles.count
                made = fill(
                    entry,
                    span,
                    widen(candles, feed.columns),
                    timeframe=series.timeframe,
                    now_ms=now_ms,
                    state=None if chosen.are_holes_facts or not feed.quiet_rows else HoleState.DUE,
                )
                both = 0 if entry is None else np.isin(candles.open_ms, entry.candles.open_ms).sum()
                entry = made.entry
                tally.added += entry.candles.count - before
                tally.rows += entry.candles.count - before + int(both)
                if candles.count:
                    tally.first_ms = min(tally.first_ms, int(candles.open_ms[0]))
                    tally.last_ms = max(tally.last_ms, int(candles.open_ms[-1]))
                filled += made.spans
            if entry is not None:
                merged[chunk] = Merged(entry, tuple(merge(filled)))
        cache.note(series, revisions, once=True)
        if chosen.verified is False:  # they are stored with the note or not at all
            spans = merge(span for one in merged.values() for span in one.replaced)
            unverified = [Unverified(span, chosen.archive_path) for span in spans]
            cache.learn(series, News(unverified=unverified), now_ms)
        return merged

    chunks = sorted(batch)
    cache.open_shelves(series, chunks)
    if not cache.rewrite(series, chunks, change):
        problem = cache.problem or "the disk did not take what was to be stored"
        raise CacheError(f"{chosen.path.name} was not imported whole: {shown(problem)}")
    cache.close_shelves(series, dict.fromkeys(chunks, LOOK))
    tally.chunks += len(chunks)
