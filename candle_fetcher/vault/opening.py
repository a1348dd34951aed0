"""What a vault was made with: its arguments, checked, and held against what its document remembers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from candle_fetcher.core.arguments import read_whole
from candle_fetcher.core.errors import BadFile, InputError, unknown
from candle_fetcher.files.columnar import need_pyarrow
from candle_fetcher.files.layout import TIME, CsvOptions, Layout, column_set, make_layout, read_columns
from candle_fetcher.files.places import find_home
from candle_fetcher.vault.files import Files, replace_document
from candle_fetcher.vault.months import CANDLES, DOCUMENTS, MonthFiles
from candle_fetcher.vault.processing import Processor, name_of, read_processors
from candle_fetcher.vault.slots import SlotFiles
from candle_fetcher.vault.state import FORMATS, MONTHS, Entry, SeriesId, VaultDocument
from candle_fetcher.vault.trees import FolderTree, Tree
from candle_fetcher.vault.update import Rows

_CSV_DOCUMENT = "vault.json"
_MONTHS_DOCUMENT = "_vault.json"  # programs that read the folder leave out what begins with _
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
    """Return the folder of a vault. Raises InputError for a path that is no folder."""
    folder = find_home(where, "the folder of a vault")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; expected the folder of a vault")
    return folder


def document_name(file_format: str) -> str:
    """Return the name of the vault's document."""
    return _MONTHS_DOCUMENT if file_format in MONTHS else _CSV_DOCUMENT


def load_document(folder: Path) -> VaultDocument | None:
    """Return what the document of a vault says; None where there is none. Raises BadFile where it is damaged, where
    there are two, and where the files are laid out as they were by an earlier version."""
    found = []
    for name in (_CSV_DOCUMENT, _MONTHS_DOCUMENT):
        path = folder / name
        try:
            document = VaultDocument.from_bytes(path.read_bytes(), str(path))
        except FileNotFoundError:
            continue
        if name != document_name(document.format):
            raise BadFile(
                f"{path} is of {document.format} files, which this version lays out in another way; move the folder "
                "away and update into a new one: what the cache has is not asked for again"
            )
        found.append(document)
    if len(found) > 1:
        raise BadFile(f"{folder} has a {_CSV_DOCUMENT} and a {_MONTHS_DOCUMENT}; move away the one that is not of it")
    return found[0] if found else None


def save_document(folder: Path, document: VaultDocument) -> None:
    """Replace the document of a vault."""
    replace_document(folder / document_name(document.format), document.to_bytes())


def check_unused(tree: Tree, file_format: str) -> None:
    """Raise BadFile where months of a vault lie, and its document is gone."""
    for name in (DOCUMENTS, CANDLES) if file_format in MONTHS else (DOCUMENTS,):
        if not tree.is_empty(name):
            raise BadFile(
                f"{tree.place(name)} is there, and no {_MONTHS_DOCUMENT} says what it is; put back a copy of that, or "
                "update into another folder: what the cache has is not asked for again"
            )


def new_document(options: Options) -> VaultDocument:
    """Return what the document of a new vault says."""
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
        return make_months(document, FolderTree(folder), entry)
    return SlotFiles(folder, entry.name, entry.series, csv_options(document), layout_of_series(document, entry.series))


def make_months(document: VaultDocument, tree: Tree, entry: Entry) -> Files:
    """Return the files of a series, a month each."""
    return MonthFiles(tree, entry, document.format, layout_of_series(document, entry.series))


def layout_of_series(document: VaultDocument, series: SeriesId) -> Layout | None:
    """Return how the columns of a series are laid out; None for those of its candles."""
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
