"""The server's time, and exchangeInfo with limits and symbols."""

from __future__ import annotations

from typing import Any

from candle_fetcher.core.timeframe import HOUR_MS
from candle_fetcher.practice.listings import NO_DELIVERY_MS, MarketListing
from candle_fetcher.practice.request import Params, Refused, View, dump, find_symbol, printed, read_names


def server_time(view: View, params: Params) -> bytes:
    return dump({"serverTime": view.now_ms})


def _limits(view: View) -> list[dict[str, Any]]:
    def entry(kind: str, interval: str, count: int, limit: int) -> dict[str, Any]:
        return {"rateLimitType": kind, "interval": interval, "intervalNum": count, "limit": limit}

    weight = entry("REQUEST_WEIGHT", "MINUTE", 1, view.weight_limit)
    if view.coin:
        return [weight, entry("ORDERS", "MINUTE", 1, 1200)]
    if view.futures:
        return [weight, entry("ORDERS", "MINUTE", 1, 1200), entry("ORDERS", "SECOND", 10, 300)]
    orders = [entry("ORDERS", "SECOND", 10, 100), entry("ORDERS", "DAY", 1, 200_000)]
    return [weight, *orders, entry("RAW_REQUESTS", "MINUTE", 5, 300_000)]


def exchange_info(view: View, params: Params) -> bytes:
    listings = view.tape.symbols(view.provider, view.now_ms)
    if params.get("symbolStatus"):
        wanted = params["symbolStatus"]
        if wanted not in ("TRADING", "HALT", "BREAK") or params.get("symbol") or params.get("symbols"):
            raise Refused(-1130, "Data sent for parameter 'symbolStatus' is not valid.")
        listings = [listing for listing in listings if _status(view, listing) == wanted]
    elif params.get("symbol") or params.get("symbols"):
        names = [params["symbol"]] if params.get("symbol") else read_names(params["symbols"])
        listings = [find_symbol(view, name) for name in names]
    info: dict[str, Any] = {
        "timezone": "UTC",
        "serverTime": view.now_ms,
        "rateLimits": _limits(view),
        "exchangeFilters": [],
    }
    if view.provider == "binance-um":
        info |= {
            "futuresType": "U_MARGINED",
            "assets": [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}],
        }
    info["symbols"] = [
        _futures_symbol(view, listing) if view.futures else _spot_symbol(view, listing) for listing in listings
    ]
    return dump(info)


def _status(view: View, listing: MarketListing) -> str:
    return "TRADING" if view.now_ms < listing.ended_ms else "BREAK"


def _spot_symbol(view: View, listing: MarketListing) -> dict[str, Any]:
    tick, step = printed(listing.tick / 1e8, 8), printed(listing.step / 1e8, 8)
    trading = _status(view, listing) == "TRADING"
    return {
        "symbol": listing.symbol,
        "status": _status(view, listing),
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": [
            "LIMIT",
            "LIMIT_MAKER",
            "MARKET",
            "STOP_LOSS",
            "STOP_LOSS_LIMIT",
            "TAKE_PROFIT",
            "TAKE_PROFIT_LIMIT",
        ],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "otoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": True,
        "cancelReplaceAllowed": True,
        "amendAllowed": True,
        "isSpotTradingAllowed": trading,
        "isMarginTradingAllowed": trading,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "900000.00000000", "stepSize": step},
        ],
        "permissions": [],
        "permissionSets": [["SPOT", "MARGIN"]] if trading else [["SPOT"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH", "DECREMENT"],
    }


def _futures_symbol(view: View, listing: MarketListing) -> dict[str, Any]:
    tick = printed(listing.tick * 10.0**-listing.price_decimals, listing.price_decimals)
    step = printed(listing.step * 10.0**-listing.volume_decimals, listing.volume_decimals)
    perpetual = listing.contract == "PERPETUAL"
    return {
        "symbol": listing.symbol,
        "pair": listing.pair,
        "contractType": listing.contract,
        "deliveryDate": NO_DELIVERY_MS if perpetual else listing.ended_ms,
        "onboardDate": listing.listed_ms // HOUR_MS * HOUR_MS,
        ("contractStatus" if view.coin else "status"): "TRADING",
        **({"contractSize": listing.size, "equalQtyPrecision": 4} if view.coin else {}),
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": listing.base,
        "quoteAsset": listing.quote,
        "marginAsset": listing.base if view.coin else listing.quote,
        "pricePrecision": listing.price_decimals,
        "quantityPrecision": listing.volume_decimals,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "triggerProtect": "0.0500",
        "liquidationFee": "0.012500",
        "marketTakeBound": "0.05",
        "maxMoveOrderLimit": 10000,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "4529764", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "1000000", "stepSize": step},
        ],
        "orderTypes": [
            "LIMIT",
            "MARKET",
            "STOP",
            "STOP_MARKET",
            "TAKE_PROFIT",
            "TAKE_PROFIT_MARKET",
            "TRAILING_STOP_MARKET",
        ],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }
