"""Reads a file that `export` or a vault wrote back as the frame that it was made of, checked against its manifest."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pandas as pd

from candle_fetcher.core.candles import OHLCV, Candles, in_order, join, no_candles
from candle_fetcher.core.errors import BadFile, CandleFetcherWarning, InputError, shown, warn
from candle_fetcher.core.frame import MANIFEST, Manifest, frame_of, index_ms
from candle_fetcher.core.gap import iso
from candle_fetcher.core.manifests import fingerprint, manifest_of
from candle_fetcher.core.naming import PARTIAL, read_end_ms
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.text.csv import FLAG_COLUMNS, find_separator, read_rows
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.files.columnar import read_parts
from candle_fetcher.files.formats import OURS
from candle_fetcher.files.layout import SYMBOL, SYNTHETIC, TIME, read_columns
from candle_fetcher.files.places import ending_of, find_home, read_manifest
from candle_fetcher.files.reading import HEAD_BYTES, checked_blocks, naming_file, read_head, read_pieces
from candle_fetcher.files.verifying import are_in_gaps, candles_of, check_facts, count_lacking, identify, read_objects
from candle_fetcher.frames.market import find_market

# What a manifest says of the file, and not of its candles.
_OF_THE_FILE = ("csv", "columns", "invented")
_STARTS = ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"{", "jsonl"), (b"PK", "excel"))
_CALLED = {
    "parquet": "a Parquet file",
    "arrow": "an Arrow file",
    "jsonl": "a file of JSON lines",
    "excel": "a workbook or a zip",
}
_SLOT = re.compile(r"(.+)_([12])\.csv")
_VAULT_MARK = "series of a vault"


@short_errors
def read_file(path: str | os.PathLike[str], *, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return the candles of a file that `export` wrote, as `fetch` returned them: the same rows, types and values.

    CSV with any separator and decimal sign, packed or not, JSON lines, Parquet and Arrow, recognised by their content;
    and the files of a vault, as far as its state says. A workbook is refused: its cells keep 16 digits.

    columns: the mapping that the file was exported with, such as {"ds": "timestamp", "{symbol}": "close"}, needed where
    no manifest says it. The frame has our names again, so that it can be joined with one of `fetch`.

    The manifest in the file or beside it is in `attrs`, as that of the fetch, and the file is held against it: its
    rows, times and fingerprint. Without one, `unverified` in `attrs["candle_fetcher"]` has the name of the file, beside
    what that name says of the series; nothing is said of gaps. Where such a file ends before its name does, warn.
    Rounded numbers have `decimals` there.

    Raises BadFile for a file that was cut, edited or damaged, with row and column where they are known; InputError for
    another file, MissingExtra without the package of its format, and OSError where it cannot be read.
    """
    return _read_frame(path, columns)


