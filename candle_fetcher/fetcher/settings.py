"""The settings of a CandleFetcher: argument, else `CANDLE_FETCHER_*` environment variable, else default."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from candle_fetcher.core.arguments import float_of, read_flag, read_number, read_whole
from candle_fetcher.core.errors import CandleFetcherWarning, InputError, nearest, shown, unknown, warn
from candle_fetcher.core.plan import CHUNK_SLOTS
from candle_fetcher.providers import Provider

ENVIRONMENT = "CANDLE_FETCHER_"
LOG_LEVEL, LOG_FILE = f"{ENVIRONMENT}LOG_LEVEL", f"{ENVIRONMENT}LOG_FILE"
# network and I/O threads by performance_mode
MODES = {"low": (2, 1), "standard": (8, 4), "high": (16, 8)}
SOURCES = ("auto", "cache", "archive", "rest")
_MOST_COUNT = 256
# What the largest chunk takes: 1,000 candles of Binance with eleven columns, and what is said of it.
CHUNK_BYTES = 8 * 11 * CHUNK_SLOTS + 1_000
# With the tables of the database, what is known of the series, and the provider's request limits; measured.
_LEAST_DISK_BYTES = 300_000
_MOST_S = 1e9  # the system's waits take no more than some billion seconds
_FLAGS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True), **dict.fromkeys(("0", "false", "no", "off"), False),
}  # fmt: skip
# What a container platform sets beside a service of the name candle-fetcher; no misspelt setting.
_OF_PLATFORM = re.compile(r"(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP)\w*)?)")
# Variables that are no setting of ours, as far as this process has warned of them.
_warned: set[str] = set()
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", re.ASCII)


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
    """What a CandleFetcher was made with, checked. `cache_dir` is None where none was given and the home folder of the
    user is not known."""

    cache_dir: Path | None
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
    provider_settings: Mapping[str, Mapping[str, str]]

    @property
    def disk_folder(self) -> Path | None:
        """The folder of the disk tier; None where there is to be none."""
        return self.cache_dir if self.use_cache and self.disk_cache_size else None


def read_settings(
    given: Mapping[str, Any],
    environment: Mapping[str, str],
    check_root: Callable[[str], str],
    providers: Callable[[], Collection[str]],
) -> tuple[Any, Settings]:
    """The provider as it was given, and the settings, out of arguments and environment. InputError names the setting,
    the value and what is allowed."""

    def value(name: str, read_text: Callable[[str], object] = str) -> Any:
        argument = given[name]
        if not isinstance(argument, Default):
            return argument
        text = environment.get(ENVIRONMENT + name.upper())
        return read_text(text) if text else argument.value

    def count(name: str, usual: int, least: int = 1) -> int:
        given_count = value(name, _number_in)
        return usual if given_count is None else read_whole(name, given_count, least, _MOST_COUNT)

    network, io = MODES[one_of("performance_mode", value("performance_mode"), MODES)]
    ttl = value("cache_ttl", _number_in)
    settings = Settings(
        cache_dir=_folder("cache_dir", value("cache_dir")),
        use_cache=read_flag("use_cache", value("use_cache", _flag_in)),
        memory_cache_size=_tier_bytes("memory", value("memory_cache_size"), CHUNK_BYTES),
        disk_cache_size=_tier_bytes("disk", value("disk_cache_size"), _LEAST_DISK_BYTES),
        cache_ttl=None if ttl is None else read_number("cache_ttl", ttl, 0, _MOST_S),
        compression=read_flag("compression", value("compression", _flag_in)),
        network_threads=count("network_threads", network),
        io_threads=count("io_threads", io),
        source=one_of("source", value("source"), SOURCES),
        max_retries=count("max_retries", 0, least=0),
        timeout_s=read_number("timeout_s", value("timeout_s", _number_in), 0.001, _MOST_S),
        base_urls=_base_urls(value("base_urls"), check_root, providers),
        provider_settings=_provider_settings(value("provider_settings")),
    )
    return value("provider"), settings


def warn_of_unknown_variables(environment: Mapping[str, str], keys: Callable[[], Collection[str]]) -> None:
    """Warn, once in a process, of each variable that begins as ours do, or has the letters of one of ours, and that
    nothing reads: it may be misspelt.

    `keys` gives the names of the variables of keys. The value is never shown: it may be a key.
    """
    settings = [name.upper() for name in ("provider", "performance_mode", *Settings._fields)] + [
        "LOG_LEVEL",
        "LOG_FILE",
    ]
    ours = {_letters(ENVIRONMENT + name): name for name in settings}
    begun = {name for name in environment if name.startswith(ENVIRONMENT) or _letters(name) in ours}
    unread = begun.difference(_warned, (f"{ENVIRONMENT}{name}" for name in settings))
    for name in sorted(unread.difference(keys() if unread else ())):
        own = name.removeprefix(ENVIRONMENT)  # in the beginning all of them are alike
        if _OF_PLATFORM.fullmatch(own):
            continue
        _warned.add(name)
        meant = ours.get(_letters(name)) or nearest(own, settings)
        fix = f"did you mean {ENVIRONMENT}{meant}?" if meant else "see the settings in the README, or unset it"
        warn(CandleFetcherWarning(f"the environment variable {name} is not a setting of candle_fetcher; {fix}"))


def _letters(name: str) -> str:
    """Return the name without case and separators: `CandleFetcher-Provider` has the letters of a variable of ours."""
    return "".join(filter(str.isalnum, name)).upper()


def one_of(name: str, value: object, allowed: Collection[str]) -> str:
    """The value, if it is one of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        raise unknown(name, value, allowed)
    return value


