"""A partial answer says what it lacks, and nothing ever takes it for a whole one."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from world import World, frames_of, manifest_of, ms, same

from candle_fetcher import (
    AccessDenied,
    Banned,
    CandleFetcher,
    CandleFetcherWarning,
    FetchManyError,
    IncompleteData,
    InputError,
    ProviderRefused,
    Vault,
    combine,
    find_gaps,
    read_csv,
    summary,
)
from candle_fetcher.cli import main
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.missing import read_missing
from candle_fetcher.core.plan import chunk_of, chunk_span
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.practice import PracticeExchange, faults

MINUTE = parse_timeframe("1m")
DAYS = ("2024-06-01", "2024-06-04")
LOST = chunk_span(MINUTE, chunk_of(MINUTE, ms("2024-06-02")))
MISSING = [
    {"first": "2024-06-01T16:40:00Z", "last": "2024-06-02T09:19:00Z", "count": 1000, "cause": "fetch_failed"},
]  # fmt: skip


@contextmanager
def losing(exchange: PracticeExchange, symbols: tuple[str, ...] = ("BTCUSDT",), **fault: Any) -> Iterator[None]:
    """The exchange answers each request for candles of these symbols in the lost chunk with a 500."""

    def is_lost(path: str, params: Any) -> bool:
        return "klines" in path and params.get("symbol") in symbols and begins_in(params)

    def begins_in(params: Any) -> bool:
        return LOST.start_ms <= int(params.get("startTime", 0)) < LOST.end_ms

    fault = {"action": faults.status(500), **fault}
    failing = exchange.fail(fault["action"], times=None, match=is_lost)
    try:
        yield
    finally:
        failing.stop()


def partial_fetcher(world: World, **settings: Any) -> CandleFetcher:
    return world.fetcher(**{"source": "rest", "max_retries": 0, **settings})


def test_what_there_is_comes_back_and_the_manifest_says_what_is_missing(world: World) -> None:
    fetcher = partial_fetcher(world)
    with losing(world.exchange):
        frame = fetcher.fetch("BTC/USDT", "1m", *DAYS, partial="allow", columns="all")
        with pytest.raises(IncompleteData) as caught:
            fetcher.fetch("BTC/USDT", "1m", *DAYS, columns="all")
    truth = world.truth("BTCUSDT", "1m", *DAYS)
    inside = (truth["open_time"] < LOST.start_ms) | (truth["open_time"] >= LOST.end_ms)
    same(frame, {name: values[inside] for name, values in truth.items()})
    assert manifest_of(frame)["missing"] == MISSING
    assert (manifest_of(frame)["rows"], manifest_of(frame)["expected"], manifest_of(frame)["gap_count"]) == (
        3320,
        4320,
        0,
    )
    assert manifest_of(frame)["fingerprint"] is None
    json.dumps(dict(manifest_of(frame)))
    assert manifest_of(pickle.loads(pickle.dumps(frame)))["missing"] == MISSING
    assert [(gap.first, gap.last, gap.count, gap.cause) for gap in caught.value.missing] == [tuple(MISSING[0].values())]
    assert caught.value.frame is not None
    assert manifest_of(caught.value.frame)["missing"] == MISSING
    pd.testing.assert_frame_equal(caught.value.frame, frame)


@pytest.mark.parametrize("partial", ["raise", "warn", "allow"])
def test_a_whole_answer_is_the_same_whatever_partial_says(world: World, partial: str) -> None:
    fetcher = world.fetcher(source="rest")
    frame = fetcher.fetch("BTC/USDT", "1m", *DAYS, partial=partial)
    assert len(frame) == 4320
    assert "missing" not in manifest_of(frame)
    again = fetcher.fetch("BTC/USDT", "1m", *DAYS)
    assert manifest_of(again)["fingerprint"] == manifest_of(frame)["fingerprint"] is not None


def test_a_partial_answer_is_never_kept(world: World) -> None:
    with losing(world.exchange):
        fetcher = partial_fetcher(world)
        for _ in range(2):
            assert len(fetcher.fetch("BTC/USDT", "1m", *DAYS, partial="allow")) == 3320
        with pytest.raises(IncompleteData):
            fetcher.fetch("BTC/USDT", "1m", *DAYS)
        assert fetcher.cache.verify().damaged == ()
        with pytest.raises(IncompleteData):
            world.fetcher(source="cache").fetch("BTC/USDT", "1m", *DAYS)
    world.asked()
    whole = world.fetcher(source="rest").fetch("BTC/USDT", "1m", *DAYS, partial="allow")
    assert len(world.asked()) == 1  # for what was missing alone
    same(whole, world.truth("BTCUSDT", "1m", *DAYS))
    assert "missing" not in manifest_of(whole)


def test_a_warning_comes_once_for_a_call(world: World) -> None:
    fetcher = partial_fetcher(world)
    both = ("BTCUSDT", "ETHUSDT")
    with losing(world.exchange, both):
        with pytest.warns(
            CandleFetcherWarning, match=r"lacks 1,000 candles of BTC/USDT 1m .*fetch_failed: Binance could not answer"
        ) as one:
            fetcher.fetch("BTC/USDT", "1m", *DAYS, partial="warn")
        with pytest.warns(CandleFetcherWarning, match=r"BTC/USDT 1m .*ETH/USDT 1m ") as several:
            frames = fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], "1m", *DAYS, partial="warn")
        with pytest.warns(CandleFetcherWarning, match="lacks 1,000") as pieces:
            list(fetcher.iter_frames("BTC/USDT", "1m", *DAYS, rows=300, partial="warn"))
        with pytest.warns(CandleFetcherWarning, match="lacks 1,000") as file:
            fetcher.export("BTC/USDT", "1m", *DAYS, path=world.folder / "files", partial="warn")
        fetcher.fetch("BTC/USDT", "1m", *DAYS, partial="allow")  # warnings are errors here
    assert [len(found) for found in (one, several, pieces, file)] == [1, 1, 1, 1]
    assert {found[0].filename for found in (one, several, pieces, file)} == {__file__}
    assert [manifest_of(frame)["missing"] for frame in frames.values()] == [MISSING, MISSING]


def test_a_partial_answer_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    fetcher = partial_fetcher(world)
    with losing(world.exchange), caplog.at_level("WARNING", "candle_fetcher"):
        fetcher.fetch("BTC/USDT", "1m", *DAYS, partial="allow")
        fetcher.export("BTC/USDT", "1m", *DAYS, path=world.folder / "files", partial="allow")
        list(fetcher.iter_frames("BTC/USDT", "1m", *DAYS, partial="allow"))
    said = [record.getMessage() for record in caplog.records]
    assert [text for text in said if "partial" in text] == [
        "BTC/USDT 1m: partial, 1,000 candles not fetched: Binance could not answer (status 500)"
    ] * 3


def test_symbols_that_are_whole_and_symbols_that_fail_stay_what_they_are(world: World) -> None:
    fetcher = partial_fetcher(world)
    with losing(world.exchange), pytest.raises(FetchManyError) as caught:
        fetcher.fetch_many(["BTC/USDT", "ETH/USDT", "NO/SUCH"], "1m", *DAYS, partial="allow")
    assert {symbol: len(frame) for symbol, frame in caught.value.frames.items()} == {"BTC/USDT": 3320, "ETH/USDT": 4320}
    assert [*caught.value.errors] == ["NO/SUCH"]
    with losing(world.exchange), pytest.raises(FetchManyError) as caught:
        partial_fetcher(world).fetch_many(["BTC/USDT", "ETH/USDT"], "1m", *DAYS)
    assert isinstance(caught.value.errors["BTC/USDT"], IncompleteData)


@pytest.mark.parametrize("rows", [300, 1000, 100_000])
def test_the_frames_of_a_range_are_the_partial_frame_cut(world: World, rows: int) -> None:
    fetcher = partial_fetcher(world)
    with losing(world.exchange):
        whole = fetcher.fetch("BTC/USDT", "1m", *DAYS, partial="allow")
        pieces = list(fetcher.iter_frames("BTC/USDT", "1m", *DAYS, rows=rows, partial="allow"))
    pd.testing.assert_frame_equal(frames_of(iter(pieces)), whole, check_freq=False)
    assert sum(gap["count"] for piece in pieces for gap in manifest_of(piece).get("missing", ())) == 1000
    assert sum(manifest_of(piece)["expected"] for piece in pieces) == 4320


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (faults.banned(ms("2024-06-15T13:00:00")), Banned),
        (faults.restricted(), AccessDenied),
        (faults.status(400, b'{"code": -1100, "msg": "Illegal characters."}'), ProviderRefused),
    ],
    ids=["banned", "denied", "refused"],
)
@pytest.mark.parametrize("partial", ["raise", "allow"])
def test_what_is_no_lack_of_a_part_is_raised_all_the_same(
    world: World, partial: str, action: Any, error: type[Exception]
) -> None:
    world.exchange.fail(action, times=None, match="klines")
    fetcher = partial_fetcher(world)
    with pytest.raises(error):
        fetcher.fetch("BTC/USDT", "1m", *DAYS, partial=partial)
    with pytest.raises(error):
        list(fetcher.iter_frames("BTC/USDT", "1m", *DAYS, partial=partial))
    with pytest.raises(error):
        fetcher.export("BTC/USDT", "1m", *DAYS, path=world.folder / "files", partial=partial)
    assert not list((world.folder / "files").glob("*"))


def test_wrong_input_and_gaps_that_are_to_raise_are_raised(world: World) -> None:
    fetcher = world.fetcher(source="rest")
    with pytest.raises(InputError, match=r"unknown partial 'alow'; expected one of raise, warn, allow\. Did you mean"):
        fetcher.fetch("BTC/USDT", "1m", *DAYS, partial="alow")
    with pytest.raises(InputError, match="unknown partial True"):
        fetcher.export("BTC/USDT", "1m", *DAYS, partial=True)
    with pytest.raises(InputError, match="not before"):
        fetcher.fetch("BTC/USDT", "1m", *DAYS[::-1], partial="allow")
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-06-02"), ms("2024-06-02T01:00:00")))
    with pytest.raises(IncompleteData, match="lacks 60 candles"):
        fetcher.fetch("BTC/USDT", "1m", *DAYS, partial="allow", on_gap="raise")


def test_nothing_at_all_is_an_empty_frame_that_says_so(world: World) -> None:
    for start, end in (DAYS, ("2024-06-01", None)):
        frame = world.fetcher(source="cache").fetch("BTC/USDT", "1h", start, end, partial="allow")
        assert frame.empty
        assert list(frame) == ["open", "high", "low", "close", "volume"]
        (gap,) = manifest_of(frame)["missing"]
        assert (gap["first"], gap["cause"]) == ("2024-06-01T00:00:00Z", "fetch_failed")
        assert manifest_of(frame)["expected"] == gap["count"] == (72 if end else 14 * 24 + 12)
    newest = world.fetcher(source="cache").fetch("BTC/USDT", "1h", limit=10, partial="allow")
    assert newest.empty
    assert manifest_of(newest)["missing"]


def test_the_candle_that_is_forming_may_be_missing(world: World) -> None:
    whole = world.fetcher(source="rest").fetch("BTC/USDT", "1h", "2024-06-15", include_open=True)
    assert len(whole) == 13
    world.exchange.fail(faults.status(500), times=None, match="klines")
    with pytest.raises(IncompleteData, match="that is forming"):
        partial_fetcher(world).fetch("BTC/USDT", "1h", "2024-06-15", include_open=True)
    frame = partial_fetcher(world).fetch("BTC/USDT", "1h", "2024-06-15", include_open=True, partial="allow")
    assert len(frame) == 12
    assert frame["is_closed"].all()
    assert manifest_of(frame)["missing"] == [
        {"first": "2024-06-15T12:00:00Z", "last": "2024-06-15T12:00:00Z", "count": 1, "cause": "fetch_failed"}
    ]


def test_what_is_missing_beside_a_gap_of_the_provider_stays_apart(world: World) -> None:
    """A gap in the same answer is listed as before, and find_gaps and summary know the two apart."""
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-06-03"), ms("2024-06-03T00:10:00")))
    with losing(world.exchange):
        frame = partial_fetcher(world).fetch("BTC/USDT", "1m", *DAYS, partial="allow")
    gap = {"first": "2024-06-03T00:00:00Z", "last": "2024-06-03T00:09:00Z", "count": 10, "cause": "no_candle"}
    assert (manifest_of(frame)["gaps"], manifest_of(frame)["missing"]) == ([gap], MISSING)
    assert manifest_of(frame)["expected"] == 4320
    with pytest.warns(CandleFetcherWarning, match="which is no gap"):
        found = find_gaps(frame, "1m")
    assert found["count"].tolist() == [10]
    with pytest.warns(CandleFetcherWarning, match="which is no gap"):
        assert find_gaps(frame.resample("1h").last().dropna(), "1h").empty
    counted = summary(frame)["candles"]
    assert (counted["gaps"], counted["gap_count"], counted["missing"]) == ([gap], 1, MISSING)
    assert summary(frame, "X", "1m")["candles"]["missing"] == MISSING


def test_combined_frames_know_what_each_of_them_lacks(world: World) -> None:
    fetcher = partial_fetcher(world)
    both = ("BTCUSDT", "ETHUSDT")
    with losing(world.exchange, both):
        frames = fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], "1m", *DAYS, partial="allow")
    combined = combine(frames, "close")
    assert manifest_of(combined)["ETH/USDT"]["missing"] == MISSING
    with pytest.warns(CandleFetcherWarning, match="which is no gap"):
        assert find_gaps(combined, "1m").empty


@pytest.mark.parametrize("how", ["ffill", "interpolate"])
@pytest.mark.parametrize("rows", [None, 300])
def test_no_row_is_invented_in_what_is_missing_or_out_of_it(world: World, how: str, rows: int | None) -> None:
    """Gaps of the provider lie before, beside and behind the missing span; the whole answer has the same rows."""
    edges = [LOST.start_ms - 600_000, LOST.start_ms, LOST.end_ms, LOST.end_ms + 300_000]
    gap = (ms("2024-06-03"), ms("2024-06-03T00:10:00"))
    for span in ((edges[0], edges[1]), (edges[2], edges[3]), gap):
        world.exchange.hide("binance", "BTCUSDT", span)
    words: Any = {"partial": "allow", "on_gap": how}
    with losing(world.exchange):
        fetcher = partial_fetcher(world)
        if rows is None:
            frame = fetcher.fetch("BTC/USDT", "1m", *DAYS, **words)
        else:
            frame = frames_of(fetcher.iter_frames("BTC/USDT", "1m", *DAYS, rows=rows, **words))
    whole = world.fetcher(source="rest").fetch("BTC/USDT", "1m", *DAYS, on_gap=how)
    invented = index_ms(frame)[frame["is_synthetic"].to_numpy()]
    assert not ((invented >= LOST.start_ms) & (invented < LOST.end_ms)).any()
    kept = [*range(*gap, 60_000)] + ([*range(edges[0], edges[1], 60_000)] if how == "ffill" else [])
    assert sorted(invented.tolist()) == sorted(kept)
    pd.testing.assert_frame_equal(frame, whole.loc[frame.index], check_freq=False)


def test_a_resampled_candle_that_lacks_what_failed_is_missing_and_no_row(world: World) -> None:
    with losing(world.exchange):
        frame = partial_fetcher(world).fetch("BTC/USDT", "7m", *DAYS, partial="allow")
    whole = world.fetcher(source="rest").fetch("BTC/USDT", "7m", *DAYS)
    assert sum(gap["count"] for gap in manifest_of(frame)["missing"]) == len(whole) - len(frame) > 140
    assert manifest_of(frame)["partial"] == []
    pd.testing.assert_frame_equal(frame, whole.loc[frame.index], check_freq=False)


@pytest.mark.slow(every=2)
@pytest.mark.parametrize("seed", range(12))
def test_whatever_fails_the_rows_are_those_of_the_whole_answer(tmp_path: Path, seed: int) -> None:
    """Random chunks fail beside random gaps: the frame is the whole one without what is missing, in one piece or in
    parts, and so is what is invented."""
    random = np.random.default_rng(seed)
    first = chunk_of(MINUTE, ms(DAYS[0]))
    chunks = range(first, chunk_of(MINUTE, ms(DAYS[1])) + 1)
    lost = [chunk for chunk in chunks if random.random() < 0.4] or [first + 1]
    lost = lost[:2]  # after more failures in a row, which depends on the threads, the host is left alone
    how = ["leave", "ffill", "interpolate"][seed % 3]
    timeframe = ["1m", "7m"][seed // 3 % 2]
    words: Any = {"partial": "allow", "on_gap": how}
    rows = int(random.integers(1, 40)) * 100
    with World(tmp_path / "cache") as world:
        for _ in range(12):
            start = ms(DAYS[0]) + int(random.integers(0, 4320)) * 60_000
            if random.random() < 0.5:
                start = chunk_span(MINUTE, int(random.choice(lost))).end_ms
            world.exchange.hide("binance", "BTCUSDT", (start, start + int(random.integers(1, 90)) * 60_000))

        def is_lost(path: str, params: Any) -> bool:
            return "klines" in path and chunk_of(MINUTE, int(params.get("startTime", 0))) in lost

        failing = world.exchange.fail(faults.status(500), times=None, match=is_lost)
        frame = partial_fetcher(world).fetch("BTC/USDT", timeframe, *DAYS, **words)
        parts = list(partial_fetcher(world).iter_frames("BTC/USDT", timeframe, *DAYS, rows=rows, **words))
        failing.stop()
        whole = world.fetcher(source="rest").fetch("BTC/USDT", timeframe, *DAYS, on_gap=how)
    pd.testing.assert_frame_equal(frames_of(iter(parts)), frame, check_freq=False)
    missing = read_missing(manifest_of(frame)) if "missing" in manifest_of(frame) else []
    assert sum(gap["count"] for gap in manifest_of(frame).get("missing", ())) == sum(
        len(parse_timeframe(timeframe).slots(span)) for span in missing
    )
    opens = index_ms(whole)
    away = np.zeros(len(whole), bool)
    for span in missing:
        away |= (opens >= span.start_ms) & (opens < span.end_ms)
    pd.testing.assert_frame_equal(frame, whole.loc[frame.index], check_freq=False)
    assert not np.isin(index_ms(frame), opens[away]).any()
    real = ~away & ~whole["is_synthetic"].to_numpy() if how != "leave" else ~away
    assert np.isin(opens[real], index_ms(frame)).all()


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_partial_file_is_named_so_and_has_its_manifest(world: World) -> None:
    folder = world.folder / "files"
    fetcher = partial_fetcher(world)
    words: Any = {"path": folder, "partial": "allow"}
    with losing(world.exchange):
        path = fetcher.export("BTC/USDT", "1m", *DAYS, **words)
        named = fetcher.export("BTC/USDT", "1m", *DAYS, path=folder / "mine.csv", partial="allow")
    assert (path.name, named.name) == ("BTC_USDT_1m_20240601_20240604_partial.csv", "mine_partial.csv")
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert (manifest["missing"], manifest["fingerprint"], manifest["rows"]) == (MISSING, None, 3320)
    read = read_csv(path)
    assert manifest_of(read)["missing"] == MISSING
    with pytest.warns(CandleFetcherWarning, match="which is no gap"):
        assert find_gaps(read, "1m").empty
    whole = world.fetcher(source="rest").export("BTC/USDT", "1m", *DAYS, **words)
    assert whole.name == "BTC_USDT_1m_20240601_20240604.csv"
    assert sorted(one.name for one in folder.glob("BTC*")) == [whole.name, f"{whole.stem}.json"]
    assert len(read_csv(whole)) == 4320
    assert (
        manifest_of(read_csv(whole))["fingerprint"]
        == manifest_of(fetcher.fetch("BTC/USDT", "1m", *DAYS))["fingerprint"]
    )


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".jsonl", ".csv.gz"])
def test_a_partial_file_of_any_format_is_named_so(world: World, ending: str) -> None:
    if ending in (".parquet", ".arrow"):
        pytest.importorskip("pyarrow")
    path = world.folder / "files" / f"mine{ending}"
    with losing(world.exchange):
        made = partial_fetcher(world).export("BTC/USDT", "1m", *DAYS, path=path, partial="allow")
    assert made.name == f"mine_partial{ending}"
    beside = made.with_name(f"{made.name}.json")
    assert json.loads(beside.read_text())["missing"] == MISSING
    assert not path.exists()
    assert world.fetcher(source="rest").export("BTC/USDT", "1m", *DAYS, path=path, partial="allow") == path
    assert not made.exists()
    assert not beside.exists()


def test_a_partial_file_replaces_no_whole_one(world: World) -> None:
    folder = world.folder / "files"
    whole = world.fetcher(source="rest").export("BTC/USDT", "1m", *DAYS, path=folder)
    before = whole.read_bytes()
    with losing(world.exchange):
        path = partial_fetcher(world, cache_dir=world.folder / "other").export(
            "BTC/USDT", "1m", *DAYS, path=folder, partial="allow"
        )
    assert path != whole
    assert whole.read_bytes() == before
    assert path.read_bytes() != before


def test_an_import_of_a_partial_file_takes_nothing_missing_for_a_gap(world: World) -> None:
    with losing(world.exchange):
        path = partial_fetcher(world).export("BTC/USDT", "1m", *DAYS, path=world.folder / "files", partial="allow")
    other = world.fetcher(source="rest", cache_dir=world.folder / "other")
    done = other.cache.import_file(path)
    assert (done.rows, done.added) == (3320, 3320)
    with pytest.raises(IncompleteData):
        world.fetcher(source="cache", cache_dir=world.folder / "other").fetch("BTC/USDT", "1m", *DAYS)
    world.asked()
    same(other.fetch("BTC/USDT", "1m", *DAYS), world.truth("BTCUSDT", "1m", *DAYS))
    assert len(world.asked()) == 1
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"says that it is partial; expected the manifest beside it"):
        other.cache.import_file(path)


def test_an_import_of_a_partial_file_of_a_provider_without_empty_bars(world: World) -> None:
    """Kraken has no row where nothing was traded: a hole of an imported file is a fact there, and a lost span none."""
    lost = (ms("2024-06-15T04:00:00"), ms("2024-06-15T05:00:00"))
    whole = world.fetcher(provider="kraken").export(
        "BTC/USD", "1m", "2024-06-15T03:00", "2024-06-15T06:00", path=world.folder / "files", manifest=True
    )
    path = whole.with_name(f"{whole.stem}_partial.csv")
    rows = pd.read_csv(whole)
    opens = pd.DatetimeIndex(rows["timestamp"]).as_unit("ms").asi8
    kept = rows[(opens < lost[0]) | (opens >= lost[1])]
    lines = whole.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "".join(lines[1 + at] for at in kept.index))
    manifest = json.loads(whole.with_suffix(".json").read_text())
    missing = [{"first": "2024-06-15T04:00:00Z", "last": "2024-06-15T04:59:00Z", "count": 60, "cause": "fetch_failed"}]
    path.with_suffix(".json").write_text(json.dumps(manifest | {"missing": missing}))
    other = world.fetcher(provider="kraken", cache_dir=world.folder / "other")
    other.cache.import_file(path)
    with pytest.raises(IncompleteData):
        world.fetcher(provider="kraken", cache_dir=world.folder / "other", source="cache").fetch(
            "BTC/USD", "1m", "2024-06-15T03:00", "2024-06-15T06:00"
        )
    found = other.fetch("BTC/USD", "1m", "2024-06-15T03:00", "2024-06-15T06:00")
    pd.testing.assert_frame_equal(
        found, world.fetcher(provider="kraken").fetch("BTC/USD", "1m", "2024-06-15T03:00", "2024-06-15T06:00")
    )
    path.with_suffix(".json").write_text(json.dumps(manifest | {"missing": [{"first": "x"}]}))
    with pytest.raises(InputError, match="`missing` in its manifest cannot be read"):
        other.cache.import_file(path)


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def place(world: World) -> list[str]:
    return [
        *("--base-url", f"binance={world.exchange.base_urls['binance']}", "--source", "rest"),
        *("--cache-dir", str(world.folder), "--start", DAYS[0], "--end", DAYS[1]),
    ]


@pytest.mark.usefixtures("no_waits")
def test_the_command_line_writes_what_there_is_and_names_the_rest(
    world: World, place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = "missing: 2024-06-01 16:40 to 2024-06-02 09:20, 1000 candles, fetch_failed; run again to fetch them\n"
    target = ["--output", str(world.folder / "files")]
    with losing(world.exchange):
        assert main(["fetch", "BTC/USDT", "1m", *place]) == 3
        assert capsys.readouterr().out == ""
        assert main(["fetch", "BTC/USDT", "1m", "--partial", *place]) == 3
        printed = capsys.readouterr()
        assert len(printed.out.splitlines()) == 3321
        assert line in printed.err
        assert main(["fetch", "BTC/USDT", "1m", "--partial", "--json", *place]) == 3
        printed = capsys.readouterr()
        assert json.loads(printed.out)["candles"]["missing"] == MISSING
        for command in (["export"], ["fetch", "--export", "csv"]):
            assert main([*command, "BTC/USDT", "1m", "--partial", *place, *target]) == 3
            printed = capsys.readouterr()
            path = Path(printed.out.strip())
            assert path.name == "BTC_USDT_1m_20240601_20240604_partial.csv"
            assert json.loads(path.with_suffix(".json").read_text())["missing"] == MISSING
            assert line in printed.err
            assert (
                "BTC/USDT 1m: partial, 1,000 candles not fetched: Binance could not answer (status 500)" in printed.err
            )
    assert main(["export", "BTC/USDT", "1m", "--partial", *place, *target]) == 0
    printed = capsys.readouterr()
    assert Path(printed.out.strip()).name == "BTC_USDT_1m_20240601_20240604.csv"
    assert "missing:" not in printed.err


def test_the_command_line_says_what_brings_the_missing_candles(
    world: World, place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*place, "--source", "cache"]
    assert main(["fetch", "BTC/USDT", "1d", "--partial", *words]) == 3
    assert (
        "missing: 2024-06-01 00:00 to 2024-06-04 00:00, 3 candles, fetch_failed; "
        "run without --source cache to fetch them\n" in capsys.readouterr().err
    )


# -- vaults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["csv", pytest.param("parquet", marks=pytest.mark.slow)])
def test_a_vault_writes_what_there_is_and_asks_for_the_rest_at_the_next_update(
    world: World, tmp_path: Path, file_format: str
) -> None:
    if file_format != "csv":
        pytest.importorskip("pyarrow")
    vault = Vault(tmp_path / "vault", partial_fetcher(world), format=file_format)
    with losing(world.exchange):
        with pytest.raises(FetchManyError) as caught:
            vault.update("BTC/USDT", "1m", *DAYS)
        assert isinstance(caught.value.errors["BTC/USDT"], IncompleteData)
        assert vault.series().empty
        (row,) = vault.update("BTC/USDT", "1m", *DAYS, partial="allow").itertuples()
        assert (row.rows, row.added, row.gaps) == (3320, 3320, 0)
        assert row.error == "1,000 candles could not be fetched; the next update asks for them"
        with pytest.raises(FetchManyError):  # still not, and the vault keeps what it has
            vault.update(end=DAYS[1])
        assert vault.update(end=DAYS[1], partial="allow")["added"].tolist() == [0]
        with pytest.warns(CandleFetcherWarning, match="1,000"):
            vault.update(end=DAYS[1], partial="warn")
    assert len(vault.read("BTC/USDT", "1m")) == 3320
    vault = Vault(tmp_path / "vault", partial_fetcher(world))  # the other one leaves the host alone for a while
    (row,) = vault.update(end=DAYS[1]).itertuples()
    assert (row.rows, row.added, row.revised, row.error) == (4320, 1000, 0, None)
    pd.testing.assert_frame_equal(vault.read("BTC/USDT", "1m"), world.fetcher().fetch("BTC/USDT", "1m", *DAYS))
    assert vault.verify()["whole"].all()


def test_a_vault_keeps_the_rows_that_cannot_be_fetched_again(world: World, tmp_path: Path) -> None:
    """Without a cache, what is asked for once more may be missing this time."""
    before = (DAYS[0], "2024-06-02T00:00")
    with losing(world.exchange):
        first = Vault(tmp_path / "vault", partial_fetcher(world, use_cache=False))
        assert first.update("BTC/USDT", "1m", *before, partial="allow")["rows"].tolist() == [1000]
    assert first.update(end=before[1])["rows"].tolist() == [1440]
    stored = first.read("BTC/USDT", "1m")
    earlier = "2024-05-31"
    with losing(world.exchange):
        (row,) = first.update("BTC/USDT", "1m", earlier, DAYS[1], partial="allow").itertuples()
    assert row.error is not None
    rows = first.read("BTC/USDT", "1m")
    assert stored.index.isin(rows.index).all()
    pd.testing.assert_frame_equal(rows.loc[stored.index], stored)
    assert first.update(end=DAYS[1])["rows"].tolist() == [4 * 1440]


def test_the_command_line_brings_a_vault_up_to_date_in_part(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, url = str(tmp_path / "vault"), world.exchange.base_urls["binance"]
    words = ["vault", "update", folder, "BTC/USDT", "1m", "--start", DAYS[0], "--end", DAYS[1], "--base-url"]
    words += [f"binance={url}", "--cache-dir", str(tmp_path / "cache"), "--source", "rest"]
    with losing(world.exchange):
        assert main([*words, "--partial"]) == 3
    out, err = capsys.readouterr()
    assert "3,320 added" in out
    assert "binance BTC/USDT 1m: 1,000 candles could not be fetched; the next update asks for them" in err
    assert main(words) == 0
    assert "1,000 added" in capsys.readouterr().out
