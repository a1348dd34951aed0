"""The keys that a service wants to see with each request: added where it is written, hidden in all that comes of it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import AnyStr, NoReturn

from candle_fetcher.core.errors import InputError

Pairs = Iterable[tuple[str, str]]

HIDDEN = "***"
# What is shorter stands in any text, and is no key.
_LEAST = 4
_ESCAPES = (b"%", b"\\", b"&", b"\0")


class Keys:
    """Headers and query parameters that carry keys, `also` further values that must not be shown.

    They are no part of a Call: whoever asks a service hands them to the transport, which writes them and hides them in
    the reply, before anybody reads it. The repr has their names alone. Of a value of several words (`Bearer abc`) the
    last one is hidden by itself too.

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
        forms = "|".join(_forms(word) for word in sorted(set(words), key=len, reverse=True))
        self._text = re.compile(forms)
        self._bytes = re.compile(forms.encode("ascii"))
        self._words = tuple(word.lower().encode() for word in words)

    def __bool__(self) -> bool:
        return bool(self.headers or self.params)

    def __repr__(self) -> str:
        return f"Keys({', '.join(name for name, _ in (*self.headers, *self.params))})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys cannot be pickled; they belong to the process that was given them")

    def hide(self, said: AnyStr) -> AnyStr:
        """The same with `***` for each key, be it in other case, or escaped as URLs, JSON and HTML do.

        A number or name that happens to hold a key is none any more: its parser refuses it, and never reads another.
        """
        if not self._words:
            return said
        if isinstance(said, str):
            return self._text.sub(HIDDEN, said) if self._may_stand_in(said.encode("utf-8", "replace")) else said
        return self._bytes.sub(HIDDEN.encode(), said) if self._may_stand_in(said) else said

    def _may_stand_in(self, said: bytes) -> bool:
        """Whether a closer look is worth while: of rows without an escape it takes forty times as long."""
        lower = said.lower()
        return any(mark in said for mark in _ESCAPES) or any(word in lower for word in self._words)


def _checked(value: str, what: str) -> str:
    """The value, if it can stand in a header. It is never shown."""
    if not (value.isascii() and value.isprintable()) or value != value.strip():
        raise InputError(f"the key for the {what} holds blanks or characters that no key has; copy it once more")
    if len(value) < _LEAST:
        raise InputError(f"the key for the {what} is too short to be one; expected {_LEAST} characters or more")
    return value


def _forms(word: str) -> str:
    """A pattern for the word however its characters are written; in UTF-16 and UTF-32 there are zeros between them."""
    return r"\x00{0,3}".join(_form(char) for char in word)


def _form(char: str) -> str:
    code = ord(char)
    written = {char, f"\\{char}", html.escape(char), f"\\u{code:04x}", f"\\x{code:02x}", f"&#{code};", f"&#x{code:x};"}
    # Encoded once more, `%2B` is `%252B`.
    return f"(?:{'|'.join(map(_any_case, sorted(written)))}|%(?:25)*{_any_case(f'{code:02x}')})"


def _any_case(text: str) -> str:
    return "".join(f"[{char.lower()}{char.upper()}]" if char.isalpha() else re.escape(char) for char in text)


NO_KEYS = Keys()
