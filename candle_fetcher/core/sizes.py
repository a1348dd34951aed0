"""Bytes as text."""

from __future__ import annotations


def size_text(size_bytes: int) -> str:
    """Return the bytes with a unit, such as 1.4 kB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:,.1f} {unit}"
    return f"{size_bytes} B"
