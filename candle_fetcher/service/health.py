"""Routes for what watches the service: `/health`, `/ready`, `/metrics`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from candle_fetcher.core.version import __version__
from candle_fetcher.service.parameters import CHECKED, ERRORS
from candle_fetcher.service.state import ServiceState, state_of

router = APIRouter()
_JSON: dict[int | str, dict[str, Any]] = {
    200: {"description": "it is", "content": {"application/json": {"schema": {"type": "object"}}}}
}


@router.get(
    "/health",
    name="health",
    summary="Whether the process lives",
    dependencies=CHECKED,
    response_class=Response,
    responses=_JSON,
)
async def health(request: Request) -> Response:
    """Return at once, without a thread, a file or a provider."""
    return JSONResponse({"status": "ok", "version": __version__}, headers={"Cache-Control": "no-store"})


@router.get(
    "/ready",
    name="ready",
    summary="Whether candles can be served",
    dependencies=CHECKED,
    response_class=Response,
    responses={**ERRORS, **_JSON},
)
def ready(request: Request) -> Response:
    """Return 200 while the cache can be read and written, else 503; and what is known of each provider asked so far."""
    service = state_of(request)
    problem = _find_problem(service)
    snapshot = service.fetcher.monitor.snapshot()
    document = {
        "status": "ready" if problem is None else "not ready",
        "cache": "read and written" if problem is None else problem,
        "providers": {
            name: {"requests": one["count"], "failed": one["failed"]}
            for name, one in snapshot["requests"]["providers"].items()
        },
        "waits": {reason: one["count"] for reason, one in snapshot["waits"]["reasons"].items()},
    }
    return JSONResponse(document, 200 if problem is None else 503, {"Cache-Control": "no-store"})


def _find_problem(service: ServiceState) -> str | None:
    """Return why the cache cannot serve, without its path; None where it can."""
    try:
        stats = service.fetcher.cache.stats()
        if stats.problem is not None:
            return "the cache has a problem; the log of the service says which"
        if stats.path is not None:
            Path(stats.path).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=stats.path) as file:
                file.write(b"ready")
    except Exception as error:  # noqa: BLE001 - of any error, the service is not ready
        return f"the cache cannot be read and written ({type(error).__name__})"
    return None


@router.get(
    "/metrics",
    name="metrics",
    summary="Counts for Prometheus",
    dependencies=CHECKED,
    response_class=Response,
    responses={
        200: {"description": "Prometheus text 0.0.4", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
)
def metrics(request: Request) -> Response:
    """Return what was fetched, cached and answered so far."""
    service = state_of(request)
    lines = [*_fetcher_lines(service.fetcher.monitor.snapshot()), *_service_lines(service)]
    media_type = "text/plain; version=0.0.4; charset=utf-8"
    return PlainTextResponse("\n".join(lines) + "\n", media_type=media_type, headers={"Cache-Control": "no-store"})


class _Family:
    """One metric: its name, type and help, and its samples."""

    def __init__(self, name: str, kind: str, said: str) -> None:
        self.head = [f"# HELP {name} {said}", f"# TYPE {name} {kind}"]
        self.name = name
        self.samples: list[str] = []

    def add(self, value: float, suffix: str = "", **labels: object) -> None:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        number = repr(float(value)) if isinstance(value, float) else str(value)
        self.samples.append(f"{self.name}{suffix}{{{inside}}} {number}" if inside else f"{self.name}{suffix} {number}")

    def lines(self) -> list[str]:
        return [*self.head, *self.samples] if self.samples else []


def _escaped(text: object) -> str:
    return str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def _fetcher_lines(now: Mapping[str, Any]) -> Iterator[str]:
    """Yield the figures of the monitor. Labels are names of this library's own, and of providers."""
    candles = _Family("candle_fetcher_candles_total", "counter", "Candles that calls have returned.")
    candles.add(now["candles"])
    asked = _Family("candle_fetcher_provider_requests_total", "counter", "Requests to providers.")
    failed = _Family("candle_fetcher_provider_requests_failed_total", "counter", "Requests without a good reply.")
    seconds = _Family("candle_fetcher_provider_request_seconds_total", "counter", "Time of requests to providers.")
    sizes = _Family("candle_fetcher_provider_received_bytes_total", "counter", "Bytes received from providers.")
    for name, one in now["requests"]["providers"].items():
        asked.add(one["count"], provider=name)
        failed.add(one["failed"], provider=name)
        seconds.add(float(one["total_s"]), provider=name)
        sizes.add(one["bytes"], provider=name)
    retries = _Family("candle_fetcher_retries_total", "counter", "Requests that were sent again.")
    retries.add(now["retries"]["count"])
    waits = _Family("candle_fetcher_wait_seconds_total", "counter", "Time for which rate limits were waited for.")
    waits.add(float(now["waits"]["seconds"]))
    hits = _Family("candle_fetcher_cache_hits_total", "counter", "Entries that a tier of the cache had.")
    misses = _Family("candle_fetcher_cache_misses_total", "counter", "Entries that a tier of the cache did not have.")
    for name, tier in now["cache"]["tiers"].items():
        hits.add(tier["hits"], tier=name)
        misses.add(tier["misses"], tier=name)
    calls = _Family("candle_fetcher_operation_seconds", "summary", "Durations of operations of the fetcher.")
    for name, row in now["operations"].items():
        for quantile, key in (("0.5", "p50_ms"), ("0.95", "p95_ms")):
            calls.add(row[key] / 1e3, operation=name, quantile=quantile)
        calls.add(float(row["total_s"]), "_sum", operation=name)
        calls.add(row["count"], "_count", operation=name)
    memory = _Family("candle_fetcher_resident_memory_bytes", "gauge", "Memory of the process.")
    memory.add(now["memory"]["rss_bytes"])
    for family in (candles, asked, failed, seconds, sizes, retries, waits, hits, misses, calls, memory):
        yield from family.lines()


def _service_lines(service: ServiceState) -> Iterator[str]:
    """Yield what the service itself counts. Routes are labelled by their path in OpenAPI, never by what was sent."""
    traffic = service.traffic
    replies = _Family("candle_fetcher_http_requests_total", "counter", "Replies by route and status.")
    for (route, status), count in sorted(traffic.replies.copy().items()):
        replies.add(count, route=route, status=status)
    seconds = _Family("candle_fetcher_http_request_seconds_total", "counter", "Time until replies were complete.")
    sizes = _Family("candle_fetcher_http_sent_bytes_total", "counter", "Bytes of bodies that were sent.")
    for route, spent in sorted(traffic.seconds.copy().items()):
        seconds.add(float(spent), route=route)
        sizes.add(traffic.bytes[route], route=route)
    streams = _Family("candle_fetcher_streams", "gauge", "Open event streams and WebSockets.")
    streams.add(traffic.streams)
    dropped = _Family("candle_fetcher_dropped_events_total", "counter", "Quotes that newer ones replaced unsent.")
    dropped.add(traffic.dropped_events)
    up = _Family("candle_fetcher_up_seconds", "gauge", "Time since the service was made.")
    up.add(float(time.time() - traffic.began_s))
    for family in (replies, seconds, sizes, streams, dropped, up):
        yield from family.lines()
