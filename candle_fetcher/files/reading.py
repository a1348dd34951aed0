"""Reads a file of candles block by block, with checks."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from candle_fetcher.core.candles import OHLCV, Candles, check, have_prices, join
from candle_fetcher.core.errors import BadFile, InputError, ReplyError
from candle_fetcher.core.faults import contradiction
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text.rows import CSV_PIECE_BYTES
from candle_fetcher.files.places import refuse_device

_YEARS = Span(0, 253_402_300_800_000)  # 1970 to 9999
HEAD_BYTES = 4_096
_GZIP = b"\x1f\x8b"


@contextlib.contextmanager
def naming_file(path: Path, what: str) -> Iterator[None]:
    """Put the name of the file before the message of an error that leaves the block. A ReplyError becomes a BadFile.

    A pipe or a device is refused: opening it might wait for a writer.
    """
    try:
        refuse_device(path, "it")
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadFile(f"{path.name} is damaged or incomplete: it cannot be unpacked") from error
    except (ReplyError, BadFile) as error:
        raise BadFile(f"{path.name} is damaged or incomplete: {error.args[0]}") from error
    except InputError as error:
        if type(error) is not InputError:
            raise
        raise InputError(f"{path.name} cannot be {what}: {error.args[0]}") from error


def read_head(path: Path) -> bytes:
    """Return the first bytes of the file, unpacked where it is packed by gzip.

    Raises BadFile for an empty file and for text that ends within a line.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if not head:
            raise BadFile("it is empty")
        if head.startswith(_GZIP):
            with gzip.open(path) as packed:
                return packed.read(HEAD_BYTES)
        if not head.startswith((b"PK", b"PAR1", b"ARROW1")):  # they are no text
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                raise BadFile("the last line has no line end, so the file was cut")
    return head


def read_pieces(path: Path) -> Iterator[bytes]:
    """Yield the bytes of the file, unpacked where it is packed by gzip."""
    with path.open("rb") as file, contextlib.ExitStack() as stack:
        is_packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        text: Any = stack.enter_context(gzip.GzipFile(fileobj=file)) if is_packed else file
        while piece := text.read(CSV_PIECE_BYTES):
            yield piece


def check_exact(manifest: Mapping[str, Any]) -> None:
    """Raise InputError where the numbers of a file were rounded, as its manifest says."""
    options = manifest.get("csv")
    decimals = options.get("decimals") if isinstance(options, dict) else None
    if decimals is not None:
        raise InputError(
            f"its numbers were rounded to {decimals} decimals, as the manifest beside it says; expected a file with "
            "exact numbers"
        )


def checked_blocks(blocks: Iterable[Candles]) -> Iterator[Candles]:
    """Yield the blocks, checked as replies are, each together with the last candle of the block before it."""
    last: Candles | None = None
    for block in blocks:
        if not block.count:
            continue
        whole = block if last is None else join([last, block])
        checked = check(whole.pick(("open_time", *OHLCV)) if have_prices(whole.names) else whole, _YEARS)
        if checked.count < whole.count:
            twins = np.flatnonzero(np.diff(whole.open_ms) == 0) + 1
            differing = (whole.block[:, twins] != whole.block[:, twins - 1]).any(axis=0)
            if differing.any():
                raise contradiction("a row", int(whole.open_ms[twins[int(np.argmax(differing))]]))
            whole = Candles(whole.names, np.delete(whole.block, twins, axis=1))
        yield whole if last is None else Candles(whole.names, whole.block[:, 1:])
        last = Candles(whole.names, whole.block[:, -1:])
