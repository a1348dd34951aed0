"""CRC-32 and deflate by the fastest installed implementation; all implementations give the same results."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def find_zlib() -> Any:
    """Return isal's module with the functions of zlib where the extra `fast` is installed, else zlib."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


def find_crc32() -> Callable[..., int]:
    """Return the function `crc32(data, value=0)` of isal where it is installed, else that of zlib."""
    crc32: Callable[..., int] = find_zlib().crc32
    return crc32


find_zlib()  # imported here: by threads that all read their first page, it would take three times as long
