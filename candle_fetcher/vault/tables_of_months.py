"""The rows of a month as a Parquet or Arrow file, by pyarrow; an Arrow file is mapped into memory, and not copied.

Times in Parquet are in microseconds, which every program reads; Spark refuses nanoseconds. Those in Arrow files are in
nanoseconds, so that an index is the file itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pandas as pd

from candle_fetcher.core.errors import BadFile
from candle_fetcher.core.frame import COPIES_ON_WRITE, utc_index
from candle_fetcher.files.layout import TIME
from candle_fetcher.vault.state import Field


def write_month(file: IO[bytes], frame: pd.DataFrame, fields: Sequence[Field], file_format: str) -> None:
    """Write the rows, all columns under their headers; an Arrow file has one batch."""
    import pyarrow as pa

    unit: Literal["us", "ns"] = "us" if file_format == "parquet" else "ns"
    columns = [
        _column(frame.index if field.column == TIME else frame[field.column], field.kind, unit) for field in fields
    ]
    table = pa.table(columns, names=[field.header for field in fields])
    if file_format == "parquet":
        from pyarrow import parquet

        times = [field.header for field in fields if field.kind == "time"]
        encoding = dict.fromkeys(times, "DELTA_BINARY_PACKED")
        parquet.write_table(table, file, use_dictionary=False, column_encoding=encoding)
        return
    from pyarrow import ipc

    with ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, len(frame)))


def _column(values: Any, kind: str, unit: Literal["us", "ns"]) -> Any:
    import pyarrow as pa

    if kind == "time":
        return pa.array(pd.DatetimeIndex(values).as_unit(unit), pa.timestamp(unit, "UTC"))
    if kind == "float":  # NaN stays NaN: a column with nulls could not be mapped
        return pa.array(values.to_numpy(dtype=np.float64, na_value=np.nan))
    if kind == "bool":
        return pa.array(values.to_numpy(dtype=np.bool_))
    return pa.array(values, pa.int64(), from_pandas=True)


def read_month(source: Path | IO[bytes], shown: str, fields: Sequence[Field], file_format: str) -> pd.DataFrame:
    """Return the rows of a month: the columns by their headers, `timestamp` as index (UTC). Columns of floats of an
    Arrow file are the file itself, mapped into memory; on Windows they are a copy, since a mapped file could not be
    replaced there. `shown` is the file in messages.

    Raises BadFile where it cannot be read, FileNotFoundError where it is not there.
    """
    import pyarrow as pa

    try:
        if file_format == "parquet":
            from pyarrow import parquet

            with source.open("rb") if isinstance(source, Path) else source as file:
                table = parquet.read_table(file, use_threads=False).combine_chunks()
            columns = {name: table.column(name).chunk(0) for name in table.column_names} if len(table) else {}
        else:
            from pyarrow import ipc

            found = ipc.open_file(_bytes_of(source))
            batch = found.get_batch(0) if found.num_record_batches else None
            columns = {} if batch is None else {name: batch.column(name) for name in batch.schema.names}
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadFile(
            f"{shown} cannot be read ({type(error).__name__}): it is damaged. Remove it and update"
        ) from error
    if columns and list(columns) != [field.header for field in fields]:
        raise BadFile(f"{shown} has the columns {', '.join(columns)}; it was not written by this vault")
    values = {field.header: _values(columns.get(field.header), field.kind) for field in fields}
    time = next(field.header for field in fields if field.column == TIME)
    index = values.pop(time)
    made = pd.DataFrame(values, index=index.rename(TIME), copy=False)
    return made if COPIES_ON_WRITE else made.copy()


def _bytes_of(source: Path | IO[bytes]) -> Any:
    import pyarrow as pa

    if not isinstance(source, Path):
        return source
    return pa.BufferReader(source.read_bytes()) if os.name == "nt" else pa.memory_map(str(source))


def no_values(kind: str) -> Any:
    """Return an empty column of that kind; one of times is an index."""
    if kind == "time":
        return utc_index(np.zeros(0, np.int64))
    dtypes = {"float": "float64", "int": "Int64", "bool": "bool"}
    return pd.Series([], dtype=dtypes[kind]).array


def _values(column: Any, kind: str) -> Any:
    if column is None:
        return no_values(kind)
    if kind == "time":
        import pyarrow as pa

        in_ns = column.cast(pa.timestamp("ns", "UTC"))
        return pd.DatetimeIndex(in_ns.view("int64").to_numpy(), tz="UTC", copy=False)
    if kind == "int":
        return column.to_pandas(types_mapper={column.type: pd.Int64Dtype()}.get).array
    if kind == "bool":
        return np.asarray(column.to_numpy(zero_copy_only=False), np.bool_)
    return column.to_numpy(zero_copy_only=column.null_count == 0)
