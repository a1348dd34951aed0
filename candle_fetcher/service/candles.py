"""`GET /api/candles`: candles in four formats, page by page where they are many, with an ETag that is their
fingerprint."""

from __future__ import annotations

import itertools
import json
import re
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

import pandas as pd
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from candle_fetcher.core.frame import MANIFEST, index_ms
from candle_fetcher.core.gap import iso
from candle_fetcher.core.plan import FetchPlan
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.core.types import CandleKind, ColumnSet
from candle_fetcher.service.encoding import CAPS, MEDIA_TYPES, PIECE_ROWS, Format, encode, need_format
from candle_fetcher.service.parameters import (
    CHECKED,
    ERRORS,
    Days,
    EndTime,
    Limit,
    ProviderName,
    StartTime,
    Symbol,
    TimeframeText,
    instant_of,
)
from candle_fetcher.service.refusals import ServiceRefusal
from candle_fetcher.service.state import ServiceState, client_of, state_of

MANIFEST_HEADER = "X-Candle-Fetcher-Manifest"
# An answer of more rows is streamed; one of fewer is made whole, and kept for the next client.
_WHOLE_ROWS = 20_000
_MOST_KEPT = 2_000_000
# Answers of more rows are prepared a few at a time.
_LONG_ROWS = 100_000
# A settled call is not planned again for so long: its answer is in memory or on disk.
_SETTLED_S = 600.0
# A range is immutable once it ended so long ago, and its gaps so long: until then a provider may correct or add rows.
_FINAL_MS = 3_600_000
_GAP_MS = 2 * 86_400_000
# How the rows came to the service: that may differ between equal answers.
_WAYS = ("sources", "retries")
# A text that is the same instant at any time: not `now`, and not `2024d`, so many days ago.
_DATE = re.compile(r"\d{4}(?:-\d\d.*)?|\d{8}")

# Numbers of frames in memory, which their addresses are not: another frame may come to lie there.
_serials = itertools.count(1)

router = APIRouter()


@dataclass(frozen=True, slots=True)
class CandleCall:
    """The arguments of a request for candles, as public calls take them."""

    symbol: str
    timeframe: str
    start: Any
    end: Any
    days: float | None
    limit: int | None
    provider: str | None
    kind: CandleKind
    columns: ColumnSet

    @property
    def words(self) -> dict[str, Any]:
        """The keywords of `fetch` and `iter_frames`."""
        return {name: getattr(self, name) for name in ("days", "limit", "provider", "kind", "columns")}

    @property
    def is_absolute(self) -> bool:
        """Whether the range does not depend on now."""
        times = [value for value in (self.start, self.end) if value is not None]
        ends = self.end is not None or (self.start is not None and self.limit is not None)
        begins = self.start is not None or self.limit is not None
        return self.days is None and ends and begins and all(_is_absolute(value) for value in times)


def _is_absolute(value: Any) -> bool:
    return isinstance(value, int) or _DATE.fullmatch(value) is not None


@router.get(
    "/api/candles",
    name="candles",
    summary="Settled candles, oldest first",
    dependencies=CHECKED,
    response_class=Response,
    responses={
        **ERRORS,
        200: {
            "description": "the candles that open in [start, end)",
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/Candles"}},
                **{name.partition(";")[0]: {} for key, name in MEDIA_TYPES.items() if key != "json"},
            },
        },
        304: {"description": "they are those of If-None-Match"},
    },
)
def candles(
    request: Request,
    symbol: Symbol,
    timeframe: TimeframeText,
    start: StartTime = None,
    end: EndTime = None,
    days: Days = None,
    limit: Limit = None,
    provider: ProviderName = None,
    kind: Annotated[CandleKind, Query(description="candles; mark, index, premium on Binance futures")] = "candles",
    columns: Annotated[ColumnSet, Query(description="ohlcv, or all that the provider has")] = "ohlcv",
    format: Annotated[Format, Query(description="arrow is the IPC file format")] = "json",  # noqa: A002
) -> Response:
    """Return every settled candle that opens in [start, end), or an error: a part is never a 200.

    A range with more rows than an answer may have is 413, with the first page as `next_url`. An answer with `limit`
    and `start` has the next page as `next_url`, null at the end; `Link` has it in every format.
    """
    call = CandleCall(symbol, timeframe, instant_of(start), instant_of(end), days, limit, provider, kind, columns)
    return answer_candles(state_of(request), request, call, format)


