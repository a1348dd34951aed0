"""Pictures: every high and low, every gap, and every row that is invented or unfinished, is in them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher import (
    CandleFetcher,
    CandleFetcherError,
    CandleFetcherWarning,
    IncompleteData,
    InputError,
    MissingExtra,
    plot,
)
from candle_fetcher.cli import main
from candle_fetcher.core.candles import OHLCV, Candles, candles_from
from candle_fetcher.core.spans import Span
from candle_fetcher.core.thinning import MOST, find_cell, thin, thin_line
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.plot.holes import find_closed, find_lacking
from candle_fetcher.plot.reading import read_frame
from candle_fetcher.plot.ticks import session_ticks
from candle_fetcher.practice import PracticeExchange, faults

MINUTE, HOUR = 60_000, 3_600_000
OUTAGE = ("BTC/USDT", "1h", "2018-02-07", "2018-02-11")


def made(opens: Any, seed: int = 1) -> Candles:
    chance = np.random.default_rng(seed)
    low, one, other, high = np.sort(chance.integers(1, 10**8, (4, len(opens))), axis=0) / 1e4
    values = [np.asarray(opens, np.int64), one, high, low, other, chance.integers(0, 10**6, len(opens)) / 1e2]
    return candles_from(("open_time", *OHLCV), values)


def frame_of(candles: Candles) -> pd.DataFrame:
    index = pd.DatetimeIndex(pd.to_datetime(candles.open_ms, unit="ms", utc=True), name="timestamp")
    return pd.DataFrame({name: candles.floats(name) for name in OHLCV}, index=index)


@pytest.fixture(scope="module")
def fetcher() -> Any:
    with (
        PracticeExchange(weight_limit=10**6, log=False) as exchange,
        CandleFetcher(base_urls=exchange.base_urls, api_keys=exchange.api_keys, use_cache=False, progress=False) as one,
    ):
        yield one


# -- thinning ----------------------------------------------------------------------------------------------------------


@examples()
@given(
    present=st.sets(st.integers(0, 400), min_size=1),
    most=st.integers(1, 60),
    timeframe=st.sampled_from(["1m", "7m", "1h", "1d", "1w", "1M"]),
    seed=st.integers(0, 99),
)
def test_coarser_candles_keep_every_high_and_low_and_all_volume(
    present: set[int], most: int, timeframe: str, seed: int
) -> None:
    base = parse_timeframe(timeframe)
    opens = base.opens_ms(np.array(sorted(present), np.int64) + base.ordinal(1_500_000_000_000))
    candles = made(opens, seed)
    found = thin(candles, base, most)
    kept = found.candles
    assert kept.count <= most
    if found.cell is None:
        assert kept is candles
        return
    cells = [found.cell.floor_ms(ms) for ms in opens.tolist()]
    for at, open_ms in enumerate(kept.open_ms.tolist()):
        inside = np.array([cell == open_ms for cell in cells])
        assert inside.any()
        assert kept.floats("open")[at] == candles.floats("open")[inside][0]
        assert kept.floats("close")[at] == candles.floats("close")[inside][-1]
        assert kept.floats("high")[at] == candles.floats("high")[inside].max()
        assert kept.floats("low")[at] == candles.floats("low")[inside].min()
        assert kept.floats("volume")[at] == pytest.approx(candles.floats("volume")[inside].sum())


@examples()
@given(values=st.lists(st.sampled_from([np.nan, *range(9)]), min_size=1, max_size=300), most=st.integers(1, 20))
def test_a_thinned_line_keeps_its_ends_its_highest_and_lowest_points_and_its_breaks(
    values: list[float], most: int
) -> None:
    line, opens = np.array(values, np.float64), np.arange(len(values)) * MINUTE
    kept = thin_line(opens, line, most)
    assert (np.diff(kept) > 0).all()
    assert (kept[0], kept[-1]) == (0, len(values) - 1)
    if not np.isnan(line).all():
        assert np.nanmax(line[kept]) == np.nanmax(line)
        assert np.nanmin(line[kept]) == np.nanmin(line)
    breaks = sum(np.isnan(line[1:]) & ~np.isnan(line[:-1]))
    assert sum(np.isnan(line[kept][1:]) & ~np.isnan(line[kept][:-1])) >= min(breaks, 1)


@examples()
@given(
    rows=st.sets(st.integers(0, 300), min_size=1),
    start=st.integers(0, 3000),  # months from then on end before pandas 2 does, in 2262
    pair=st.sampled_from([("1m", "15m"), ("1h", "1h"), ("1h", "6h"), ("1d", "1w"), ("1d", "1M"), ("1M", "3M")]),
)
def test_each_slot_without_a_candle_is_a_gap_and_what_is_cut_out_holds_neither_candle_nor_gap(
    rows: set[int], start: int, pair: tuple[str, str]
) -> None:
    base, cell = map(parse_timeframe, pair)
    slots = np.array(sorted(rows), np.int64) + start
    drawn = read_frame(frame_of(made(base.opens_ms(slots))))
    # Without a manifest a few rows do not tell how long they are.
    span = Span(drawn.span.start_ms, base.close_ms(int(drawn.candles.open_ms[-1])))
    gaps = find_lacking(drawn._replace(timeframe=base, span=span))
    missing = sorted(set(range(int(slots[0]), int(slots[-1]) + 1)) - set(slots.tolist()))
    found = [slot for gap in gaps for slot in range(base.ordinal(gap.first_ms), base.ordinal(gap.last_ms) + 1)]
    assert found == missing
    cells = np.unique(cell.ordinals(drawn.candles.open_ms))
    odd = gaps[::2]  # as if the others were closed hours
    closed = find_closed(cell.opens_ms(cells), cell, odd, base)
    for span in closed:
        inside = set(range(cell.ordinal(span.start_ms), cell.ordinal(span.end_ms - 1) + 1))
        assert not inside & set(cells.tolist())
        for gap in odd:
            assert not inside & set(range(cell.ordinal(gap.first_ms), cell.ordinal(gap.last_ms) + 1))


# -- what is in the figure ---------------------------------------------------------------------------------------------


def traces(figure: Any, kind: str) -> list[Any]:
    return [one for one in figure.data if one.type == kind]


def legend(figure: Any) -> list[str]:
    return [one.name for one in figure.data if one.showlegend is not False]


def test_candles_are_drawn_as_they_are(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    frame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-03")
    figure = plot.candles(frame)
    (drawn,) = traces(figure, "candlestick")
    for name in ("open", "high", "low", "close"):
        assert list(drawn[name]) == frame[name].tolist()
    assert [str(time) for time in drawn.x] == [str(time) for time in frame.index.tz_localize(None).to_numpy("M8[ms]")]
    assert list(traces(figure, "bar")[0].y) == frame["volume"].tolist()
    text = figure.layout.title.text
    assert "BTC/USDT · 1h · binance" in text
    assert "2024-01-01 00:00 to 2024-01-03 00:00 UTC" in text
    assert ">48 candles<" in text
    assert traces(plot.candles(frame, volume=False), "bar") == []


def test_a_gap_is_shaded_with_its_cause_over_its_missing_candles(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    figure = plot.candles(fetcher.fetch(*OUTAGE))
    assert legend(figure) == ["gap (no_candle): 32 candles"]
    shade = next(one for one in figure.data if one.fill == "toself")
    ends = [pd.Timestamp(time) for time in shade.x if time is not None]
    # Half a candle before the first missing one opens, to half a candle after the last one does.
    assert (min(ends), max(ends)) == (pd.Timestamp("2018-02-08T00:30"), pd.Timestamp("2018-02-09T08:30"))
    points = next(one for one in figure.data if one.hovertemplate)
    assert "2018-02-08T01:00:00Z to 2018-02-09T08:00:00Z" in points.text[0]


def test_invented_rows_are_marked_and_their_gap_stays_shaded(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    frame = fetcher.fetch(*OUTAGE, on_gap="ffill")
    figure = plot.candles(frame)
    assert legend(figure) == ["gap (no_candle): 32 candles", "invented rows: 32"]
    invented = traces(figure, "candlestick")[1]
    assert [pd.Timestamp(time) for time in invented.x] == [
        time.tz_localize(None) for time in frame.index[frame["is_synthetic"]]
    ]


def test_the_candle_that_is_forming_is_marked(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    frame = fetcher.fetch("BTC/USDT", "1h", limit=5, include_open=True)
    open_rows = int((~frame["is_closed"]).sum())
    figure = plot.candles(frame)
    assert legend(figure) == [f"not finished: {open_rows}"]
    assert len(traces(figure, "candlestick")[1].x) == open_rows


def test_many_candles_are_thinned_the_picture_says_so_and_no_gap_is_hidden() -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    present = np.delete(np.arange(200_000), [70_000, *range(150_000, 150_010)])
    candles = made(present * MINUTE + 1_600_000_020_000)
    figure = plot.candles(frame_of(candles))
    (drawn,) = traces(figure, "candlestick")
    assert len(drawn.x) <= MOST
    assert (max(drawn.high), min(drawn.low)) == (candles.floats("high").max(), candles.floats("low").min())
    assert "each candle is 3 h, made of 199,989 candles of 1m" in figure.layout.title.text
    assert legend(figure) == ["missing row: 11 candles in 2 gaps"]


def test_what_is_invented_or_unfinished_stays_marked_in_coarser_candles() -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    frame = frame_of(made(np.arange(4000) * MINUTE + 1_600_000_020_000))
    frame["is_synthetic"] = frame["is_closed"] = False
    frame["is_closed"] = np.arange(4000) < 3999
    frame.iloc[2000:2003, frame.columns.get_loc("is_synthetic")] = True
    figure = plot.candles(frame)
    assert legend(figure) == ["missing row: 3 candles", "invented rows: 3", "not finished: 1"]
    plain, invented, unfinished = traces(figure, "candlestick")
    assert len(plain.x) > 100
    assert (len(invented.x), len(unfinished.x)) == (2, 1)  # a border of coarser candles is between the three
    assert "of 3 candles" in plain.text[1]


def test_more_gaps_than_can_be_drawn_are_all_within_the_shades() -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    present = np.flatnonzero(np.random.default_rng(1).random(20_000) < 0.7)
    candles = made(present * MINUTE)
    figure = plot.candles(frame_of(candles))
    shade = next(one for one in figure.data if one.fill == "toself")
    times = pd.DatetimeIndex([time for time in shade.x if time is not None]).to_numpy("M8[ms]").astype(np.int64)
    starts, ends = times[0::4], times[2::4]
    missing = np.setdiff1d(np.arange(present[0], present[-1]), present) * MINUTE
    half = find_cell(candles.open_ms, parse_timeframe("1m"), MOST).nominal_ms // 2
    within = (missing[:, None] - half >= starts) & (missing[:, None] - half < ends)
    assert within.any(axis=1).all()
    assert f"{len(missing):,} candles" in legend(figure)[0]


def test_gaps_beyond_those_that_a_manifest_lists_have_their_cause_and_what_failed_has_its_own(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    day = 1_709_251_200_000  # 2024-03-01
    with (
        PracticeExchange(weight_limit=10**6, log=False) as exchange,
        CandleFetcher(base_urls=exchange.base_urls, use_cache=False, progress=False, max_retries=0) as fetcher,
    ):
        for hour in range(1, 26, 2):
            exchange.hide("binance", "BTCUSDT", (day + hour * HOUR, day + (hour + 1) * HOUR))
        figure = plot.candles(fetcher.fetch("BTC/USDT", "1h", "2024-03-01", "2024-03-03"))
        assert legend(figure) == ["gap (no_candle): 13 candles in 13 gaps"]
        exchange.fail(faults.status(500), times=None, match="klines")
        lost = fetcher.fetch("ETH/USDT", "1h", "2024-03-01", "2024-03-03", source="rest", partial="allow")
        assert legend(plot.candles(lost)) == ["could not be fetched: 48 candles"]


@pytest.mark.slow
def test_hours_in_which_an_exchange_is_closed_are_cut_out_and_hide_no_candle(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    pytest.importorskip("exchange_calendars", reason="the extra `calendars`")
    for timeframe, days in (("1h", 20), ("1d", 60), ("1m", 20)):
        frame = fetcher.fetch("alpaca:AAPL", timeframe, end="2024-03-20", days=days)
        figure = plot.candles(frame)
        (drawn,) = traces(figure, "candlestick")
        times = pd.DatetimeIndex([pd.Timestamp(time) for time in drawn.x])
        assert legend(figure) == []
        breaks = [tuple(map(pd.Timestamp, one.bounds)) for one in figure.layout.xaxis.rangebreaks]
        assert len(breaks) >= days // 7
        for first, last in breaks:
            assert not ((times > first) & (times < last)).any()


@pytest.mark.parametrize(
    ("timeframe", "count", "labels"),
    [
        ("1h", 40, []),
        ("1h", 24 * 10, ["1 Dec<br>2023", "2 Dec", "3 Dec"]),
        ("1h", 24 * 80, ["1 Dec<br>2023", "4 Dec", "11 Dec", "18 Dec", "25 Dec", "1 Jan<br>2024"]),
        ("1d", 400, ["Dec<br>2023", "Jan<br>2024", "Feb"]),
        ("1d", 4000, ["2023", "2024", "2025"]),
    ],
)
def test_labels_are_at_the_first_candle_of_each_part(timeframe: str, count: int, labels: list[str]) -> None:
    grid = parse_timeframe(timeframe)
    opens = grid.opens_ms(grid.ordinal(1_701_388_800_000) + np.arange(count))  # 2023-12-01
    found = session_ticks(opens)
    assert list(found.get("ticktext", []))[: len(labels)] == labels
    assert (found == {}) == (not labels)
    ticks = pd.DatetimeIndex(found.get("tickvals", [])).to_numpy("M8[ms]").astype(np.int64)
    assert len(ticks) <= 14
    assert np.isin(ticks, opens).all()


def test_one_candle_is_as_wide_as_its_time(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    figure = plot.candles(fetcher.fetch("BTC/USDT", "1h", "2024-01-01", limit=1))
    (drawn,) = traces(figure, "candlestick")
    assert [pd.Timestamp(time).hour for time in drawn.x] == [23, 0, 1]  # the others have no prices
    assert np.isnan(drawn.close).tolist() == [True, False, True]
    assert drawn.text[1].startswith("volume: ")


@pytest.mark.slow
def test_without_the_hours_of_an_exchange_nights_are_not_called_gaps() -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    program = """
import sys, warnings
sys.modules["exchange_calendars"] = None
from candle_fetcher import CandleFetcher, plot
from candle_fetcher.practice import PracticeExchange
warnings.simplefilter("ignore")
with PracticeExchange(log=False) as exchange, CandleFetcher(
    base_urls=exchange.base_urls, api_keys=exchange.api_keys, use_cache=False, progress=False
) as fetcher:
    for days in (3, 20):
        frame = fetcher.fetch("alpaca:AAPL", "1h", end="2024-03-20", days=days)
        print([one.name.partition(":")[0] for one in plot.candles(frame).data if one.showlegend is not False])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['gap, or the exchange was closed (the extra calendars tells)']"] * 2


