"""Bytes and durations as text."""

from __future__ import annotations

# What a row takes at most while its frame is made: measured, 110 to 150.
ROW_BYTES = 160


def size_text(size_bytes: int) -> str:
    """Return the bytes with a unit, such as 1.4 kB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:,.1f} {unit}"
    return f"{size_bytes} B"


def duration_text(seconds: float) -> str:
    """Return the duration with a unit: 37.5 s, 12.0 min, 24.0 h or 3.0 days."""
    for unit_s, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:,.1f} {name}"
    return f"{seconds:,.1f} s"
