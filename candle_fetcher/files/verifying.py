"""A file of candles checked: read to its end, its fingerprint worked out again and held against its manifest, and its
values held against those of the cache."""

from __future__ import annotations

import contextlib
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pandas as pd

from candle_fetcher.core.candles import (
    INTEGERS,
    MISSING,
    OHLCV,
    Candles,
    Fingerprint,
    Int64s,
    candles_from,
    have_prices,
    join,
)
from candle_fetcher.core.errors import BadFile, InputError, shown
from candle_fetcher.core.plan import CHUNK_SLOTS
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.text.csv import FLAG_COLUMNS, read_rows, read_times, whole_lines
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.core.unzip import ZIP_ERRORS
from candle_fetcher.files.columnar import read_parts
from candle_fetcher.files.formats import OURS, find_symbol, read_name
from candle_fetcher.files.layout import TIME
from candle_fetcher.files.places import ENDINGS, ending_of, find_home, read_manifest
from candle_fetcher.files.reading import naming_file, read_head, read_pieces
from candle_fetcher.files.report import MOST_DIFFERENCES, NOT_COMPARABLE, Difference, FileReport, Identity
from candle_fetcher.providers import all_providers

_ROW = re.compile(rb"<row[ >]")
_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_BLOCK_BYTES = 1 << 20
_LEAST_TIME = len("2024-01-31T12:00:00Z")


# Return the stored candles in [first_ms, last_ms], and whether that is all there is; None where nothing is stored.
Load = Callable[[Identity, int, int], tuple[Candles, bool] | None]


def check_file(path: object, load: Load) -> FileReport:
    """Check a file; see `candle_fetcher.verify_file`."""
    file = find_home(path, "the name of a file that export wrote")
    ending = ending_of(file.name)
    if not ending:
        raise InputError(f"path {shown(str(path))} has no ending of a file of candles; expected {', '.join(ENDINGS)}")
    try:
        with naming_file(file, "verified"):
            with file.open("rb"):
                pass  # what the system says is not the same in each format
            if ENDINGS[ending] == "excel":
                return _check_workbook(file)
            manifest, blocks = _open(file, ENDINGS[ending])
            return _check_blocks(file, manifest, blocks, load)
    except OSError as error:
        reason, fix = _explain(error)
        raise BadFile(f"{file} cannot be read: {reason}", fix) from error


def _explain(error: OSError) -> tuple[str, str]:
    """Return why a file cannot be read, and what to do."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "there is no such file", "Look for a misspelt name or another folder"
    if isinstance(error, IsADirectoryError):
        return "it is a folder", "Name the files in it"
    return error.strerror or str(error), "Make it readable, or use a copy"


def _check_blocks(file: Path, manifest: Mapping[str, Any] | None, blocks: Iterator[Candles], load: Load) -> FileReport:
    identity = identify(file, manifest)
    timeframe = None if identity is None else parse_timeframe(identity.timeframe)
    summed = _Sum(timeframe, is_chosen=bool((manifest or {}).get("columns")))
    differences: list[Difference] = []
    rows, last_ms, in_order, is_known = 0, -1, True, False
    places = ((manifest or {}).get("csv") or {}).get("decimals")
    invented = int((manifest or {}).get("invented", 0))  # rows that the file does not mark
    for read in blocks:
        block = read
        if invented:
            is_invented = are_in_gaps(block.open_ms, manifest or {})
            invented -= int(is_invented.sum())
            block = Candles(block.names, block.block[:, ~is_invented])
        candles = _real(block)
        rows += candles.count
        if not candles.count:
            continue
        in_order &= bool((np.diff(candles.open_ms, prepend=last_ms) > 0).all())
        last_ms = int(candles.open_ms[-1])
        settled = _real(block, settled=True)
        summed.add(settled)
        if identity is None or not settled.count or len(differences) >= MOST_DIFFERENCES or not in_order:
            continue
        stored = load(identity, int(settled.open_ms[0]), int(settled.open_ms[-1]))
        if stored is not None:
            is_known = True
            differences += _compare(settled, *stored, places)
    fingerprint = summed.text
    whole = in_order and not invented and (manifest is None or int(manifest.get("rows", rows)) == rows)
    missing = count_lacking(manifest)
    if manifest is not None and fingerprint is not None and places is None and not missing:  # else it has none
        whole &= manifest.get("fingerprint", fingerprint) == fingerprint
    found: tuple[Difference, ...] | str | None = tuple(differences[:MOST_DIFFERENCES]) if is_known else None
    if not in_order and not differences:
        found = NOT_COMPARABLE
    return FileReport(file, whole and not missing, rows, fingerprint, found, missing)


def are_in_gaps(open_ms: Int64s, manifest: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Return which times lie in a gap that the manifest names. Raises BadFile where its gaps cannot be read."""
    found = np.zeros(len(open_ms), np.bool_)
    try:
        for gap in manifest.get("gaps", ()):
            found |= (open_ms >= instant_ms(gap["first"], "first")) & (open_ms <= instant_ms(gap["last"], "last"))
    except (InputError, LookupError, TypeError) as error:
        raise BadFile("its manifest does not say where its gaps are") from error
    return found