def answer_candles(service: ServiceState, request: Request, call: CandleCall, name: Format) -> Response:
    """Return the reply to a request for candles. Raises what `fetch` raises, and ServiceRefusal."""
    need_format(name)
    rows, is_cold = admit(service, request, call, name)
    with service.lanes.cold(is_needed=is_cold), service.lanes.long(is_needed=rows > _LONG_ROWS):
        frame = service.fetcher.fetch(call.symbol, call.timeframe, call.start, call.end, **call.words)
        manifest = _manifest_of(service, frame)
    is_settled = call.is_absolute and _is_settled(call, manifest)
    if is_settled:
        service.settled.put(call, (time.monotonic() + _SETTLED_S, len(frame)))
    after_ms = _next_ms(call, frame, parse_timeframe(manifest["timeframe"]))
    headers = _headers(service, call, manifest, name, is_settled=is_settled)
    facts: dict[str, Any] = {"symbol": manifest["symbol"], "timeframe": manifest["timeframe"], "columns": call.columns}
    facts |= {"rows": len(frame), "next": None if after_ms is None else iso(after_ms), "next_url": None}
    if after_ms is not None:
        facts["next_url"] = _url(request, {"start": iso(after_ms)})
        headers["Link"] = f'<{facts["next_url"]}>; rel="next"'
    if _is_known(request, headers["ETag"]):
        return Response(status_code=304, headers={key: headers[key] for key in ("ETag", "Cache-Control")})
    if len(frame) > _WHOLE_ROWS:
        expected = len(frame)
        parts = iter([frame]) if expected <= PIECE_ROWS else _parts(service, call, manifest)
        del frame
        return StreamingResponse(encode(name, parts, manifest, facts), headers=headers, media_type=MEDIA_TYPES[name])
    return Response(_body(service, frame, name, manifest, facts), headers=headers, media_type=MEDIA_TYPES[name])


def admit(service: ServiceState, request: Request, call: CandleCall, name: Format) -> tuple[int, bool]:
    """Return the largest possible number of rows, and whether a provider is asked.

    Raises ServiceRefusal where the answer has too many rows, or the client has caused too many requests.
    """
    known = service.settled.get(call)
    if known is not None and known[0] > time.monotonic():
        rows, requests = known[1], 0
        if rows <= CAPS[name]:
            return rows, False
    words = {key: value for key, value in call.words.items() if key != "columns"}
    plan = service.fetcher.plan(call.symbol, call.timeframe, call.start, call.end, **words)
    if plan.candles > CAPS[name]:
        raise _too_many(request, plan, name)
    requests = plan.requests
    service.budget.charge(client_of(request), requests)
    return plan.candles, requests > 0


def _too_many(request: Request, plan: FetchPlan, name: Format) -> ServiceRefusal:
    timeframe, most = parse_timeframe(plan.timeframe), CAPS[name]
    second_ms = timeframe.open_ms(timeframe.first_slot(plan.span.start_ms) + most)
    page = {"start": iso(plan.span.start_ms), "end": iso(plan.span.end_ms), "limit": str(most), "days": None}
    return ServiceRefusal(
        413,
        "TooManyRows",
        f"the range has up to {plan.candles:,} candles, and an answer in {name} at most {most:,}; ask page by page: "
        "next_url is the first page, and each page has the next",
        rows=plan.candles,
        most=most,
        next=iso(second_ms),
        next_url=_url(request, page),
    )


def _url(request: Request, changed: Mapping[str, str | None]) -> str:
    """Return path and query of the request with some parameters changed."""
    query = {**dict(request.query_params), **changed}
    return f"{request.url.path}?{urlencode({key: value for key, value in query.items() if value is not None})}"


def _manifest_of(service: ServiceState, frame: pd.DataFrame) -> dict[str, Any]:
    """Return the manifest without the way by which the rows came, so that equal answers have equal bytes."""
    manifest: Any = frame.attrs[MANIFEST]
    kept = getattr(manifest, "shared_with", None)
    known = None if kept is None else service.fingerprints.get(id(kept))
    if known is not None and known[0]() is kept:
        fingerprint = known[1]
    else:
        fingerprint = manifest["fingerprint"]
        if kept is not None:  # a frame that memory holds and no call changes
            service.fingerprints.put(id(kept), (weakref.ref(kept), fingerprint, next(_serials)))
    names = [name for name in dict.keys(manifest) if name not in _WAYS]
    return {name: fingerprint if name == "fingerprint" else manifest[name] for name in names}


def _is_settled(call: CandleCall, manifest: Mapping[str, Any]) -> bool:
    """Return whether the range lies before what may still change, as far as it was asked for."""
    if call.end is None:
        return bool(manifest["rows"] == call.limit)
    is_full = call.limit is not None and call.start is not None and manifest["rows"] == call.limit
    return is_full or instant_ms(manifest["end"], "end") == instant_ms(call.end, "end")


def _is_final(manifest: Mapping[str, Any]) -> bool:
    """Return whether no provider is going to correct a settled range, or to fill a gap of it."""
    now_ms, gaps = _now_ms(), manifest["gaps"]
    is_old = instant_ms(manifest["end"], "end") <= now_ms - _FINAL_MS
    known = len(gaps) == manifest["gap_count"]  # the manifest has the first ones alone
    return is_old and known and all(instant_ms(gap["last"], "last") <= now_ms - _GAP_MS for gap in gaps)


def _next_ms(call: CandleCall, frame: pd.DataFrame, timeframe: Timeframe) -> int | None:
    """Return where the next page of a call with `start` and `limit` begins; None where there is none."""
    if call.limit is None or call.start is None or len(frame) < call.limit:
        return None
    next_ms = timeframe.open_ms(timeframe.ordinal(int(index_ms(frame.iloc[-1:])[0])) + 1)
    if call.end is None:
        return next_ms if timeframe.close_ms(next_ms) <= _now_ms() else None
    return next_ms if next_ms < instant_ms(call.end, "end", _now_ms) else None


def _now_ms() -> int:
    return int(time.time() * 1000)


def _headers(
    service: ServiceState, call: CandleCall, manifest: Mapping[str, Any], name: Format, *, is_settled: bool
) -> dict[str, str]:
    tag = f'"{manifest["fingerprint"]}-{name}-{call.columns}"'
    headers = {
        "ETag": tag if is_settled else f"W/{tag}",
        "Cache-Control": f"{service.cache_scope}, max-age=86400, immutable"
        if is_settled and _is_final(manifest)
        else "no-cache",
        MANIFEST_HEADER: json.dumps(manifest),
    }
    if name != "json":
        symbol = "".join(char if char.isalnum() and char.isascii() else "_" for char in manifest["symbol"])
        file_name = f"{manifest['provider']}_{symbol}_{manifest['timeframe'].replace('M', 'mo')}.{name}"
        headers["Content-Disposition"] = f'attachment; filename="{file_name}"'
    return headers


def _is_known(request: Request, tag: str) -> bool:
    """Return whether the client has this answer already; tags are compared weakly, as RFC 9110 says for GET."""
    given = request.headers.get("if-none-match")
    if given is None:
        return False
    tags = [one.strip().removeprefix("W/") for one in given.split(",")]
    return "*" in tags or tag.removeprefix("W/") in tags


def _body(
    service: ServiceState, frame: pd.DataFrame, name: Format, manifest: Mapping[str, Any], facts: Mapping[str, Any]
) -> bytes:
    # The fingerprint in the manifest speaks for these columns alone; others are known by the frame in memory.
    kept = getattr(frame.attrs[MANIFEST], "shared_with", None)
    known = None if facts["columns"] == "ohlcv" or kept is None else service.fingerprints.get(id(kept))
    is_known = facts["columns"] == "ohlcv" or (known is not None and known[0]() is kept)
    key = (name, json.dumps([manifest, facts]), known[2] if known is not None else 0) if is_known else None
    body = None if key is None else service.bodies.get(key)
    if body is None:
        body = b"".join(encode(name, [frame], manifest, facts))
        if key is not None and len(body) <= _MOST_KEPT:
            service.bodies.put(key, body)
    return body


def _parts(service: ServiceState, call: CandleCall, manifest: Mapping[str, Any]) -> Iterator[pd.DataFrame]:
    """Yield the rows again in parts, so that a slow client holds one of them and not the whole.

    Raises RuntimeError where they are not as many as before: the reply then ends before its end, which clients see.
    """
    rows, words = 0, {name: value for name, value in call.words.items() if name not in ("days", "limit")}
    span = (manifest["start"], manifest["end"])
    for frame in service.fetcher.iter_frames(call.symbol, call.timeframe, *span, rows=PIECE_ROWS, **words):
        rows += len(frame)
        yield frame
        del frame
    if rows != manifest["rows"]:
        raise RuntimeError(f"{rows:,} rows came after {manifest['rows']:,} had been there")
