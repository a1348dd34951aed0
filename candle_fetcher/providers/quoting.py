"""What a provider offers as quotes: a value made of facts and pure functions, as `Provider` is."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from candle_fetcher.core.call import Call, Limit
from candle_fetcher.core.faults import brief, too_large, wrong_field
from candle_fetcher.core.quote import Ticker
from candle_fetcher.core.text.json import load_json

_DECIMAL = re.compile(r"[+-]?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_NOTHING = ("", "-")
_MOMENT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(?:[Zz]|([+-][0-9]{2}:[0-9]{2}))",
    re.ASCII,
)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
_MOST_NAME = 60
# The reply with all of Binance's 3,400 spot symbols has 2 MB, and 70,000 values.
_MOST_BYTES = 16 * 2**20
_MOST_VALUES = 1_000_000
_MOST_CONTAINERS = 100_000
# The years 2010 to 2099.
_PLAUSIBLE_MS = (1_262_304_000_000, 4_102_444_800_000)


class QuoteRequest(NamedTuple):
    """A request for quotes: the symbols (the provider's ids) that it serves, its call, and the parser of its reply.

    A reply may hold tickers of other symbols too. Where several requests serve a symbol, each says a part of its quote.
    """

    symbols: tuple[str, ...]
    call: Call
    parse: Callable[[bytes], Sequence[Ticker]]


@dataclass(frozen=True)
class Always:
    """The type of quotes where all symbols of a provider have the same; it can be pickled."""

    name: str

    def __call__(self, symbol: str) -> str:
        """Return the type of the symbol's quotes."""
        return self.name


# Makes the requests for the quotes of these symbols (the provider's ids), with the choices of the user by name.
Requests = Callable[[Sequence[str], Mapping[str, str]], Sequence[QuoteRequest]]


@dataclass(frozen=True)
class QuoteFeed:
    """Quotes of symbols as they are now.

    requests(symbols, settings): the requests that serve these symbols, as many of them in one as the provider allows;
    `settings` are the choices of the user in `provider_settings`.
    type_of(symbol): "crypto", "stock" or "future". exchange: the name of the place that the prices are from, where a
    reply names none.
    apart(symbols, settings): requests of which each answers for what it knows; they are sent where the provider refuses
    a request for several symbols because of one of them. None where it refuses none for that.
    limits: the limits of these requests alone, where the provider counts them apart from its other requests.
    """

    requests: Requests
    type_of: Callable[[str], str]
    exchange: str
    apart: Requests | None = None
    limits: tuple[Limit, ...] = ()


def load_quotes(body: bytes, expected: str) -> Any:
    """Return the JSON value of a reply with quotes. Raises ReplyError where it is none, or far larger than any."""
    if (
        len(body) > _MOST_BYTES
        or body.count(b",") > _MOST_VALUES
        or body.count(b"[") + body.count(b"{") > _MOST_CONTAINERS
    ):
        raise too_large(body, most_bytes=_MOST_BYTES, most_commas=_MOST_VALUES, most_brackets=_MOST_CONTAINERS)
    return load_json(body, expected)


def batches(symbols: Sequence[str], most: int) -> Iterator[tuple[str, ...]]:
    """Yield the symbols in order, at most `most` at a time."""
    for at in range(0, len(symbols), most):
        yield tuple(symbols[at : at + most])


def read_price(row: Mapping[str, Any], name: str, place: str, *, below_zero: bool = False) -> float | None:
    """Return a price; None where the field is missing, null, empty, "-" or 0, all of which mean that there is none.

    Raises ReplyError for a value that is no number; below 0 too, unless prices `below_zero` are possible, as of oil
    futures. `place` says where the row stands.
    """
    value = _number(row.get(name), f"{place}, field {name}", "a price")
    if value is None or value == 0:
        return None
    if value < 0 and not below_zero:
        raise wrong_field(f"{place}, field {name}", "a price", row[name])
    return value


def read_volume(row: Mapping[str, Any], name: str, place: str) -> float | None:
    """Return a volume, of which 0 is one; None where the field is missing, null, empty or "-". Raises ReplyError for a
    value that is no number, or one below 0."""
    value = _number(row.get(name), f"{place}, field {name}", "a volume")
    if value is not None and value < 0:
        raise wrong_field(f"{place}, field {name}", "a volume", row[name])
    return value


def read_time_ms(row: Mapping[str, Any], name: str, place: str, *, scale: int = 1) -> int | None:
    """Return a time as Unix ms, from an integer of `scale` ms; None where it is missing or null. Raises ReplyError for
    any other value, and for years before 2010 or after 2099."""
    value = row.get(name)
    if value is None:
        return None
    if type(value) is not int or not _PLAUSIBLE_MS[0] <= value * scale < _PLAUSIBLE_MS[1]:
        raise wrong_field(f"{place}, field {name}", "a Unix time of the years 2010 to 2099", value)
    return value * scale


def read_moment_ms(row: Mapping[str, Any], name: str, place: str) -> int | None:
    """Return a time of RFC 3339, such as 2024-06-01T12:00:00.5Z, as Unix ms; None where it is missing, null or empty.
    Raises ReplyError for any other value, and for years before 2010 or after 2099."""
    value = row.get(name)
    if value is None or value == "":
        return None
    expected = "a time such as 2024-06-01T12:00:00Z"
    found = _MOMENT.fullmatch(value) if isinstance(value, str) else None
    try:
        if found is None:
            raise ValueError
        moment = dt.datetime.fromisoformat(f"{found[1]}T{found[2]}{found[4] or '+00:00'}")
        ms = (moment - _EPOCH) // dt.timedelta(milliseconds=1) + int((found[3] or "").ljust(3, "0")[:3])
    except (ValueError, OverflowError):
        raise wrong_field(f"{place}, field {name}", expected, value) from None
    return check_time_ms(ms, f"{place}, field {name}", value)


def read_name(row: Mapping[str, Any], name: str, place: str) -> str:
    """Return the name of a symbol: 1 to 60 printable characters. Raises ReplyError for any other value."""
    value = row.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_NAME or not value.isprintable():
        raise wrong_field(f"{place}, field {name}", "a symbol", value)
    return value


def check_row(value: Any, place: str) -> Mapping[str, Any]:
    """Return the JSON object. Raises ReplyError for any other value."""
    if not isinstance(value, dict):
        raise wrong_field(place, "a JSON object", value)
    return value


def check_time_ms(ms: int, place: str, value: object) -> int:
    """Return the time. Raises ReplyError for years before 2010 or after 2099."""
    if not _PLAUSIBLE_MS[0] <= ms < _PLAUSIBLE_MS[1]:
        raise wrong_field(place, "a time of the years 2010 to 2099", value)
    return ms


def _number(value: Any, place: str, expected: str) -> float | None:
    """Return the number that a JSON number or a text is; None for values that say that there is none."""
    if value is None or (isinstance(value, str) and value in _NOTHING):
        return None
    is_number = type(value) in (int, float) or (isinstance(value, str) and _DECIMAL.fullmatch(value) is not None)
    number = float(value) if is_number else math.nan
    if not math.isfinite(number) or abs(number) >= 1e300:
        raise wrong_field(place, expected, value)
    return number


def named_once(tickers: Iterable[Ticker]) -> tuple[Ticker, ...]:
    """Return the tickers. Raises ReplyError where a symbol has two that differ."""
    found: dict[str, Ticker] = {}
    for ticker in tickers:
        if found.setdefault(ticker.symbol, ticker) != ticker:
            raise wrong_field(f"the quotes of {brief(ticker.symbol)}", "one", "two that differ")
    return tuple(found.values())
