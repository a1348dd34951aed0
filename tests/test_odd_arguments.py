"""Odd values at every parameter of every public call: an answer, or an error of ours that says what was wrong."""

# ruff: noqa: DTZ001, DTZ901  naive times are part of what is tested

from __future__ import annotations

import datetime as dt
import inspect
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import candle_fetcher
from candle_fetcher import CandleFetcher, CandleFetcherError, InputError, PerformanceMonitor

DAY = ("BTC/USDT", "1d", "2024-01-01", "2024-01-05")
FRAME = pd.DataFrame(
    dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0),
    index=pd.date_range("2024-01-01", periods=3, freq="D", tz="UTC", name="timestamp"),
)


class Hostile:
    """An object whose text cannot be had and that equals nothing."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]


ODD: list[Any] = [
    None, "", " ", "\0", "x" * 300, "a\nb", "../x", "7", "nan", "ü", b"", b"BTC/USDT", bytearray(b"x"),
    True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**400, 0.0, 0.5, -0.5, 1e308, float("nan"), float("inf"),
    -float("inf"), 1j, Decimal("1"), Decimal("NaN"), Decimal("sNaN"), Decimal("1e999"),
    np.int8(1), np.uint64(2**64 - 1), np.float32("nan"), np.float64("inf"), np.bool_(True), np.str_("x"),
    np.datetime64("NaT", "s"), np.datetime64("2024-01-02"), np.timedelta64(1, "D"), np.array(5), np.array([1, 2]),
    np.array([]), pd.NaT, pd.NA, pd.Timestamp("2024-01-02"), pd.Timestamp("2024-01-02", tz="Asia/Tokyo"),
    pd.Timedelta(days=1), pd.Series([1]), pd.DataFrame(), FRAME, dt.date(2024, 1, 2), dt.datetime(2024, 1, 2),
    dt.datetime(2024, 1, 2, tzinfo=dt.timezone.utc), dt.datetime.max, dt.datetime.min, dt.time(1), dt.timedelta(days=1),
    [], (), {}, set(), [None], [[]], ["BTC/USDT"], ("a", 1), {"a": 1}, {1: {}}, {"binance": {}}, {"binance": None},
    {None: None}, range(3), iter(()), (one for one in [1]), object(), object, len, lambda *_: None, Path("x"), Ellipsis,
    NotImplemented, slice(1), Exception("x"), InputError, Hostile(),
]  # fmt: skip


def name_of(value: object) -> str:
    try:
        return repr(value)[:60]
    except RuntimeError:
        return "Hostile()"


@pytest.fixture(scope="module")
def fetcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CandleFetcher]:
    """A fetcher that asks nobody."""
    with CandleFetcher(cache_dir=tmp_path_factory.mktemp("odd"), source="cache", progress=False) as made:
        yield made


def faults_of(call: Callable[..., object], usual: dict[str, Any], skipped: tuple[str, ...] = ()) -> list[str]:
    """What came of each odd value at each parameter that was neither an answer nor an error of ours."""
    wrong = []
    for name, parameter in inspect.signature(call).parameters.items():
        if name in skipped or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        for value in ODD:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", candle_fetcher.CandleFetcherWarning)
                    made = call(**{**usual, name: value})
                    if isinstance(made, CandleFetcher):
                        made.close()
                    elif isinstance(made, Iterator):
                        next(made, None)
            except CandleFetcherError as error:
                if not str(error).strip():
                    wrong.append(f"{name}={name_of(value)}: {type(error).__name__} without a word")
            except Exception as error:  # noqa: BLE001 - which one is what is looked for
                wrong.append(f"{name}={name_of(value)}: {type(error).__name__}: {error}")
    return wrong


SERIES = dict(zip(("symbol", "timeframe", "start", "end"), DAY, strict=True))
METHODS: dict[str, dict[str, Any]] = {
    "fetch": SERIES,
    "iter_frames": SERIES,
    "plan": SERIES,
    "gaps": SERIES,
    "coverage": SERIES,
    "audit": SERIES,
    "fetch_many": {"symbols": ["BTC/USDT"], "timeframe": "1d", "start": "2024-01-01", "end": "2024-01-05"},
    "fetch_funding": {"symbol": "BTC/USDT", "start": "2024-01-01", "end": "2024-01-05", "provider": "binance-um"},
    "symbols": {},
    "quotes": {"symbols": ["BTC/USDT"]},
    "first_available": {"symbol": "BTC/USDT"},
}


@pytest.mark.slow(keep=("symbols",))
@pytest.mark.fault("K19")
@pytest.mark.parametrize("name", METHODS)
def test_an_odd_argument_is_answered_or_refused(
    fetcher: CandleFetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    usual = {"source": "cache", **METHODS[name]}
    call = getattr(fetcher, name)
    known = inspect.signature(call).parameters
    assert faults_of(call, {key: value for key, value in usual.items() if key in known}, ("source",)) == []
    if "source" in known:
        for value in ODD:
            if value is not None:
                with pytest.raises(CandleFetcherError):
                    next(iter([call(**{**METHODS[name], "source": value})]))


@pytest.mark.slow
@pytest.mark.fault("K19")
def test_an_odd_option_of_several_fetches_is_refused(fetcher: CandleFetcher) -> None:
    def call(provider: Any = None, kind: Any = "candles", columns: Any = "ohlcv", limit: Any = None) -> object:
        options = {"provider": provider, "kind": kind, "columns": columns, "limit": limit}
        return fetcher.fetch_many(["BTC/USDT"], "1d", "2024-01-01", "2024-01-05", **options)

    assert faults_of(call, {}) == []


@pytest.mark.slow
@pytest.mark.fault("K19")
def test_an_odd_setting_is_taken_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert faults_of(CandleFetcher, {"cache_dir": tmp_path}, ("clock",)) == []


@pytest.mark.fault("K19")
def test_odd_arguments_of_cache_and_monitor_are_answered_or_refused(fetcher: CandleFetcher) -> None:
    for call in (fetcher.cache.clear, fetcher.cache.stats, fetcher.cache.verify, fetcher.cache.revisions):
        assert faults_of(call, {}) == [], call.__name__
    for call in (fetcher.monitor.report, fetcher.monitor.snapshot, fetcher.monitor.to_frame):
        assert faults_of(call, {}) == [], call.__name__
    assert isinstance(fetcher.monitor, PerformanceMonitor)


@pytest.mark.fault("K19")
def test_an_odd_frame_is_answered_or_refused() -> None:
    calls: dict[Callable[..., object], dict[str, Any]] = {
        candle_fetcher.summary: {"frame": FRAME},
        candle_fetcher.find_gaps: {"frame": FRAME, "timeframe": "1d"},
        candle_fetcher.combine: {"frames": {"a": FRAME, "b": FRAME}},
        candle_fetcher.resample: {"frame": FRAME, "timeframe": "2d", "base": "1d"},
        candle_fetcher.fingerprint: {"frame": FRAME, "timeframe": "1d"},
        candle_fetcher.manifest_of: {"frame": FRAME},
    }
    assert {call.__name__: faults for call, usual in calls.items() if (faults := faults_of(call, usual))} == {}
