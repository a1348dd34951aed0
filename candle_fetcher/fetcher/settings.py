"""The settings of a CandleFetcher: argument, else `CANDLE_FETCHER_*` environment variable, else default."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from candle_fetcher.core.errors import InputError, unknown

ENVIRONMENT = "CANDLE_FETCHER_"
# network and I/O threads by performance_mode
MODES = {"low": (2, 1), "standard": (8, 4), "high": (16, 8)}
SOURCES = ("auto", "cache", "archive", "rest")
_MOST_COUNT = 256
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Default:
    """The value of a setting that nobody gave; shows the value in the signature."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def default(value: object) -> Any:
    """A parameter's default that an environment variable may replace, which an argument may not be."""
    return Default(value)


class Settings(NamedTuple):
    """What a CandleFetcher was made with, checked."""

    cache_dir: Path
    use_cache: bool
    memory_cache_size: int
    disk_cache_size: int
    cache_ttl: float | None
    compression: bool
    network_threads: int
    io_threads: int
    source: str
    max_retries: int
    timeout_s: float
    base_urls: Mapping[str, str]


def read_settings(
    given: Mapping[str, Any],
    environment: Mapping[str, str],
    check_root: Callable[[str], str],
    providers: Collection[str],
) -> tuple[Any, Settings]:
    """The provider as it was given, and the settings, out of arguments and environment. InputError names the setting,
    the value and what is allowed."""

    def value(name: str) -> Any:
        argument = given[name]
        if not isinstance(argument, Default):
            return argument
        text = environment.get(ENVIRONMENT + name.upper())
        return text if text else argument.value

    network, io = MODES[one_of("performance_mode", value("performance_mode"), MODES)]
    ttl = value("cache_ttl")
    settings = Settings(
        cache_dir=_folder("cache_dir", value("cache_dir")),
        use_cache=_flag("use_cache", value("use_cache")),
        memory_cache_size=size_bytes("memory_cache_size", value("memory_cache_size")),
        disk_cache_size=size_bytes("disk_cache_size", value("disk_cache_size")),
        cache_ttl=None if ttl is None else _number("cache_ttl", ttl, 0),
        compression=_flag("compression", value("compression")),
        network_threads=_count("network_threads", value("network_threads"), network),
        io_threads=_count("io_threads", value("io_threads"), io),
        source=one_of("source", value("source"), SOURCES),
        max_retries=_count("max_retries", value("max_retries"), 0, least=0),
        timeout_s=_number("timeout_s", value("timeout_s"), 0.001),
        base_urls=_base_urls(value("base_urls"), check_root, providers),
    )
    return value("provider"), settings


def one_of(name: str, value: object, allowed: Collection[str]) -> str:
    """The value, if it is one of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        raise unknown(name, value, allowed)
    return value


def _folder(name: str, value: object) -> Path:
    if value is None:
        return user_cache_dir()
    if isinstance(value, str | os.PathLike) and "\0" not in str(value):
        try:
            return Path(value).expanduser()
        except (RuntimeError, TypeError):
            pass
    raise InputError(f"{name} {value!r} is no folder; expected a path")


def user_cache_dir() -> Path:
    """The folder for caches of the user on this system, `candle_fetcher` in it."""
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "candle_fetcher"


def size_bytes(name: str, value: object) -> int:
    """Bytes out of a number of bytes or a text such as 256MB (1 MB is 10**6 bytes)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InputError(f"{name} {value!r} is no size; expected bytes or a text such as '256MB' or '10GB'")
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", str(value).upper())
    unit = match[2] if match else "?"
    unit = unit + "B" if unit in ("K", "M", "G", "T") else unit
    if match is None or unit not in _UNITS:
        raise InputError(f"{name} {value!r} is no size; expected bytes or a text such as '256MB' or '10GB'")
    size = float(match[1]) * _UNITS[unit]
    if size > 1e18:
        raise InputError(f"{name} {str(value)[:40]!r} is larger than any disk; expected a size such as '10GB'")
    return int(size)


def _flag(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise InputError(f"{name} {value!r} is not understood; expected True or False")


def _number(name: str, value: object, least: float) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)  # type: ignore[arg-type]
        if not least <= number < 1e12:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} {value!r} is not allowed; expected a number of at least {least:g}") from None
    return number


def _count(name: str, value: object, default_count: int, *, least: int = 1) -> int:
    if value is None:
        return default_count
    try:
        number = _number(name, value, least)
    except InputError:
        number = -1
    if number != int(number) or not least <= number <= _MOST_COUNT:
        raise InputError(f"{name} {value!r} is not allowed; expected a whole number from {least} to {_MOST_COUNT}")
    return int(number)


def _base_urls(value: object, check_root: Callable[[str], str], providers: Collection[str]) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if not all(name and url for name, _, url in pairs):
            # It may hold a user and a password, which a URL of ours has none of: it is not shown.
            raise InputError("base_urls is not understood; expected provider=URL, several separated by commas")
        value = {name.strip(): url.strip() for name, _, url in pairs}
    if not isinstance(value, Mapping):
        raise InputError("base_urls is not understood; expected a mapping of provider id to URL")
    for name in value:
        if name not in providers and name != "binance-archive":
            shown = "(a URL)" if "/" in str(name) or "@" in str(name) else name
            raise unknown("provider in base_urls", shown, [*providers, "binance-archive"])
    return {str(name): check_root(str(url)) for name, url in value.items()}


def check_api_keys(value: Any, providers: Iterable[str]) -> dict[str, dict[str, str]]:
    """The keys by provider and name. InputError for another shape or an unknown provider; it never shows a value."""
    if value is None:
        return {}
    known = list(providers)
    if not isinstance(value, Mapping):
        raise InputError("api_keys is not understood; expected {provider: {name: value}}")
    for provider, keys in value.items():
        if provider not in known:
            raise unknown("provider in api_keys", provider, known)
        if not isinstance(keys, Mapping) or not all(isinstance(part, str) for pair in keys.items() for part in pair):
            raise InputError(f"api_keys of {provider} are not understood; expected {{name: value}}, both text")
    return {provider: dict(keys) for provider, keys in value.items()}
