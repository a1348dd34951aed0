"""Imports files of candles into the cache. Name, manifest, format and arguments say which series a file belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.actions import Known
from candle_fetcher.core.candles import COLUMNS, Candles, have_prices, in_order
from candle_fetcher.core.errors import BadFile, InputError, shown
from candle_fetcher.core.events import Event
from candle_fetcher.core.files import File
from candle_fetcher.core.missing import read_missing
from candle_fetcher.core.naming import PARTIAL, text_of
from candle_fetcher.core.reports import Imported
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, subtract
from candle_fetcher.core.text.csv import FLAG_COLUMNS, read_rows
from candle_fetcher.core.text.rows import CSV_PIECE_BYTES
from candle_fetcher.core.timeframe import DAY_MS, Timeframe, parse_timeframe
from candle_fetcher.files import formats
from candle_fetcher.files.formats import OF_ARCHIVE, OF_KRAKEN, OURS, FileLabel
from candle_fetcher.files.import_rows import ImportJob, store_rows
from candle_fetcher.files.places import find_home, manifest_path, read_manifest
from candle_fetcher.files.reading import HEAD_BYTES, check_exact, checked_blocks, naming_file, read_head, read_pieces
from candle_fetcher.providers import Provider, all_providers
from candle_fetcher.providers.binance_archive import ARCHIVE, read_csv
from candle_fetcher.providers.series import read_series


class Fetcher(Protocol):
    """What work on files needs of the fetcher that owns the cache."""

    def observe(self, event: Event) -> None:
        """Receive an event."""

    def find(self, provider: str | Provider | None) -> Provider:
        """Return the provider with that id, with the settings of the fetcher; for None, the fetcher's own provider."""

    def origin(self, provider: Provider) -> str | None:
        """Return the root URL that is a part of the series' keys; None for the provider's own hosts."""


def import_file(
    cache: CandleCache,
    fetcher: Fetcher,
    path: object,
    now_ms: int,
    *,
    symbol: str | None,
    timeframe: str | None,
    provider: str | Provider | None,
    kind: str | None,
) -> Imported:
    """Import a file into the cache; see `CandleCache.import_file`."""
    path = find_home(path, "the name of a file")
    for name, text in (("symbol", symbol), ("timeframe", timeframe), ("kind", kind)):
        if text is not None and not isinstance(text, str):
            raise InputError(f"{name} {shown(text)} is not understood; expected a text")
    with naming_file(path, "imported"):
        owner = None if provider is None else fetcher.find(provider)
        job = _make_job(fetcher, path, FileLabel(symbol=symbol, timeframe=timeframe, kind=kind), owner)
        done = store_rows(cache, job, now_ms)
    own = {one.name for one in job.provider.settings}
    adjusted = tuple(one for one in job.series.settings if one[0] not in own)
    if adjusted:  # a later call without requests finds the series by the settings that are noted here
        plain = job.series._replace(settings=tuple(one for one in job.series.settings if one[0] in own))
        known = cache.listings.load_actions(plain) or Known(0)
        cache.listings.save_actions(plain, known.with_use(adjusted, is_newest=False))
    return done


# -- the series of the file ---------------------------------------------------------------------------------------


def _read_manifest_facts(named: FileLabel, manifest: Mapping[str, Any], known: Mapping[str, Provider]) -> FileLabel:
    """Return what the manifest beside the file says. Raises InputError where the file's name contradicts it."""
    texts = [manifest[name] for name in ("provider", "symbol", "timeframe", "kind")]
    settings = manifest.get("settings", {})
    if not isinstance(settings, dict) or not all(isinstance(text, str) for text in (*texts, *settings.values())):
        raise InputError("the manifest beside it does not name a series; move the manifest away")
    owner, symbol, timeframe, kind = texts
    if owner not in known:
        raise InputError(
            f"the manifest beside it says provider {shown(owner)}; expected one of {', '.join(sorted(known))}"
        )
    if named.symbol is not None:
        own = {one.name for one in known[owner].settings}
        chosen = {name: value for name, value in settings.items() if name in own}
        names = named.provider, named.kind, named.timeframe, named.symbol.removesuffix("_"), dict(named.settings or ())
        facts = owner, kind, timeframe, text_of(symbol).removesuffix("_"), chosen
        for name, fact in zip(names, facts, strict=True):
            if name != fact:
                raise InputError(
                    f"its name says {shown(name)}, but the manifest beside it says {shown(fact)}; they must agree"
                )
    return FileLabel(owner, symbol, timeframe, kind, settings=tuple(settings.items()))


