"""The names of a frame's columns as pandas' index of texts."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def label_index(names: Sequence[str]) -> pd.Index[str]:
    """Return the index that pandas makes of the names: the same values, type and storage.

    The first texts that pandas 3 hands to pyarrow make pyarrow import its module for pandas, which takes longer than
    to read a month of candles from disk. An array over the bytes of the names needs no such import.
    """
    if int(pd.__version__.partition(".")[0]) < 3:
        return pd.Index(list(names))
    dtype: Any = pd.StringDtype(na_value=np.nan)
    if dtype.storage != "pyarrow":
        return pd.Index(list(names))
    # A view of the same values, with a name of its own, which a user may set.
    return _arrow_labels(tuple(names)).view()


@functools.lru_cache(maxsize=64)
def _arrow_labels(names: tuple[str, ...]) -> pd.Index[str]:
    import pyarrow

    dtype: Any = pd.StringDtype(na_value=np.nan)
    texts = [name.encode() for name in names]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    buffers = [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(texts))]
    array = pyarrow.Array.from_buffers(pyarrow.large_string(), len(texts), buffers)
    index: pd.Index[str] = pd.Index(dtype.__from_arrow__(array))
    return index
