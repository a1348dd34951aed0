"""`.env`: settings and keys of a folder, for the command line alone. A library reads nothing that it was not given."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from candle_fetcher.cli.show import Talk
from candle_fetcher.core.errors import MissingExtra
from candle_fetcher.fetcher.settings import ENVIRONMENT
from candle_fetcher.providers import all_providers

_NAME = re.compile(r"^[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=", re.M)
# No file of settings is as large; what is, is something else of that name.
_MOST_BYTES = 1 << 20
_ROOTS = f"{ENVIRONMENT}BASE_URLS"


@contextlib.contextmanager
def dotenv(talk: Talk) -> Iterator[None]:
    """What `.env` in the working folder (no folder above it) sets of ours, and the environment does not, is in the
    environment for the while: `CANDLE_FETCHER_*`, and the keys of providers. Other names in it are left alone.

    The folder may be somebody else's: what it says goes to no other host, since keys would too. So roots are taken for
    this machine alone, and `${NAME}` is no word for what the environment has.

    Raises MissingExtra where there is such a name, and no python-dotenv to read it.
    """
    path = Path(".env")
    values: dict[str, str] = {}
    try:
        if path.is_file() and path.stat().st_size <= _MOST_BYTES:
            text = path.read_text(encoding="utf-8-sig")
            values = _read(path, [name for name in _NAME.findall(text) if name not in os.environ and is_ours(name)])
        if any("\0" in value for value in values.values()):
            raise UnicodeError
        if "https:" in values.get(_ROOTS, "").lower():  # plain http leads to this machine, or is refused
            talk.warn(f".env of this folder sets {_ROOTS}, which is not taken from a file; --base-url does it")
            del values[_ROOTS]
    except (OSError, UnicodeError) as error:
        values = {}
        talk.warn(f".env of this folder is left alone: it cannot be read ({type(error).__name__})")
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)


def is_ours(name: str) -> bool:
    """Whether we read the variable."""
    keys = (key.environment for provider in all_providers().values() for key in provider.keys)
    return name.startswith(ENVIRONMENT) or name in keys


def _read(path: Path, names: list[str]) -> dict[str, str]:
    """The values of the names, as python-dotenv reads them, less what it would put in from the environment."""
    if not names:
        return {}
    try:
        from dotenv import dotenv_values
    except ImportError as error:
        raise MissingExtra("dotenv", f".env of this folder sets {names[0]}, and reading it") from error
    found = dotenv_values(path, encoding="utf-8-sig", interpolate=False)
    return {name: value for name in names if (value := found.get(name)) is not None}