def check_facts(manifest: Mapping[str, Any]) -> None:
    """Raise BadFile where what is used of a manifest is not what a manifest has."""
    options = manifest.get("csv") or {}
    kinds: dict[str, tuple[Any, Any]] = {
        "rows": (manifest.get("rows", 0), int),
        "invented": (manifest.get("invented", 0), int),
        "columns": (manifest.get("columns") or {}, dict),
        "settings": (manifest.get("settings") or {}, dict),
        "csv": (options, dict),
    }
    if isinstance(options, dict):
        kinds["separator"] = (options.get("separator", ","), str)
        kinds["decimals"] = (options.get("decimals"), int | None)
    wrong = next((name for name, (value, kind) in kinds.items() if not isinstance(value, kind)), None)
    if wrong is None and not all(isinstance(name, str) for name in kinds["columns"][0].values()):
        wrong = "columns"
    if wrong is not None:
        raise BadFile(f"its manifest has {wrong} {shown(kinds[wrong][0])}, which no manifest has")


def count_lacking(manifest: Mapping[str, Any] | None) -> int:
    """Return how many candles the manifest lists as missing; it does so for a partial file alone.

    Raises BadFile where the list is not one of a manifest.
    """
    try:
        return sum(int(span["count"]) for span in (manifest or {}).get("missing", ()))
    except (TypeError, ValueError, KeyError) as error:
        raise BadFile("its manifest does not say what is missing") from error


class _Sum:
    """The fingerprint of candles that come in blocks, cut at the borders of chunks; None where it has none.

    is_chosen: the user chose the columns, so that others than prices may lack too.
    """

    def __init__(self, timeframe: Timeframe | None, *, is_chosen: bool) -> None:
        self._timeframe, self._is_chosen = timeframe, is_chosen
        self._made = None if timeframe is None else Fingerprint(timeframe, CHUNK_SLOTS)
        self._left: list[Candles] = []

    def add(self, candles: Candles) -> None:
        if self._timeframe is None or self._made is None or not candles.count:
            return
        if (self._is_chosen or set(OHLCV) & set(candles.names)) and not have_prices(candles.names):
            self._made = None  # of a part of the columns
            return
        self._left.append(candles)
        whole = join(self._left)
        chunk = self._timeframe.ordinal(int(whole.open_ms[-1])) // CHUNK_SLOTS
        cut = int(np.searchsorted(whole.open_ms, self._timeframe.open_ms(chunk * CHUNK_SLOTS)))
        if cut:
            self._made.add(Candles(whole.names, whole.block[:, :cut]))
        self._left = [Candles(whole.names, whole.block[:, cut:].copy())]

    @property
    def text(self) -> str | None:
        if self._made is None:
            return None
        for rest in self._left:
            self._made.add(rest)
        self._left = []
        return self._made.text


def _real(block: Candles, *, settled: bool = False) -> Candles:
    """Return the candles without invented rows, and on request without those that may still change."""
    keep = np.ones(block.count, np.bool_)
    for name, wanted in (("is_synthetic", 0), ("is_closed", 1)):
        if name in block.names and (settled or name == "is_synthetic"):
            keep &= block.floats(name) == wanted
    names = [name for name in block.names if name not in FLAG_COLUMNS]
    picked = block.pick(names)
    return picked if keep.all() else Candles(picked.names, picked.block[:, keep])


