"""One file of candles in any format: checks the arguments, finds the place of the file, and writes it in parts."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import pandas as pd

from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.frame import MANIFEST
from candle_fetcher.core.naming import PARTIAL, csv_name, text_of
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.files.columnar import need_pyarrow, write_arrow, write_parquet
from candle_fetcher.files.layout import (
    PLAIN,
    SYMBOL,
    SYNTHETIC,
    CsvOptions,
    Layout,
    Mapped,
    check_placeholders,
    column_set,
    csv_pieces,
    json_pieces,
    make_layout,
    read_columns,
)
from candle_fetcher.files.places import Place, check_manifest_place, ending_of, find_place
from candle_fetcher.files.workbook import need_xlsxwriter, write_workbook
from candle_fetcher.files.writing import name_whole, write_whole
from candle_fetcher.providers import Provider, find_provider

# Formats that have the manifest in them.
_HOLDING = ("parquet", "arrow", "excel")
_GZIP_LEVEL = 6


class FileArguments(NamedTuple):
    """The checked arguments of a call that describe the file to write."""

    place: Place
    columns: str | Mapped = "ohlcv"
    options: CsvOptions = PLAIN
    name: str | None = None
    has_manifest: bool = False

    @property
    def column_set(self) -> str:
        """The set of columns that the frames for the file need."""
        return column_set(self.columns)


class Contents(NamedTuple):
    """What is written: candles of a series, resampled where `timeframe` is not the series' own.

    symbol: BASE/QUOTE where there is one. settings: those of the series that are not the provider's default.
    """

    provider: Provider
    origin: str | None
    symbol: str
    provider_symbol: str
    kind: str
    timeframe: Timeframe
    span: Span
    settings: Mapping[str, str]


class TableFile(NamedTuple):
    """A file to be written. Without a layout it has all columns of its frames under their own names."""

    target: Path
    format: str
    is_packed: bool
    layout: Layout | None
    options: CsvOptions
    is_beside: bool

    @property
    def needs_manifest(self) -> bool:
        """Whether the manifest is written, beside the file or in it."""
        return self.is_beside or self.format in _HOLDING

    def describe(self) -> dict[str, Any]:
        """Return the facts about the file for its manifest: none where it has the usual columns and format."""
        made: dict[str, Any] = {}
        if self.options != PLAIN:
            made["csv"] = {name: getattr(self.options, name) for name in ("separator", "decimal", "decimals")}
        if self.layout is not None:
            made["columns"] = dict(zip(self.layout.headers, self.layout.columns, strict=True))
        return made

    def write(
        self, frames: Iterable[pd.DataFrame], manifest: Callable[[], Mapping[str, Any]], *, may_lack: bool = False
    ) -> Path:
        """Write frames that have the same columns, in order and in constant memory; return the path of the file.
        `manifest` is called behind the last one, and only if it is needed.

        may_lack: the manifest says behind the last frame whether the file is partial. It is written as one, with the
        manifest beside it, so that it replaces no whole file; and gets its own name where it lacks nothing.

        Raises OSError with the name of the file.
        """
        if not may_lack:
            self._write(frames, manifest)
            return self.target
        lacks = False

        def noted() -> Mapping[str, Any]:
            nonlocal lacks
            made = manifest()
            lacks = "missing" in made
            return made

        partial = self._replace(target=_name_partial(self.target), is_beside=True)
        partial._write(frames, noted)
        return partial.target if lacks else name_whole(partial.target, self.target, has_manifest=self.is_beside)

    def _write(self, frames: Iterable[pd.DataFrame], manifest: Callable[[], Mapping[str, Any]]) -> None:
        invented = 0  # rows, as far as the file does not mark them

        def noted() -> Iterator[pd.DataFrame]:
            nonlocal invented
            for frame in frames:
                if self.layout is not None and SYNTHETIC in frame and SYNTHETIC not in self.layout.columns:
                    invented += int(frame[SYNTHETIC].sum())
                yield frame
                del frame  # it is freed before the next one is made

        def described() -> dict[str, Any]:
            return {**manifest(), **self.describe(), **({"invented": invented} if invented else {})}

        def write(file: IO[bytes]) -> None:
            if self.format == "parquet":
                write_parquet(file, noted(), self.layout, described)
            elif self.format == "arrow":
                write_arrow(file, noted(), self.layout, described, self.target.parent)
            elif self.format == "excel":
                write_workbook(file, noted(), self.layout, described)
            elif self.is_packed:
                # Without a name and a time, so that equal candles make equal files.
                with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:
                    self._write_lines(packed, noted())
            else:
                self._write_lines(file, noted())

        write_whole(self.target, write, described if self.is_beside else None)

    def _write_lines(self, file: IO[bytes] | gzip.GzipFile, frames: Iterable[pd.DataFrame]) -> None:
        is_csv = self.format == "csv"
        pieces = csv_pieces(frames, self.options, self.layout) if is_csv else json_pieces(frames, self.layout)
        for piece in pieces:
            file.write(piece)
            del piece


def _name_partial(target: Path) -> Path:
    """Return the path of the file as long as it is partial.

    Raises InputError where its manifest would replace another file.
    """
    ending = target.name[-len(ending_of(target.name)) :]
    stem = target.name.removesuffix(ending)
    made = target if stem.endswith(PARTIAL) else target.with_name(f"{stem}{PARTIAL}{ending}")
    check_manifest_place(made)
    return made


def read_file_arguments(
    path: object,
    file_format: object = None,
    columns: object = "ohlcv",
    name: object = None,
    manifest: object = False,
    **options: Any,
) -> FileArguments:
    """Return the arguments of a call that writes a file; `options` are those of CsvOptions.

    Raises InputError where one is not valid or two contradict each other, MissingExtra where the format needs a package
    that is not installed.
    """
    if not isinstance(manifest, bool):
        raise InputError(f"manifest {shown(manifest)} is not understood; expected True or False")
    place, chosen = find_place(path, file_format), CsvOptions(**options)
    if place.format != "csv" and chosen != PLAIN:
        raise InputError(
            f"separator, decimal and decimals are options of CSV, but the format is {place.format}; leave them out"
        )
    if name is not None:
        _check_name(name, place)
    if place.format in ("parquet", "arrow"):
        need_pyarrow(f"a file of {place.format}")
    elif place.format == "excel":
        need_xlsxwriter()
    return FileArguments(place, read_columns(columns), chosen, None if name is None else str(name), manifest)


def _check_name(name: object, place: Place) -> None:
    """Raise InputError where `name` cannot be the name of a file in that place."""
    if place.is_file:
        raise InputError(f"path {shown(str(place.path))} names the file, but name={shown(name)} is given too; give one")
    is_name = isinstance(name, str) and name.isprintable() and name.strip(". ")
    if not is_name or set('/\\<>:"|?*') & set(str(name)):
        raise InputError(
            f"name {shown(name)} is not understood; expected the name of a file without its ending, without any of "
            '/ \\ < > : " | ? *, which not every system takes'
        )
    check_placeholders(f"name {shown(name)}", str(name))
    if str(name).lower().endswith(place.ending):
        raise InputError(f"name {shown(name)} has its ending; expected it without {place.ending}, which is added")


def find_file(arguments: FileArguments, contents: Contents, names: Sequence[str]) -> TableFile:
    """Return the file to write; `names` are the columns that its frames may have.

    A file's name holds neither an origin nor settings that the user did not choose, such as the day as of which prices
    are adjusted; nor do rounded numbers say that they are: then the manifest lies beside the file, unless it is in it.
    Raises InputError for columns that the candles do not have, and where the manifest would replace another file.
    """
    place, columns, options, name, has_manifest = arguments
    provider, settings = contents.provider, contents.settings
    choices = [one.name for one in provider.settings]
    if name is None:
        named = [settings[one] for one in choices if one in settings]
        stem = csv_name(
            provider.name, contents.symbol, contents.kind, contents.timeframe, contents.span, named
        ).removesuffix(".csv")
    else:
        stem = name.replace(SYMBOL, text_of(contents.symbol))
    target = place.file(stem)
    layout = None
    if not isinstance(columns, str):
        layout = make_layout(columns, names, contents.provider_symbol)
        if place.format == "csv":
            options.header(layout)
    says_less = contents.origin is not None or not set(settings) <= set(choices) or options.decimals is not None
    is_beside = has_manifest or (says_less and place.format not in _HOLDING)
    if is_beside:
        check_manifest_place(target)
    return TableFile(target, place.format, place.ending.endswith(".gz"), layout, options, is_beside)


def save_frame(frame: pd.DataFrame, arguments: FileArguments) -> Path:
    """Write a frame of `fetch` to the file that `export` would write, byte for byte; return its path."""
    manifest = frame.attrs[MANIFEST]
    span = Span(instant_ms(manifest["start"], "start"), instant_ms(manifest["end"], "end"))
    provider, symbol, kind = find_provider(manifest["provider"]), manifest["symbol"], manifest["kind"]
    series = symbol, provider.provider_symbol(symbol, kind), kind, parse_timeframe(manifest["timeframe"]), span
    contents = Contents(provider, manifest["origin"], *series, manifest.get("settings", {}))
    file = find_file(arguments, contents, tuple(frame.columns))
    return file.write([frame], lambda: manifest, may_lack="missing" in manifest)
