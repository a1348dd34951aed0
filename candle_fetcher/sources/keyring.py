"""The keys of a provider: given by the user, else by the environment; and the tokens that they are exchanged for.

Other modules get the values only as `Keys`, which shows none of them. The repr of each object here shows names alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from candle_fetcher.concurrency import SingleFlight
from candle_fetcher.core.call import Call
from candle_fetcher.core.errors import AccessDenied, InputError
from candle_fetcher.core.keys import HIDDEN, NO_KEYS, Keys
from candle_fetcher.providers.base import Key, Provider
from candle_fetcher.sources.scope import CallScope

# A token is renewed this long before it expires, or after half of its life if that is later: it must be valid when the
# request arrives. A token that lives longer than a day is renewed once a day.
_SPARE_S = 60.0
_LONGEST_S = 86_400.0

# Sends a call with these keys, and returns the parsed reply.
RequestToken = Callable[[Call, Keys, Callable[[bytes], Any], CallScope], Any]


class FixedKeys:
    """The keys for a service, which never change."""

    def __init__(self, keys: Keys = NO_KEYS) -> None:
        self._keys = keys

    def keys(self, scope: CallScope) -> Keys:
        """Return the keys of the next request. Raises AccessDenied where one is missing."""
        return self._keys

    def renew(self, used: Keys, scope: CallScope) -> bool:
        """Replace the keys, which the service refused, and return whether there are other ones now."""
        return False


class ApiKeys:
    """Values of keys from `api_keys` and the environment, by provider. The repr shows names of providers alone."""

    __slots__ = ("_environment", "_given")

    def __init__(self, given: Mapping[str, Mapping[str, str]], environment: Mapping[str, str]) -> None:
        self._given = {name: dict(values) for name, values in given.items()}
        self._environment = environment

    @property
    def are_given(self) -> bool:
        """Return whether some are not of the environment."""
        return bool(self._given)

    def of(self, provider: Provider) -> dict[str, str]:
        """Return the values by name. Raises InputError for a name that is not one of the provider's keys."""
        given = self._given.get(provider.name, {})
        names = [key.name for key in provider.keys]
        if names and not set(given) <= set(names):
            # The unknown name is not shown: a user may have put a key in its place.
            raise InputError(f"api_keys of {provider.name} has an unknown name; expected {', '.join(names)}")
        found = {key.name: given.get(key.name) or self._environment.get(key.environment, "") for key in provider.keys}
        return {name: value.strip() for name, value in found.items() if value.strip()}

    def __repr__(self) -> str:
        return f"ApiKeys({', '.join(self._given)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys cannot be pickled; they belong to the process that was given them")


class Keyring(FixedKeys):
    """The keys of one provider. Shared by all threads of a fetcher."""

    def __init__(
        self, provider: Provider, values: Mapping[str, str], request_token: RequestToken, steady_s: Callable[[], float]
    ) -> None:
        self._provider = provider
        self._values = dict(values)
        self._request_token = request_token
        self._steady_s = steady_s
        self._token: SingleFlight[str, bool] = SingleFlight()
        self._ends_s = float("inf")  # of the steady clock, when the token has to be renewed
        self._keys, self._is_ready = self._made()

    def __repr__(self) -> str:
        return f"Keyring({self._provider.name})"

    @property
    def digest(self) -> str:
        """Return an identifier of these keys, for a budget of their own. It reveals none of them; "" without keys."""
        if not self._values:
            return ""
        lasting = [f"{name}={value}" for name, value in sorted(self._values.items())]
        return hashlib.sha256("\n".join(lasting).encode()).hexdigest()[:24]

    def keys(self, scope: CallScope) -> Keys:
        if self._needs_token():
            self._token.run("token", lambda: self._needs_token() and self._get_token(scope), scope)
        if not self._is_ready:
            raise self._missing()
        return self._keys

    def _needs_token(self) -> bool:
        return not self._is_ready or self._steady_s() >= self._ends_s

    @property
    def names(self) -> list[str]:
        """Return the names of the keys that have a value."""
        return list(self._values)

    def missing(self) -> AccessDenied | None:
        """Return the error for a missing key; None where none is missing. No token is requested."""
        token = self._provider.token
        if self._is_ready or (token is not None and token.call(self._values) is not None):
            return None
        return self._missing()

    def renew(self, used: Keys, scope: CallScope) -> bool:
        return self._token.run("token", lambda: self._keys is not used or self._get_token(scope), scope)

    def _get_token(self, scope: CallScope) -> bool:
        token = self._provider.token
        wanted = token.call(self._values) if token is not None else None
        if token is None or wanted is None:
            return False
        values, seconds = self._request_token(*wanted, token.parse, scope)
        # The transport hides keys that were sent: so a hidden refresh token is the one that was sent, and stays valid.
        self._values.update((name, value) for name, value in values.items() if HIDDEN not in value)
        lasts_s = min(max(0.0, seconds), _LONGEST_S)
        self._ends_s = self._steady_s() + lasts_s - min(_SPARE_S, lasts_s / 2)
        self._keys, self._is_ready = self._made()
        return True

    def _made(self) -> tuple[Keys, bool]:
        """Return the keys that have a value, and whether a request needs no others."""
        provider, values = self._provider, self._values
        if not values:
            return NO_KEYS, provider.token is None and not any(key.is_needed for key in provider.keys)
        there = [(key, values[key.name]) for key in provider.keys if key.name in values]
        keys = Keys(
            headers=tuple((key.header, key.prefix + value) for key, value in there if key.header),
            params=tuple((key.param, value) for key, value in there if key.param),
            also=tuple(value for key, value in there if not (key.header or key.param)),
        )
        has_needed = all(key.name in values for key in provider.keys if key.is_needed)
        return keys, has_needed and (provider.token is None or bool(keys))

    def _missing(self) -> AccessDenied:
        provider = self._provider
        keys = [key for key in provider.keys if key.is_needed] or list(provider.keys)
        page = f"get one at {provider.key_page}, and " if provider.key_page else ""
        fix = page + _where(provider.name, keys, is_renewed=provider.token is not None)
        return AccessDenied(f"{provider.name} needs a key", fix=fix[0].upper() + fix[1:])


def _where(name: str, keys: list[Key], *, is_renewed: bool) -> str:
    """Return where to put the keys, as text. With `is_renewed`, the first key is a token, which the others obtain."""
    shown = ", ".join(f"'{key.name}': …" for key in (keys[1:] if is_renewed else keys))
    first, *others = [key.environment for key in keys]
    variables = f"{first}, or {', '.join(others)} together" if is_renewed else " and ".join([first, *others])
    return f"give it as api_keys={{'{name}': {{{shown}}}}}, or in the environment as {variables}"