def _compare(ours: Candles, theirs: Candles, is_all: bool, places: int | None) -> Iterator[Difference]:
    """Yield where the file differs from the stored candles; `is_all`: these are all that there are in their span."""
    mine, stored = ours.open_ms, theirs.open_ms
    shared, at, of = np.intersect1d(mine, stored, assume_unique=True, return_indices=True)
    lone: list[tuple[int, int | None, int | None]] = [(int(ms), None, int(ms)) for ms in np.setdiff1d(stored, mine)]
    if is_all:
        lone += [(int(ms), int(ms), None) for ms in np.setdiff1d(mine, stored)]
    for ms, file, cache in sorted(lone, key=lambda one: one[0]):
        yield Difference(_time(ms), TIME, file, cache)
    found = []
    for name in ours.names[1:]:
        if name not in theirs.names:
            continue
        if name in INTEGERS:
            left: Any = ours.integers(name)[at]
            right: Any = theirs.integers(name)[of]
            differs = left != right
        else:
            left, right = ours.floats(name)[at], theirs.floats(name)[of]
            near = 0.0 if places is None else 0.5 * 10.0**-places * (1 + 1e-9) + np.spacing(np.abs(right))
            differs = ~((np.abs(left - right) <= near) | (np.isnan(left) & np.isnan(right)))
        for row in np.flatnonzero(differs)[:MOST_DIFFERENCES].tolist():
            values = [_shown(side[row].item()) for side in (left, right)]
            found.append((int(shared[row]), ours.names.index(name), Difference(_time(shared[row]), name, *values)))
    yield from (one[2] for one in sorted(found, key=lambda one: one[:2]))


def _shown(value: float) -> float | None:
    """Return the value; None where it is missing."""
    return None if value == MISSING or math.isnan(value) else value


def _time(ms: Any) -> pd.Timestamp:
    return pd.Timestamp(int(ms), unit="ms", tz="UTC")


# -- what the file is of ----------------------------------------------------------------------------------------------


def identify(file: Path, manifest: Mapping[str, Any] | None) -> Identity | None:
    """Return the series of the file, by its manifest or else its name; None where neither says it."""
    if manifest is not None:
        names = ("provider", "symbol", "timeframe", "kind")
        texts = [manifest.get(name) for name in names]
        if not all(isinstance(text, str) for text in texts):
            raise BadFile("its manifest does not name the series")
        provider, symbol, timeframe, kind = map(str, texts)
        return Identity(provider, manifest.get("origin"), symbol, timeframe, kind, manifest.get("settings") or {})
    stem = file.name[: -len(ending_of(file.name))]
    known = all_providers()
    label = read_name(OURS, (f"{stem}.csv",), known)
    if label.provider is None or label.symbol is None or label.timeframe is None or label.kind is None:
        return None
    with contextlib.suppress(InputError):  # a name that two symbols may have
        symbol = find_symbol(OURS, label.symbol, known[label.provider], label.kind)
        return Identity(label.provider, None, symbol, label.timeframe, label.kind, dict(label.settings or ()))
    return None


# -- its rows ---------------------------------------------------------------------------------------------------------


def _open(file: Path, file_format: str) -> tuple[Mapping[str, Any] | None, Iterator[Candles]]:
    """Return the manifest in the file or beside it, and its candles, block by block."""
    if file_format in ("parquet", "arrow"):
        inside, frames = read_parts(file, file_format)
        check_facts(inside or {})
        return inside, map(partial(candles_of, columns=(inside or {}).get("columns")), frames)
    manifest = read_manifest(file)
    check_facts(manifest or {})
    if file_format == "jsonl" and manifest is not None and manifest.get("rows") == 0 and not file.stat().st_size:
        return manifest, iter(())  # a file without a header and without a row
    read_head(file)
    columns = (manifest or {}).get("columns")
    if file_format == "jsonl":
        return manifest, read_objects(read_pieces(file), columns)
    separator = ((manifest or {}).get("csv") or {}).get("separator", "," if columns else None)
    return manifest, read_rows(read_pieces(file), None, headers=columns, separator=separator)


def candles_of(frame: pd.DataFrame, columns: Mapping[str, str] | None = None) -> Candles:
    """Return the columns of a file as candles; `columns` says the column of each header."""
    found: dict[str, Any] = {}
    for header in frame.columns:
        name = header if columns is None else columns.get(header, header)
        values = frame[header]
        _refuse_twice(name, found)
        if name == TIME and not isinstance(values.dtype, pd.DatetimeTZDtype):
            raise InputError(f"its column {header} has no times with a zone; expected times in UTC")
        if isinstance(values.dtype, pd.DatetimeTZDtype):
            if name == TIME and values.isna().any():
                raise BadFile("a row has no time")
            times = values.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("M8[ms]").astype(np.int64)
            found["open_time" if name == TIME else name] = times
        elif name in INTEGERS:
            try:
                found[name] = values.astype("Int64").to_numpy(dtype=np.int64, na_value=MISSING)
            except (TypeError, ValueError) as error:
                raise BadFile(f"its column {header} has others than whole numbers") from error
        else:
            found[name] = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return _candles(found)


def _refuse_twice(name: str, found: Mapping[str, Any]) -> None:
    if ("open_time" if name == TIME else name) in found:
        raise InputError(f"it has the column {name} twice; expected each once")


