"""Processors: functions of the user from frame to frame that new rows go through before they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.gap import iso

Processor = Callable[[pd.DataFrame], pd.DataFrame]


def read_processors(process: object) -> tuple[Processor, ...]:
    """Return the argument `process`: a callable, several, or None for none. Raises InputError for anything else."""
    if process is None:
        return ()
    found = (process,) if callable(process) else process
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(map(callable, found)):
        raise InputError(f"process {shown(process)} is not understood; expected a function frame -> frame, or several")
    return tuple(found)


def name_of(processor: Processor) -> str:
    """Return the name of a processor, for messages and for vault.json."""
    return str(getattr(processor, "__qualname__", type(processor).__name__))


def process_rows(
    processors: Sequence[Processor], context: pd.DataFrame, rows: pd.DataFrame, label: str
) -> pd.DataFrame:
    """Return what the processors make of the rows, each of which comes back exactly once.

    They get the rows behind those of the context, which they may return too. Raises InputError, which names processor,
    series and span, where a row is missing, doubled or new; an error of a processor is the cause of an InputError.
    """
    if not processors or not len(rows):
        return rows
    wanted = index_ms(rows)
    made = pd.concat([context, rows]) if len(context) else rows.copy()
    span = f"{iso(int(wanted[0]))} to {iso(int(wanted[-1]))}"
    for processor in processors:
        where = f"the processor {name_of(processor)} of {label}, {span},"
        try:
            made = processor(made)
        except Exception as error:
            raise InputError(f"{where} failed: {type(error).__name__}: {error}; nothing was written") from error
        try:
            times = index_ms(made)
        except InputError as error:
            raise InputError(f"{where} returned no candles: {error.args[0]}; nothing was written") from error
        is_new = times >= wanted[0]
        if not np.array_equal(times[is_new], wanted):
            raise InputError(f"{where} {_fault(times[is_new], wanted)}; each time comes back exactly once, in order")
    kept: pd.DataFrame = made[index_ms(made) >= wanted[0]]
    return kept


def _fault(
    times: np.ndarray[tuple[int], np.dtype[np.int64]], wanted: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> str:
    missing, strange = np.setdiff1d(wanted, times), np.setdiff1d(times, wanted)
    if missing.size:
        return f"left out {missing.size:,} rows, the first of {iso(int(missing[0]))}"
    if strange.size:
        return f"added {strange.size:,} rows, the first of {iso(int(strange[0]))}"
    return "returned rows twice" if len(times) != len(wanted) else "returned rows in another order"
