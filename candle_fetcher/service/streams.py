"""`/api/stream` (server-sent events), `/api/ws`: quotes as they change, or candles as they settle; and `/api/quotes`.

A stream of candles goes on where `Last-Event-ID` says: each candle once, in order, out of the cache. The id of an event
is the open time up to which all symbols were sent, and after it those that are further: `1704067200000;ETH/USDT:1704…`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, NamedTuple

import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request, WebSocket
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response, StreamingResponse

from candle_fetcher.core.errors import CandleFetcherError, InputError, shown
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.files.layout import json_pieces
from candle_fetcher.service.hub import MOST_AGE_S, Subscriber, Topic, full_name, quote_text
from candle_fetcher.service.parameters import CHECKED, ERRORS, ProviderName, answers
from candle_fetcher.service.refusals import ServiceRefusal, refusal_of
from candle_fetcher.service.state import ServiceState, client_of, state_of

# A comment is sent where nothing else was for so long: proxies take a silent connection for dead.
QUIET_S = 15.0
_RETRY_MS = 3_000
MOST_SYMBOLS = 100
# A client that was away for more candles of one symbol asks `/api/candles` for them.
_MOST_REPLAYED = 10_000
# Candles of one symbol that are sent together.
_MOST_READ = 500
_QUOTES_COST = 2

router = APIRouter()
Symbols = Annotated[
    str,
    Query(
        max_length=3000,
        description="such as BTC/USDT,kraken:BTC/USD; at most 100",
        examples=["BTC/USDT,ETH/USDT"],
    ),
]


class Event(NamedTuple):
    """One event of a stream: its kind, its id, and its JSON on one line."""

    kind: str
    id: str
    data: str


def read_topics(symbols: str, timeframe: str | None, provider: str | None) -> list[Topic]:
    """Return what is asked for. Raises InputError."""
    names = [name.strip() for name in symbols.split(",") if name.strip()]
    if not names:
        raise InputError("symbols names none; expected some, such as BTC/USDT,ETH/USDT")
    if len(names) > MOST_SYMBOLS:
        raise InputError(f"symbols names {len(names)}; expected at most {MOST_SYMBOLS}")
    if any(len(name) > 64 for name in names):
        raise InputError("a symbol is too long; expected one such as BTC/USDT")
    if timeframe is not None:
        parse_timeframe(timeframe)
    return list(dict.fromkeys(_topic(name, timeframe, provider) for name in names))


def _topic(name: str, timeframe: str | None, provider: str | None) -> Topic:
    named, colon, rest = name.partition(":")
    if colon and "/" not in named:
        if provider is not None and provider.lower() != named.lower():
            raise InputError(f"{name} names {named}, and provider is {provider}; leave one of them out")
        return Topic(rest, timeframe, named.lower())
    return Topic(name, timeframe, None if provider is None else provider.lower())


@router.get(
    "/api/quotes",
    name="quotes",
    summary="What providers say of symbols now",
    dependencies=CHECKED,
    response_class=Response,
    responses=answers("a quote for each symbol; one that failed has `error`", "Document"),
)
def quotes(request: Request, symbols: Symbols, provider: ProviderName = None) -> Response:
    """Return the quotes in the order asked. Providers are asked at most once a second for the same symbols."""
    service, topics = state_of(request), read_topics(symbols, None, provider)
    document = [json.loads(text) for text in ask_quotes(service, client_of(request), topics)]
    return JSONResponse({"symbols": document}, headers={"Cache-Control": "no-store"})


def ask_quotes(service: ServiceState, client: str, topics: list[Topic]) -> list[str]:
    """Return a quote for each topic as JSON, at most a second old."""

    def ask() -> list[str]:
        service.budget.charge(client, _QUOTES_COST)
        with service.lanes.cold(is_needed=True):
            found = service.fetcher.quotes([full_name(topic) for topic in topics], max_age_s=MOST_AGE_S)
        return [quote_text(one) for one in found]

    return service.quotes.get(tuple(topics), ask)


@router.get(
    "/api/stream",
    name="stream",
    summary="Server-sent events: quotes, or with a timeframe settled candles",
    dependencies=CHECKED,
    response_class=Response,
    responses={
        **ERRORS,
        200: {"description": "events `quote` or `candle`", "content": {"text/event-stream": {}}},
    },
)
async def stream(
    request: Request,
    symbols: Symbols,
    timeframe: Annotated[str | None, Query(max_length=12, description="of candles; without it, quotes")] = None,
    provider: ProviderName = None,
    last_event_id: Annotated[str | None, Header(description="the id of the last event that was received")] = None,
) -> Response:
    """Send each quote as it changes, or each candle once it has settled, until the client ends the connection.

    A WebSocket at `/api/ws` has the same, as `{"event", "id", "data"}`; `last_event_id` is a parameter there.
    """
    opened = await _open(request, symbols, timeframe, provider, last_event_id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_as_text(opened), headers=headers, media_type="text/event-stream")


@router.websocket("/api/ws")
async def socket(websocket: WebSocket) -> None:
    """Send the events of `/api/stream` as JSON: `{"event", "id", "data"}`. `last_event_id` is a parameter here."""
    given = websocket.query_params
    try:
        unknown = [name for name in given if name not in ("symbols", "timeframe", "provider", "last_event_id")]
        if unknown:
            raise InputError(f"there is no parameter {shown(unknown[0])}; expected symbols, timeframe, provider")
        opened = await _open(
            websocket,
            given.get("symbols", ""),
            given.get("timeframe"),
            given.get("provider"),
            given.get("last_event_id"),
        )
    except (CandleFetcherError, ServiceRefusal) as error:
        await websocket.send_denial_response(refusal_of(error))
        return
    await websocket.accept()
    reading = asyncio.ensure_future(_read_on(websocket))
    reading.add_done_callback(lambda _: opened.end())
    try:
        async for several in opened.events():
            for one in several:
                if reading.done():
                    return
                await websocket.send_text(f'{{"event": "{one.kind}", "id": "{one.id}", "data": {one.data}}}')
        if not reading.done():
            await websocket.close(1001)
    finally:
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await reading
        await opened.close()


async def _read_on(websocket: WebSocket) -> None:
    """Read, and ignore, what the client says, until it leaves."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


