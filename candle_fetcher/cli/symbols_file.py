"""The file of --symbols-file: as `symbols --availability` writes it, or as a spreadsheet saves it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from candle_fetcher.console import printable
from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.providers import find_provider
from candle_fetcher.providers.binance_bucket import MARKETS

_PROVIDERS = {market.name: market.provider for market in MARKETS}
_COLUMNS = ("symbol", "market", "earliest_date")
_SEPARATORS = (",", ";", "\t")
# A row is some hundred bytes; every symbol of every market is far from this.
_MOST_BYTES = 16 * 2**20
_MOST_SYMBOL = 80


class Target(NamedTuple):
    """A symbol to fetch. A `provider` of None is the one of the settings; `since` is the text of the row's
    earliest_date, None where the file has no such column; `place` says where the symbol was read, for errors."""

    symbol: str
    provider: str | None = None
    since: str | None = None
    place: str = ""

    def label(self, *, mixed: bool) -> str:
        """Return the symbol; among symbols of several providers, after its provider and a colon."""
        return f"{self.provider}:{self.symbol}" if mixed and self.provider is not None else self.symbol

    def start(self) -> str | None:
        """Return the earliest_date. Raises InputError with the line where it is not a date."""
        if self.since is None:
            return None
        try:
            instant_ms(self.since, "earliest_date")
        except InputError as error:
            raise InputError(f"{self.place}: {error}; --start or --days does without it") from None
        return self.since


def read_symbols_file(path: str, asked: str | None, default: str) -> list[Target]:
    """Return the symbols of the file, each once, in its order.

    The file is a CSV separated by commas, semicolons or tabs, with a column `symbol` in its header; the columns
    `market` (spot, um, cm) and `earliest_date` are read too, other columns are ignored. `default` is the provider of
    rows without a market. Raises InputError with the line, also where a market contradicts `asked`, the provider of
    --provider.
    """
    find_provider(default)
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8; save it as CSV (UTF-8)") from error
    except ValueError as error:
        raise InputError(f"{path!r} is not a path: {error}") from error
    if len(data) > _MOST_BYTES:
        raise InputError(f"{path} has more than {_MOST_BYTES:,} bytes; expected a list of symbols")
    rows = _rows(path, text)
    _, names = next(rows, ("", []))
    header = [name.casefold() for name in names]
    if "symbol" not in header:
        raise InputError(f"{path} has no column `symbol`; expected a header such as market,symbol,earliest_date")
    for name in _COLUMNS:
        if header.count(name) > 1:
            raise InputError(f"{path} has {header.count(name)} columns {name!r}; expected one")
    targets: dict[tuple[str | None, str], Target] = {}
    for place, cells in rows:
        if any(cells[len(header) :]):
            raise InputError(
                f"{place} has {len(cells)} cells and the header has {len(header)}; quote cells with commas"
            )
        row = dict(zip(header, cells, strict=False))
        target = _target(place, row, asked, default)
        targets.setdefault((target.provider, target.symbol.upper()), target)
    if not targets:
        raise InputError(f"{path} names no symbol below its header")
    return list(targets.values())


def _rows(path: str, text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield place and cells of each row that is not blank, the header first; a spreadsheet leaves rows of
    separators."""
    first = next((line for line in text.splitlines() if line.strip(' "' + "".join(_SEPARATORS))), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(first), strict=True)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield f"line {reader.line_num} of {path}", stripped
    except csv.Error as error:
        raise InputError(f"line {reader.line_num} of {path} is not CSV: {printable(error)}") from error


def _separator(header: str) -> str:
    """Return the separator with which the header has a column `symbol`; a comma where none does."""

    def names(separator: str) -> Sequence[str]:
        return [name.strip(' "\r\n').casefold() for name in header.split(separator)]

    return next((one for one in _SEPARATORS if "symbol" in names(one)), ",")


def _target(place: str, row: dict[str, str], asked: str | None, default: str) -> Target:
    symbol, market = row.get("symbol", ""), row.get("market", "").casefold()
    if not symbol:
        raise InputError(f"{place} has no symbol")
    if market and market not in _PROVIDERS:
        raise InputError(f"{place} has the market {shown(market)}; expected one of {', '.join(_PROVIDERS)}")
    provider = _PROVIDERS.get(market, default)
    if asked is not None and provider != asked:
        raise InputError(
            f"{place} is of {market}, which is {provider}, and --provider is {asked}; leave one of them out"
        )
    try:
        find_provider(provider).provider_symbol(symbol[:_MOST_SYMBOL], "candles")
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    if len(symbol) > _MOST_SYMBOL:
        raise InputError(f"{place} has a symbol of {len(symbol):,} characters: {symbol[:_MOST_SYMBOL]!r}")
    return Target(symbol, provider, row.get("earliest_date"), place)