def _candles(columns: Mapping[str, Any]) -> Candles:
    if "open_time" not in columns:
        raise InputError("it has no column of times; expected one, without which no candle can be checked")
    names = ("open_time", *(name for name in columns if name != "open_time"))
    return candles_from(names, [columns[name] for name in names])


def read_objects(pieces: Iterable[bytes], columns: Mapping[str, str] | None) -> Iterator[Candles]:
    """Yield the candles of JSON lines, block by block. Raises BadFile for a line that is no object like the first."""
    keys: list[str] = []
    for text in whole_lines(pieces):
        try:
            rows = [json.loads(line) for line in text.split(b"\n")[:-1]]
        except ValueError as error:
            raise BadFile(f"a line is not JSON ({error})") from error
        keys = keys or list(rows[0])
        if not all(isinstance(row, dict) and list(row) == keys for row in rows):
            raise BadFile(f"a line is no object with {', '.join(keys)}")
        found: dict[str, Any] = {}
        for key in keys:
            name = key if columns is None else columns.get(key, key)
            _refuse_twice(name, found)
            values = [row[key] for row in rows]
            found["open_time" if name == TIME else name] = _values_of(name, values)
        yield _candles(found)


def _values_of(name: str, values: Sequence[Any]) -> Any:
    try:
        if name in (TIME, "close_time"):
            if name == TIME and None in values:
                raise ValueError("a row has no time")
            return _times_of(values)
        if name in INTEGERS:
            return np.array([MISSING if one is None else one for one in values], np.int64)
        return np.array([np.nan if one is None else one for one in values], np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadFile(f"a value of {name} cannot be read ({error})") from error


def _times_of(values: Sequence[Any]) -> Any:
    """Return the Unix ms of ISO times with Z, MISSING for None. Raises ValueError for another text."""
    texts = [one for one in values if one is not None]
    lengths = np.array([len(text) for text in texts], np.int64)
    made = np.full(len(values), MISSING)
    if not texts:
        return made
    data = np.frombuffer("".join(texts).encode("ascii"), np.uint8).copy()
    ends = np.cumsum(lengths)
    if lengths.min() < _LEAST_TIME or (data[ends - 1] != ord("Z")).any():
        raise ValueError("a time is not like 2024-01-31T12:00:00Z")
    starts = ends - lengths
    data[starts + 10] = np.where(data[starts + 10] == ord("T"), ord(" "), 0)
    made[[one is not None for one in values]] = read_times(data, starts, ends - 1)
    return made


def _check_workbook(file: Path) -> FileReport:
    """Return the report of a workbook: its parts are whole, and it has as many rows as its manifest says."""
    try:
        with zipfile.ZipFile(file) as book:
            broken = book.testzip()
            if broken is not None:
                raise BadFile(f"its part {shown(broken)} is damaged")
            rows = 0
            with book.open("xl/worksheets/sheet1.xml") as sheet:
                rest = sheet.read(_BLOCK_BYTES)
                may_be_longer = b"is_synthetic" in rest  # the manifest does not count invented rows
                while piece := sheet.read(_BLOCK_BYTES):
                    cut = rest.rfind(b"<")
                    rows += len(_ROW.findall(rest, 0, cut))
                    rest = rest[cut:] + piece
                rows += len(_ROW.findall(rest))
            manifest = _manifest_of(book)
    except (*ZIP_ERRORS, KeyError, ElementTree.ParseError) as error:
        raise BadFile(f"it is not a whole workbook ({type(error).__name__})") from error
    rows -= 1  # the header
    if manifest is not None and not str(manifest.get("rows", rows)).isdecimal():
        raise BadFile(f"its manifest has rows {shown(manifest['rows'])}, which no manifest has")
    stated = rows if manifest is None else int(manifest.get("rows", rows))
    missing = count_lacking(manifest)
    whole = rows == stated or (may_be_longer and rows > stated)
    return FileReport(file, whole and not missing, rows, None, NOT_COMPARABLE, missing)


def _manifest_of(book: zipfile.ZipFile) -> dict[str, Any] | None:
    """Return what the second sheet says."""
    if "xl/worksheets/sheet2.xml" not in book.namelist():
        return None
    made: dict[str, Any] = {}
    for row in ElementTree.fromstring(book.read("xl/worksheets/sheet2.xml")).iter(f"{_SHEET}row"):
        texts = ["".join(part.text or "" for part in cell.iter(f"{_SHEET}t")) for cell in row]
        if len(texts) == 2:
            made[texts[0]] = texts[1]
    if "missing" in made:
        with contextlib.suppress(ValueError):
            made["missing"] = json.loads(made["missing"])
    return made
