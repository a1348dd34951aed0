"""The settings of a CandleFetcher: argument, else `CANDLE_FETCHER_*` environment variable, else default."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from candle_fetcher.core.arguments import float_of, read_flag, read_number, read_whole
from candle_fetcher.core.errors import CandleFetcherWarning, InputError, nearest, shown, unknown, warn
from candle_fetcher.core.plan import CHUNK_SLOTS
from candle_fetcher.core.types import SOURCE_NAMES
from candle_fetcher.net.roots import check_root, check_stream_root
from candle_fetcher.providers import Provider, all_providers, find_provider, suggested_providers

ENVIRONMENT = "CANDLE_FETCHER_"
# Behind a provider's id: the name of its streams in base_urls.
STREAM = "-stream"
LOG_LEVEL, LOG_FILE = f"{ENVIRONMENT}LOG_LEVEL", f"{ENVIRONMENT}LOG_FILE"
# network and I/O threads by performance_mode
MODES = {"low": (2, 1), "standard": (8, 4), "high": (16, 8)}
_MOST_COUNT = 256
# The size of the largest chunk: 1,000 candles of Binance with eleven columns, and its head.
CHUNK_BYTES = 8 * 11 * CHUNK_SLOTS + 1_000
# One chunk, the tables of the database, the facts of the series and the request limits; measured.
_LEAST_DISK_BYTES = 300_000
_LEAST_SHARE = 0.0001
_MOST_S = 1e9  # the system's waits take no more than some billion seconds
_FLAGS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True), **dict.fromkeys(("0", "false", "no", "off"), False),
}  # fmt: skip
# Variables that a container platform sets for a service named candle-fetcher; not misspelt settings.
_OF_PLATFORM = re.compile(r"(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP)\w*)?)")
# Variables that this process has warned of.
_warned: set[str] = set()
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", re.ASCII)


class Default:
    """The default of a setting, distinct from an argument of the same value; the signature shows the value."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def default(value: object) -> Any:
    """Return a marked default that the environment may override. An explicit argument always wins."""
    return Default(value)


class Settings(NamedTuple):
    """The checked settings of a CandleFetcher. `cache_dir` is None where none was given and the home folder of the user
    is not known."""

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
    budget_share: float
    base_urls: Mapping[str, str]
    provider_settings: Mapping[str, Mapping[str, str]]

    @property
    def disk_folder(self) -> Path | None:
        """Return the folder of the disk tier; None without a disk tier."""
        return self.cache_dir if self.use_cache and self.disk_cache_size else None


def read_settings(given: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[str | Provider, Settings]:
    """Return the provider as it was given, and the settings from arguments and environment.

    Raises InputError with the setting, the value and the allowed values."""

    def value(name: str, read_text: Callable[[str], object] = str) -> Any:
        argument = given[name]
        if not isinstance(argument, Default):
            return argument
        text = environment.get(ENVIRONMENT + name.upper())
        return read_text(text) if text else argument.value

    def count(name: str, default: int, least: int = 1) -> int:
        given_count = value(name, _number_in)
        return default if given_count is None else read_whole(name, given_count, least, _MOST_COUNT)

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
        source=one_of("source", value("source"), SOURCE_NAMES),
        max_retries=count("max_retries", 0, least=0),
        timeout_s=read_number("timeout_s", value("timeout_s", _number_in), 0.001, _MOST_S),
        budget_share=read_number("budget_share", value("budget_share", _number_in), _LEAST_SHARE, 1),
        base_urls=_base_urls(value("base_urls"), partial(known_services, value("provider"))),
        provider_settings=_provider_settings(value("provider_settings")),
    )
    for name in settings.provider_settings:
        find_provider(name)
    provider = value("provider")
    if provider is None:
        raise unknown("provider", provider, known_services(provider))
    return provider, settings


def known_services(provider: object) -> list[str]:
    """Return the ids of all providers, `provider` among them if it is one, and then the names of their other hosts."""
    return _services_of([*all_providers().values(), *([provider] if isinstance(provider, Provider) else [])])


def _services_of(known: Sequence[Provider]) -> list[str]:
    hosts = {host.name for one in known for host in (one.archive, one.token) if host is not None}
    return [*dict.fromkeys(one.name for one in known), *sorted(hosts)]


def warn_of_unknown_variables(environment: Mapping[str, str], keys: Callable[[], Collection[str]]) -> None:
    """Warn, once in a process, of each variable that starts with CANDLE_FETCHER_ or has the letters of such a setting,
    and that nothing reads: it may be misspelt.

    `keys` gives the names of the variables of keys. The value is never shown: it may be a key.
    """
    names = ("provider", "performance_mode", *Settings._fields, "log_level", "log_file", "token")
    settings = [name.upper() for name in names]
    ours = {_letters(ENVIRONMENT + name): name for name in settings}
    begun = {name for name in environment if name.startswith(ENVIRONMENT) or _letters(name) in ours}
    unread = begun.difference(_warned, (f"{ENVIRONMENT}{name}" for name in settings))
    for name in sorted(unread.difference(keys() if unread else ())):
        own = name.removeprefix(ENVIRONMENT)
        if _OF_PLATFORM.fullmatch(own):
            continue
        _warned.add(name)
        meant = ours.get(_letters(name)) or nearest(own, settings)
        fix = (
            f"did you mean {ENVIRONMENT}{meant}?" if meant else "`candle-fetcher help settings` lists them; or unset it"
        )
        warn(CandleFetcherWarning(f"the environment variable {name} is not a setting of candle_fetcher; {fix}"))


