"""Readers of CSV in other packages, used where they are faster than `rows.py` and give the same bits.

They accept more than this library does: quotes, blanks, `inf`, empty fields. So they only get blocks of plain numbers.
`rows.py` reads every other block, and each block that they refuse, and raises the errors. While they read, other
threads run.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Sequence

import numpy as np

from candle_fetcher.core.text.decimals import POINT, ZERO, Bytes, Column

# Each call of a reader has a fixed cost: so blocks have about BLOCK_BYTES, and none below LEAST_BYTES is worth a call.
BLOCK_BYTES, LEAST_BYTES = 1 << 20, 1 << 17
# A block is checked in steps that fit the processor's cache.
_STEP_BYTES = 1 << 17
_COMMA, _LF = np.frombuffer(b",\n", np.uint8)
_DIGITS = frozenset(b"0123456789")
_MOST_INTEGER = 10**18
# Decimals that readers are known to round wrongly, pandas before 3.1 among them; halfway cases, and the limits of a
# float64.
_HARD = (
    b"0.30000000000000004 267329271394.2568206787109375 0.0000000000000000000021 288388593764.08742904 0.00000001 "
    b"123456789012345678.123456789 9007199254740993 9007199254740993.00000000000000000001 834711391323481981909948 "
    b"26.0368391312434734885528087033890187740325927734375 7.368193036426212997220 -0.000 -0.1 "
    b"0.500000000000000166533453693773481063544750213623046875 10000000000000000000000000000000000000000.5 "
    b"1.00000000000000011102230246251565404236316680908203125 1.00000000000000011102230246251565404236316680908203124"
).split()
_TEXT_OF_HARD = b"".join(b"%d,%s\n" % (at - 4, number) for at, number in enumerate(_HARD))

Read = Callable[[bytes, str], Sequence[Column]]
"""A reader: called with lines of plain numbers and the kinds of their fields (see `Row`), it returns the columns of all
fields that are not x. The last line may lack its LF. It raises ValueError or OverflowError where it cannot read."""


def read_by_pyarrow() -> Read:
    """Return the reader of pyarrow. Raises ImportError where it is not installed."""
    import pyarrow
    from pyarrow import csv as arrow

    types = {"i": pyarrow.int64(), "d": pyarrow.float64()}
    # The allocator of the process keeps less than that of pyarrow for itself.
    pool = pyarrow.system_memory_pool()
    parse = arrow.ParseOptions(quote_char=False, double_quote=False, ignore_empty_lines=False)

    def read(block: bytes, kinds: str) -> Sequence[Column]:
        names = [str(at) for at in range(len(kinds))]
        wanted = {name: types[kind] for name, kind in zip(names, kinds, strict=True) if kind in types}
        convert = arrow.ConvertOptions(
            check_utf8=False, column_types=wanted, include_columns=list(wanted), null_values=[]
        )
        # One thread, since several files are read side by side; one block, so that each column is one array.
        how = arrow.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=names)
        table = arrow.read_csv(pyarrow.py_buffer(block), how, parse, convert, memory_pool=pool)
        return [column.chunk(0).to_numpy() for column in table.columns]

    return read


def read_by_pandas() -> Read:
    """Return the reader of pandas."""
    import pandas as pd

    def read(block: bytes, kinds: str) -> Sequence[Column]:
        frame = pd.read_csv(
            io.BytesIO(block),
            header=None,
            # Not for integers, since a declared int64 takes `5.0` too.
            dtype={at: np.float64 for at, kind in enumerate(kinds) if kind != "i"},
            engine="c",
            na_filter=False,
            low_memory=False,
            quoting=csv.QUOTE_NONE,
        )
        if frame.shape[1] != len(kinds):
            raise ValueError("the first line has another number of fields")
        return [frame[at].to_numpy() for at, kind in enumerate(kinds) if kind != "x"]

    return read


# The first one that is installed and exact is used.
READERS: dict[str, Callable[[], Read]] = {"pyarrow": read_by_pyarrow, "pandas": read_by_pandas}


@functools.lru_cache(maxsize=1)
def find_reader() -> Read | None:
    """Return the first reader that is installed and exact; None where there is none, and `rows.py` reads all blocks."""
    for make in READERS.values():
        try:
            read = make()
        except ImportError:
            continue
        if is_exact(read):
            return read
    return None


def is_exact(read: Read) -> bool:
    """Return whether the reader gives the bits of `float` for decimals that are hard to round."""
    columns = read_plain(_TEXT_OF_HARD, "id", read)
    wanted = np.array([float(number) for number in _HARD])
    return (
        columns is not None
        and columns[0].tolist() == [at - 4 for at in range(len(_HARD))]
        and columns[1].tobytes() == wanted.tobytes()
    )


def wants_more(size: int) -> bool:
    """Return whether a block of so many bytes should grow before it is read."""
    return size < LEAST_BYTES or (size < BLOCK_BYTES and find_reader() is not None)


def read_block(block: bytes, kinds: str) -> tuple[Column, ...] | None:
    """Return the columns of lines with these kinds of fields; None where `rows.py` has to read them.

    The columns may be read-only. The last line may lack its LF.
    """
    if len(block) < LEAST_BYTES:
        return None
    read = find_reader()
    return None if read is None else read_plain(block, kinds, read)


def read_plain(block: bytes, kinds: str, read: Read) -> tuple[Column, ...] | None:
    """Return the columns as that reader reads them; None where the block is not plain or a number is out of bounds."""
    fields = count_fields(block)
    if not fields or fields % len(kinds):
        return None
    try:
        columns = read(block, kinds)
    except (ValueError, OverflowError):  # pyarrow's and pandas' own errors are ValueErrors
        return None
    # Readers fill up short lines and refuse long ones. So with this number of rows, no line is short or long.
    rows = fields // len(kinds)
    are_fine = map(_is_fine, columns, kinds.replace("x", ""))
    return tuple(columns) if all(len(column) == rows for column in columns) and all(are_fine) else None


def _is_fine(column: Column, kind: str) -> bool:
    """Return whether the column has the type of its kind and all its numbers are in bounds."""
    if kind == "i":
        return column.dtype == np.int64 and bool(column.min() > -_MOST_INTEGER and column.max() < _MOST_INTEGER)
    return column.dtype == np.float64 and bool(np.isfinite(column).all())


def count_fields(block: bytes) -> int:
    """Return the number of fields in plain lines; 0 where the lines are not plain.

    A plain field has digits, perhaps a minus before them, and at least one digit on each side of a point. It has no
    zero before another digit, since `Row` allows that in decimals alone. Two points in one field are not noticed here.
    """
    block = block.removesuffix(b"\n")
    if b"-" in block:  # a minus that stays after this stands inside a field, and is counted as a wrong mark below
        block = block.removeprefix(b"-").replace(b",-", b",").replace(b"\n-", b"\n")
    if not block or block[0] not in _DIGITS or block[-1] not in _DIGITS or block[:1] == b"0":
        return 0
    data = np.frombuffer(block, np.uint8)
    fields = 1
    for at in range(0, len(data), _STEP_BYTES):
        found = _count_ends(data[at : at + _STEP_BYTES + 2])
        if found is None:
            return 0
        fields += found
    return fields


def _count_ends(part: Bytes) -> int | None:
    """Return how many commas and LFs are in a step; None where another mark occurs, marks adjoin, or a zero leads.

    `part` is the step and the two bytes after it, so that each three consecutive bytes are checked together.
    """
    is_mark = (part - ZERO) > 9  # a byte below `0` wraps around to a large number
    is_end = part == _COMMA
    is_end |= part == _LF
    if np.count_nonzero(is_mark) != np.count_nonzero(is_end) + np.count_nonzero(part == POINT):
        return None
    if (is_mark[1:] & is_mark[:-1]).any():
        return None
    leads = is_end[:-2] > is_mark[2:]
    leads &= part[1:-1] == ZERO
    return None if leads.any() else int(np.count_nonzero(is_end[:_STEP_BYTES]))
