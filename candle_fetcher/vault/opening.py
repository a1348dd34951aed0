"""What a vault was made with: its arguments, checked, and held against what vault.json remembers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from candle_fetcher.core.arguments import read_whole
from candle_fetcher.core.errors import InputError, shown, unknown
from candle_fetcher.files.columnar import need_pyarrow
from candle_fetcher.files.layout import TIME, CsvOptions, Layout, column_set, make_layout, read_columns
from candle_fetcher.files.places import find_home
from candle_fetcher.vault.files import Files, replace_document
from candle_fetcher.vault.months import MonthFiles
from candle_fetcher.vault.processing import Processor, name_of, read_processors
from candle_fetcher.vault.slots import SlotFiles
from candle_fetcher.vault.state import FORMATS, Entry, SeriesId, VaultDocument
from candle_fetcher.vault.update import Rows

DOCUMENT = "vault.json"
_MOST_CONTEXT = 1_000_000


class Options(NamedTuple):
    """The arguments of a Vault that were given; None for what was not."""

    format: str | None
    columns: Any
    csv: dict[str, Any]
    processors: tuple[Processor, ...]
    context: int


def read_options(
    format: str | None,  # noqa: A002 - the usual word
    columns: Any,
    process: object,
    context: int,
    csv: dict[str, Any],
) -> Options:
    """Return the arguments, checked as far as no vault is needed. Raises InputError."""
    if format is not None and format not in FORMATS:
        raise unknown("format", format, FORMATS)
    given = {name: value for name, value in csv.items() if value is not None}
    if format not in (None, "csv"):
        need_pyarrow(f"a vault of {format}")
        if given:
            raise InputError(f"{next(iter(given))} is of CSVs, and format is {format!r}; leave it out")
    CsvOptions(**given)
    columns = None if columns is None else read_columns(columns)
    if isinstance(columns, tuple):
        times = [header for header, name in columns if name == TIME]
        if len(times) != 1:
            raise InputError(
                f"columns of a vault name {TIME} once, by which rows are found; expected {{'ds': '{TIME}', …}}"
            )
    context = read_whole("context", context, 0, _MOST_CONTEXT)
    return Options(format, columns, given, read_processors(process), context)


def open_folder(where: object) -> Path:
    """Return the folder of a vault. Raises InputError for a URL, and for a path that is no folder."""
    if isinstance(where, str) and "://" in where:
        raise InputError(f"{shown(where)} is a URL, and a vault lies in a folder; expected a path, such as 'vault'")
    folder = find_home(where, "the folder of a vault")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; expected the folder of a vault")
    return folder


def load_document(folder: Path) -> VaultDocument | None:
    """Return what vault.json says; None where there is none. Raises BadFile where it is damaged."""
    path = folder / DOCUMENT
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return VaultDocument.from_bytes(data, str(path))


def save_document(folder: Path, document: VaultDocument) -> None:
    """Replace vault.json."""
    replace_document(folder / DOCUMENT, document.to_bytes())


def new_document(options: Options) -> VaultDocument:
    """Return what vault.json of a new vault says."""
    names = tuple(map(name_of, options.processors))
    columns, csv = options.columns or "ohlcv", tuple(sorted(options.csv.items()))
    return VaultDocument(options.format or FORMATS[0], columns, csv, names, options.context)


def check_document(options: Options, document: VaultDocument, where: object) -> None:
    """Raise InputError where an argument was given that is not what the vault was made with."""
    before = dict(document.options)
    pairs = [
        ("format", options.format, document.format),
        ("columns", options.columns, document.columns),
        *((name, value, before.get(name, getattr(CsvOptions(), name))) for name, value in options.csv.items()),
    ]
    for name, given, remembered in pairs:
        if given is not None and given != remembered:
            shown_before = dict(remembered) if isinstance(remembered, tuple) else remembered
            raise InputError(
                f"the vault in {where} has {name}={shown_before!r}; leave {name} out, or use another vault"
            )


def check_processors(options: Options, document: VaultDocument, where: object) -> None:
    """Raise InputError where new rows would not go through what the others went through."""
    names = tuple(map(name_of, options.processors))
    if names == document.processors and options.context == document.context:
        return
    if not document.entries:
        return
    was = f"process=[{', '.join(document.processors)}] and context={document.context}"
    is_now = f"process=[{', '.join(names)}] and context={options.context}"
    raise InputError(
        f"the rows of the vault in {where} were made with {was}, and this is {is_now}; rows of both kinds would lie "
        "in one file: update with the same ones, or use another vault"
    )


def csv_options(document: VaultDocument) -> CsvOptions:
    """Return how the CSVs of the vault write their values."""
    return CsvOptions(**dict(document.options))


def make_files(document: VaultDocument, folder: Path, entry: Entry) -> Files:
    """Return the files of a series, in the vault's format."""
    if document.format != "csv":
        return MonthFiles(folder, entry.series, document.format, _layout(document, entry.series))
    return SlotFiles(folder, entry.name, entry.series, csv_options(document), _layout(document, entry.series))


def _layout(document: VaultDocument, series: SeriesId) -> Layout | None:
    columns = document.columns
    if isinstance(columns, str):
        return None
    return make_layout(columns, [name for _, name in columns], series.provider_symbol)


def make_rows(options: Options, document: VaultDocument) -> Rows:
    """Return how candles become rows of the vault."""
    names: Sequence[str] | None = None
    if not isinstance(document.columns, str):
        names = list(dict.fromkeys(name for _, name in document.columns if name != TIME))
    return Rows(options.processors, options.context, None if names is None else tuple(names))


def fetched_columns(document: VaultDocument) -> str:
    """Return the set of columns that candles need for the vault's rows."""
    return column_set(document.columns)
