from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator

import pandas as pd
import pytest

from candle_fetcher.core.events import Busy, Lookup, Operation, Progress, Retried, Sent, Waited
from candle_fetcher.monitor import NAMES, SAMPLES, PerformanceMonitor


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def monitor(clock: Clock) -> PerformanceMonitor:
    return PerformanceMonitor(pools={"network": 2, "io": 4}, clock=clock)


def test_an_operation_has_count_total_percentiles_and_maximum(monitor: PerformanceMonitor) -> None:
    for milliseconds in range(100, 0, -1):
        monitor(Operation("parse", milliseconds / 1e3, candles=10, bytes=5))
    row = monitor.snapshot()["operations"]["parse"]
    assert row["count"] == 100
    assert row["total_s"] == pytest.approx(5.05)
    assert (row["p50_ms"], row["p95_ms"], row["max_ms"]) == pytest.approx((50, 95, 100))
    assert row["candles"] == 1000
    assert row["candles_per_s"] == pytest.approx(1000 / 5.05)
    assert row["bytes"] == 500


@pytest.mark.parametrize(("count", "p50_ms", "p95_ms"), [(1, 1, 1), (2, 1, 2), (20, 10, 19), (21, 11, 20)])
def test_a_percentile_is_the_smallest_duration_that_so_many_do_not_exceed(
    monitor: PerformanceMonitor, count: int, p50_ms: float, p95_ms: float
) -> None:
    for milliseconds in range(1, count + 1):
        monitor(Operation("load", milliseconds / 1e3))
    row = monitor.snapshot()["operations"]["load"]
    assert (row["p50_ms"], row["p95_ms"]) == pytest.approx((p50_ms, p95_ms))


def test_percentiles_are_those_of_the_latest_durations_and_the_rest_is_exact(monitor: PerformanceMonitor) -> None:
    for _ in range(SAMPLES):
        monitor(Operation("load", 9.0))
    for _ in range(SAMPLES):
        monitor(Operation("load", 1.0))
    row = monitor.snapshot()["operations"]["load"]
    assert (row["count"], row["total_s"], row["max_ms"]) == (2 * SAMPLES, 10.0 * SAMPLES, 9000.0)
    assert (row["p50_ms"], row["p95_ms"]) == (1000.0, 1000.0)


def test_public_calls_make_the_candles_and_the_candles_per_second(monitor: PerformanceMonitor) -> None:
    monitor(Operation("fetch", 2.0, candles=3000))
    monitor(Operation("export", 1.0, candles=3000))
    monitor(Operation("parse", 0.1, candles=3000))
    now = monitor.snapshot()
    assert now["candles"] == 6000
    assert now["candles_per_s"] == 2000


def test_a_request_is_counted_by_provider_and_is_an_operation_too(monitor: PerformanceMonitor) -> None:
    monitor(Sent("binance", "/klines", 200, 0.25, 1000))
    monitor(Sent("binance", "/klines", 503, 0.5, 10))
    monitor(Sent("kraken", "/OHLC", None, 1.0, 0))
    now = monitor.snapshot()
    assert now["requests"] == {
        "count": 3,
        "failed": 2,
        "total_s": 1.75,
        "bytes": 1010,
        "providers": {
            "binance": {"count": 2, "failed": 1, "total_s": 0.75, "bytes": 1010},
            "kraken": {"count": 1, "failed": 1, "total_s": 1.0, "bytes": 0},
        },
    }
    assert now["operations"]["request"]["count"] == 3
    assert now["operations"]["request"]["max_ms"] == 1000


def test_retries_and_waits_are_counted_by_reason_with_their_seconds(monitor: PerformanceMonitor) -> None:
    monitor(Retried("binance", "TransportError", 1, 0.5))
    monitor(Retried("binance", "TransportError", 2, 1.0))
    monitor(Waited("binance", "budget", 12.0))
    monitor(Waited("binance", "hold", 3.0))
    now = monitor.snapshot()
    assert now["retries"] == {
        "count": 2,
        "seconds": 1.5,
        "reasons": {"TransportError": {"count": 2, "seconds": 1.5}},
    }
    assert now["waits"]["count"] == 2
    assert now["waits"]["seconds"] == 15.0
    assert now["waits"]["reasons"]["hold"] == {"count": 1, "seconds": 3.0}


