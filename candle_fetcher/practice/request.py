"""Parameters of a request, read by the rules of Binance, and refusals with its error codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from candle_fetcher.practice.listings import MarketListing, find_pair
from candle_fetcher.practice.series import Tape

Params = dict[str, str]

INTEGER = re.compile(r"[0-9]{1,20}")
_SYMBOL = re.compile(r"[\w\-.]{1,50}")
_MICROSECONDS = 10**14  # a time above this is in microseconds (as ms it would lie beyond the year 5000)


class Refused(Exception):
    """The request is answered with a status and an error body."""

    def __init__(self, code: int, message: str, *, status: int = 400) -> None:
        self.status = status
        self.body = dump({"code": code, "msg": message})
        super().__init__(message)


class View(NamedTuple):
    """What an endpoint reads: the market's provider id, the series, the clock, and the server's settings."""

    provider: str
    tape: Tape
    now_ms: int
    weight_limit: int
    page_cap: int | None = None

    @property
    def futures(self) -> bool:
        return self.provider in ("binance-um", "binance-cm")

    @property
    def coin(self) -> bool:
        return self.provider == "binance-cm"


def dump(value: Any) -> bytes:
    """Return compact JSON, as the exchange prints it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def missing(name: str) -> Refused:
    return Refused(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def read_text(params: Params, name: str) -> str | None:
    value = params.get(name)
    if value == "":
        raise Refused(-1105, f"Parameter '{name}' was empty.")
    return value


def read_integer(params: Params, name: str) -> int | None:
    value = params.get(name)
    if value is None:
        return None
    if not INTEGER.fullmatch(value):
        raise Refused(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(value)


def read_time(view: View, params: Params, name: str) -> int | None:
    if view.provider == "binance-um" and not INTEGER.fullmatch(params.get(name, "0")):
        raise missing("origclientorderid")  # what USD-M futures really say of a bad time
    value = read_integer(params, name)
    return value // 1000 if value is not None and value > _MICROSECONDS and not view.futures else value


def read_limit(view: View, params: Params, default: int, most: int) -> int:
    limit = read_integer(params, "limit")
    if limit == 0 or (limit is not None and limit > most and view.futures):
        raise Refused(-1130, "Data sent for parameter 'limit' is not valid.")
    limit = min(limit or default, most)
    return limit if view.page_cap is None else min(limit, view.page_cap)


def find_symbol(view: View, name: str) -> MarketListing:
    if not _SYMBOL.fullmatch(name):
        raise Refused(-1100, "Illegal characters found in parameter 'symbol'; legal range is '^[A-Z0-9-_.]{1,20}$'.")
    listing = view.tape.find(view.provider, name)
    if listing is None or listing.listed_ms > view.now_ms:
        raise Refused(-1121, "Invalid symbol.")
    return listing


def known(listing: MarketListing | None, what: str) -> MarketListing:
    if listing is None:
        raise Refused(-1121, f"Invalid {what}.")
    return listing


def read_listing(view: View, params: Params, name: str) -> MarketListing:
    value = read_text(params, name)
    if value is None:
        raise missing(name)
    if name == "pair":
        return known(find_pair(view.provider, value), "pair")
    return find_symbol(view, value)


def printed(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}"


def select(view: View, params: Params) -> tuple[list[MarketListing], bool]:
    """Return the symbols that a ticker is asked for, and whether it answers with one object instead of a list."""
    symbol = read_text(params, "symbol")
    if symbol is not None:
        return [find_symbol(view, symbol)], not view.coin
    if params.get("symbols"):
        return [find_symbol(view, name) for name in read_names(params["symbols"])], False
    trading = [listing for listing in view.tape.symbols(view.provider, view.now_ms) if view.now_ms < listing.ended_ms]
    pair = params.get("pair")
    return [listing for listing in trading if pair is None or listing.pair == pair], False


def read_names(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise Refused(
            -1100,
            "Illegal characters found in parameter 'symbols'; legal range is "
            """'^\\[("[\\w\\-._&&[^a-z]]{1,50}"(,"[\\w\\-._&&[^a-z]]{1,50}"){0,}){0,1}\\]$'.""",
        )
    return names


def answer_each(view: View, params: Params, row: Callable[[View, MarketListing], dict[str, Any]]) -> bytes:
    listings, single = select(view, params)
    rows = [row(view, listing) for listing in listings]
    return dump(rows[0] if single else rows)