def test_lines_lie_over_the_candles(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    frame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-03")
    mean = frame["close"].rolling(5).mean()
    figure = plot.candles(frame, overlays={"mean of 5": mean})
    (line,) = [one for one in figure.data if one.name == "mean of 5"]
    assert np.array_equal(np.array(line.y), mean.to_numpy(), equal_nan=True)
    assert legend(plot.candles(frame.assign(mean=mean), overlays=["mean"])) == ["mean"]
    for wrong in (["nothing"], 5, {"a": [1, 2]}, {"a": frame["close"].astype(str)}, {1: mean}):
        with pytest.raises(InputError, match="overlay"):
            plot.candles(frame, overlays=wrong)


@pytest.mark.slow
def test_frames_of_other_libraries_are_drawn_the_same(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    pytest.importorskip("pyarrow", reason="the extra `arrow`")
    polars = pytest.importorskip("polars", reason="the extra `polars`")
    frame = fetcher.fetch(*OUTAGE)
    expected = plot.candles(frame).to_json()
    assert plot.candles(fetcher.fetch(*OUTAGE, output="arrow")).to_json() == expected
    assert plot.candles(fetcher.fetch(*OUTAGE, output="polars", with_manifest=True)).to_json() == expected
    bare = plot.candles(polars.from_pandas(frame.reset_index()))
    assert legend(bare) == ["missing row: 32 candles"]


def test_a_part_of_a_frame_shows_no_gap_beyond_it(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    frame = fetcher.fetch(*OUTAGE)
    assert legend(plot.candles(frame.iloc[:10])) == []
    assert "2018-02-07 00:00 to 2018-02-07 10:00 UTC" in plot.candles(frame.iloc[:10]).layout.title.text


def test_changed_values_are_not_shown_as_those_of_the_provider(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    frame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-03")
    assert "values were changed after the fetch" in plot.candles(frame * 2).layout.title.text


def test_rows_that_were_taken_out_are_shown_as_missing(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    frame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-03")
    with pytest.warns(CandleFetcherWarning, match="the rows are not 1h apart"):
        figure = plot.candles(frame.drop(frame.index[10:13]))
    assert legend(figure) == ["missing row: 3 candles"]


def test_a_frame_without_candles_says_so(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    figure = plot.candles(fetcher.fetch("BTC/USDT", "1d", "2016-01-01", "2016-02-01"))
    assert figure.layout.annotations[0].text == "no candles"


@pytest.mark.parametrize("wrong", [5, "BTC/USDT", pd.DataFrame({"a": [1]}), pd.DataFrame()])
def test_what_is_no_frame_of_candles_is_refused(wrong: Any) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    with pytest.raises(InputError):
        plot.candles(wrong)


def test_a_theme_that_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown theme 'drak'.*Did you mean 'dark'"):
        plot.candles(frame_of(made([0])), theme="drak")


def test_without_plotly_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(MissingExtra, match=r"candle-fetcher\[plot\]"):
        plot.candles(frame_of(made([0, MINUTE])))


@pytest.mark.slow
def test_the_room_is_imported_when_it_is_used() -> None:
    program = (
        "import sys, candle_fetcher; before = 'candle_fetcher.plot' in sys.modules\n"
        "candle_fetcher.plot.candles; print(before, 'candle_fetcher.plot' in sys.modules, 'plotly' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]


# -- several series, and the cache -------------------------------------------------------------------------------------


def test_changes_are_compared_since_all_have_begun_and_lines_break_at_gaps(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    early = fetcher.fetch(*OUTAGE)
    late = fetcher.fetch("ETH/USDT", "1h", "2018-02-07T12:00", "2018-02-11", on_gap="ffill")
    figure = plot.compare({"early": early, "late": late}, theme="dark")
    kept = early.loc["2018-02-07T12:00":, "close"]
    for line, closes in zip(figure.data, (kept, late.loc[~late["is_synthetic"], "close"]), strict=True):
        values = np.array(line.y, np.float64)
        assert values[0] == 0
        assert np.isnan(values).sum() == 1  # invented rows are no part of it
        assert values[~np.isnan(values)] == pytest.approx((100 * (closes / closes.iloc[0] - 1)).to_numpy())
        assert pd.Timestamp(line.x[np.flatnonzero(np.isnan(values))[0]]) == pd.Timestamp("2018-02-08T01:00")
    assert "2018-02-07 12:00 to 2018-02-10 23:00 UTC" in figure.layout.title.text
    names = [one.name.partition(":")[0] for one in plot.compare([early, early]).data]
    assert names == ["BTC/USDT · 1h · binance", "BTC/USDT · 1h · binance (2)"]


def test_what_cannot_be_compared_is_refused(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    frame, other = fetcher.fetch(*OUTAGE), fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-02")
    for wrong in (frame, [], {}, {1: frame}, "BTC/USDT", 5, [frame, frame.iloc[:0]], [frame, other]):
        with pytest.raises(InputError):
            plot.compare(wrong)


@pytest.mark.slow
def test_the_map_has_each_state_of_the_cache_and_what_was_never_requested(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    with (
        PracticeExchange(weight_limit=10**6, log=False) as exchange,
        CandleFetcher(base_urls=exchange.base_urls, cache_dir=tmp_path, progress=False, max_retries=0) as fetcher,
    ):
        fetcher.fetch(*OUTAGE)
        exchange.fail(faults.status(500), times=None, match="klines")
        with pytest.raises(IncompleteData):
            fetcher.fetch("ETH/USDT", "1h", "2018-02-07", "2018-02-11", source="rest")
        exchange.clear_log()
        symbols = ["BTC/USDT", "ETH/USDT", "XRP/USDT"]
        figure = plot.coverage(fetcher, symbols, *OUTAGE[1:])
        whole = plot.coverage(fetcher, "BTC/USDT", "1h", theme="dark")
        nothing = plot.coverage(fetcher, "SOL/USDT", "1h")
        assert not exchange.requests
        with pytest.raises(InputError):
            plot.coverage(fetcher, [], "1h")
        with pytest.raises(InputError):
            plot.coverage("BTC/USDT", "1h", "1d")  # type: ignore[arg-type]
    drawn = {
        (one.name.partition(":")[0], symbol): (pd.Timestamp(base), pd.Timestamp(base) + pd.Timedelta(int(ms), "ms"))
        for one in figure.data
        for symbol, base, ms in zip(one.y, one.base, one.x, strict=True)
        if symbol != "BTC/USDT" or "stored" not in one.name
    }
    day = pd.Timestamp
    assert drawn == {
        ("gap (no_candle)", "BTC/USDT"): (day("2018-02-08T01:00"), day("2018-02-09T09:00")),
        ("could not be fetched", "ETH/USDT"): (day("2018-02-07"), day("2018-02-11")),
        ("never requested", "XRP/USDT"): (day("2018-02-07"), day("2018-02-11")),
    }
    assert whole.data[0].name.startswith("stored: ")
    assert "nothing is known yet" in nothing.layout.title.text


# -- on the command line -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    cache = tmp_path_factory.mktemp("cache")
    with PracticeExchange(weight_limit=10**6, log=False) as exchange:
        yield exchange, ["--base-url", f"binance={exchange.base_urls['binance']}", "--cache-dir", str(cache)]


@pytest.mark.slow
def test_the_command_writes_a_picture_and_prints_its_path(
    hosts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    path = tmp_path / "chart.html"
    words = ["1h", "--start", "2018-02-07", "--end", "2018-02-11", "--out", str(path), *hosts[1]]
    for more, said in (
        (["BTC/USDT", "--dark"], "BTC/USDT · 1h · binance"),
        (["--symbols", "BTC/USDT,ETH/USDT"], "BTC/USDT · ETH/USDT"),
        (["BTC/USDT", "--coverage", "--json"], "Stored · BTC/USDT · 1h"),
    ):
        assert main(["plot", *more, "-i", *words]) == 0
        out = capsys.readouterr().out
        assert (json.loads(out)["path"] if "--json" in more else out.strip()) == str(path)
        assert f"<title>{said}</title>" in path.read_text(encoding="utf-8")
        path.unlink()


def test_another_file_is_refused_before_anything_is_fetched(
    hosts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    exchange, words = hosts
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
    exchange.clear_log()
    for name, code, said in (
        ("chart.svg", 2, "an ending .html or .png"),
        ("chart.png", 1, "which is not there"),
        ("", 2, "a folder"),
    ):
        target = str(tmp_path / name) if name else f"{tmp_path}.html"
        Path(f"{tmp_path}.html").mkdir(exist_ok=True)
        assert main(["plot", "LTC/USDT", "1h", "--out", target, *words]) == code
        assert said in capsys.readouterr().err
    assert main(["plot", "LTC/USDT", "1h", *words]) == 2
    assert not exchange.requests
    assert main(["plot", "LTC/USDT", "1h", "--coverage", "--limit", "5", "--out", f"{tmp_path}/a.html", *words]) == 2


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_page_has_all_that_it_needs(fetcher: CandleFetcher, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    figure = plot.candles(fetcher.fetch(*OUTAGE), theme="dark")
    path = plot.save(figure, tmp_path / "chart.html")
    text = path.read_text(encoding="utf-8")
    assert "<title>BTC/USDT · 1h · binance</title>" in text
    assert "background: #12161c" in text
    assert not any(word in text for word in ('<script src="', "<link", "@import"))
    assert '"showSendToCloud": false' in text  # by default a button uploads the picture
    assert [one.name for one in tmp_path.iterdir()] == ["chart.html"]


@pytest.mark.parametrize("name", ["chart.svg", "chart", "chart.html.gz"])
def test_another_ending_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    go = pytest.importorskip("plotly.graph_objects", reason="the extra `plot`")
    with pytest.raises(InputError, match=r"\.html or \.png"):
        plot.save(go.Figure(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_a_browser_a_png_is_an_error_that_names_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = pytest.importorskip("plotly.graph_objects", reason="the extra `plot`")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
    with pytest.raises(CandleFetcherError, match=r"which is not there; install one, name it in BROWSER_PATH"):
        plot.save(go.Figure(), tmp_path / "chart.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_png_is_what_the_browser_draws_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = pytest.importorskip("plotly.graph_objects", reason="the extra `plot`")
    browser, asked = tmp_path / "browser", tmp_path / "asked.json"
    browser.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys, urllib.parse, urllib.request\n"
        "page = pathlib.Path(urllib.request.url2pathname(urllib.parse.urlsplit(sys.argv[-1]).path))\n"
        "words = dict(word.split('=', 1) for word in sys.argv if '=' in word)\n"
        "pathlib.Path(words['--screenshot']).write_bytes(b'drawn')\n"
        f"pathlib.Path({str(asked)!r}).write_text(json.dumps([words['--window-size'], '1000px' in page.read_text()]))\n"
    )
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(browser))
    path = plot.save(go.Figure(), tmp_path / "chart.png", width=1000, height=500)
    assert path.read_bytes() == b"drawn"
    assert json.loads(asked.read_text()) == ["1000,500", True]
    browser.write_text("#!/bin/sh\necho cannot >&2; exit 3\n")
    with pytest.raises(CandleFetcherError, match=r"did not draw the picture \(cannot\)"):
        plot.save(go.Figure(), tmp_path / "chart.png")
    assert path.read_bytes() == b"drawn"


def test_a_row_that_lacks_a_price_is_shaded_since_it_cannot_be_drawn(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    frame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-03")
    frame.iloc[5:8, frame.columns.get_loc("close")] = np.nan
    frame.iloc[20, frame.columns.get_loc("high")] = np.inf
    assert "a price is missing: 4 candles in 2 gaps" in legend(plot.candles(frame))
    frame.iloc[5:8] = np.nan
    with pytest.warns(CandleFetcherWarning, match="is ignored"):
        assert "missing row: 3 candles" in legend(plot.candles(frame))


def test_letters_of_a_symbol_are_text_in_each_part_of_a_picture(fetcher: CandleFetcher, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    frame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-02")
    odd = "</script><a href='http://x'>x</a>/<i>y</i>"
    frame.attrs["candle_fetcher"].update(symbol=odd, provider=odd, kind=odd, origin=odd)
    figures = plot.candles(frame, overlays={odd: frame["close"]}), plot.compare({odd: frame})
    for figure in figures:
        layout = figure.to_dict()["layout"]
        texts = [layout["title"]["text"], layout["yaxis"].get("title", {}).get("text") or "", *legend(figure)]
        assert not [text for text in texts if "<a" in text or "<i" in text or "</script" in text]
        assert "<a href='http://x'>" not in plot.save(figure, tmp_path / "x.html").read_text(encoding="utf-8")


def test_a_line_that_is_not_in_order_is_drawn_in_order(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    frame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-03")
    whole, back = (plot.candles(frame, overlays={"x": line}) for line in (frame["close"], frame["close"][::-1]))
    assert (whole.data[-1].name, list(whole.data[-1].y)) == ("x", list(back.data[-1].y))
    with pytest.raises(InputError, match="expected a Series of numbers"):
        plot.candles(frame, overlays={"x": frame["close"].astype(complex)})


def test_a_series_that_begins_with_zero_has_no_change_in_percent(fetcher: CandleFetcher) -> None:
    pytest.importorskip("plotly", reason="the extra `plot`")
    frame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-03")
    with pytest.raises(InputError, match="other begins with a close of 0"):
        plot.compare({"one": frame, "other": frame.assign(close=0.0)})
