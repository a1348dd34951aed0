"""Symbols of Binance's markets: every spelling to the provider's id, and an id back to BASE/QUOTE."""

from __future__ import annotations

import re

from candle_fetcher.providers.refusals import not_a_symbol

# Used to split an id into base and quote where no listing names them; the longest ending counts first.
QUOTES = (
    "FDUSD", "USDT", "USDC", "TUSD", "BUSD", "USDP", "USD1", "BKRW", "BIDR", "IDRT", "BVND", "USDS", "EURI", "RLUSD",
    "DAI", "PAX", "UST", "VAI", "BTC", "ETH", "BNB", "TRX", "XRP", "DOT", "DOGE", "SOL", "EUR", "GBP", "AUD", "BRL",
    "TRY", "RUB", "UAH", "NGN", "ZAR", "PLN", "RON", "ARS", "JPY", "MXN", "COP", "CZK", "IDR", "USD",
)  # fmt: skip
# Binance.US has pairs in dollars, and COIN-M has no others, so that BNBUSD is BNB/USD there and not BN/BUSD.
US_QUOTES = ("USDT", "USDC", "DAI", "BTC", "ETH", "BNB", "USD")
CM_QUOTES = ("USD",)
# Of base and quote: the provider that settles in it, the word, and a sample.
_PERPETUALS = (("binance-cm", "base", "BTC/USD:BTC"), ("binance-um", "quote", "BTC/USDT:USDT"))
_SYMBOL = re.compile(r"[^\W_]\w{0,39}(?:[/-]\w{1,20})?")


def find_spot_symbol(text: str, kind: str) -> str:
    """Return the id of a spot pair, such as BTCUSDT. Raises InputError for text that is not a pair or an id."""
    if isinstance(text, str) and "/" in text.partition(":")[0] and ":" in text:
        raise not_a_symbol(
            "a spot market",
            text,
            "BASE/QUOTE such as BTC/USDT (perpetuals have the provider binance-um, such as BTC/USDT:USDT, or "
            "binance-cm, such as BTC/USD:BTC)",
        )
    return _checked(text).replace("/", "").replace("-", "")


def find_um_symbol(text: str, kind: str) -> str:
    """Return the id of a USDⓈ-M contract; for `kind` index, of its pair. Raises InputError for other text."""
    symbol = _checked(_of_perpetual(text, settled_in=1)).replace("/", "").replace("-", "")
    # Index candles belong to the pair: a delivery contract shares them with the perpetual.
    return symbol.partition("_")[0] if kind == "index" else symbol


def find_cm_symbol(text: str, kind: str) -> str:
    """Return the id of a COIN-M contract, such as BTCUSD_PERP; for `kind` index, of its pair.

    Raises InputError for other text.
    """
    symbol = _checked(_of_perpetual(text, settled_in=0)).replace("/", "").replace("-", "")
    if kind == "index":
        return symbol.partition("_")[0]
    return symbol if "_" in symbol else f"{symbol}_PERP"


def _of_perpetual(text: str, *, settled_in: int) -> str:
    """Return the pair of a perpetual as ccxt writes it, `BTC/USDT:USDT`; other texts as they are.

    `settled_in` is 0 where such contracts settle in the base, 1 where they settle in the quote. Raises InputError for a
    perpetual that settles in another currency.
    """
    pair, colon, settle = text.strip().upper().partition(":") if isinstance(text, str) else ("", "", "")
    if not colon:
        return text
    parts = pair.split("/")
    if len(parts) != 2 or parts[settled_in] != settle:
        name, part, sample = _PERPETUALS[settled_in]
        raise not_a_symbol(name, text, f"a perpetual that settles in the {part}, such as {sample}")
    return pair


def _checked(text: str) -> str:
    symbol = text.strip().upper() if isinstance(text, str) else ""
    if not _SYMBOL.fullmatch(symbol):
        raise not_a_symbol("Binance", text, "BASE/QUOTE such as BTC/USDT, or Binance's own id such as BTCUSDT")
    return symbol


def unify(provider_symbol: str, quotes: tuple[str, ...]) -> str:
    """Return BASE/QUOTE of a pair or perpetual; the id itself of other contracts and of pairs with an unknown quote."""
    name = provider_symbol.removesuffix("_PERP")
    if "_" in name:
        return name
    for quote in quotes:
        if name.endswith(quote) and len(name) > len(quote):
            return f"{name[: -len(quote)]}/{quote}"
    return name