async def _as_text(opened: _Stream) -> AsyncIterator[str]:
    """Yield the events as the browser's EventSource reads them."""
    try:
        yield f"retry: {_RETRY_MS}\n: candle_fetcher\n\n"
        async for several in opened.events():
            yield "".join(map(_line, several)) or ": still here\n\n"
    finally:
        await opened.close()


def _line(event: Event) -> str:
    name = f"id: {event.id}\n" if event.id else ""
    return f"event: {event.kind}\n{name}data: {event.data}\n\n"


async def _open(
    connection: HTTPConnection, symbols: str, timeframe: str | None, provider: str | None, last_id: str | None
) -> _Stream:
    """Return the stream. Raises InputError, UnknownSymbol and what else prevents it before anything is sent."""
    service, client = state_of(connection), client_of(connection)
    topics = read_topics(symbols, timeframe, provider)
    positions = _read_positions(last_id, topics) if timeframe is not None else {}
    key = (tuple(topics), last_id)
    check = service.checks.get(key)
    if check is None:  # many clients that come at once, as after a restart, wait for one check without a thread each
        check = asyncio.ensure_future(anyio.to_thread.run_sync(_check, service, client, topics, positions))
        service.checks[key] = check
        check.add_done_callback(lambda done: (service.checks.pop(key, None), done.cancelled() or done.exception()))
    first = await asyncio.shield(check)
    try:
        subscriber = service.hub.add(topics, asyncio.get_running_loop())
    except OverflowError as error:
        raise ServiceRefusal(503, "Busy", str(error), retry_after_s=10) from None
    if positions:  # what has settled while the client was away is due at once
        subscriber.put({}, first)
    return _Stream(service, client, subscriber, positions or first)


def _check(service: ServiceState, client: str, topics: list[Topic], positions: dict[Topic, int]) -> dict[Topic, int]:
    """Return the open time of the newest settled candle of each series; for quotes, check that the symbols exist."""
    if topics[0].timeframe is None:
        for topic, text in zip(topics, ask_quotes(service, client, topics), strict=True):
            quote = json.loads(text)
            if quote["error"] is not None and quote["last_price"] is None and quote["bid_price"] is None:
                raise ServiceRefusal(
                    404 if "know" in quote["error"] else 502, "NoQuote", f"{full_name(topic)}: {quote['error']}"
                )
        return {}
    found = {}
    for topic in topics:
        service.budget.charge(client, 1)
        with service.lanes.cold(is_needed=True):
            frame = service.fetcher.fetch(topic.symbol, topic.timeframe or "1m", limit=1, provider=topic.provider)
        found[topic] = int(index_ms(frame)[-1]) if len(frame) else 0
        grid = parse_timeframe(topic.timeframe or "1m")
        behind = grid.ordinal(found[topic]) - grid.ordinal(positions.get(topic, found[topic]))
        if behind > _MOST_REPLAYED:
            raise ServiceRefusal(
                413,
                "TooManyRows",
                f"{behind:,} candles of {full_name(topic)} have settled since Last-Event-ID; /api/candles has them",
            )
    return found


