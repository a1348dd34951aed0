"""The freshness index: until when each stored chunk answers without being asked for again.

With it a plan over years reads a record for each thousand chunks in place of the entries. The index is a hint: where an
entry disagrees, the entry is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from candle_fetcher.cache.documents import DocumentStore
from candle_fetcher.core.series import Series
from candle_fetcher.store import Store

RECORD_CHUNKS = 1_000
_MOST_MARKED = 100_000
# A value of the index that is no time: the entry itself has to be read. 0 stands for a chunk that is not in the index.
READ_ENTRY = 1


class FreshnessIndex:
    """The freshness of chunks, in records of RECORD_CHUNKS int64 values. Shared by threads."""

    def __init__(self, store: Store, documents: DocumentStore) -> None:
        self._keeps = store.keeps
        self._documents = documents
        self._marked: set[tuple[Series, int]] = set()  # for which READ_ENTRY was saved last

    def load(self, series: Series, chunks: Sequence[int]) -> dict[int, int]:
        """Return the time (ms) until which each of the chunks is fresh, or READ_ENTRY.

        `chunks`, in order, are those with an entry. The index may know others, which were evicted or dropped,
        and may lack some, where a process was killed before it saved the index.
        """
        fresh: dict[int, int] = {}
        for number, some in groupby(chunks, lambda chunk: chunk // RECORD_CHUNKS):
            record = self._documents.load_record(f"{series.key}|shelf|{number}")
            values = _read(None if record is None else record[1]).tolist()
            fresh.update((chunk, values[chunk % RECORD_CHUNKS] or READ_ENTRY) for chunk in some)
        return fresh

    def save(self, series: Series, fresh_until: Mapping[int, int]) -> None:
        """Store the time (ms) until which each of the chunks is fresh, or READ_ENTRY."""
        marks = {(series, chunk) for chunk, until_ms in fresh_until.items() if until_ms == READ_ENTRY}
        if not self._keeps or (len(marks) == len(fresh_until) and marks <= self._marked):
            return
        if len(self._marked) > _MOST_MARKED:
            self._marked.clear()
        self._marked.difference_update((series, chunk) for chunk in fresh_until)
        self._marked.update(marks)
        with self._documents.transaction():
            for number in sorted({chunk // RECORD_CHUNKS for chunk in fresh_until}):
                new = {chunk: ms for chunk, ms in fresh_until.items() if chunk // RECORD_CHUNKS == number}
                self._documents.update_record(f"{series.key}|shelf|{number}", partial(_change, new))


def _change(fresh_until: Mapping[int, int], body: memoryview | None) -> tuple[bytes, bytes]:
    """Return head and body of a record with the new values in place of the old ones."""
    values = _read(body).copy()
    for chunk, until_ms in fresh_until.items():
        values[chunk % RECORD_CHUNKS] = until_ms
    return b"\0", values.tobytes()


def _read(body: memoryview | None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the values of a record, 0 where it is none."""
    if body is None or len(body) != RECORD_CHUNKS * 8:
        return np.zeros(RECORD_CHUNKS, np.int64)
    return np.frombuffer(body, "<i8")
