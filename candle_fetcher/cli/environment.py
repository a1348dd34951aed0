"""`.env`: settings and keys of the working folder, for the command line alone. The library never reads such a file."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from candle_fetcher.cli.talk import Talk
from candle_fetcher.core.errors import MissingExtra
from candle_fetcher.log import LEVELS
from candle_fetcher.providers import Provider, all_providers
from candle_fetcher.settings import ENVIRONMENT

_NAME = re.compile(r"^[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=", re.M)
# A larger file of this name is not a file of settings.
_MOST_BYTES = 1 << 20
_ROOTS, _LOG_FILE, _PROVIDER = f"{ENVIRONMENT}BASE_URLS", f"{ENVIRONMENT}LOG_FILE", f"{ENVIRONMENT}PROVIDER"
# Older names of settings, and the values that they may have. They are read from the file alone: in the environment
# another program may have set them.
_OLDER = {"CACHE_DIR": "CACHE_DIR", "MAX_RETRIES": "MAX_RETRIES", "THREAD_POOL_SIZE": "NETWORK_THREADS"} | {
    "LOG_LEVEL": "LOG_LEVEL"
}
_OLDER_VALUES = {
    "CACHE_DIR": re.compile(r".+"),
    "MAX_RETRIES": re.compile(r"[0-9]{1,2}"),
    "THREAD_POOL_SIZE": re.compile(r"[1-9][0-9]?"),
    "LOG_LEVEL": re.compile("|".join(LEVELS), re.I),
}


@contextlib.contextmanager
def dotenv(arguments: argparse.Namespace, talk: Talk) -> Iterator[None]:
    """Set environment variables from `.env` of the working folder for the duration of a command, where they are not
    set: `CANDLE_FETCHER_*`, the keys of the providers that the command names, and the older names CACHE_DIR,
    MAX_RETRIES, THREAD_POOL_SIZE and LOG_LEVEL. Other names in it are left alone.

    The folder is not trusted. A file of another owner is not read, and `${NAME}` is not replaced. Where keys come from
    elsewhere, the URLs and the log file that the file names are ignored: they could receive these keys.

    Raises MissingExtra where the command needs a name in it, and python-dotenv is not installed.
    """
    values: dict[str, str] = {}
    try:
        text = _read_text(Path(".env"), talk)
        names = [name for name in _NAME.findall(text) if name not in os.environ]
        values = _trusted(_renamed(_read(names, arguments, talk), talk), talk)
        if any("\0" in value for value in values.values()):
            raise UnicodeError
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
    """Return whether this package reads the variable."""
    return name.startswith(ENVIRONMENT) or name in _keys_of(all_providers().values())


def _keys_of(providers: Collection[Provider]) -> set[str]:
    return {key.environment for provider in providers for key in provider.keys}


def _read_text(path: Path, talk: Talk) -> str:
    """Return the text of the file; "" where it is missing, too large, of another user or not a regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, IsADirectoryError):
        return ""
    except PermissionError:
        if path.is_dir():  # as Windows says of a folder
            return ""
        raise
    with os.fdopen(fd, encoding="utf-8-sig") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
            return ""
        if os.name == "posix" and found.st_uid != os.geteuid():
            talk.warn(".env of this folder belongs to another user, and is not read")
            return ""
        return file.read()


def _read(names: Collection[str], arguments: argparse.Namespace, talk: Talk) -> dict[str, str]:
    """Return the values of the names that the command reads, as python-dotenv reads them without interpolation."""
    settings = [name for name in names if name.startswith(ENVIRONMENT)]
    older = [name for name in names if name in _OLDER]
    is_practice = getattr(arguments, "practice", False) is True
    keys = [] if is_practice else [name for name in names if name in _keys_of(all_providers().values())]
    if not (settings or older or keys):
        return {}
    found = _load_file()
    if found is None:
        used = _keys_of(_used(arguments, os.environ))
        _refuse_without_package([*settings, *(key for key in keys if key in used)], older, talk)
        return {}
    used = _keys_of(_used(arguments, {**found, **os.environ}))
    readable = [*settings, *older, *(key for key in keys if key in used)]
    return {name: found[name] for name in readable if name in found}


def _load_file() -> dict[str, str] | None:
    """Return the names and values of `.env`; None where python-dotenv is not installed."""
    try:
        from dotenv import dotenv_values
    except ImportError:
        return None
    values = dotenv_values(".env", encoding="utf-8-sig", interpolate=False)
    return {name: value for name, value in values.items() if value is not None}


def _refuse_without_package(needed: Sequence[str], older: Sequence[str], talk: Talk) -> None:
    """Raise MissingExtra where the command needs a name of the file; warn where the file has an older name."""
    if needed:
        raise MissingExtra("dotenv", f".env of this folder sets {needed[0]}, and reading it")
    if older:
        missing = MissingExtra("dotenv", f".env of this folder sets {older[0]}, which is not read: that")
        talk.warn(str(missing))


def _used(arguments: argparse.Namespace, environment: Mapping[str, str]) -> list[Provider]:
    """Return the providers that the command may ask: those that it names, else the one of the settings."""
    known = all_providers()
    if getattr(arguments, "symbols_file", None) is not None or arguments.command in ("providers", "doctor"):
        return list(known.values())
    symbols = getattr(arguments, "symbols", None) or [getattr(arguments, "symbol", None) or ""]
    named = {symbol.partition(":")[0].strip().lower() for symbol in symbols if ":" in symbol}
    if arguments.command not in ("cache", "practice"):
        given = getattr(arguments, "provider", None) or environment.get(_PROVIDER) or "binance"
        named.add(str(given).strip().lower())
    return [provider for name, provider in known.items() if name in named]


def _renamed(found: Mapping[str, str], talk: Talk) -> dict[str, str]:
    """Return the values under the names of this package. An older name with a value that this package does not take is
    left out: another program may use it."""
    values = {name: value for name, value in found.items() if name not in _OLDER}
    for older, name in _OLDER.items():
        ours = f"{ENVIRONMENT}{name}"
        if older not in found or ours in values or ours in os.environ:
            continue
        if _OLDER_VALUES[older].fullmatch(found[older]):
            values[ours] = found[older]
        else:
            talk.warn(f".env of this folder sets {older} to what is not understood; it is left out")
    return values


def _trusted(values: dict[str, str], talk: Talk) -> dict[str, str]:
    """Return the values; without URLs and log file where keys come from outside the file."""
    left = dict(values)
    foreign = {name for name in _keys_of(all_providers().values()) if os.environ.get(name)}
    if "https:" in left.get(_ROOTS, "").lower():  # plain http leads to this machine, or is refused
        talk.warn(f".env of this folder sets {_ROOTS}, which is not taken from a file; --base-url does it")
        del left[_ROOTS]
    for provider in all_providers().values():
        roots = [pair.partition("=")[0].strip().lower() for pair in left.get(_ROOTS, "").split(",")]
        is_named = any(root == provider.name or root.startswith(f"{provider.name}-") for root in roots)
        if is_named and foreign & _keys_of([provider]):
            talk.warn(
                f".env of this folder sets {_ROOTS}, which is not taken from it: it does not hold the keys of"
                f" {provider.name} itself. --base-url does it"
            )
            del left[_ROOTS]
    if _LOG_FILE in left and foreign:
        talk.warn(f".env of this folder sets {_LOG_FILE}, which is not taken from it: there are keys of other origin")
        del left[_LOG_FILE]
    return left