@short_errors
def read_csv(path: str | os.PathLike[str], *, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return the candles of a CSV that `export` or a vault wrote, as `fetch` returned them: see `read_file`, which
    reads the other formats, too.

    Raises what `read_file` does, and InputError for another format than CSV.
    """
    return _read_frame(path, columns, only_csv=True)


class _Contents(NamedTuple):
    """What a file holds: the names of its columns in order, without the time; None where the blocks say it. Its candles
    in blocks, and what its manifest says."""

    names: tuple[str, ...] | None
    blocks: Iterator[Candles]
    manifest: dict[str, Any] | None


def _read_frame(path: object, columns: object, *, only_csv: bool = False) -> pd.DataFrame:
    file = find_home(path, "the name of a file that export wrote")
    mapping = None if columns is None else _read_mapping(columns)
    with naming_file(file, "read"):
        contents = _open(file, mapping, only_csv=only_csv)
        rows, names = 0, contents.names

        def counted() -> Iterator[Candles]:
            nonlocal rows, names
            for block in contents.blocks:
                rows, names = rows + block.count, names or block.names[1:]
                yield block.pick(in_order(block.names))

        blocks = list(checked_blocks(counted()))
        names = names or OHLCV
        candles = join(blocks) if blocks else no_candles(in_order(("open_time", *names)))
        if rows != candles.count:
            raise BadFile(f"{rows - candles.count:,} of its rows are there twice")
        frame = frame_of(candles, names)
        for name in FLAG_COLUMNS:
            if name in frame:
                frame[name] = frame[name] == 1
        if contents.manifest is None:
            frame.attrs[MANIFEST] = _describe(file, frame)
        else:
            frame.attrs[MANIFEST] = _check(contents.manifest, frame)
    return frame


def _read_mapping(columns: object) -> dict[str, str]:
    """Return the mapping of headers to columns. Raises InputError for another value."""
    pairs = read_columns(columns)
    if isinstance(pairs, str):
        raise InputError(f"columns {shown(columns)} is not a mapping; expected one only where the file has own headers")
    return dict(pairs)


def _open(file: Path, mapping: Mapping[str, str] | None, *, only_csv: bool) -> _Contents:
    slot = _find_slot(file)
    if slot is not None:
        with file.open("rb") as opened:
            head = opened.read(HEAD_BYTES)
        return _open_csv(head, slot.pieces(file), slot.manifest, slot.columns, mapping)
    if not file.stat().st_size:
        manifest = read_manifest(file)
        if manifest is not None and manifest.get("rows") == 0 and not only_csv:  # JSON lines without a line
            check_facts(manifest)
            return _Contents(_shown_names((manifest.get("columns") or {}).values()) or None, iter(()), manifest)
    head = read_head(file)
    kind = next((name for start, name in _STARTS if head.startswith(start)), "csv")
    if only_csv and kind != "csv":
        raise InputError(f"it is {_CALLED[kind]}; expected {OURS}, or read_file for the other formats")
    if kind == "excel":
        raise InputError(
            f"it is {_CALLED[kind]}; expected another format, since cells of a workbook keep 16 digits of a number"
        )
    if kind in ("parquet", "arrow"):
        inside, parts = read_parts(file, kind)
        check_facts(inside or {})
        return _open_objects(inside, mapping, lambda own: map(partial(candles_of, columns=own), parts))
    manifest = read_manifest(file)
    check_facts(manifest or {})
    if kind == "jsonl":
        return _open_objects(manifest, mapping, lambda own: read_objects(read_pieces(file), own))
    return _open_csv(head, read_pieces(file), manifest, (manifest or {}).get("columns"), mapping)


def _open_objects(manifest: dict[str, Any] | None, mapping: Mapping[str, str] | None, read: Any) -> _Contents:
    """Return the contents of a format that names the column of each value."""
    stated = (manifest or {}).get("columns")
    own = stated or mapping
    if own is None:
        return _Contents(None, read(None), manifest)
    if mapping is not None and any(SYMBOL in header for header in own):
        raise InputError(f"columns has {SYMBOL} in a header; expected the header that is in the file")
    _check_same(stated, mapping)
    return _Contents(_shown_names(own.values()), read(own), manifest)


def _check_same(stated: Mapping[str, str] | None, mapping: Mapping[str, str] | None) -> None:
    """Raise InputError where a mapping that was given is not the one of the manifest."""
    if stated and mapping is not None and _resolve(list(stated), mapping) != dict(stated):
        raise InputError(f"columns {shown(dict(mapping))} is not what its manifest says: {shown(dict(stated))}")


def _shown_names(columns: Iterable[str]) -> tuple[str, ...]:
    """Return columns in the order of frames, without the time."""
    names = [name for name in columns if name != TIME]
    plain = in_order(name for name in names if name not in FLAG_COLUMNS)
    return (*plain, *(name for name in FLAG_COLUMNS if name in names))


# -- CSV --------------------------------------------------------------------------------------------------------------


def _open_csv(
    head: bytes,
    pieces: Iterable[bytes],
    manifest: dict[str, Any] | None,
    stated: Mapping[str, str] | None,
    mapping: Mapping[str, str] | None,
) -> _Contents:
    """Return the contents of a CSV with the columns that are `stated` for it, or else given as `mapping`."""
    line = next(iter(head.removeprefix(b"\xef\xbb\xbf").splitlines()), b"")
    if not stated and mapping is None:
        separator = find_separator(line)
        if separator is None:
            raise InputError(
                f"its first line is {shown(line[:80].decode('utf-8', 'replace'))}; expected {OURS}, which begins with "
                "timestamp, or `columns`, the mapping that it was exported with"
            )
        names = tuple(line.decode("utf-8", "replace").split(separator)[1:])
        return _Contents(names, read_rows(pieces, None), manifest)
    _check_same(stated, mapping)
    text = line.decode("utf-8", "replace")
    found, own = _split_header(text, stated or mapping or {})
    return _Contents(_shown_names(own.values()), read_rows(pieces, None, headers=own, separator=found), manifest)


def _split_header(line: str, mapping: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return the separator of a header, and the column of each field of it. Raises InputError where it is another."""
    for separator in dict.fromkeys(",;\t|" + "".join(char for char in line if not char.isalnum())):
        found = _resolve(line.split(separator), mapping)
        if found is not None and len(found) == len(mapping):
            return separator, found
    raise InputError(f"its header is {shown(line)}; expected {', '.join(mapping)}")


def _resolve(headers: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str] | None:
    """Return the column of each header; None where one is not in the mapping. `{symbol}` stands for any text."""
    found = {}
    for header in headers:
        names = [header] if header in mapping else [one for one in mapping if _is_like(header, one)]
        if len(names) != 1:
            return None
        found[header] = mapping[names[0]]
    return found


def _is_like(header: str, pattern: str) -> bool:
    if SYMBOL not in pattern:
        return False
    return re.fullmatch(".+".join(map(re.escape, pattern.split(SYMBOL))), header) is not None


# -- files of a vault -------------------------------------------------------------------------------------------------


class _Slot(NamedTuple):
    """What the state beside a CSV of a vault says of it: its length, checksum, columns and manifest."""

    size: int
    check: int
    columns: dict[str, str]
    manifest: dict[str, Any]

    def pieces(self, file: Path) -> Iterator[bytes]:
        """Yield what the file is known to have; what follows is an update that was cut.

        Raises BadFile where it is not what the state says.
        """
        left, check = self.size, 0
        with file.open("rb") as opened:
            while left and (piece := _read_piece(opened, left)):
                left -= len(piece)
                check = zlib.crc32(piece, check)
                yield piece
        if left:
            raise BadFile(f"it is {left:,} bytes shorter than the state of its vault says")
        if check != self.check:
            raise BadFile("its checksum is not that of the state of its vault: it was edited or is damaged")


def _read_piece(file: IO[bytes], most: int) -> bytes:
    return file.read(min(most, 1 << 20))


def _find_slot(file: Path) -> _Slot | None:
    """Return what the state of a vault beside the file says; None where there is none."""
    found = _SLOT.fullmatch(file.name)
    if found is None:
        return None
    try:
        state = json.loads(file.with_name(f"{found[1]}.json").read_bytes())
        if state[MANIFEST] != _VAULT_MARK:
            return None
        series, facts, piece = state["series"], state["facts"], state["files"][found[2]]
        columns = {header: column for header, column, _ in facts["fields"]}
        document = json.loads(file.with_name("vault.json").read_bytes())
        options = document["options"]
        manifest: dict[str, Any] = {
            "provider": series["provider"],
            "origin": document["origins"].get(series["provider"]),
            "symbol": series["symbol"],
            "timeframe": series["timeframe"],
            "kind": series["kind"],
            "start": iso(facts["start_ms"]),
            "end": iso(piece["end_ms"]),
            "rows": piece["rows"],
        }
        if series["settings"]:
            manifest["settings"] = series["settings"]
        if options.get("decimals") is not None:
            manifest["csv"] = {"decimals": options["decimals"]}
        return _Slot(piece["bytes"], piece["check"], columns, manifest)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


# -- manifests --------------------------------------------------------------------------------------------------------


def _check(stated: Mapping[str, Any], frame: pd.DataFrame) -> Manifest:
    """Return the manifest of the frame. Raises BadFile where the frame is not what it says."""
    made = Manifest((name, value) for name, value in stated.items() if name not in _OF_THE_FILE)
    count_lacking(made)
    rounded = (stated.get("csv") or {}).get("decimals")
    has_prices = all(name in frame for name in OHLCV)
    known = made.get("fingerprint")
    if rounded is not None:
        made["decimals"] = rounded
    if rounded is not None or known is None or not has_prices:
        dict.pop(made, "fingerprint", None)
    frame.attrs[MANIFEST] = made
    _mark_invented(stated, frame)
    _mark_open(made, frame)
    found = manifest_of(frame)
    rows = int(made.get("rows", len(frame)))
    if found is None or "part_of" in found:
        first, last = (str(time) for time in frame.index[[0, -1]]) if len(frame) else ("none", "none")
        raise BadFile(
            f"its rows are not those of its manifest, which says {rows:,} from {made.get('start')} to "
            f"{made.get('end')}; got {len(frame):,}, the first {first}, the last {last}"
        )
    if "changed" in found:
        raise BadFile(
            f"its values are not those that its manifest was made of: fingerprint {found['fingerprint']!s:.12}…, "
            f"expected {known!s:.12}…; verify_file names values that differ from the cache"
        )
    if "fingerprint" not in made and "missing" not in made:
        made["fingerprint"] = fingerprint(frame, made["timeframe"]) if has_prices and "timeframe" in made else None
    elif known is None:
        made["fingerprint"] = None
    return made


def _mark_invented(stated: Mapping[str, Any], frame: pd.DataFrame) -> None:
    """Mark the rows that the export invented, where the file does not: they lie in the gaps that its manifest names."""
    invented = stated.get("invented")
    if not invented or SYNTHETIC in frame:
        return
    is_invented = are_in_gaps(index_ms(frame), stated)
    if is_invented.sum() != invented:
        raise BadFile(
            f"{invented} of its rows were invented for gaps, and its columns do not say which; export {SYNTHETIC}, too"
        )
    frame[SYNTHETIC] = is_invented


def _mark_open(stated: Mapping[str, Any], frame: pd.DataFrame) -> None:
    """Mark the rows that may still change, where the file does not: they lie behind the range in its manifest."""
    rows = len(frame) - (int(frame[SYNTHETIC].sum()) if SYNTHETIC in frame else 0)
    if "is_closed" in frame or rows != stated.get("rows") or "end" not in stated:
        return
    try:
        is_open = index_ms(frame) >= instant_ms(stated["end"], "end")
    except InputError as error:
        raise BadFile(f"its manifest cannot be read: {shown(stated['end'])} is no end") from error
    if is_open.any():
        frame["is_closed"] = ~is_open


def _describe(file: Path, frame: pd.DataFrame) -> Manifest:
    """Return what is known of a frame without a manifest: the series by the name of its file, if that says it."""
    made = Manifest()
    identity = identify(file, None)
    timeframe = None if identity is None else parse_timeframe(identity.timeframe)
    if identity is not None and timeframe is not None and _is_of(frame, timeframe):
        facts = identity._asdict()
        settings = facts.pop("settings")
        made.update(facts)
        if settings:
            made["settings"] = dict(settings)
        if len(frame):
            slots = timeframe.ordinals(index_ms(frame)[[0, -1]])
            span = timeframe.span(int(slots[0]), int(slots[1]) + 1)
            made.update(start=iso(span.start_ms), end=iso(span.end_ms))
        _warn_of_cut(file, frame, made, timeframe)
    made.update(rows=len(frame), unverified=[file.name])
    if timeframe is not None and "timeframe" in made and all(name in frame for name in OHLCV):
        made["fingerprint"] = fingerprint(frame, timeframe.name)
    return made


def _warn_of_cut(file: Path, frame: pd.DataFrame, stated: Manifest, timeframe: Timeframe) -> None:
    """Warn where a file without a manifest may lack rows, by its name: text that was cut at the end of a line is whole.

    Where a provider has no row for an interval without a trade, the last row says nothing.
    """
    stem = file.name[: -len(ending_of(file.name)) or None]
    end_ms, market = read_end_ms(stem), find_market(stated)
    last_ms = int(index_ms(frame)[-1]) if len(frame) else None
    said = None
    if stem.endswith(PARTIAL):
        said = "its name says that it is partial, and the manifest beside it, which says what it lacks, is not there"
    elif end_ms is not None and market is not None and market.feed.has_empty_bars:
        until_ms = None if last_ms is None else timeframe.open_ms(timeframe.ordinal(last_ms) + 1)
        if until_ms is None or until_ms < timeframe.floor_ms(end_ms):
            last = "it has no row" if last_ms is None else f"its last row is {iso(last_ms)}"
            said = f"its name says that it ends at {iso(end_ms)}, and {last}: it was cut, or there are no later candles"
    if said is not None:
        warn(CandleFetcherWarning(f"{file.name} has no manifest, and {said}"))


def _is_of(frame: pd.DataFrame, timeframe: Timeframe) -> bool:
    """Return whether the rows may be candles of that length: a file may have been renamed."""
    slots = timeframe.ordinals(index_ms(frame))
    return len(slots) < 2 or bool((np.diff(slots) > 0).all())
