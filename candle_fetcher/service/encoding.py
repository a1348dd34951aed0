"""Candles as the bytes of a reply, in pieces: JSON, CSV, and by pyarrow Arrow and Parquet files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import pandas as pd

from candle_fetcher.files.columnar import need_pyarrow, table_of
from candle_fetcher.files.layout import csv_pieces, json_pieces

Format = Literal["json", "csv", "arrow", "parquet"]

# The most rows of one answer: JSON is read whole by what reads it, the others are written to disk.
CAPS: dict[str, int] = {"json": 100_000, "csv": 1_000_000, "arrow": 1_000_000, "parquet": 1_000_000}
MEDIA_TYPES: dict[str, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8; header=present",
    "arrow": "application/vnd.apache.arrow.file",
    "parquet": "application/vnd.apache.parquet",
}
# Rows of one piece of a long answer.
PIECE_ROWS = 20_000


class _Sink:
    """A file that is written to from its beginning to its end; its bytes are taken away as they come."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self.closed = False

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._size += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Do nothing: what was written waits to be taken."""

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def take(self) -> bytes:
        """Return what was written since the last time."""
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def need_format(name: str) -> None:
    """Raise MissingExtra where the format needs a package that is not installed."""
    if name in ("arrow", "parquet"):
        need_pyarrow(f"format={name}")


def import_formats() -> None:
    """Import what the formats need, where it is there: done while clients wait, it would keep all of them waiting."""
    with contextlib.suppress(ImportError):
        import pyarrow.ipc
        import pyarrow.parquet  # noqa: F401


def encode(
    name: Format, frames: Iterable[pd.DataFrame], manifest: Mapping[str, Any], facts: Mapping[str, Any]
) -> Iterator[bytes]:
    """Yield the frames, which have the same columns and of which there is at least one, as a file of the format.

    `facts` stand beside the candles in JSON.
    """
    if name == "json":
        return _json(frames, manifest, facts)
    if name == "csv":
        return csv_pieces(frames)
    return _arrow(frames, manifest) if name == "arrow" else _parquet(frames, manifest)


def _json(frames: Iterable[pd.DataFrame], manifest: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[bytes]:
    head = json.dumps({**facts, "manifest": manifest}, ensure_ascii=False, allow_nan=False)
    yield head[:-1].encode() + b', "candles": ['
    is_first = True
    for lines in json_pieces(frames):
        if lines:
            yield (b"" if is_first else b",") + lines[:-1].replace(b"\n", b",\n")
            is_first = False
    yield b"]}\n"


def _arrow(frames: Iterable[pd.DataFrame], manifest: Mapping[str, Any]) -> Iterator[bytes]:
    from pyarrow import ipc

    sink, writer, text = _Sink(), None, _manifest_text(manifest)
    for frame in frames:
        table = table_of(frame, text)
        writer = writer or ipc.new_file(sink, table.schema)
        if table.num_rows:
            writer.write_table(table)
        del frame, table
        yield sink.take()
    if writer is not None:
        writer.close()
        yield sink.take()


def _parquet(frames: Iterable[pd.DataFrame], manifest: Mapping[str, Any]) -> Iterator[bytes]:
    import pyarrow.parquet as pq

    sink, writer, text = _Sink(), None, _manifest_text(manifest)
    for frame in frames:
        table = table_of(frame, text)
        if writer is None:
            encoding = {"timestamp": "DELTA_BINARY_PACKED"}
            writer = pq.ParquetWriter(sink, table.schema, use_dictionary=False, column_encoding=encoding)
        if table.num_rows:
            writer.write_table(table)
        del frame, table
        yield sink.take()
    if writer is not None:
        writer.close()
        yield sink.take()


def _manifest_text(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(manifest), ensure_ascii=False, allow_nan=False).encode()
