"""The flags that say what files a command writes, as public calls take them."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from candle_fetcher.cli.opening import FOLDER
from candle_fetcher.core.errors import InputError
from candle_fetcher.files.exporting import FileArguments, read_file_arguments
from candle_fetcher.files.layout import PLAIN, SYMBOL

_MOST_AT_ONCE = 8


def file_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments about the file that `export` takes."""
    return {
        "path": arguments.output or FOLDER,
        "format": arguments.format if hasattr(arguments, "format") else arguments.export,
        "columns": read_columns_flag(arguments.columns),
        "separator": "\t" if arguments.separator in ("tab", "\\t") else arguments.separator,
        "decimal": arguments.decimal,
        "decimals": arguments.decimals,
        "name": arguments.name,
        "manifest": arguments.manifest,
    }


def read_file(arguments: argparse.Namespace, *, several: bool, is_saved: bool = True) -> FileArguments:
    """Return what file a command writes. Raises InputError where several symbols would get one, and for flags about
    a file that is not written."""
    options = file_options(arguments)
    made = read_file_arguments(file_format=options.pop("format"), **options)
    if not is_saved and (made.name is not None or made.options != PLAIN or made.has_manifest):
        raise InputError("a flag is about a file, but none is written; add --export csv, or leave it out")
    if not is_saved and not isinstance(made.columns, str):
        raise InputError(f"--columns {arguments.columns} is of a file; add --export csv, or expected ohlcv or all")
    if several and made.name is not None and SYMBOL not in made.name:
        raise InputError(f"--name {made.name} is one name for several symbols; expected one with {SYMBOL} in it")
    if several and made.place.is_file:
        raise InputError(f"--output {made.place.path} is one file for several symbols; expected a folder")
    return made


def read_columns_flag(text: str) -> str | dict[str, str]:
    """Return --columns as a set of columns, or as a mapping out of `HEADER=COLUMN,...`.

    Raises InputError where a part is no pair, or a header is there twice.
    """
    if "=" not in text:
        return text
    made: dict[str, str] = {}
    for part in text.split(","):
        header, mark, name = part.rpartition("=")
        if not (mark and header.strip() and name.strip()):
            raise InputError(f"--columns has {part!r}; expected HEADER=COLUMN, such as ds=timestamp,y=close")
        if header.strip() in made:
            raise InputError(f"--columns has the header {header.strip()!r} twice")
        made[header.strip()] = name.strip()
    return made


@contextlib.contextmanager
def side_by_side(count: int) -> Iterator[Callable[..., Callable[[], Any]]]:
    """Give a function that starts a call in a thread and returns one that waits for its result; at the end, calls that
    have not begun are dropped and the others are waited for.

    A single call is made by the thread that waits for it.
    """
    if count == 1:
        yield partial
        return
    from concurrent.futures import ThreadPoolExecutor  # when used

    pool = ThreadPoolExecutor(min(count, _MOST_AT_ONCE), "candle-export")
    try:
        yield lambda work, *arguments: pool.submit(work, *arguments).result
    finally:
        pool.shutdown(cancel_futures=True)
