"""API keys: added to a request when it is written, and hidden in everything that results from it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import AnyStr, NoReturn

from candle_fetcher.core.errors import InputError

Pairs = Iterable[tuple[str, str]]

HIDDEN = "***"
# A shorter word occurs in any text, and is not a key.
_LEAST = 4
_ESCAPES = (b"%", b"\\", b"&", b"\0")


class Keys:
    """Headers and query parameters that carry keys; `also` holds further values that must not be shown.

    Keys are not part of a Call: the client hands them to the transport, which adds them to the request and hides them
    in the reply before any other code reads it. The repr shows only names. Where a value has several words (`Bearer
    abc`), the last one is also hidden on its own.

    Raises InputError, which names the header or parameter, for a value that cannot be a key.
    """

    __slots__ = ("_bytes", "_text", "_words", "headers", "params")

    def __init__(self, *, headers: Pairs = (), params: Pairs = (), also: Iterable[str] = ()) -> None:
        self.headers = tuple(headers)
        self.params = tuple(params)
        words = [
            *(_checked(value, f"header {name!r}") for name, value in self.headers),
            *(_checked(value, f"parameter {name!r}") for name, value in self.params),
            *(_checked(value, "further secret") for value in also),
        ]
        words += [word for value in words if len(word := value.split()[-1]) >= _LEAST]
        # The longest first: one may be the beginning of another.
        pattern = "|".join(_any_spelling(word) for word in sorted(set(words), key=len, reverse=True))
        self._text = re.compile(pattern)
        self._bytes = re.compile(pattern.encode("ascii"))
        self._words = tuple(word.lower().encode() for word in words)

    def __bool__(self) -> bool:
        return bool(self.headers or self.params)

    def __repr__(self) -> str:
        return f"Keys({', '.join(name for name, _ in (*self.headers, *self.params))})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys cannot be pickled; they stay in the process that received them")

    def hide(self, said: AnyStr) -> AnyStr:
        """Return the text or bytes with `***` for each key, in any case, also as URLs, JSON and HTML escape it.

        A number or name that contains a key by chance becomes invalid too: its parser then raises an error, and never
        reads a wrong value.
        """
        if not self._words:
            return said
        if isinstance(said, str):
            return self._text.sub(HIDDEN, said) if self._may_stand_in(said.encode("utf-8", "replace")) else said
        return self._bytes.sub(HIDDEN.encode(), said) if self._may_stand_in(said) else said

    def _may_stand_in(self, said: bytes) -> bool:
        """Return whether a key can stand in the text, by a quick test: the exact search takes forty times as long."""
        lower = said.lower()
        return any(mark in said for mark in _ESCAPES) or any(word in lower for word in self._words)


def _checked(value: str, what: str) -> str:
    """Return the value, if a header can hold it. Raises InputError otherwise, which does not show the value."""
    if not (value.isascii() and value.isprintable()) or value != value.strip():
        raise InputError(f"the key for the {what} has blanks or characters that keys do not have; copy it again")
    if len(value) < _LEAST:
        raise InputError(f"the key for the {what} is too short; expected at least {_LEAST} characters")
    return value


def _any_spelling(word: str) -> str:
    """Return a pattern for the word with its characters in any spelling.

    In UTF-16 and UTF-32 there are zeros between them.
    """
    return r"\x00{0,3}".join(_spellings(char) for char in word)


def _spellings(char: str) -> str:
    code = ord(char)
    import html  # when a key has such a character: few do

    written = {char, f"\\{char}", html.escape(char), f"\\u{code:04x}", f"\\x{code:02x}", f"&#{code};", f"&#x{code:x};"}
    # Encoded twice, `%2B` is `%252B`.
    return f"(?:{'|'.join(map(_any_case, sorted(written)))}|%(?:25)*{_any_case(f'{code:02x}')})"


def _any_case(text: str) -> str:
    return "".join(f"[{char.lower()}{char.upper()}]" if char.isalpha() else re.escape(char) for char in text)


NO_KEYS = Keys()
