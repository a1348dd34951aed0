"""A stream and an export bring what one fetch of the whole range brings, with the same options, row for row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import FAULT_RUNS
from world import World, ms, same

from candle_fetcher import BadFile, CandleFetcher, IncompleteData, InputError, read_csv
from candle_fetcher.cli import main
from candle_fetcher.core.frame import MANIFEST
from candle_fetcher.providers import find_provider

MINUTE, HOUR = 60_000, 3_600_000
# A hole of more than four chunks of 1m, one of a few minutes, and one right before the candle that forms.
HOLES = (("2024-06-03T08:00", "2024-06-06T22:00"), ("2024-06-11T00:05", "2024-06-11T00:09"),
         ("2024-06-15T11:40", "2024-06-15T12:00"))  # fmt: skip
LAST_HOUR = ("BTC/USDT", "1m", "2024-06-15T11:00")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("pieces") / "cache") as world:
        for start, end in HOLES:
            world.exchange.hide("binance", "BTCUSDT", (ms(start), ms(end)))
        yield world


@pytest.fixture(scope="module")
def fetcher(world: World) -> CandleFetcher:
    return world.fetcher()


def pieces_of(fetcher: CandleFetcher, *what: Any, **how: Any) -> list[pd.DataFrame]:
    return list(fetcher.iter_frames(*what, **how))


@settings(max_examples=25 if FAULT_RUNS >= 1 else 4, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    timeframe=st.sampled_from(["1m", "1m", "45m", "1h"]),
    start=st.integers(ms("2024-06-01") // MINUTE, ms("2024-06-15T11:50") // MINUTE),
    length=st.one_of(st.none(), st.integers(1, 20_000)),
    rows=st.sampled_from([7, 450, 1000, 2500, 100_000]),
    limit=st.one_of(st.none(), st.integers(1, 5000)),
    options=st.fixed_dictionaries(
        {
            "on_gap": st.sampled_from(["leave", "refetch", "ffill", "interpolate"]),
            "include_open": st.booleans(),
            "columns": st.sampled_from(["ohlcv", "all"]),
            "refresh": st.sampled_from([False, False, False, True]),
        }
    ),
)
def test_frames_and_file_together_are_what_one_fetch_returns(
    world: World,
    fetcher: CandleFetcher,
    timeframe: str,
    start: int,
    length: int | None,
    rows: int,
    limit: int | None,
    options: dict[str, Any],
) -> None:
    rows = rows if rows > 7 or (length or 20_000) < 2000 else 1000
    end = None if length is None else (start + length) * MINUTE
    what = ("BTC/USDT", timeframe, start * MINUTE, end)
    whole = fetcher.fetch(*what, limit=limit, **options)
    pieces = pieces_of(fetcher, *what, limit=limit, rows=rows, **options)
    assert max(len(piece) for piece in pieces) <= rows
    assert all(list(piece) == list(whole) for piece in pieces)
    pd.testing.assert_frame_equal(pd.concat(pieces), whole, check_exact=True)
    for name in ("rows", "expected"):
        assert sum(piece.attrs[MANIFEST][name] for piece in pieces) == whole.attrs[MANIFEST][name]
    path = fetcher.export(*what, limit=limit, path=world.folder / "out", manifest=True, **options)
    again = read_csv(path)
    pd.testing.assert_frame_equal(again, whole, check_exact=True, check_freq=False)
    for name in ("start", "end", "rows", "expected", "gaps", "fingerprint"):
        assert again.attrs[MANIFEST][name] == whole.attrs[MANIFEST][name], name
    read = pd.read_csv(path)
    assert all(read[name].dtype == bool for name in ("is_closed", "is_synthetic") if name in read and len(read))


def test_days_and_limit_are_those_of_a_fetch(fetcher: CandleFetcher) -> None:
    for how in ({"days": 2}, {"limit": 700}, {"days": 3, "limit": 1200}, {"end": "2024-06-10", "limit": 1500}, {}):
        whole = fetcher.fetch("BTC/USDT", "1m", **how)
        pieces = pieces_of(fetcher, "BTC/USDT", "1m", rows=400, **how)
        assert len(pieces) > 1
        pd.testing.assert_frame_equal(pd.concat(pieces), whole, check_exact=True)


def test_only_the_last_frame_has_the_candle_that_forms(fetcher: CandleFetcher) -> None:
    pieces = pieces_of(fetcher, "BTC/USDT", "1m", "2024-06-14", rows=1000, include_open=True)
    assert len(pieces) == 3
    assert all(piece["is_closed"].all() for piece in pieces[:-1])
    assert pieces[-1]["is_closed"].tolist()[-2:] == [True, False]


@pytest.mark.parametrize("how", ["ffill", "interpolate"])
def test_a_hole_over_many_pieces_comes_in_bounded_frames(fetcher: CandleFetcher, how: str) -> None:
    pieces = pieces_of(fetcher, "BTC/USDT", "1m", "2024-06-03", "2024-06-07", rows=1000, on_gap=how)
    assert sum(piece["is_synthetic"].all() for piece in pieces) >= 4
    assert sum(len(piece) for piece in pieces) == 4 * 1440
    assert max(len(piece) for piece in pieces) <= 1000


def test_a_gap_raises_when_its_frame_is_due_and_an_export_leaves_the_file(
    fetcher: CandleFetcher, tmp_path: Path
) -> None:
    frames = fetcher.iter_frames("BTC/USDT", "1m", "2024-06-01", "2024-06-08", rows=1000, on_gap="raise")
    assert len(next(frames)) > 0
    with pytest.raises(IncompleteData, match=r"lacks [0-9,]+ candles"):
        list(frames)
    path = fetcher.export("BTC/USDT", "1h", "2024-06-01", "2024-06-02", path=tmp_path / "mine.csv")
    before = path.read_bytes()
    with pytest.raises(IncompleteData, match=r"lacks [0-9,]+ candles"):
        fetcher.export("BTC/USDT", "1m", "2024-06-01", "2024-06-08", path=path, on_gap="raise")
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("timeframe", ["1m", "45m"])
def test_a_refresh_asks_once_for_each_chunk_and_forgets_once(tmp_path: Path, timeframe: str) -> None:
    with World(tmp_path / "cache") as world:
        fetcher = world.fetcher(source="rest")
        what = ("ETH/USDT", timeframe, "2024-06-07", "2024-06-10")
        fetcher.fetch(*what)
        world.asked()
        whole = fetcher.fetch(*what, refresh=True)
        once = sorted(int(params["startTime"]) for params in world.asked("klines"))
        for rows in (100, 1000):
            pieces = pieces_of(fetcher, *what, rows=rows, refresh=True)
            assert sorted(int(params["startTime"]) for params in world.asked("klines")) == once
            pd.testing.assert_frame_equal(pd.concat(pieces), whole, check_exact=True)
        fetcher.export(*what, path=tmp_path, refresh=True)
        assert sorted(int(params["startTime"]) for params in world.asked("klines")) == once


@pytest.mark.parametrize("how", [{"include_open": True}, {"on_gap": "interpolate"}, {"on_gap": "ffill"}])
def test_an_import_stores_no_candle_that_is_open_or_invented(
    world: World, fetcher: CandleFetcher, tmp_path: Path, how: dict[str, Any]
) -> None:
    start, end = ("2024-06-15T11:00", None) if "include_open" in how else ("2024-06-11T00:00", "2024-06-11T00:20")
    path = fetcher.export("BTC/USDT", "1m", start, end, path=tmp_path, columns="all", **how)
    other = world.fetcher(cache_dir=tmp_path / "other")
    settled = fetcher.fetch("BTC/USDT", "1m", start, end, columns="all")
    done = other.cache.import_file(path)
    assert (done.rows, done.ignored) == (len(settled), len(read_csv(path)) - len(settled))
    assert done.ignored
    world.now_s += 3600  # what was forming has settled, with other values
    try:
        frame = other.fetch("BTC/USDT", "1m", start, end or "2024-06-15T12:30", columns="all")
        truth = world.truth("BTCUSDT", "1m", start, end or "2024-06-15T12:30")
    finally:
        world.now_s -= 3600
    hidden = [(ms(first), ms(last)) for first, last in HOLES]
    kept = [not any(first <= one < last for first, last in hidden) for one in truth["open_time"]]
    same(frame, {name: column[kept] for name, column in truth.items()})


def test_a_file_of_invented_candles_alone_is_not_imported(world: World, fetcher: CandleFetcher, tmp_path: Path) -> None:
    path = fetcher.export("BTC/USDT", "1m", "2024-06-11", "2024-06-11T00:08", path=tmp_path, on_gap="ffill")
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *lines[5:]]))
    other = world.fetcher(cache_dir=tmp_path / "other")
    with pytest.raises(InputError, match="invented"):
        other.cache.import_file(path)


@pytest.mark.parametrize("mark", ["maybe", "2", "", "tru", "truee"])
def test_a_mark_that_is_neither_true_nor_false_is_refused(fetcher: CandleFetcher, tmp_path: Path, mark: str) -> None:
    path = tmp_path / "BTC_USDT_1h_20240601_20240602.csv"
    path.write_text(f"timestamp,open,high,low,close,volume,is_closed\n2024-06-01 00:00:00,2,3,1,2,5,{mark}\n")
    for call in (read_csv, fetcher.cache.import_file):
        with pytest.raises(BadFile, match=r"true or false|is_closed"):
            call(path)


@pytest.mark.slow
def test_the_command_line_offers_for_an_export_what_it_does_for_a_fetch(
    world: World, fetcher: CandleFetcher, tmp_path: Path
) -> None:
    root = ("--base-url", f"binance={world.exchange.base_urls['binance']}", "--cache-dir", str(world.folder))
    words = ("BTC/USDT", "1m", "--start", "2024-06-11", "--end", "2024-06-12", "--on-gap", "ffill", "--refresh")
    assert main(["export", *words, "--include-open", "--output", str(tmp_path / "a.csv"), *root]) == 0
    assert main(["fetch", *words, "--include-open", "--output", str(tmp_path / "b.csv"), *root]) == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    expected = fetcher.fetch("BTC/USDT", "1m", "2024-06-11", "2024-06-12", on_gap="ffill", include_open=True)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "a.csv"), expected, check_freq=False, check_exact=True)


@pytest.mark.parametrize("odd", [{"include_open": 1}, {"refresh": "yes"}, {"on_gap": "fill"}, {"limit": 0}])
def test_an_option_that_cannot_be_is_refused_at_once(fetcher: CandleFetcher, odd: dict[str, Any]) -> None:
    for call in (fetcher.iter_frames, fetcher.export):
        with pytest.raises(InputError):
            call(*LAST_HOUR, **odd)


@pytest.mark.parametrize("more", [{}, {"refresh": True}, {"on_gap": "ffill"}])
def test_a_chunk_that_two_pieces_of_a_stream_share_is_asked_for_once_without_a_cache(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    """Chunks of weeks end on 2027-06-28, those of the days that they are made of on 2027-07-01."""
    days = find_provider("binance").feed("candles")
    provider = replace(find_provider("binance"), feeds={"candles": replace(days, timeframes=("1d",))})
    span = ("2026-01-05", "2028-01-03")
    with World(tmp_path / "cache", now="2028-02-05T12:00:30") as world:
        for settings in ({"use_cache": False}, {"memory_cache_size": 0, "disk_cache_size": 0}):
            fetcher = world.fetcher(provider=provider, source="rest", **settings)
            frames = list(fetcher.iter_frames("BTC/USDT", "1w", *span, rows=100, **more))
            same(pd.concat(frames), world.truth("BTCUSDT", "1w", *span))
            asked = [one["startTime"] for one in world.asked()]
            assert [len(frame) for frame in frames] == [77, 27]
            assert asked == [str(ms("2024-10-04")), str(ms("2027-07-01"))]
            assert [frame.attrs[MANIFEST]["sources"]["rest"] for frame in frames] == [77 * 7, 27 * 7]