def _folder(name: str, value: object) -> Path | None:
    if value is None:
        return user_cache_dir()
    if isinstance(value, str | os.PathLike) and "\0" not in str(value):
        try:
            return Path(value).expanduser().absolute()  # the same one, though the program go elsewhere
        except (RuntimeError, TypeError):
            pass
    raise InputError(f"{name} {shown(value)} is no folder; expected a path")


def user_cache_dir() -> Path | None:
    """The folder for caches of the user on this system, `candle_fetcher` in it; None where the home folder that it lies
    in is not known, as of a user without an entry in the system's list."""
    variable, *below = {
        "win32": ("LOCALAPPDATA", "AppData", "Local"),
        "darwin": ("", "Library", "Caches"),
    }.get(sys.platform, ("XDG_CACHE_HOME", ".cache"))
    try:
        root = Path(os.environ.get(variable) or Path.home().joinpath(*below))
    except RuntimeError:
        return None
    return root / "candle_fetcher"


def size_bytes(name: str, value: object) -> int:
    """Bytes out of a number of bytes or a text such as 256MB (1 MB is 10**6 bytes)."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.upper())
        size = float(match[1]) * _UNITS[match[2]] if match else math.nan
    else:
        size = float_of(value)
    if not size >= 0:
        raise InputError(f"{name} {shown(value)} is no size; expected bytes or a text such as '256MB' or '10GB'")
    if size > 1e18:
        raise InputError(f"{name} {shown(value)} is larger than any disk; expected a size such as '10GB'")
    return int(size)


def _tier_bytes(tier: str, value: object, least: int) -> int:
    """The bound of a tier, which holds a chunk of candles at least, or nothing by choice."""
    size = size_bytes(f"{tier}_cache_size", value)
    if 0 < size < least:
        what = "a chunk of candles takes" if tier == "memory" else "a chunk of candles and its tables take"
        usual = "256MB" if tier == "memory" else "10GB"
        raise InputError(
            f"{tier}_cache_size {shown(value)} is less than {what}, {least:,} bytes: nothing "
            f"would be kept; expected 0 for no {tier} tier, or more, such as '{usual}'"
        )
    return size


def _number_in(text: str) -> object:
    """Return the number in the text of an environment variable; the text itself, which no reader takes, without one."""
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def _flag_in(text: str) -> object:
    """Return the flag in the text of an environment variable; the text itself, which no reader takes, without one."""
    return _FLAGS.get(text.strip().lower(), text)


def _lowered(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """The mapping with the ids of providers, which ignore case, in small letters."""
    return {name.strip().lower() if isinstance(name, str) else name: one for name, one in value.items()}


def _base_urls(
    value: object, check_root: Callable[[str], str], providers: Callable[[], Collection[str]]
) -> dict[str, str]:
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
    value = _lowered(value)
    for name in value:
        if name not in providers():
            shown = "(a URL)" if "/" in str(name) or "@" in str(name) else name
            raise unknown("provider in base_urls", shown, providers())
    return {str(name): check_root(str(url)) for name, url in value.items()}


def _provider_settings(value: object) -> dict[str, dict[str, str]]:
    """The choices by provider and name; whether there are such is for the provider to say."""
    if value is None:
        return {}
    if isinstance(value, str):
        chosen: dict[str, dict[str, str]] = {}
        for pair in filter(str.strip, value.split(",")):
            name, _, choice = pair.partition("=")
            provider, _, setting = name.strip().rpartition(".")
            if not (provider and setting and choice.strip()):
                raise InputError(
                    f"provider_settings {shown(value)} is not understood; expected provider.setting=value, several "
                    "separated by commas, such as alpaca.feed=iex"
                )
            chosen.setdefault(provider.strip().lower(), {})[setting] = choice.strip()
        return chosen
    if isinstance(value, Mapping) and all(
        isinstance(choices, Mapping) and all(isinstance(part, str) for pair in choices.items() for part in pair)
        for choices in value.values()
    ):
        return {str(provider): dict(choices) for provider, choices in _lowered(value).items()}
    raise InputError(
        f"provider_settings {shown(value)} is not understood; expected {{provider: {{setting: value}}}}, all of it text"
    )


def choose(provider: Provider, chosen: Mapping[str, str]) -> Provider:
    """The provider as its user chose it. InputError for a setting or a value that it does not have."""
    if not chosen:
        return provider
    allowed = {setting.name: setting.allowed for setting in provider.settings}
    for name, value in chosen.items():
        if name not in allowed:
            raise unknown(f"setting of {provider.name}", name, allowed or ["(it has none)"])
        if value not in allowed[name]:
            raise unknown(f"{name} of {provider.name}", value, allowed[name])
    made = provider.configure(chosen) if provider.configure is not None else provider
    ordered = [
        replace(one, allowed=(chosen[one.name], *(value for value in one.allowed if value != chosen[one.name])))
        if one.name in chosen
        else one
        for one in made.settings
    ]
    return replace(made, settings=tuple(ordered))


def check_api_keys(value: Any, providers: Callable[[], Collection[str]]) -> dict[str, dict[str, str]]:
    """The keys by provider and name. InputError for another shape or an unknown provider; it never shows a value."""
    if value is None:
        return {}
    known = providers()
    if not isinstance(value, Mapping):
        raise InputError("api_keys is not understood; expected {provider: {name: value}}")
    value = _lowered(value)
    for provider, keys in value.items():
        if provider not in known:
            raise unknown("provider in api_keys", provider, known)
        if not isinstance(keys, Mapping) or not all(isinstance(part, str) for pair in keys.items() for part in pair):
            raise InputError(f"api_keys of {provider} are not understood; expected {{name: value}}, both text")
    return {provider: dict(keys) for provider, keys in value.items()}
