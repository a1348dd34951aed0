"""One block of memory for the candles of many chunks, which several threads fill.

So a long answer is not in memory twice: once as chunks, and once joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from candle_fetcher.core.candles import Candles
from candle_fetcher.core.plan import CHUNK_SLOTS


class AnswerBlock:
    """Room for the candles of consecutive chunks, each chunk at the place of its slots. Shared by threads.

    The chunks adjoin where each of them, except the last, has a candle in every slot; else `close_up` moves them
    together. The operating system gives no memory to room that is never written to.
    """

    def __init__(self, names: tuple[str, ...], chunks: range) -> None:
        self.names = names
        self._chunks = chunks
        self._block = np.empty((len(names), len(chunks) * CHUNK_SLOTS), np.int64)
        self._shown = self._block.view()
        self._shown.flags.writeable = False
        self._free = set(chunks)  # chunks that no thread has placed yet

    def place(self, chunk: int, candles: Candles) -> Candles:
        """Copy the candles into the block and return them from there.

        Return them unchanged where they do not fit, or where the chunk was placed before: a thread may be reading it.
        """
        if candles.names != self.names or candles.count > CHUNK_SLOTS:
            return candles
        try:
            self._free.remove(chunk)
        except KeyError:
            return candles
        at = (chunk - self._chunks.start) * CHUNK_SLOTS
        if (
            chunk == self._chunks.start
        ):  # where a series begins in it, its candles end at its last slot, so that all adjoin
            at += CHUNK_SLOTS - candles.count
        self._block[:, at : at + candles.count] = candles.block
        return Candles(self.names, self._shown[:, at : at + candles.count])

    def close_up(self, parts: Iterable[Candles]) -> Iterator[Candles]:
        """Move the candles of the chunks together, without space between them, and yield those of each chunk.

        `parts` are the candles of all chunks, in order, with all columns or the first few. Candles that were placed
        before must not be used any more: they are overwritten.
        """
        at = None
        for part in parts:
            block = self._block[: len(part.names)]
            if at is None:  # the first chunk ends where its slots do
                at = max(0, CHUNK_SLOTS - part.count)
            place = block[:, at : at + part.count]
            if place.ctypes.data != part.block.ctypes.data:
                place[:] = part.block
            yield Candles(part.names, self._shown[: len(part.names), at : at + part.count])
            at += part.count
