"""Quotes: what a provider says of a symbol now, as a value, a table, a frame and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from candle_fetcher.core.gap import iso
from candle_fetcher.core.html import html_table

# Characters of a line of text.
_MOST_LINE = 79
_COLUMNS = ("symbol", "last", "bid", "ask", "volume", "age")
Cells = tuple[str, ...]


class Ticker(NamedTuple):
    """What one reply or one frame says of a symbol now. A field is None where it says nothing, and never 0 for that.

    symbol: the provider's id. volume: of the last 24 hours in the base asset; of a stock, of the day in shares.
    time_ms: of the prices, in Unix ms. latest_ms: where the provider states no time but bounds it, such as by a date,
    the end of that time. exchange: where the prices are from, "" for the provider's usual place. refusal: why there is
    no quote, in the provider's words.
    """

    symbol: str
    last_price: float | None = None
    volume: float | None = None
    bid_price: float | None = None
    ask_price: float | None = None
    time_ms: int | None = None
    latest_ms: int | None = None
    exchange: str = ""
    refusal: str = ""

    def joined(self, other: Ticker) -> Ticker:
        """Return what two replies say of one symbol: the first value of each field, and the later of their times."""
        times = [one.time_ms for one in (self, other) if one.time_ms is not None]
        values = {name: value for name, value in other._asdict().items() if getattr(self, name) in (None, "")}
        return self._replace(**{**values, "time_ms": max(times, default=None)})

    @property
    def has_price(self) -> bool:
        """Return whether it has a price of any kind."""
        return any(price is not None for price in (self.last_price, self.bid_price, self.ask_price))

    def age_s(self, received_ms: int, now_ms: int, server_ms: int) -> float:
        """Return how old the prices are, in seconds: since their time, and without one, since they were received.

        now_ms: this machine's clock, by which they came at `received_ms`. server_ms: the provider's clock now.
        """
        kept_ms = max(0, now_ms - received_ms)
        if self.time_ms is not None:
            return max(0, server_ms - self.time_ms) / 1000
        return max(kept_ms, 0 if self.latest_ms is None else server_ms - self.latest_ms) / 1000


@dataclass(frozen=True, slots=True)
class Quote:
    """What a provider says of a symbol now. A field is None where it does not say it, and never 0 for that.

    symbol: BASE/QUOTE, or the provider's id where it is no pair. type: "crypto" (each pair of currencies), "stock" or
    "future". exchange: the provider's name; of a stock, the feed or the exchange that the prices are from.
    volume: of the last 24 hours in the base asset; of a stock, of the day in shares.
    timestamp: the provider's time of the prices. received_at: this machine's time when they came. Both are UTC.
    age_s: seconds since `timestamp` by the provider's clock as far as it is known; without a timestamp, since
    `received_at`.
    is_stale: the last known quote of a provider that did not answer, or older than the call's `max_age_s`.
    error: why there is no quote, or no newer one.
    provider_symbol: the provider's id.
    """

    symbol: str
    type: str | None = None
    exchange: str | None = None
    last_price: float | None = None
    volume: float | None = None
    bid_price: float | None = None
    ask_price: float | None = None
    timestamp: pd.Timestamp | None = None
    provider: str = ""
    received_at: pd.Timestamp | None = None
    age_s: float | None = None
    is_stale: bool = False
    error: str | None = None
    provider_symbol: str = dataclasses.field(default="", repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the quote as JSON has it: `symbol` is the provider's id without a slash, `timestamp` an ISO text."""
        found = {name: getattr(self, name) for name in JSON_FIELDS}
        stamp = self.timestamp
        return {
            **found,
            "symbol": (self.provider_symbol or self.symbol).replace("/", ""),
            "timestamp": None if stamp is None else iso(int(stamp.timestamp() * 1000 + 0.5)),
        }


JSON_FIELDS = (
    "symbol", "type", "exchange", "last_price", "volume", "bid_price", "ask_price", "timestamp",
    "provider", "age_s", "is_stale", "error",
)  # fmt: skip
FIELDS = tuple(field.name for field in dataclasses.fields(Quote) if field.repr)


class Quotes(list[Quote]):
    """Quotes in the order asked; print it for a table."""

    def to_json(self) -> dict[str, Any]:
        """Return `{"symbols": [...]}` with an object for each quote, as values that JSON can hold."""
        return {"symbols": [quote.to_json() for quote in self]}

    def to_frame(self) -> pd.DataFrame:
        """Return a DataFrame with a row for each quote and its fields as columns; NaN, NaT and None where unknown."""
        columns: dict[str, Any] = {}
        for name in FIELDS:
            values = [getattr(quote, name) for quote in self]
            if name in ("last_price", "volume", "bid_price", "ask_price", "age_s"):
                columns[name] = np.array(values, np.float64)
            elif name in ("timestamp", "received_at"):
                columns[name] = pd.DatetimeIndex(pd.to_datetime(values, utc=True)).as_unit("ns")
            else:
                columns[name] = np.array(values, bool) if name == "is_stale" else pd.Series(values, dtype=object)
        return pd.DataFrame(columns, columns=list(FIELDS))

    def __repr__(self) -> str:
        return "\n".join(quote_lines(self)) if self else "Quotes([])"

    def _repr_html_(self) -> str:
        rows = [[*_cells(quote), quote.exchange or "", quote.error or ""] for quote in self]
        return html_table((*_COLUMNS, "exchange", "error"), rows)


