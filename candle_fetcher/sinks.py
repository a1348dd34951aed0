"""Sinks for `watch` and `follow`: Redis and SQL databases. A callable, or what has `write` and `close`, is one too.

    with CandleFetcher() as fetcher:
        for quote in fetcher.watch(["BTC/USDT"], to=RedisSink("redis://localhost")):
            ...

A sink is written to by a thread of its own, in groups; what it raises is tried again with growing pauses.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pandas as pd

from candle_fetcher.core.errors import InputError, MissingExtra, shown
from candle_fetcher.core.frame import MANIFEST, index_ms
from candle_fetcher.core.gap import iso
from candle_fetcher.core.quote import Quote
from candle_fetcher.vault.databases import Database, Session, is_url, open_database

__all__ = ["RedisSink", "SqlSink"]

_PRICES = ("open", "high", "low", "close", "volume")


class _Candle(NamedTuple):
    """A closed candle of a followed series."""

    provider: str
    symbol: str
    timeframe: str
    open_ms: int
    values: tuple[float, ...]
    is_revised: bool


def _candles_in(symbol: str, frame: pd.DataFrame) -> Iterator[_Candle]:
    """Yield the closed candles of a pair that `follow` yields."""
    facts = frame.attrs.get(MANIFEST, {})
    provider, name, timeframe = (str(facts.get(key, "")) for key in ("provider", "symbol", "timeframe"))
    columns = [frame[label].tolist() for label in _PRICES if label in frame]
    closed = frame["is_closed"].tolist() if "is_closed" in frame else [True] * len(frame)
    revised = frame["is_revised"].tolist() if "is_revised" in frame else [False] * len(frame)
    for open_ms, is_closed, is_revised, *values in zip(
        index_ms(frame).tolist(), closed, revised, *columns, strict=True
    ):
        if is_closed:
            yield _Candle(provider, name or symbol, timeframe, open_ms, tuple(values), is_revised)


class RedisSink:
    """Writes to Redis (extra `redis`): the newest of each symbol into a hash, and everything into a stream.

    Quotes: the hash `PREFIX:quotes`, with a field for each `PROVIDER:SYMBOL`, and the stream `PREFIX:quotes:stream`.
    Candles: the hash `PREFIX:candles`, with a field for each `PROVIDER:SYMBOL:TIMEFRAME`, and the stream
    `PREFIX:candles:stream`. Values are JSON; an item of a stream has it in the field `json`.

    url: such as redis://localhost:6379/0. most: about so many items stay in a stream. Raises InputError for a URL that
    is not one of Redis, MissingExtra without the package.
    """

    def __init__(self, url: str, *, prefix: str = "candle_fetcher", most: int = 100_000) -> None:
        try:
            import redis
        except ImportError as error:
            raise MissingExtra("redis", "RedisSink") from error
        parts = urllib.parse.urlsplit(url if isinstance(url, str) else "")
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise InputError(f"the URL of RedisSink has scheme {shown(parts.scheme)}; expected redis://HOST:PORT/0")
        self._place = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        self._prefix, self._most = prefix, most
        self._client: Any = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)

    def __repr__(self) -> str:
        return f"RedisSink({self._place})"

    def write(self, items: list[Any]) -> None:
        """Write quotes, and pairs of a symbol and a frame."""
        pipe = self._client.pipeline(transaction=True)
        for item in items:
            if isinstance(item, Quote):
                self._add(pipe, "quotes", f"{item.provider}:{item.symbol}", item.to_json())
            else:
                for candle in _candles_in(*item):
                    key = f"{candle.provider}:{candle.symbol}:{candle.timeframe}"
                    self._add(pipe, "candles", key, _document(candle))
        pipe.execute()

    def _add(self, pipe: Any, kind: str, key: str, document: dict[str, Any]) -> None:
        text = json.dumps(document, separators=(",", ":"))
        pipe.hset(f"{self._prefix}:{kind}", key, text)
        pipe.xadd(f"{self._prefix}:{kind}:stream", {"json": text}, maxlen=self._most, approximate=True)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _document(candle: _Candle) -> dict[str, Any]:
    facts = {"provider": candle.provider, "symbol": candle.symbol, "timeframe": candle.timeframe}
    values = dict(zip(_PRICES, candle.values, strict=False))
    return {**facts, "timestamp": iso(candle.open_ms), **values, "is_revised": candle.is_revised}


class SqlSink:
    """Writes into an SQL database (extra `sql`; `duckdb` for DuckDB): the newest quote of each symbol, and all candles.

    The tables `live_quotes` (key: provider, symbol) and `live_candles` (key: provider, symbol, timeframe, timestamp)
    are made where they are not there; a candle that comes again replaces its row.

    url: as of a vault, such as sqlite:///live.db or postgresql+psycopg://USER@HOST/DATABASE. Raises InputError for
    another one, MissingExtra without its driver.
    """

    def __init__(self, url: str) -> None:
        if not is_url(url):
            raise InputError(
                "the URL of SqlSink is none of a database; expected sqlite:///FILE, duckdb:///FILE or postgresql+psycopg://…"
            )
        self._database: Database = open_database(url)
        self._is_ready = False

    def __repr__(self) -> str:
        return f"SqlSink({self._database.label})"

    def write(self, items: list[Any]) -> None:
        """Write quotes, and pairs of a symbol and a frame, in one transaction."""
        with self._database.begin(is_write=True) as session:
            if not self._is_ready:
                self._make_tables(session)
            newest = {(item.provider, item.symbol): item for item in items if isinstance(item, Quote)}
            for quote in newest.values():
                self._put(session, "live_quotes", ("provider", "symbol"), self._quote_row(quote))
            for candle in self._candles(items):
                self._put(session, "live_candles", ("provider", "symbol", "timeframe", "timestamp"), candle)
        self._is_ready = True

    def _candles(self, items: Iterable[Any]) -> Iterator[dict[str, Any]]:
        for item in items:
            if not isinstance(item, Quote):
                for candle in _candles_in(*item):
                    yield {
                        "provider": candle.provider,
                        "symbol": candle.symbol,
                        "timeframe": candle.timeframe,
                        "timestamp": self._database.time_value(candle.open_ms),
                        **dict(zip(_PRICES, candle.values, strict=False)),
                    }

    def _quote_row(self, quote: Quote) -> dict[str, Any]:
        names = ("provider", "symbol", "type", "exchange", "last_price", "volume", "bid_price", "ask_price")
        row = {name: getattr(quote, name) for name in names}
        for name in ("timestamp", "received_at"):
            time = getattr(quote, name)
            row[name] = None if time is None else self._database.time_value(int(time.value // 10**6))
        return {**row, "is_stale": quote.is_stale, "error": quote.error}

    def _make_tables(self, session: Session) -> None:
        types, text = self._database.types, self._database.text
        number, time, flag = types["float"], types["time"], types["bool"]
        prices = ", ".join(f"{name} {number}" for name in ("last_price", "volume", "bid_price", "ask_price"))
        session.run(
            f"CREATE TABLE IF NOT EXISTS live_quotes (provider {text}, symbol {text}, type {text}, exchange {text}, "
            f"{prices}, timestamp {time}, received_at {time}, is_stale {flag}, error {text}, "
            "PRIMARY KEY (provider, symbol))"
        )
        prices = ", ".join(f"{name} {number}" for name in _PRICES)
        session.run(
            f"CREATE TABLE IF NOT EXISTS live_candles (provider {text}, symbol {text}, timeframe {text}, "
            f"timestamp {time}, {prices}, PRIMARY KEY (provider, symbol, timeframe, timestamp))"
        )

    @staticmethod
    def _put(session: Session, table: str, key: tuple[str, ...], row: dict[str, Any]) -> None:
        names = list(row)
        changed = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key)
        session.run(
            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)}) "
            f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed}",
            **row,
        )

    def close(self) -> None:
        """Close the connections."""
        self._database.close()
