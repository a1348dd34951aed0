"""Candles as Parquet and Arrow files, written and read in parts by pyarrow.

Both have the columns of the frame, `timestamp` (UTC) first, and the manifest as JSON in the metadata of their schema,
under `candle_fetcher`; `pandas.read_parquet` and `read_feather` take `timestamp` as the index. Parquet has a group of
rows for each part, an Arrow file (IPC format, not compressed, so that it can be mapped into memory) a batch.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from candle_fetcher.core.errors import BadFile, InputError, MissingExtra
from candle_fetcher.core.frame import MANIFEST
from candle_fetcher.files.layout import TIME, Layout, plain_layout

_EXTRA = "arrow"
_READ_ROWS = 1 << 16


def need_pyarrow(purpose: str) -> None:
    """Raise MissingExtra where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise MissingExtra(_EXTRA, purpose) from None


def write_parquet(
    file: IO[bytes], frames: Iterable[pd.DataFrame], layout: Layout | None, manifest: Callable[[], Mapping[str, Any]]
) -> None:
    """Write frames that have the same columns; `manifest` is called after the last one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, metadata = None, dict[bytes, bytes]()
    with contextlib.ExitStack() as closing:
        for frame in frames:
            layout = layout or plain_layout(frame.columns)
            table, metadata = _table(frame, layout), _pandas_metadata(frame, layout)
            if writer is None:
                times = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
                # Without the Arrow schema, the metadata at the end is the schema's, and the manifest is known by then.
                writer = pq.ParquetWriter(
                    file,
                    table.schema,
                    use_dictionary=False,
                    column_encoding=dict.fromkeys(times, "DELTA_BINARY_PACKED"),
                    store_schema=False,
                )
                closing.enter_context(writer)
            if table.num_rows:
                writer.write_table(table)
            del frame, table
        if writer is not None:
            writer.add_key_value_metadata({**metadata, MANIFEST.encode(): _text(manifest)})


def write_arrow(
    file: IO[bytes],
    frames: Iterable[pd.DataFrame],
    layout: Layout | None,
    manifest: Callable[[], Mapping[str, Any]],
    folder: Path,
) -> None:
    """Write frames that have the same columns; `manifest` is called after the last one.

    A schema stands at the beginning of its file, and the manifest is known at the end: so the batches are written to a
    file without a name in the folder first.
    """
    from pyarrow import ipc

    with tempfile.TemporaryFile(dir=folder) as beside:
        writer = None
        for frame in frames:
            layout = layout or plain_layout(frame.columns)
            table, metadata = _table(frame, layout), _pandas_metadata(frame, layout)
            writer = writer or ipc.new_stream(beside, table.schema)
            writer.write_table(table)
            del frame, table
        if writer is None:
            return
        writer.close()
        beside.seek(0)
        with ipc.open_stream(beside) as batches:
            schema = batches.schema.with_metadata({**metadata, MANIFEST.encode(): _text(manifest)})
            with ipc.new_file(file, schema) as whole:
                for batch in batches:
                    whole.write_batch(batch.replace_schema_metadata(schema.metadata))


def _text(manifest: Callable[[], Mapping[str, Any]]) -> bytes:
    return json.dumps(dict(manifest()), ensure_ascii=False, allow_nan=False).encode()


def table_of(frame: pd.DataFrame, manifest: bytes | None = None) -> Any:
    """Return the frame as an Arrow table, `timestamp` first; with a manifest, it is in the metadata of the schema, and
    `to_pandas` makes `timestamp` the index again."""
    layout = plain_layout(frame.columns)
    table = _table(frame, layout)
    if manifest is None:
        return table
    return table.replace_schema_metadata(_pandas_metadata(frame, layout) | {MANIFEST.encode(): manifest})


def _table(frame: pd.DataFrame, layout: Layout) -> Any:
    """Return the columns as an Arrow table; columns of floats share their memory, missing values are null."""
    import pyarrow as pa

    columns = []
    for name in layout.columns:
        values: Any = frame.index if name == TIME else frame[name]
        if isinstance(values.dtype, pd.DatetimeTZDtype):
            values = pd.DatetimeIndex(values).as_unit("ns")
            is_whole = not values.hasnans
            made = pa.array(values.asi8).view(pa.timestamp("ns", tz="UTC")) if is_whole else None
        else:
            is_whole = values.dtype == np.float64 and not np.isnan(values.to_numpy()).any()
            made = pa.array(values.to_numpy()) if is_whole else None
        # A column with missing values is converted value by value, which takes longer.
        columns.append(pa.array(values, from_pandas=True) if made is None else made)
    return pa.table(columns, names=list(layout.headers))


def _pandas_metadata(frame: pd.DataFrame, layout: Layout) -> dict[bytes, bytes]:
    """Return the metadata by which pandas makes the times the index; {} where the user chose the columns."""
    import pyarrow as pa

    if layout != plain_layout(frame.columns):
        return {}
    empty = frame.head(0)
    empty.attrs = {}  # else the manifest is among the metadata, with a fingerprint that is worked out for it
    return {b"pandas": pa.Schema.from_pandas(empty).metadata[b"pandas"]}


def read_parts(path: Path, file_format: str) -> tuple[dict[str, Any] | None, Iterator[pd.DataFrame]]:
    """Return the manifest of a Parquet or Arrow file, and its columns as frames, in parts, without an index.

    Times are in UTC. Raises BadFile where it cannot be read, MissingExtra without pyarrow.
    """
    need_pyarrow(f"{path.name}, a file of {file_format},")
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import ipc

    try:
        found: Any = pq.ParquetFile(path) if file_format == "parquet" else ipc.open_file(pa.memory_map(str(path)))
        schema = found.schema_arrow if file_format == "parquet" else found.schema
        text = (schema.metadata or {}).get(MANIFEST.encode())
        manifest = None if text is None else json.loads(text)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadFile(f"it cannot be read ({type(error).__name__})") from error

    def frames() -> Iterator[pd.DataFrame]:
        try:
            if file_format == "parquet":
                parts = found.iter_batches(batch_size=_READ_ROWS, use_threads=False)
            else:
                parts = (found.get_batch(at) for at in range(found.num_record_batches))
            for part in itertools.chain(parts, [schema.empty_table()]):  # for a file without a row
                part.validate(full=True)
                yield pd.DataFrame({name: _values(part.column(name)) for name in part.schema.names})
        except InputError:  # a ValueError too
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadFile(f"its rows cannot be read ({type(error).__name__})") from error

    return manifest if isinstance(manifest, dict) else None, frames()


def _values(column: Any) -> Any:
    """Return a column as frames of this library have it: float64, Int64, bool, or times in UTC.

    Raises InputError for another type.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind):
        return pd.DatetimeIndex(column.cast(pa.timestamp("ns", kind.tz)).to_pandas())
    if pa.types.is_integer(kind):
        return column.cast(pa.int64()).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    if pa.types.is_floating(kind):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if pa.types.is_boolean(kind):
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=bool)
    raise InputError(f"it has a column of type {kind}; expected numbers, times in UTC, or flags")