def test_what_memory_misses_and_disk_has_is_a_hit_of_the_cache(monitor: PerformanceMonitor) -> None:
    monitor(Lookup("memory", 3, 7))
    monitor(Lookup("disk", 5, 2))
    cache = monitor.snapshot()["cache"]
    assert cache["tiers"]["memory"] == {"hits": 3, "misses": 7, "hit_ratio": 0.3}
    assert cache["tiers"]["disk"] == {"hits": 5, "misses": 2, "hit_ratio": pytest.approx(5 / 7)}
    assert (cache["hits"], cache["misses"], cache["hit_ratio"]) == (8, 2, 0.8)


def test_ratios_of_nothing_are_none(monitor: PerformanceMonitor) -> None:
    now = monitor.snapshot()
    assert now["cache"]["hit_ratio"] is None
    assert now["candles_per_s"] is None
    assert now["cpu_percent"] is None
    assert now["pools"]["network"] == {"threads": 2, "busy_s": 0.0, "utilization": None}


def test_a_pool_is_used_for_its_part_of_threads_times_wall_clock(clock: Clock, monitor: PerformanceMonitor) -> None:
    monitor(Busy("network", 2.0))  # began two seconds ago
    clock.now_s += 8
    monitor(Busy("network", 4.0))
    clock.now_s += 3600  # idle since: the wall clock ran until the last event
    now = monitor.snapshot()
    assert now["wall_s"] == 10
    assert now["pools"]["network"] == {"threads": 2, "busy_s": 6.0, "utilization": 0.3}
    assert now["pools"]["io"]["utilization"] == 0


def test_a_pool_of_unknown_size_has_no_utilization(clock: Clock) -> None:
    monitor = PerformanceMonitor(clock=clock)
    monitor(Busy("network", 2.0))
    assert monitor.snapshot()["pools"] == {"network": {"threads": None, "busy_s": 2.0, "utilization": None}}


def test_utilization_never_exceeds_one(monitor: PerformanceMonitor) -> None:
    for _ in range(3):
        monitor(Busy("network", 5.0))
    assert monitor.snapshot()["pools"]["network"]["utilization"] == 1


def test_cpu_is_that_of_the_process_since_the_monitor_was_made() -> None:
    monitor = PerformanceMonitor()
    sum(range(200_000))
    assert monitor.snapshot()["cpu_percent"] > 0


def test_memory_is_known_now_and_at_most(monitor: PerformanceMonitor) -> None:
    memory = monitor.snapshot()["memory"]
    assert 1_000_000 < memory["rss_bytes"] <= memory["peak_rss_bytes"] < 1_000_000_000_000


def test_progress_is_not_its_business(monitor: PerformanceMonitor) -> None:
    monitor(Progress("start", "BTC/USDT 1h", 0, 100))
    assert monitor.snapshot()["operations"] == {}


def test_names_beyond_a_bound_are_counted_together(monitor: PerformanceMonitor) -> None:
    for number in range(3 * NAMES):
        monitor(Retried("binance", f"reason {number}", 1, 1.0))
    retries = monitor.snapshot()["retries"]
    assert retries["count"] == 3 * NAMES
    assert len(retries["reasons"]) == NAMES + 1
    assert retries["reasons"]["other"]["count"] == 2 * NAMES


def test_reset_forgets_and_counting_goes_on(clock: Clock, monitor: PerformanceMonitor) -> None:
    monitor(Operation("fetch", 1.0, candles=10))
    clock.now_s += 5
    monitor.reset()
    assert monitor.snapshot()["operations"] == {}
    assert monitor.snapshot()["wall_s"] == 0
    monitor(Operation("fetch", 0.5, candles=7))
    now = monitor.snapshot()
    assert (now["candles"], now["wall_s"]) == (7, 0.5)


def test_what_was_told_but_not_read_stays_bounded(monitor: PerformanceMonitor) -> None:
    for _ in range(10_000):
        monitor(Operation("load", 0.001))
    assert len(monitor._inbox) < 2000
    assert monitor.snapshot()["operations"]["load"]["count"] == 10_000


