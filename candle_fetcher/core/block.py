"""One block for the candles of many chunks: what threads fill side by side is not held twice at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from candle_fetcher.core.candles import Candles
from candle_fetcher.core.plan import CHUNK_SLOTS


class AnswerBlock:
    """Room for the candles of chunks in a row, each at the place of its slots. Shared by threads until `close_up`.

    Where each chunk but the last has a candle in each slot, the candles adjoin. Room that nothing is written to takes
    no memory.
    """

    def __init__(self, names: tuple[str, ...], chunks: range) -> None:
        self.names = names
        self._chunks = chunks
        self._block = np.empty((len(names), len(chunks) * CHUNK_SLOTS), np.int64)
        self._shown = self._block.view()
        self._shown.flags.writeable = False
        self._free = set(chunks)  # chunks that no thread has placed yet

    def place(self, chunk: int, candles: Candles) -> Candles:
        """Return the candles as they lie in the block; as they are, where they do not fit or the chunk has been placed
        before: another thread may be reading it."""
        if candles.names != self.names or candles.count > CHUNK_SLOTS:
            return candles
        try:
            self._free.remove(chunk)
        except KeyError:
            return candles
        at = (chunk - self._chunks.start) * CHUNK_SLOTS
        if chunk == self._chunks.start:  # a series may begin in it: what follows is to adjoin
            at += CHUNK_SLOTS - candles.count
        self._block[:, at : at + candles.count] = candles.block
        return Candles(self.names, self._shown[:, at : at + candles.count])

    def close_up(self, parts: Iterable[Candles]) -> Iterator[Candles]:
        """Yield the candles of the chunks, which are given in order, at places that adjoin, in place of those before.

        Nothing else may use what was placed any more. The parts have the first of the columns, or all.
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