def _read_positions(last_id: str | None, topics: list[Topic]) -> dict[Topic, int]:
    """Return up to which open time each series was received; {} without an id. Raises InputError for a bad id."""
    if not last_id:
        return {}
    head, *others = last_id.split(";")
    try:
        positions = dict.fromkeys(topics, int(head))
        names = {full_name(topic): topic for topic in topics}
        for one in others:
            name, _, at = one.rpartition(":")
            if name in names:
                positions[names[name]] = int(at)
    except ValueError:
        raise InputError(f"Last-Event-ID {shown(last_id)} is not one of this stream") from None
    if not all(0 < at < 1 << 53 for at in positions.values()):
        raise InputError(f"Last-Event-ID {shown(last_id)} is not one of this stream")
    return positions


class _Stream:
    """The events of one client."""

    def __init__(self, service: ServiceState, client: str, subscriber: Subscriber, positions: dict[Topic, int]) -> None:
        self._service = service
        self._client = client
        self._subscriber = subscriber
        self._positions = positions
        self._is_over = False

    def end(self) -> None:
        """End the events: the client has left."""
        self._is_over = True
        self._subscriber.wake()

    async def close(self) -> None:
        """Forget the client."""
        self._service.hub.remove(self._subscriber)
        self._service.traffic.dropped_events += self._subscriber.dropped
        self._subscriber.dropped = 0

    async def events(self) -> AsyncIterator[list[Event]]:
        """Yield events, some at a time, and none where none came for a while; end when the service does."""
        subscriber = self._subscriber
        while not (self._service.is_ending or self._is_over):
            found = [Event("quote", "", text) for text in subscriber.take_quotes().values()]
            settled, subscriber.settled_ms = subscriber.settled_ms, {}
            due = [topic for topic, last_ms in settled.items() if last_ms > self._positions.get(topic, 0)]
            if due:
                more, left = await self._candles(due)
                found += more
                subscriber.put({}, {topic: settled[topic] for topic in left})
            if found:
                yield found
            if not await subscriber.wait(QUIET_S):
                yield []

    async def _candles(self, due: list[Topic]) -> tuple[list[Event], list[Topic]]:
        """Return the candles that have settled since the last ones that were sent, the oldest first; and the series
        that have more."""
        found, failed = list[tuple[int, int, str]](), list[Event]()
        bound_ms, left = 1 << 62, list[Topic]()
        for at, topic in enumerate(due):
            try:
                rows = await anyio.to_thread.run_sync(self._read, topic, self._positions[topic])
            except (CandleFetcherError, ServiceRefusal) as error:
                document = json.loads(bytes(refusal_of(error).body))
                failed.append(Event("error", "", json.dumps({"name": topic.symbol, **document})))
                continue
            found += [(open_ms, at, line) for open_ms, line in rows]
            if len(rows) == _MOST_READ:
                left.append(topic)
                bound_ms = min(bound_ms, rows[-1][0])
        found.sort()
        events = []
        for open_ms, at, line in found:
            topic = due[at]
            if open_ms > bound_ms:  # another series has older ones, which come first
                left.append(topic)
                continue
            self._positions[topic] = open_ms
            names = {"name": topic.symbol, "provider": topic.provider, "timeframe": topic.timeframe}
            events.append(Event("candle", self._id(), json.dumps(names)[:-1] + ", " + line[1:]))
        return events + failed, list(dict.fromkeys(left))

    def _read(self, topic: Topic, after_ms: int) -> list[tuple[int, str]]:
        """Return open time and JSON of each settled candle after that time."""
        timeframe = topic.timeframe or "1m"
        words: dict[str, Any] = {"limit": _MOST_READ, "provider": topic.provider}
        with self._service.lanes.cold(is_needed=True):
            frame = self._service.fetcher.fetch(topic.symbol, timeframe, after_ms + 1, **words)
        lines = b"".join(json_pieces([frame])).decode().splitlines()
        return list(zip(index_ms(frame).tolist(), lines, strict=True))

    def _id(self) -> str:
        """Return up to where all series were sent, and those that are further."""
        least = min(self._positions.values())
        ahead = [f"{full_name(topic)}:{at}" for topic, at in self._positions.items() if at > least]
        return ";".join([str(least), *ahead])