def make_quote(
    ticker: Ticker,
    *,
    symbol: str,
    type: str | None,  # noqa: A002 - the name of the field
    exchange: str | None,
    provider: str,
    received_ms: int,
    age_s: float,
    max_age_s: float | None = None,
    error: str | None = None,
) -> Quote:
    """Return the quote of a symbol. It is stale where it is older than `max_age_s`, and with an `error`, for which it
    is the last one known."""
    return Quote(
        symbol=symbol,
        type=type,
        exchange=ticker.exchange or exchange,
        last_price=ticker.last_price,
        volume=ticker.volume,
        bid_price=ticker.bid_price,
        ask_price=ticker.ask_price,
        timestamp=None if ticker.time_ms is None else _moment(ticker.time_ms),
        provider=provider,
        received_at=_moment(received_ms),
        age_s=age_s,
        is_stale=error is not None or (max_age_s is not None and age_s > max_age_s),
        error=error,
        provider_symbol=ticker.symbol,
    )


def _moment(ms: int) -> pd.Timestamp:
    return pd.Timestamp(ms, unit="ms", tz="UTC").as_unit("ns")


def quote_lines(quotes: Iterable[Quote]) -> list[str]:
    """Return a table of text of at most 79 columns: a header, and a line for each quote.

    Where the figures take too much room, prices are rounded to eight or six digits, and names are cut.
    """
    quotes = list(quotes)
    for digits in (None, 8, 6):
        rows = [_cells(quote, digits) for quote in quotes]
        widths = [max(map(len, column)) for column in zip(_COLUMNS, *_shown(quotes, rows), strict=True)]
        room = _MOST_LINE - sum(widths[1:]) - 2 * len(widths[1:])
        if max(map(len, (cells[0] for cells in rows)), default=0) <= room:
            break
    widths[0] = min(room, max([len(_COLUMNS[0]), *(len(cells[0]) for cells in rows)]))
    return [_line(_COLUMNS, widths), *(_quote_line(*both, widths) for both in zip(quotes, rows, strict=True))]


def _shown(quotes: Iterable[Quote], rows: Iterable[Cells]) -> list[Cells]:
    """Return the rows with figures; a quote that was never received has none."""
    return [cells for quote, cells in zip(quotes, rows, strict=True) if quote.received_at is not None]


def _quote_line(quote: Quote, cells: Cells, widths: Sequence[int]) -> str:
    if quote.received_at is not None:
        return _line(cells, widths)
    return _cut(f"{_cut(cells[0], widths[0]):<{widths[0]}}  {' '.join((quote.error or '').split())}", _MOST_LINE)


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    first, *rest = cells
    return f"{_cut(first, widths[0]):<{widths[0]}}" + "".join(
        f"  {cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)
    )


def _cells(quote: Quote, digits: int | None = None) -> Cells:
    """Return the figures of a quote as text, in the order of the columns."""
    name = f"{quote.provider}:{quote.symbol}" if quote.provider else quote.symbol
    prices = [_price(value, digits) for value in (quote.last_price, quote.bid_price, quote.ask_price)]
    if digits is None:
        places = max(len(price.partition(".")[2]) for price in prices)
        prices = [_padded(price, places) for price in prices]
    return (name, *prices, _amount(quote.volume), _age(quote))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _price(value: float | None, digits: int | None) -> str:
    """Return a price as the shortest text that reads back the same, without an exponent; "-" for None.

    With `digits` it is rounded to so many.
    """
    if value is None:
        return "-"
    return np.format_float_positional(value, trim="-") if digits is None else f"{value:.{digits}g}"


def _padded(price: str, places: int) -> str:
    """Return the price with zeros behind its decimals, up to that many of them."""
    whole, _, decimals = price.partition(".")
    return f"{whole}.{decimals:0<{places}}" if places and price != "-" else price


def _amount(value: float | None) -> str:
    """Return a volume with seven figures, but no less than its whole part; "-" for None."""
    if value is None:
        return "-"
    whole = len(str(int(abs(value))))
    return f"{value:,.{max(0, min(6, 7 - whole))}f}"


def _age(quote: Quote) -> str:
    """Return the age in the largest unit of which there are two, with a ! where the quote is stale; "-" for None."""
    if quote.age_s is None:
        return "-"
    units = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
    unit, size = next((one for one in units if quote.age_s >= 2 * one[1]), units[-1])
    return f"{int(quote.age_s / size)} {unit}{'!' if quote.is_stale else ''}"
