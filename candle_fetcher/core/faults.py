"""The errors of parsers: every provider and every file format reports the same fault in the same words.

A parser knows rows and fields. The client of a service puts the provider before the message, and the reader of a file
its name.
"""

from __future__ import annotations

import math
import reprlib

from candle_fetcher.core.errors import ReplyError
from candle_fetcher.core.gap import iso
from candle_fetcher.core.spans import Span

_SHOWN_BYTES, _SHOWN_CHARACTERS = 80, 130
_OUTER = reprlib.Repr()
_OUTER.maxlevel = 3  # six values in each of six levels would be a message of a megabyte


def beginning(body: bytes) -> str:
    """Return the first 80 bytes as a message shows them: escaped, in at most 130 characters."""
    return repr(body[:_SHOWN_BYTES])[:_SHOWN_CHARACTERS]


def brief(value: object) -> str:
    """Return a decoded value as a message shows it: its outer levels, in at most 130 characters."""
    return _OUTER.repr(value)[:_SHOWN_CHARACTERS]


def unexpected(expected: str, body: bytes) -> ReplyError:
    """Return the error for a body that is not what was `expected`, such as "a JSON list of rows"."""
    unit = "byte" if len(body) == 1 else "bytes"
    return ReplyError(f"expected {expected}, got {len(body):,} {unit}: {beginning(body)}")


def too_large(
    body: bytes, *, most_bytes: float = math.inf, most_commas: float = math.inf, most_brackets: float = math.inf
) -> ReplyError:
    """Return the error for a body above one of these bounds. It names the bound that is exceeded.

    Commas, and opening brackets of lists and objects, bound the memory that the decoded values take.
    """
    found, unit, most = len(body), "bytes", most_bytes
    if found <= most_bytes:
        found, unit, most = body.count(b","), "commas", most_commas
        if found <= most_commas:
            found, unit, most = body.count(b"[") + body.count(b"{"), "opening brackets", most_brackets
    return ReplyError(f"expected at most {most:,} {unit}, got {found:,}: {beginning(body)}")


def too_long(text: bytes, most_bytes: int) -> ReplyError:
    """Return the error for a line longer than `most_bytes`; `text` begins with it."""
    return ReplyError(f"expected lines of at most {most_bytes:,} bytes, got a longer one: {beginning(text)}")


def cut_off(text: bytes) -> ReplyError:
    """Return the error for a text with a last line that has no end."""
    return ReplyError(f"the last line has no line end, so the file was cut: {beginning(text)}")


def wrong_field(place: str, expected: str, value: object) -> ReplyError:
    """Return the error for a value at a place such as "row 3, field open" that is not what was `expected`."""
    return ReplyError(f"{place}: expected {expected}, got {brief(value)}")


def missing_field(row: str, field: str, expected: str) -> ReplyError:
    """Return the error for a row, such as "row 3", that lacks a field; `expected` is what the field should hold."""
    return ReplyError(f"{row}: field {field} is missing; expected {expected}")


def wrong_symbol(expected: str, value: object) -> ReplyError:
    """Return the error for data of another symbol; `expected` is the data and its symbol, "candles of BTCUSDT"."""
    return ReplyError(f"expected {expected}, got those of {brief(value)}")


def outside(what: str, ms: int, span: Span) -> ReplyError:
    """Return the error for a row of that time (Unix ms) that was not requested, or does not belong into its file."""
    return ReplyError(f"expected {what} from {iso(span.start_ms)} to before {iso(span.end_ms)}, got one of {iso(ms)}")


def out_of_order(row: int, ms: int, before_ms: int) -> ReplyError:
    """Return the error for a row, counted from 1, that is older than the row before it. Times are Unix ms."""
    return ReplyError(f"row {row} ({iso(ms)}) is out of order: it follows a row of {iso(before_ms)}")


def contradiction(place: str, ms: int) -> ReplyError:
    """Return the error for two rows of the same time (Unix ms) with different values."""
    return ReplyError(
        f"{place} ({iso(ms)}) contradicts the row before it: their times are equal, but their values differ"
    )