def _make_job(fetcher: Fetcher, path: Path, given: FileLabel, provider: Provider | None) -> ImportJob:
    """Return the series that the file's name, its manifest and the arguments agree on, and how to read its rows."""
    head = read_head(path)
    file_format = formats.find_format(head)
    known = all_providers()
    if provider is not None:
        known.setdefault(provider.name, provider)
    named = formats.read_name(file_format, path.absolute().parts, known)
    manifest = read_manifest(path) if file_format == OURS else None
    if manifest is not None:
        named = _read_manifest_facts(named, manifest, known)
        check_exact(manifest)
    owner = _find_provider(fetcher, file_format, named, provider)
    symbol, timeframe, kind = _agree(file_format, named, given, owner)
    series, name, target = read_series(owner, fetcher.origin(owner), symbol, timeframe, kind)
    if series.timeframe != target:
        raise InputError(
            f"candles of {target} are made of candles of {series.timeframe} at {owner.name}; import the latter instead"
        )
    job = ImportJob(path, owner, series, name, lambda: iter(()))
    if file_format == OURS and path.stem.endswith(PARTIAL) and manifest is None:
        raise InputError(
            f"its name says that it is partial; expected the manifest beside it ({manifest_path(path).name}), which "
            "lists what it lacks"
        )
    if file_format == OF_ARCHIVE:
        return _open_archive_file(job, named, head)
    columns = owner.feed(kind).columns
    if have_prices(columns):  # columns that the provider does not have are left out
        columns = in_order((*columns, *COLUMNS))
    read = formats.read_kraken if file_format == OF_KRAKEN else partial(read_rows, columns=(*columns, *FLAG_COLUMNS))
    if file_format == OURS:
        missing = read_missing(manifest) if manifest is not None and "missing" in manifest else ()
        job = replace(job, series=_series_of_file(job, named, known, manifest), missing=tuple(missing))
    return replace(
        job, blocks=lambda: checked_blocks(read(read_pieces(path))), are_holes_facts=file_format == OF_KRAKEN
    )


def _find_provider(fetcher: Fetcher, file_format: str, named: FileLabel, given: Provider | None) -> Provider:
    """Return the provider of the candles. Raises InputError where name, argument and format contradict each other."""
    if named.provider is not None:
        if given is not None and given.name != named.provider:
            raise _contradiction(named.provider, "provider", given.name)
        return given or fetcher.find(named.provider)
    found = given or fetcher.find(None)
    if file_format == OF_ARCHIVE and not (found.archive is not None and found.archive.name == ARCHIVE.name):
        raise InputError(
            f"it is {OF_ARCHIVE}, but {found.name} has no such archive; give the provider, such as 'binance-um'"
        )
    return found


def _agree(file_format: str, named: FileLabel, given: FileLabel, provider: Provider) -> tuple[str, str, str]:
    """Return symbol, timeframe and kind. Raises InputError where the arguments contradict the name of the file, or
    neither states them."""
    if given.kind is not None and named.kind not in (None, given.kind):
        raise _contradiction(named.kind, "kind", given.kind)
    kind = given.kind or named.kind or "candles"
    if given.timeframe is not None and named.timeframe is not None:
        length = parse_timeframe(named.timeframe)
        if parse_timeframe(given.timeframe) != length:
            raise _contradiction(length, "timeframe", given.timeframe)
    timeframe = given.timeframe or named.timeframe
    symbol = named.symbol if given.symbol is None else given.symbol
    if timeframe is None or symbol is None:
        what = "timeframe" if timeframe is None else "symbol"
        raise InputError(f"its name does not say the {what} of its candles; give the {what}")
    if given.symbol is None:
        symbol = formats.find_symbol(file_format, symbol, provider, kind)
    elif named.symbol is not None and not _is_named(file_format, named.symbol, symbol, provider, kind):
        raise _contradiction(named.symbol, "symbol", symbol)
    return symbol, timeframe, kind


def _contradiction(said: object, argument: str, value: str) -> InputError:
    """Return the error for an argument that contradicts what the file says of itself."""
    return InputError(
        f"its name or manifest says {argument} {said}, but the call says {argument}={value!r}; leave the argument out "
        "if the file is right"
    )


