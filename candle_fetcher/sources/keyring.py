"""The keys of a provider: those that its user gave, else those of the environment; short-lived ones are got with them.

No value leaves but as `Keys`, which shows none; what holds them shows names alone.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

from candle_fetcher.concurrency import SingleFlight
from candle_fetcher.core.call import Call
from candle_fetcher.core.errors import AccessDenied, InputError
from candle_fetcher.core.keys import HIDDEN, NO_KEYS, Keys
from candle_fetcher.providers.base import Key, Provider

# A token is got anew this long before it ends, or once half of its time is over: it must still serve when the request
# arrives. None is believed to last longer than a day.
_SPARE_S = 60.0
_LONGEST_S = 86_400.0

# Sends a call with these keys, and gives what is made of the reply.
Ask = Callable[[Call, Keys, Callable[[bytes], Any], threading.Event], Any]


class Keyholder(Protocol):
    """Who has the keys for a service."""

    def keys(self, stop: threading.Event) -> Keys:
        """What goes along with the next request. Raises AccessDenied where a key is missing."""

    def renew(self, used: Keys, stop: threading.Event) -> bool:
        """Whether there are others now, since those were refused."""


class Fixed:
    """The same keys for ever."""

    def __init__(self, keys: Keys = NO_KEYS) -> None:
        self._keys = keys

    def keys(self, stop: threading.Event) -> Keys:
        return self._keys

    def renew(self, used: Keys, stop: threading.Event) -> bool:
        return False


class ApiKeys:
    """What `api_keys` and the environment say, by provider. Shows which providers, and no value."""

    __slots__ = ("_environment", "_given")

    def __init__(self, given: Mapping[str, Mapping[str, str]], environment: Mapping[str, str]) -> None:
        self._given = {name: dict(values) for name, values in given.items()}
        self._environment = environment

    def of(self, provider: Provider) -> dict[str, str]:
        """The values by name. InputError where there is a name that the provider has no key of."""
        given = self._given.get(provider.name, {})
        names = [key.name for key in provider.keys]
        if names and not set(given) <= set(names):
            # Who mixed up name and value wrote a key where its name belongs: it is not shown.
            raise InputError(f"api_keys of {provider.name} has a name that is none; expected {', '.join(names)}")
        found = {key.name: given.get(key.name) or self._environment.get(key.environment, "") for key in provider.keys}
        return {name: value.strip() for name, value in found.items() if value.strip()}

    def __repr__(self) -> str:
        return f"ApiKeys({', '.join(self._given)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys cannot be pickled; they belong to the process that was given them")


class Keyring:
    """The keys of one provider. Shared by all threads of a fetcher."""

    def __init__(self, provider: Provider, values: Mapping[str, str], ask: Ask) -> None:
        self._provider = provider
        self._values = dict(values)
        self._ask = ask
        self._token: SingleFlight[str, bool] = SingleFlight()
        self._ends_s = float("inf")  # when the token has to be got anew, by the monotonic clock
        self._keys = self._made()

    def __repr__(self) -> str:
        return f"Keyring({self._provider.name})"

    @property
    def digest(self) -> str:
        """A name for these keys that tells nothing of them: what each may spend is counted by it. Empty without any."""
        if not self._values:
            return ""
        lasting = [f"{name}={value}" for name, value in sorted(self._values.items())]
        return hashlib.sha256("\n".join(lasting).encode()).hexdigest()[:24]

    def keys(self, stop: threading.Event) -> Keys:
        if self._needs_token():
            self._token.run("token", lambda: self._needs_token() and self._get_token(stop), stop)
        if not self._is_ready():
            raise self._missing()
        return self._keys

    def _needs_token(self) -> bool:
        return not self._is_ready() or time.monotonic() >= self._ends_s

    @property
    def names(self) -> list[str]:
        """The names of the keys that there are."""
        return list(self._values)

    def missing(self) -> AccessDenied | None:
        """The error where a key is missing; nobody is asked for a token."""
        token = self._provider.token
        if self._is_ready() or (token is not None and token.call(self._values) is not None):
            return None
        return self._missing()

    def renew(self, used: Keys, stop: threading.Event) -> bool:
        return self._token.run("token", lambda: self._keys is not used or self._get_token(stop), stop)

    def _get_token(self, stop: threading.Event) -> bool:
        token = self._provider.token
        wanted = token.call(self._values) if token is not None else None
        if token is None or wanted is None:
            return False
        values, seconds = self._ask(*wanted, token.parse, stop)
        # What was sent comes back hidden: a refresh token that stays the same is the one that is there.
        self._values.update((name, value) for name, value in values.items() if HIDDEN not in value)
        lasts_s = min(max(0.0, seconds), _LONGEST_S)
        self._ends_s = time.monotonic() + lasts_s - min(_SPARE_S, lasts_s / 2)
        self._keys = self._made()
        return True

    def _is_ready(self) -> bool:
        """Whether all is there that has to be sent."""
        if any(key.is_needed and key.name not in self._values for key in self._provider.keys):
            return False
        return self._provider.token is None or bool(self._keys)

    def _made(self) -> Keys:
        there = [(key, self._values[key.name]) for key in self._provider.keys if key.name in self._values]
        return Keys(
            headers=tuple((key.header, key.prefix + value) for key, value in there if key.header),
            params=tuple((key.param, value) for key, value in there if key.param),
            also=tuple(value for key, value in there if not (key.header or key.param)),
        )

    def _missing(self) -> AccessDenied:
        provider = self._provider
        keys = [key for key in provider.keys if key.is_needed] or list(provider.keys)
        page = f"get one at {provider.key_page}, and " if provider.key_page else ""
        fix = page + _where(provider.name, keys, is_renewed=provider.token is not None)
        return AccessDenied(f"{provider.name} needs a key", fix=fix[0].upper() + fix[1:])


def _where(name: str, keys: list[Key], *, is_renewed: bool) -> str:
    """Where keys are put. Of a token that is renewed, the first is that token, in place of the others."""
    shown = ", ".join(f"'{key.name}': …" for key in (keys[1:] if is_renewed else keys))
    first, *others = [key.environment for key in keys]
    variables = f"{first}, or {', '.join(others)} together" if is_renewed else " and ".join([first, *others])
    return f"give it as api_keys={{'{name}': {{{shown}}}}}, or in the environment as {variables}"