@pytest.mark.slow
def test_counts_are_exact_under_32_writers_and_a_reader() -> None:
    monitor, writers, each = PerformanceMonitor(), 32, 500
    begin = threading.Barrier(writers + 1)
    seen: list[int] = []

    def write() -> None:
        begin.wait()
        for _ in range(each):
            monitor(Operation("load", 0.5, candles=2, bytes=3))
            monitor(Lookup("memory", 1, 2))

    threads = [threading.Thread(target=write) for _ in range(writers)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        begin.wait()
        while any(thread.is_alive() for thread in threads):
            seen.append(monitor.snapshot()["operations"].get("load", {"count": 0})["count"])
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    now = monitor.snapshot()
    row = now["operations"]["load"]
    assert (row["count"], row["total_s"]) == (writers * each, 0.5 * writers * each)
    assert (row["candles"], row["bytes"]) == (2 * writers * each, 3 * writers * each)
    assert now["cache"]["tiers"]["memory"]["misses"] == 2 * writers * each
    assert seen == sorted(seen)


def busy_monitor(clock: Clock) -> PerformanceMonitor:
    monitor = PerformanceMonitor(pools={"network": 8}, clock=clock)
    monitor(Operation("fetch", 1.5, candles=528))
    monitor(Sent("binance", "/klines", 200, 0.25, 1_234_567))
    monitor(Operation("<b>bold</b>\x1b[31m", 0.000_05, bytes=12))
    monitor(Lookup("memory", 1, 1))
    monitor(Lookup("disk", 0, 1))
    monitor(Busy("network", 0.6))
    monitor(Retried("binance", "TransportError", 1, 0.5))
    clock.now_s += 1
    return monitor


@pytest.mark.fault("I01")
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system has few signals")
def test_a_signal_handler_reads_and_resets_in_the_middle_of_a_snapshot(monitor: PerformanceMonitor) -> None:
    for interrupt in (monitor.reset, monitor.snapshot):
        for place in range(1, 20, 3):
            monitor.reset()
            for number in range(5):
                monitor.observe(Operation(f"step-{number}", 0.1))
            steps = iter(range(place))

            def trace(frame: object, event: str, _: object, steps: Iterator[int] = steps) -> None:
                if next(steps, None) is None:
                    sys.settrace(None)
                    signal.raise_signal(signal.SIGTERM)

            before = signal.signal(signal.SIGTERM, lambda *_, interrupt=interrupt: interrupt())
            sys.settrace(trace)
            try:
                monitor.snapshot()
            finally:
                sys.settrace(None)
                signal.signal(signal.SIGTERM, before)


def test_the_snapshot_is_json(clock: Clock) -> None:
    now = busy_monitor(clock).snapshot()
    assert json.loads(json.dumps(now, allow_nan=False)) == now


def test_the_report_is_aligned_text_without_blanks_at_its_ends(clock: Clock) -> None:
    report = busy_monitor(clock).report()
    lines = report.split("\n")
    assert report == report.strip()
    assert all(line == line.rstrip() for line in lines)
    assert "\x1b" not in report
    assert "528 at 352/s" in report
    assert "1, 1.2 MB" in report
    assert "1, 500.00 ms (TransportError 1)" in report
    assert "1 hits, 1 misses, 50.0 %" in report
    assert "5.0 % of 8 threads, 600.00 ms busy" in report
    table = lines[lines.index("") + 1 :]
    assert [line.split()[0] for line in table[:3]] == ["operation", "fetch", "request"]
    assert len({len(line) for line in table}) == 1


def test_a_report_of_nothing_is_still_a_report(monitor: PerformanceMonitor) -> None:
    assert monitor.report().startswith("candles")
    assert "operation" not in monitor.report()


def test_the_frame_has_a_row_for_each_operation(clock: Clock) -> None:
    frame = busy_monitor(clock).to_frame()
    assert list(frame.columns) == ["count", "total_s", "p50_ms", "p95_ms", "max_ms"]
    assert frame.index.name == "operation"
    assert list(frame.index[:2]) == ["fetch", "request"]
    assert frame.loc["request", "p95_ms"] == 250.0
    assert frame["count"].dtype == "int64"


def test_the_frame_of_nothing_has_the_same_columns_and_types(monitor: PerformanceMonitor, clock: Clock) -> None:
    pd.testing.assert_series_equal(monitor.to_frame().dtypes, busy_monitor(clock).to_frame().dtypes)
    assert monitor.to_frame().empty


def test_the_table_in_jupyter_escapes_what_it_shows(clock: Clock) -> None:
    shown = busy_monitor(clock)._repr_html_()
    assert "&lt;b&gt;bold&lt;/b&gt;" in shown
    assert "<b>" not in shown
    assert "528" in shown
    assert "http" not in shown
