"""CRC-32, by the quickest implementation that is installed; all give the same numbers."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def find_crc32() -> Callable[..., int]:
    """Return the function `crc32(data, value=0)` of isal where the extra `fast` has brought it, else that of zlib."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.crc32
    crc32: Any = isal_zlib.crc32
    return crc32  # type: ignore[no-any-return]