def _is_named(file_format: str, named: str, symbol: str, provider: Provider, kind: str) -> bool:
    """Return whether the symbol in the file's name is the one that was given."""
    own = provider.provider_symbol(symbol, kind)
    if file_format == OURS:
        texts = {text_of(one) for one in (symbol.upper(), own, provider.unified(own))}
        return text_of(named).removesuffix("_") in texts
    return provider.provider_symbol(named, kind) == own


def _series_of_file(
    job: ImportJob, named: FileLabel, known: Mapping[str, Provider], manifest: Mapping[str, Any] | None
) -> Series:
    """Return the series with the settings that name and manifest state, and not with those of the fetcher. Raises
    InputError where the provider has no such series."""
    series = job.series
    if manifest is not None and manifest["origin"] != series.origin:
        hosts = [shown(url) if url else "the provider's own host" for url in (manifest["origin"], series.origin)]
        raise InputError(
            f"the manifest beside it says that its candles are of {hosts[0]}, but this CandleFetcher asks {hosts[1]}; "
            "expected a CandleFetcher with the same base_urls"
        )
    if named.settings is None:  # the arguments and the fetcher's settings decide
        return series
    provider = known[series.provider]
    said = dict(named.settings)
    settings = []
    for setting in (one for one in provider.settings if one.is_of_series):
        value = said.pop(setting.name, setting.allowed[0])
        if value not in setting.allowed:
            raise InputError(
                f"its name or manifest says {setting.name}={shown(value)}; expected one of {', '.join(setting.allowed)}"
            )
        settings.append((setting.name, value))
    series = series._replace(settings=(*settings, *said.items()))
    restates = bool(settings) and provider.feed(series.kind).restates_history(series)
    if said and not restates:
        raise InputError(
            f"its name or manifest says the setting {next(iter(said))}; expected one of the series of {provider.name}"
        )
    if restates and not said:
        raise InputError(
            "its prices are adjusted as of some day, and later adjustments change all of them; expected the manifest "
            f"beside it ({manifest_path(job.path).name}), which says the day"
        )
    return series


# -- its rows -----------------------------------------------------------------------------------------------------


def _open_archive_file(job: ImportJob, named: FileLabel, head: bytes) -> ImportJob:
    """Return the job for a file of the archive, read as a fetch reads it: whole, sorted, and without disputed rows."""
    path, series = job.path, job.series
    archive, span = job.provider.archive, named.span
    assert archive is not None and span is not None  # noqa: PT018 - of this format
    stem = path.name.rpartition(".")[0]
    file = archive.find_file(series, span.start_ms, monthly=span.end_ms - span.start_ms > DAY_MS)
    if file is None or file.path.rpartition("/")[2] != f"{stem}.zip" or file.span != span:
        file = File(f"/{stem}.zip", span)
    verified = False
    if head.startswith(b"PK"):
        data = path.read_bytes()
        expected = _read_checksum(job)
        verified = expected is not None
        if verified and hashlib.sha256(data).hexdigest() != expected:
            raise BadFile("its bytes do not match its checksum (SHA-256)")
        candles = archive.read_file(data, file._replace(path=f"/{stem}.zip"), series)
        head = formats.head_of(data)
    else:
        with path.open("rb") as text:
            candles = read_csv(iter(partial(text.read, CSV_PIECE_BYTES), b""), file, series)
    formats.check_market(job.provider, series.symbol, series.kind, head, candles)
    spans = subtract(_answered(candles, series.timeframe, span), file.disputed)
    return replace(job, blocks=lambda: iter([candles]), spans=tuple(spans), verified=verified, archive_path=file.path)


def _answered(candles: Candles, timeframe: Timeframe, span: Span) -> Span:
    """Return the part of the span for which the file answers: without a last candle that ends after the file's span."""
    if timeframe.nominal_ms <= DAY_MS:
        return span
    for open_ms in candles.open_ms[::-1].tolist():
        if timeframe.close_ms(open_ms) <= span.end_ms:
            break
        span = span.before(timeframe.floor_ms(open_ms))
    return span


def _read_checksum(job: ImportJob) -> str | None:
    """Return the SHA-256 in the file beside the zip; None where there is no such file."""
    beside = job.path.with_name(f"{job.path.name}.CHECKSUM")
    if not beside.is_file():
        return None
    with beside.open("rb") as file:
        text = file.read(HEAD_BYTES)
    assert job.provider.archive is not None
    return job.provider.archive.find_checksum(text, job.path.name)