def _letters(name: str) -> str:
    """Return the name without case and separators, so that `CandleFetcher-Provider` equals CANDLE_FETCHER_PROVIDER."""
    return "".join(filter(str.isalnum, name)).upper()


def one_of(name: str, value: object, allowed: Collection[str]) -> str:
    """Return the value. Raises InputError where it is not one of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        raise unknown(name, value, allowed)
    return value


def _folder(name: str, value: object) -> Path | None:
    if value is None:
        return user_cache_dir()
    if isinstance(value, str | os.PathLike) and "\0" not in str(value):
        try:
            return Path(value).expanduser().absolute()  # the same folder after a change of the working folder
        except (RuntimeError, TypeError):
            pass
    raise InputError(f"{name} {shown(value)} is not a folder; expected a path")


def user_cache_dir() -> Path | None:
    """Return the folder `candle_fetcher` in the user's cache folder of this system; None where the home folder is not
    known, as of a user without an entry in the system's list."""
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
    """Return the bytes of a number of bytes or of a text such as 256MB (1 MB is 10**6 bytes)."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.upper())
        size = float(match[1]) * _UNITS[match[2]] if match else math.nan
    else:
        size = float_of(value)
    if not size >= 0:
        raise InputError(f"{name} {shown(value)} is not a size; expected bytes or a text such as '256MB' or '10GB'")
    if size > 1e18:
        raise InputError(f"{name} {shown(value)} is larger than any disk; expected a size such as '10GB'")
    return int(size)


def _tier_bytes(tier: str, value: object, least: int) -> int:
    """Return the bound of a tier in bytes: 0, or room for at least one chunk of candles."""
    size = size_bytes(f"{tier}_cache_size", value)
    if 0 < size < least:
        what = "a chunk of candles takes" if tier == "memory" else "a chunk of candles and its tables take"
        enough = "256MB" if tier == "memory" else "10GB"
        raise InputError(
            f"{tier}_cache_size {shown(value)} is less than {what}, {least:,} bytes: nothing "
            f"would be kept; expected 0 for no {tier} tier, or more, such as '{enough}'"
        )
    return size


def _number_in(text: str) -> object:
    """Return the number in the text of an environment variable; the text itself, which the checks refuse, without
    one."""
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def _flag_in(text: str) -> object:
    """Return the flag in the text of an environment variable; the text itself, which the checks refuse, without one."""
    return _FLAGS.get(text.strip().lower(), text)


def _is_text_mapping(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(part, str) for pair in value.items() for part in pair)


def _lowered(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the mapping with the ids of providers in lower case, since they ignore case."""
    return {name.strip().lower() if isinstance(name, str) else name: one for name, one in value.items()}


def _base_urls(value: object, services: Callable[[], Collection[str]]) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if not all(name and url for name, _, url in pairs):
            # The value may hold a user and a password: it is not shown.
            raise InputError("base_urls is not understood; expected provider=URL, several separated by commas")
        value = {name.strip(): url.strip() for name, _, url in pairs}
    if not isinstance(value, Mapping):
        raise InputError("base_urls is not understood; expected a mapping of provider id to URL")
    value = _lowered(value)
    for name in value:
        service = name.removesuffix(STREAM) if isinstance(name, str) else name
        if service not in _services_of(suggested_providers(service)) and service not in services():
            shown = "(a URL)" if "/" in str(name) or "@" in str(name) else name
            raise unknown("provider in base_urls", shown, services())
    return {
        str(name): check_stream_root(str(url)) if str(name).endswith(STREAM) else check_root(str(url))
        for name, url in value.items()
    }


def _provider_settings(value: object) -> dict[str, dict[str, str]]:
    """Return the choices by provider and name; `choose` checks them."""
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
    if isinstance(value, Mapping) and all(map(_is_text_mapping, value.values())):
        return {str(provider): dict(choices) for provider, choices in _lowered(value).items()}
    raise InputError(
        f"provider_settings {shown(value)} is not understood; expected {{provider: {{setting: value}}}}, all of it text"
    )


def choose(provider: Provider, chosen: Mapping[str, str]) -> Provider:
    """Return the provider with the user's choices. Raises InputError for a setting or a value that it does not have."""
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


def check_api_keys(value: Any, provider: object) -> dict[str, dict[str, str]]:
    """Return the keys by provider and name; `provider` is that of the fetcher.

    Raises InputError for another shape or an unknown provider, without a value.
    """
    if value is None:
        return {}
    known = known_services(provider)
    if not isinstance(value, Mapping):
        raise InputError("api_keys is not understood; expected {provider: {name: value}}")
    value = _lowered(value)
    for name, keys in value.items():
        if name not in known:
            raise unknown("provider in api_keys", name, known)
        if not _is_text_mapping(keys):
            raise InputError(f"api_keys of {name} are not understood; expected {{name: value}}, both text")
    return {name: dict(keys) for name, keys in value.items()}
