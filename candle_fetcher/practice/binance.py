"""The REST dialect of Binance: every path with the parameters that it reads, its weight and its answer.

Sources: binance-spot-api-docs `rest-api.md`, `errors.md`; the market data pages of USD-M and COIN-M futures (2026).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from candle_fetcher.practice.funding import funding_info, funding_rates, premium_index
from candle_fetcher.practice.info import exchange_info, server_time
from candle_fetcher.practice.klines import klines
from candle_fetcher.practice.listings import PROVIDERS
from candle_fetcher.practice.request import INTEGER, Params, Refused, View
from candle_fetcher.practice.tickers import average_price, book_tickers, day_tickers, price_tickers


class Endpoint(NamedTuple):
    """One path of one market: the parameters it reads, its weight, the function that answers; `funding`: own budget."""

    provider: str
    allowed: frozenset[str]
    weight: Callable[[Params], int]
    answer: Callable[[View, Params], bytes]
    funding: bool = False


def find_endpoint(path: str) -> Endpoint | None:
    """Return the endpoint of a path; `/us` before a spot path is Binance.US."""
    if path.startswith("/us/"):
        endpoint = ENDPOINTS.get(path[3:])
        return endpoint._replace(provider="binance-us") if endpoint and endpoint.provider == "binance" else None
    return ENDPOINTS.get(path)


def read_params(endpoint: Endpoint, pairs: Sequence[tuple[str, str]]) -> Params:
    """Return the parameters by name. Raises Refused for doubled and unknown ones."""
    params = dict(pairs)
    if len(params) < len(pairs):
        raise Refused(-1101, f"Too many parameters; expected '{len(params)}' and received '{len(pairs)}'.")
    read = sum(name in endpoint.allowed for name in params)
    if read < len(params):
        raise Refused(
            -1104, f"Not all sent parameters were read; read '{read}' parameter(s) but was sent '{len(params)}'."
        )
    return params


def _always(weight: int) -> Callable[[Params], int]:
    return lambda params: weight


def _by_symbol(one: int, all_: int) -> Callable[[Params], int]:
    return lambda params: one if params.get("symbol") else all_


def _by_limit(params: Params) -> int:
    """Return the weight of futures klines: 1 below 100, 2 below 500, 5 up to 1000, 10 above."""
    text = params.get("limit", "500")
    limit = int(text) if INTEGER.fullmatch(text) else 500
    return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10


def _by_symbols(params: Params) -> int:
    """Return the weight of spot ticker/24hr: 2 up to 20 symbols, 40 up to 100, 80 above or for all."""
    count = 1 if params.get("symbol") else params["symbols"].count(",") + 1 if params.get("symbols") else 1000
    return 2 if count <= 20 else 40 if count <= 100 else 80


def _endpoints() -> dict[str, Endpoint]:
    """Return every path, with what it reads and costs."""
    none: frozenset[str] = frozenset()
    funding = frozenset(("symbol", "startTime", "endTime", "limit"))
    window = frozenset(("interval", "startTime", "endTime", "limit"))
    many = frozenset(("symbol", "symbols", "symbolStatus"))
    spot_klines = Endpoint("binance", window | {"symbol", "timeZone"}, _always(2), klines("candles"))
    table = {
        "/api/v3/ping": Endpoint("binance", none, _always(1), lambda view, params: b"{}"),
        "/api/v3/time": Endpoint("binance", none, _always(1), server_time),
        "/api/v3/exchangeInfo": Endpoint(
            "binance", many | {"permissions", "showPermissionSets"}, _always(20), exchange_info
        ),
        "/api/v3/klines": spot_klines,
        "/api/v3/uiKlines": spot_klines,
        "/api/v3/avgPrice": Endpoint("binance", frozenset(("symbol",)), _always(2), average_price),
        "/api/v3/ticker/24hr": Endpoint("binance", many | {"type"}, _by_symbols, day_tickers),
        "/api/v3/ticker/price": Endpoint("binance", many, _by_symbol(2, 4), price_tickers),
        "/api/v3/ticker/bookTicker": Endpoint("binance", many, _by_symbol(2, 4), book_tickers),
    }
    for provider, root in (("binance-um", "/fapi/v1"), ("binance-cm", "/dapi/v1")):
        coin = provider == "binance-cm"
        continuous = klines("candles", "pair")
        one = frozenset(("symbol", "pair") if coin else ("symbol",))
        table |= {
            f"{root}/ping": Endpoint(provider, none, _always(1), lambda view, params: b"{}"),
            f"{root}/time": Endpoint(provider, none, _always(1), server_time),
            f"{root}/exchangeInfo": Endpoint(provider, none, _always(1), exchange_info),
            f"{root}/klines": Endpoint(provider, window | {"symbol"}, _by_limit, klines("candles")),
            f"{root}/continuousKlines": Endpoint(provider, window | {"pair", "contractType"}, _by_limit, continuous),
            f"{root}/markPriceKlines": Endpoint(provider, window | {"symbol"}, _by_limit, klines("mark")),
            f"{root}/indexPriceKlines": Endpoint(provider, window | {"pair"}, _by_limit, klines("index", "pair")),
            f"{root}/premiumIndexKlines": Endpoint(provider, window | {"symbol"}, _by_limit, klines("premium")),
            f"{root}/fundingRate": Endpoint(
                provider, funding, _always(1), funding_rates, funding=not coin
            ),
            f"{root}/fundingInfo": Endpoint(provider, none, _always(1), funding_info, funding=not coin),
            f"{root}/premiumIndex": Endpoint(provider, one, _always(10) if coin else _by_symbol(1, 10), premium_index),
            f"{root}/ticker/24hr": Endpoint(provider, one, _by_symbol(1, 40), day_tickers),
            f"{root}/ticker/price": Endpoint(provider, one, _by_symbol(1, 2), price_tickers),
            f"{root}/ticker/bookTicker": Endpoint(provider, one, _by_symbol(2, 5), book_tickers),
        }  # fmt: skip
    table["/fapi/v2/ticker/price"] = table["/fapi/v1/ticker/price"]
    return table


ENDPOINTS = _endpoints()
ROOTS = dict(zip(PROVIDERS, ("", "/us", "", ""), strict=True))
