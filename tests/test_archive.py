"""Candles out of the archive's files: the same as by REST, and never a wrong one, whatever the files are like."""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import FAULT_RUNS
from world import World, manifest_of, ms, same

from candle_fetcher import ArchiveMismatch, IncompleteData, NotOffered
from candle_fetcher.core.errors import ReplyError
from candle_fetcher.core.files import DEFAULT_LAGS, File
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.spans import Span
from candle_fetcher.practice import damage, faults
from candle_fetcher.practice.damage import pack, unpack

MARCH = ("BTC/USDT", "5m", "2024-03-01", "2024-04-01")
ZIP = "BTCUSDT-5m-2024-03.zip"
PATH = f"/data/spot/monthly/klines/BTCUSDT/5m/{ZIP}"
HOURS = ("BTC/USDT", "1h", "2024-03-05", "2024-03-06")
HOUR_ZIP = "BTCUSDT-1h-2024-03.zip"
HOUR, DAY = 3_600_000, 86_400_000


def files(world: World) -> Counter[str]:
    """How often each file was asked for since the last look, by name."""
    return Counter(
        request.path.rpartition("/")[2] for request in world.exchange.requests if request.market == "archive"
    )


def calls(world: World) -> int:
    return sum("lines" in request.path and request.market != "archive" for request in world.exchange.requests)


# -- the same by every way ---------------------------------------------------------------------------------------------

WAYS = [
    ("binance", "BTC/USDT", "BTCUSDT", "candles", "2024-12-20", "2025-01-12"),  # milliseconds, then microseconds
    ("binance-um", "BTC/USDT", "BTCUSDT", "candles", "2023-01-20", "2023-02-12"),  # no header, then one
    ("binance-cm", "BTC/USD", "BTCUSD_PERP", "candles", "2023-09-20", "2023-10-12"),  # volume in contracts
    ("binance-um", "BTC/USDT", "BTCUSDT", "mark", "2024-03-01", "2024-03-20"),
    ("binance-um", "BTC/USDT", "BTCUSDT", "index", "2024-03-01", "2024-03-20"),
    ("binance-um", "BTC/USDT", "BTCUSDT", "premium", "2024-03-01", "2024-03-20"),
    ("binance-cm", "BTC/USD", "BTCUSD_PERP", "mark", "2024-03-01", "2024-03-20"),
    ("binance-cm", "BTC/USD", "BTCUSD_PERP", "index", "2024-03-01", "2024-03-20"),  # files of the bare pair
    ("binance-cm", "BTC/USD", "BTCUSD_PERP", "premium", "2024-03-01", "2024-03-20"),
]


@pytest.mark.slow(
    keep=(
        "binance-BTC/USDT-BTCUSDT-candles-2024-12-20-2025-01-12",
        "binance-um-BTC/USDT-BTCUSDT-mark-2024-03-01-2024-03-20",
    )
)
@pytest.mark.fault("B14")
@pytest.mark.parametrize(("provider", "symbol", "theirs", "kind", "start", "end"), WAYS)
def test_rest_archive_and_automatic_bring_the_same_candles(
    tmp_path: Path, provider: str, symbol: str, theirs: str, kind: str, start: str, end: str
) -> None:
    with World(tmp_path, now="2025-03-10T12:00:30") as world:
        frames = {
            source: world.fetcher(cache_dir=tmp_path / source).fetch(
                symbol, "3m", start, end, provider=provider, kind=kind, source=source, columns="all"
            )
            for source in ("rest", "archive", "auto")
        }
        same(frames["rest"], world.truth(theirs, "3m", start, end, provider=provider, kind=kind))
        for source in ("archive", "auto"):
            pd.testing.assert_frame_equal(frames[source], frames["rest"], check_exact=True)
            assert manifest_of(frames[source])["fingerprint"] == manifest_of(frames["rest"])["fingerprint"]
        rows = len(frames["rest"])
        assert manifest_of(frames["rest"])["sources"] == {"memory": 0, "disk": 0, "archive": 0, "rest": rows}
        assert manifest_of(frames["archive"])["sources"] == {"memory": 0, "disk": 0, "archive": rows, "rest": 0}
        mixed = manifest_of(frames["auto"])["sources"]
        assert mixed["archive"] > mixed["rest"] > 0  # the two ends tell where the series begins and ends
        assert mixed["archive"] + mixed["rest"] == rows


@pytest.mark.slow
def test_what_came_by_file_is_read_from_the_cache_the_next_time(world: World) -> None:
    first = world.fetcher().fetch(*MARCH)
    world.exchange.clear_log()
    again = world.fetcher().fetch(*MARCH)
    assert not world.exchange.requests
    assert manifest_of(again)["sources"]["disk"] == len(again)
    assert manifest_of(again)["fingerprint"] == manifest_of(first)["fingerprint"]


@pytest.mark.slow(keep=("1h", "3d", "1M"))
@pytest.mark.parametrize("timeframe", ["1h", "1d", "3d", "1w", "1M"])
def test_timeframes_of_few_rows_come_from_the_archive_where_it_is_asked_for(tmp_path: Path, timeframe: str) -> None:
    with World(tmp_path) as world:
        frame = world.fetcher().fetch("BTC/USDT", timeframe, "2023-12-01", "2024-03-01", source="archive")
        same(frame, world.truth("BTCUSDT", timeframe, "2023-12-01", "2024-03-01"))
        assert calls(world) == 0


@pytest.mark.slow
def test_seconds_come_by_days(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        span = ("1s", "2024-03-05T22:00", "2024-03-06T02:00")
        frame = world.fetcher().fetch("BTC/USDT", *span, source="archive")
        assert set(files(world)) == {
            f"BTCUSDT-1s-2024-03-0{day}.zip{end}" for day in (5, 6) for end in ("", ".CHECKSUM")
        }
        same(frame, world.truth("BTCUSDT", *span))


@pytest.mark.slow
def test_streams_take_files_too_each_once(world: World) -> None:
    span = ("5m", "2024-02-01", "2024-04-01")
    pieces = list(world.fetcher(use_cache=False).iter_frames("BTC/USDT", *span, rows=6_000))
    assert len(pieces) == 3
    same(pd.concat(pieces), world.truth("BTCUSDT", *span))
    names = [f"BTCUSDT-5m-2024-0{month}.zip{end}" for month in (2, 3) for end in ("", ".CHECKSUM")]
    assert files(world) == dict.fromkeys(names, 1)


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_plan_of_four_years_of_minutes_is_files(world: World) -> None:
    fetcher = world.fetcher()
    fetcher.first_available("BTC/USDT")
    plan = fetcher.plan("BTC/USDT", "1m", "2020-01-01", "2024-01-01")
    assert plan.files == 48
    assert plan.requests == 96 + 4  # two days are not taken from the months' files
    assert plan.weight == 4 * 2
    assert plan.chunks == {"archive": 2105 - 4, "rest": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("timeframe", "start", "end", "source"),
    [
        ("1m", "2022-01-01", "2022-04-01", "auto"),
        ("1m", "2024-05-20", "2024-06-13", "auto"),
        ("5m", "2022-01-15", "2022-06-01", "auto"),
        ("1h", "2022-01-01", "2023-01-01", "auto"),
        ("1h", "2022-01-01", "2023-01-01", "archive"),
        ("5m", "2022-01-15", "2022-03-01", "rest"),
    ],
)
def test_a_plan_is_what_is_sent(world: World, timeframe: str, start: str, end: str, source: str) -> None:
    fetcher = world.fetcher()
    fetcher.fetch("BTC/USDT", timeframe, "2017-08-01", limit=1)  # when it was listed, and the limits
    plan = fetcher.plan("BTC/USDT", timeframe, start, end, source=source)
    world.exchange.clear_log()
    frame = fetcher.fetch("BTC/USDT", timeframe, start, end, source=source)
    holes = sum(1 for _ in manifest_of(frame)["gaps"]) if source != "archive" else 0
    assert sum(files(world).values()) == 2 * plan.files
    assert calls(world) == plan.requests - 2 * plan.files + holes
    by_file = manifest_of(frame)["sources"]["archive"]
    assert (by_file > 0) == ("archive" in plan.chunks)
    same(frame, world.truth("BTCUSDT", timeframe, start, end))


@pytest.mark.slow
def test_nothing_is_asked_of_the_archive_that_cannot_be_there_yet(world: World) -> None:
    world.fetcher().fetch("BTC/USDT", "1m", "2024-06-05", "2024-06-15T12:00")
    assert not files(world)


@pytest.mark.slow
def test_rest_alone_asks_no_file_and_a_host_of_ones_own_has_no_archive(world: World) -> None:
    world.fetcher(source="rest").fetch(*MARCH)
    assert not files(world)
    alone = world.fetcher(base_urls={"binance": world.exchange.url}, use_cache=False)
    alone.fetch(*MARCH)
    assert not files(world)
    with pytest.raises(NotOffered):
        alone.fetch(*MARCH, source="archive")


# -- checksums ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault("C08")
def test_a_file_that_was_damaged_on_the_way_is_fetched_once_more(world: World) -> None:
    world.exchange.archive.spoil(ZIP, damage.flip(), times=1)
    frame = world.fetcher().fetch(*MARCH)
    same(frame, world.truth("BTCUSDT", *MARCH[1:]))
    assert files(world)[ZIP] == 2
    assert manifest_of(frame).get("rejected", []) == manifest_of(frame)["unverified"] == []
    assert manifest_of(frame)["sources"]["archive"] > 0


UNUSABLE = {
    "wrong checksum": damage.wrong_checksum(),
    "checksum of another file": damage.checksum_text(lambda text: text.replace("2024-03", "2024-02")),
    "cut and published": damage.cut().published(),
    "member of another day": damage.renamed("BTCUSDT-5m-2024-02.csv"),
    "two members": damage.two_members(),
    "a row of another month": damage.shift(40 * DAY, 100, 101),
    "mixed units": damage.in_unit("us", 5000),
    "seconds": damage.in_unit("s"),
    "twins that differ": damage.rows(lambda lines: [lines[0].replace(b",", b",1", 1), *lines]),
    "not a number": damage.revise(ms("2024-03-05"), close="nan"),
}


UNUSABLE_ROWS = {
    "A09": ("not a number",),
    "A12": ("twins that differ",),
    "B01": ("mixed units", "seconds"),
    "C06": ("wrong checksum",),
    "C07": ("checksum of another file",),
    "C10": ("a row of another month",),
}
ROW_OF = {what: row for row, several in UNUSABLE_ROWS.items() for what in several}


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=pytest.mark.fault(ROW_OF.get(what, "C08"))) for what in UNUSABLE]
)
def test_a_file_that_is_not_what_it_should_be_is_fetched_once_more_and_then_asked_of_rest(
    world: World, what: str
) -> None:
    world.exchange.archive.spoil(ZIP, UNUSABLE[what])
    with pytest.warns(ArchiveMismatch, match=ZIP) as warned:
        frame = world.fetcher().fetch(*MARCH)
    assert len(warned) == 1
    same(frame, world.truth("BTCUSDT", *MARCH[1:]))
    assert files(world)[ZIP] == 2
    assert manifest_of(frame)["rejected"] == [PATH]
    assert manifest_of(frame)["retries"] == 0
    assert manifest_of(frame)["sources"]["archive"] == 0
    assert not [path for path in world.folder.parent.rglob("*") if path.suffix == ".csv"]


@pytest.mark.fault("C06")
def test_a_rejected_file_without_rest_is_an_error_that_says_so(world: World) -> None:
    world.exchange.archive.spoil("1h-2024-03", damage.wrong_checksum())  # the month, and its days too
    with pytest.warns(ArchiveMismatch), pytest.raises(IncompleteData) as raised:
        world.fetcher().fetch(*HOURS, source="archive")
    assert isinstance(raised.value.cause, ReplyError)
    assert [gap.cause for gap in raised.value.missing] == ["fetch_failed"]
    assert raised.value.frame.empty
    assert calls(world) == 0


@pytest.mark.fault("C07")
@pytest.mark.parametrize(
    "text",
    [
        lambda text: text.upper().replace(HOUR_ZIP.upper(), HOUR_ZIP),
        lambda text: text + "\n",
        lambda text: text + "\r\n",
        lambda text: text.replace("  ", " *"),
    ],
    ids=["upper case", "newline", "crlf", "binary mark"],
)
def test_a_checksum_may_be_written_otherwise(world: World, text: Any) -> None:
    world.exchange.archive.spoil(HOUR_ZIP, damage.checksum_text(text))
    frame = world.fetcher().fetch(*HOURS, source="archive")
    assert manifest_of(frame)["unverified"] == manifest_of(frame).get("rejected", []) == []
    same(frame, world.truth("BTCUSDT", *HOURS[1:]))


@pytest.mark.fault("C07")
@pytest.mark.parametrize(
    "how", [damage.missing_checksum(), damage.checksum_text(lambda text: "")], ids=["404", "empty"]
)
def test_a_file_without_a_checksum_is_used_and_named(world: World, how: Any) -> None:
    world.exchange.archive.spoil(ZIP, how)
    frame = world.fetcher().fetch(*MARCH)
    assert manifest_of(frame)["unverified"] == [PATH]
    assert manifest_of(frame)["sources"]["archive"] > 0
    same(frame, world.truth("BTCUSDT", *MARCH[1:]))


# -- absent, or out of reach -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault("A29")
def test_an_absent_file_is_no_gap_and_is_not_asked_for_again_that_day(world: World) -> None:
    world.exchange.archive.spoil(ZIP, damage.missing())
    fetcher = world.fetcher()
    frame = fetcher.fetch(*MARCH)
    same(frame, world.truth("BTCUSDT", *MARCH[1:]))
    assert manifest_of(frame)["gap_count"] == 0
    assert manifest_of(frame).get("rejected", []) == []
    assert files(world)[ZIP] == 1
    world.exchange.clear_log()
    world.fetcher().fetch(*MARCH, refresh=True)  # forgets, and asks
    assert files(world)[ZIP] == 1
    fetcher.cache.clear()
    world.exchange.clear_log()


@pytest.mark.slow
@pytest.mark.fault("A29")
def test_an_absent_file_is_remembered_for_a_day(world: World) -> None:
    world.exchange.archive.spoil("5m-2024-03", damage.missing())
    with pytest.raises(IncompleteData):
        world.fetcher().fetch(*MARCH, source="archive")
    assert files(world)[ZIP] == 1
    for hours, times in ((0, 0), (23, 0), (2, 1)):
        world.now_s += hours * 3600
        world.exchange.clear_log()
        with pytest.raises(IncompleteData):
            world.fetcher().fetch(*MARCH, source="archive")
        assert files(world)[ZIP] == times


@pytest.mark.slow
def test_days_stand_in_for_a_month_that_is_late(world: World) -> None:
    world.exchange.archive.spoil("1h-2024-03.zip", damage.missing())
    frame = world.fetcher().fetch("BTC/USDT", "1h", "2024-02-10", "2024-03-20", source="archive")
    same(frame, world.truth("BTCUSDT", "1h", "2024-02-10", "2024-03-20"))
    assert files(world)["BTCUSDT-1h-2024-03-19.zip"] == 1


@pytest.mark.slow
@pytest.mark.fault("A29")
@pytest.mark.parametrize("action", [faults.status(500), faults.status(503), faults.forbidden(), faults.restricted()])
def test_an_archive_out_of_reach_is_replaced_by_rest(world: World, action: Any) -> None:
    fault = world.exchange.fail(action, times=None, match="/data/")
    fetcher = world.fetcher(max_retries=2)
    frame = fetcher.fetch(*MARCH)
    same(frame, world.truth("BTCUSDT", *MARCH[1:]))
    assert manifest_of(frame)["sources"] == {"memory": 0, "disk": 0, "archive": 0, "rest": len(frame)}
    assert manifest_of(frame)["gap_count"] == 0
    fault.stop()
    fetcher.cache.clear()
    later = world.fetcher(use_cache=False).fetch(*MARCH)
    assert manifest_of(later)["sources"]["archive"] > 0  # it was not taken for absent


@pytest.mark.fault("A19", "A29")
def test_an_archive_that_stumbles_is_asked_again(world: World) -> None:
    world.exchange.fail(faults.status(503), times=2, match=ZIP)
    frame = world.fetcher().fetch(*MARCH)
    assert manifest_of(frame)["retries"] == 2
    assert manifest_of(frame)["sources"]["archive"] > 0


@pytest.mark.slow(keep=("action0", "action2"))
@pytest.mark.parametrize(
    "action", [faults.cut(0.5), faults.bad_gzip(), faults.redirect("http://127.0.0.1:1/"), faults.reset()]
)
def test_replies_of_the_archive_that_are_no_replies_do_no_harm(world: World, action: Any) -> None:
    world.exchange.fail(action, times=None, match="/data/")
    frame = world.fetcher(max_retries=1).fetch(*MARCH)
    same(frame, world.truth("BTCUSDT", *MARCH[1:]))
    assert manifest_of(frame)["sources"]["archive"] == 0


@pytest.mark.slow
@pytest.mark.fault("C02")
def test_what_arrived_before_both_sources_failed_is_stored(world: World) -> None:
    fetcher = world.fetcher(max_retries=0)
    fetcher.fetch("BTC/USDT", "5m", "2017-08-01", limit=1)
    span = ("BTC/USDT", "5m", "2024-01-01", "2024-04-01")
    world.exchange.archive.spoil("BTCUSDT-5m-2024-02", damage.missing())  # and its days
    fault = world.exchange.fail(faults.status(500), times=None, match="/api/")
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch(*span)
    error = raised.value
    truth = world.truth("BTCUSDT", *span[1:])
    held = set(index_ms(error.frame).tolist())
    assert 0 < len(held) < truth["open_time"].size
    missing = {at for gap in error.missing for at in range(gap.first_ms, gap.last_ms + 1, 300_000)}
    assert {gap.cause for gap in error.missing} == {"fetch_failed"}
    assert not held & missing
    assert held | missing == set(truth["open_time"].tolist())
    assert all(ms("2024-01-28") < at < ms("2024-03-04") for at in missing)
    fault.stop()
    world.exchange.clear_log()
    whole = world.fetcher().fetch(*span)
    same(whole, truth)
    assert not files(world)
    asked = [request.params for request in world.exchange.requests if "lines" in request.path]
    assert sum(int(params["limit"]) for params in asked) <= len(missing) + 2 * 1000
    assert manifest_of(whole)["sources"]["rest"] <= len(missing) + 2 * 1000


# -- rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault("C10")
def test_rows_that_a_file_lacks_are_asked_of_rest(world: World) -> None:
    hole = (ms("2024-03-10T05:00"), ms("2024-03-10T07:00"))
    world.exchange.archive.spoil(ZIP, damage.drop(*hole))
    frame = world.fetcher().fetch(*MARCH)
    same(frame, world.truth("BTCUSDT", *MARCH[1:]))
    assert manifest_of(frame)["gap_count"] == 0
    assert manifest_of(frame)["sources"]["archive"] > 0
    first = [p for p in world.asked() if p.get("startTime") == str(hole[0])]
    assert len(first) == 1


@pytest.mark.fault("C10")
def test_a_hole_of_the_archive_alone_is_asked_of_rest_as_soon_as_it_may_be(world: World) -> None:
    world.exchange.archive.spoil("BTCUSDT-1h-2024-03", damage.drop(ms("2024-03-05T05:00"), ms("2024-03-05T07:00")))
    fetcher = world.fetcher()
    assert [gap["count"] for gap in manifest_of(fetcher.fetch(*HOURS, source="archive"))["gaps"]] == [2]
    frame = fetcher.fetch(*HOURS)
    assert manifest_of(frame)["gap_count"] == 0
    same(frame, world.truth("BTCUSDT", *HOURS[1:]))
    assert manifest_of(frame)["sources"]["rest"] == 2


@pytest.mark.slow(keep=("hours2",))
@pytest.mark.fault("C10")
@pytest.mark.parametrize("hours", [(24 * 10, 24 * 31), (0, 24 * 31), (5, 7)])
def test_what_a_month_has_not_is_looked_for_in_its_days(world: World, hours: tuple[int, int]) -> None:
    march = ms("2024-03-01")
    lost = march + hours[0] * HOUR, march + hours[1] * HOUR
    world.exchange.archive.spoil(HOUR_ZIP, damage.drop(*lost).published())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ArchiveMismatch)  # of the one without a row
        frame = world.fetcher().fetch("BTC/USDT", "1h", "2024-03-01", "2024-04-01", source="archive", columns="all")
    same(frame, world.truth("BTCUSDT", "1h", "2024-03-01", "2024-04-01"))
    assert manifest_of(frame)["gap_count"] == 0
    assert calls(world) == 0


def test_the_archive_alone_takes_what_is_wanted_behind_a_file_that_is_missing(world: World) -> None:
    world.exchange.archive.spoil(lambda key: key.endswith("06-05.zip"), damage.missing())
    fetcher = world.fetcher()
    assert len(fetcher.fetch("BTC/USDT", "1h", days=5, source="archive")) == 5 * 24 - 12  # up to this midnight
    frame = world.fetcher(use_cache=False).fetch("BTC/USDT", "1h", "2024-06-07", "2024-06-12", source="archive")
    same(frame, world.truth("BTCUSDT", "1h", "2024-06-07", "2024-06-12"))


def test_the_archive_alone_is_asked_for_no_more_than_is_wanted(world: World) -> None:
    fetcher = world.fetcher()
    plan = fetcher.plan("BTC/USDT", "1M", "2024-01-01", "2024-04-01", source="archive")
    frame = fetcher.fetch("BTC/USDT", "1M", "2024-01-01", "2024-04-01", source="archive")
    assert len(frame) == 3
    assert plan.requests == len(world.exchange.requests) == 6


@pytest.mark.parametrize("timeframe", ["7m", "10h"])
def test_the_archive_alone_ends_with_a_whole_candle(world: World, timeframe: str) -> None:
    frame = world.fetcher().fetch("BTC/USDT", timeframe, "2024-06-13", source="archive")
    assert manifest_of(frame)["partial"] == []
    assert frame.index[-1] + pd.Timedelta(timeframe.replace("m", "min")) <= pd.Timestamp("2024-06-15", tz="UTC")


def test_a_week_that_ended_after_its_month_s_file_was_made_is_not_taken_from_it(world: World) -> None:
    key = "data/spot/monthly/klines/BTCUSDT/1w/BTCUSDT-1w-2024-05.zip"
    whole, unfinished = world.exchange.archive.read(key), damage.revise(ms("2024-05-27"), volume="1.5").zip
    assert whole is not None
    assert unfinished is not None
    data = unfinished(whole)
    assert data is not None
    today_s, world.now_s = world.now_s, ms("2024-06-01T10:00") / 1000  # the week ends on 2 June
    world.exchange.archive.load(key, data)
    world.now_s = today_s
    week = ("BTC/USDT", "1w", "2024-05-06", "2024-06-03")
    with pytest.raises(IncompleteData) as raised:
        world.fetcher().fetch(*week, source="archive")
    assert raised.value.missing[0].first == "2024-05-27T00:00:00Z"
    same(world.fetcher().fetch(*week), world.truth("BTCUSDT", *week[1:]))


@pytest.mark.slow(keep=("1h",))
@pytest.mark.fault("A19", "C11")
@pytest.mark.parametrize("timeframe", ["5m", "1h", "1d"])
def test_what_rest_cannot_bring_the_archive_does(world: World, timeframe: str) -> None:
    world.exchange.fail(faults.status(500), times=None, match="/api/")
    fetcher = world.fetcher(max_retries=0)
    frame = fetcher.fetch("BTC/USDT", timeframe, "2024-03-01", "2024-05-01")
    same(frame, world.truth("BTCUSDT", timeframe, "2024-03-01", "2024-05-01"))
    assert manifest_of(frame)["sources"]["archive"] == len(frame)


def test_a_hole_before_the_first_candle_of_a_file_is_known_for_what_it_is(world: World) -> None:
    range_ = ("BTC/USDT", "1h", "2017-08-01", "2017-08-20")
    fetcher = world.fetcher()
    fetcher.fetch(*range_, source="archive")
    assert fetcher.gaps(*range_)["cause"].tolist() == ["not_listed"]


def test_what_rest_had_beyond_the_last_file_outlives_a_refresh_out_of_files(world: World) -> None:
    fetcher = world.fetcher()
    today = ("BTC/USDT", "1h", "2024-06-13", "2024-06-15T12:00")
    before = fetcher.fetch(*today)
    fetcher.fetch("BTC/USDT", "1h", "2024-06-13", source="archive", refresh=True)
    world.exchange.clear_log()
    assert world.fetcher().fetch(*today, source="cache").equals(before)


@pytest.mark.slow
@pytest.mark.fault("C01")
def test_a_hole_that_both_have_is_a_gap_asked_once(world: World) -> None:
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-03-10T05:00"), ms("2024-03-10T07:00")))
    frame = world.fetcher().fetch(*MARCH)
    assert [(gap["first"], gap["count"], gap["cause"]) for gap in manifest_of(frame)["gaps"]] == [
        ("2024-03-10T05:00:00Z", 24, "no_candle")
    ]
    world.exchange.clear_log()
    world.fetcher().fetch(*MARCH)
    assert not world.exchange.requests  # it is believed now


REPAIRED = {
    "out of order": damage.out_of_order(),
    "twins": damage.rows(lambda lines: [lines[0], *lines]),
    "header": damage.csv(
        lambda text: (
            b"open_time,open,high,low,close,volume,close_time,quote_volume,count,"
            b"taker_buy_volume,taker_buy_quote_volume,ignore\n" + text
        )
    ),
    "crlf": damage.csv(lambda text: text.replace(b"\n", b"\r\n")),
    "blank line at the end": damage.csv(lambda text: text + b"\n"),
    "no line end": damage.csv(lambda text: text.rstrip(b"\n")),
    "microseconds": damage.in_unit("us"),
    "byte order mark": damage.csv(lambda text: b"\xef\xbb\xbf" + text),
}


@pytest.mark.slow(every=2)
@pytest.mark.fault("B01", "C09")
@pytest.mark.parametrize("what", REPAIRED)
def test_rows_written_otherwise_are_the_same_rows(world: World, what: str) -> None:
    world.exchange.archive.spoil(HOUR_ZIP, REPAIRED[what])
    frame = world.fetcher().fetch(*HOURS, source="archive", columns="all")
    same(frame.drop(columns="close_time"), world.truth("BTCUSDT", *HOURS[1:]))
    assert manifest_of(frame)["sources"]["archive"] == 24


@pytest.mark.fault("C05")
def test_a_file_that_was_revised_comes_with_refresh_and_not_before(world: World) -> None:
    at = ms("2024-03-05T03:00")
    fetcher = world.fetcher()
    old = fetcher.fetch(*HOURS, source="archive")
    world.exchange.archive.spoil(HOUR_ZIP, damage.revise(at, volume="12.5"))
    assert fetcher.fetch(*HOURS, source="archive").equals(old)
    new = fetcher.fetch(*HOURS, source="archive", refresh=True)
    assert new["volume"].iloc[3] == 12.5
    assert new.drop(index=new.index[3]).equals(old.drop(index=old.index[3]))
    assert manifest_of(new)["fingerprint"] != manifest_of(old)["fingerprint"]


DISPUTED = ("BTC/USDT", "1m", "2020-12-18", "2020-12-25")


@pytest.mark.slow
@pytest.mark.fault("C04")
def test_where_months_are_known_to_differ_days_or_rest_have_the_word(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.exchange.archive.spoil("1m-2020-12.zip", damage.revise(ms("2020-12-21T13:07"), volume="12.5").published())
        truth = world.truth("BTCUSDT", "1m", *DISPUTED[2:])
        fetcher = world.fetcher()
        fetcher.fetch("BTC/USDT", "1m", "2017-08-17", limit=1)  # so that the listing is known
        plan = fetcher.plan(*DISPUTED)
        world.exchange.clear_log()
        auto = fetcher.fetch(*DISPUTED)
        same(auto, truth)
        holes = manifest_of(auto)["gap_count"]
        assert plan.requests + holes == len(world.exchange.requests)
        alone = world.fetcher(cache_dir=tmp_path / "alone").fetch(
            *DISPUTED[:2], "2020-12-20", "2020-12-23", source="archive"
        )
        same(alone, world.truth("BTCUSDT", "1m", "2020-12-20", "2020-12-23"))
        assert files(world)["BTCUSDT-1m-2020-12-21.zip"] == 1


# -- the archive alone -------------------------------------------------------------------------------------------------


def test_the_archive_alone_ends_at_its_last_file_and_asks_rest_nothing(world: World) -> None:
    frame = world.fetcher().fetch("BTC/USDT", "1h", "2024-06-01", source="archive")
    assert frame.index[-1] == pd.Timestamp("2024-06-14T23:00Z")  # out since this morning
    assert {request.market for request in world.exchange.requests} == {"archive"}
    assert manifest_of(frame)["end"] == "2024-06-15T00:00:00Z"


@pytest.mark.slow
def test_the_archive_alone_ends_before_files_that_are_late(world: World) -> None:
    late = world.exchange.archive.spoil(lambda key: key.endswith(("06-14.zip", "06-13.zip")), damage.missing())
    fetcher = world.fetcher()
    frame = fetcher.fetch("BTC/USDT", "1h", "2024-06-01", source="archive")
    assert frame.index[-1] == pd.Timestamp("2024-06-12T23:00Z")
    assert manifest_of(frame)["end"] == "2024-06-13T00:00:00Z"
    late.stop()
    world.exchange.clear_log()
    assert len(fetcher.fetch("BTC/USDT", "1h", "2024-06-01", source="archive")) == len(frame)
    assert not world.exchange.requests  # they were asked for just now
    world.now_s += 3600 + 1
    frame = fetcher.fetch("BTC/USDT", "1h", "2024-06-01", source="archive")
    assert frame.index[-1] == pd.Timestamp("2024-06-14T23:00Z")
    assert manifest_of(frame)["gap_count"] == 0


def test_a_day_that_the_archive_lacks_before_others_is_not_its_end(world: World) -> None:
    world.exchange.archive.spoil(lambda key: key.endswith("06-11.zip"), damage.missing())
    with pytest.raises(IncompleteData) as raised:
        world.fetcher().fetch("BTC/USDT", "1h", "2024-06-01", source="archive")
    assert raised.value.missing[0].first == "2024-06-11T00:00:00Z"
    assert raised.value.missing[0].cause == "not_published"


# -- how late files come -----------------------------------------------------------------------------------------------

SECONDS = ("BTC/USDT", "1s", "2024-06-14T06:00", "2024-06-14T10:00")


@pytest.mark.slow
def test_files_are_asked_for_as_soon_as_the_last_ones_came_out(world: World) -> None:
    assert world.fetcher().plan(*SECONDS).files == 0  # yesterday's: nobody knows yet whether it is out
    world.fetcher().fetch("BTC/USDT", "1h", "2024-06-10", "2024-06-11", source="archive")  # came out after five hours
    fetcher = world.fetcher()
    assert fetcher.plan(*SECONDS).files == 1
    same(fetcher.fetch(*SECONDS), world.truth("BTCUSDT", "1s", *SECONDS[2:]))
    assert files(world)["BTCUSDT-1s-2024-06-14.zip"] == 1
    world.now_s = ms("2024-06-16T05:30") / 1000
    assert fetcher.plan("BTC/USDT", "1s", "2024-06-15", "2024-06-16").files == 0  # too early, by what is known


@pytest.mark.slow
def test_a_file_that_is_later_than_the_others_unteaches(world: World) -> None:
    fetcher = world.fetcher()
    fetcher.fetch("BTC/USDT", "1h", "2024-06-10", "2024-06-11", source="archive")
    world.exchange.archive.spoil("1s-2024-06-14", damage.missing())
    same(fetcher.fetch(*SECONDS), world.truth("BTCUSDT", "1s", *SECONDS[2:]))  # by REST, after one 404
    world.exchange.clear_log()
    world.now_s = ms("2024-06-16T12:00") / 1000
    assert fetcher.plan("BTC/USDT", "1s", "2024-06-15", "2024-06-16").files == 0


def test_a_file_that_was_replaced_long_after_teaches_nothing() -> None:
    file = File("x", Span(0, DAY))
    assert DEFAULT_LAGS.found(file, 40 * DAY) == DEFAULT_LAGS
    assert DEFAULT_LAGS.found(file, DAY - 1) == DEFAULT_LAGS  # nor does one that was there before its day was over
    soon = DEFAULT_LAGS.found(file, DAY + 5 * HOUR)
    assert soon == DEFAULT_LAGS._replace(daily_ms=6 * HOUR)  # with an hour to spare
    assert soon.missed(file, DAY + 5 * HOUR) == soon
    assert soon.missed(file, DAY + 6 * HOUR) == DEFAULT_LAGS


@pytest.mark.slow
def test_a_stream_of_the_archive_alone_does_not_pass_over_a_file_that_is_absent(world: World) -> None:
    world.exchange.archive.spoil("5m-2024-04", damage.missing())  # the month, and its days
    pieces = world.fetcher().iter_frames("BTC/USDT", "5m", "2024-03-30", rows=4_000, source="archive")
    with pytest.raises(IncompleteData) as raised:
        list(pieces)
    assert raised.value.missing[0].first == "2024-04-01T00:00:00Z"
    assert {gap.cause for gap in raised.value.missing} == {"not_published"}


@pytest.mark.slow
def test_two_threads_that_want_one_file_fetch_it_once(tmp_path: Path) -> None:
    with World(tmp_path, delay_s=0.1) as world:
        fetcher = world.fetcher()
        with ThreadPoolExecutor(2) as pool:
            frames = [job.result() for job in [pool.submit(fetcher.fetch, *MARCH) for _ in range(2)]]
        for frame in frames:
            same(frame, world.truth("BTCUSDT", *MARCH[1:]))
        assert files(world) == {ZIP: 1, f"{ZIP}.CHECKSUM": 1}


def test_a_plan_of_the_archive_alone_ends_where_its_fetch_does(world: World) -> None:
    plan = world.fetcher().plan("BTC/USDT", "1h", "2024-06-01", source="archive")
    assert plan.span.end_ms == ms("2024-06-15")
    assert plan.notes == ("1 request for the archive's clock, unless it was asked in the last minutes",)


def test_what_the_archive_has_not_published_is_named(world: World) -> None:
    with pytest.raises(IncompleteData, match="source='auto'") as raised:
        world.fetcher().fetch("BTC/USDT", "1h", "2024-06-12", "2024-06-15T06:00", source="archive")
    gap = raised.value.missing[0]
    assert (gap.first, gap.count, gap.cause) == ("2024-06-15T00:00:00Z", 6, "not_published")
    assert len(raised.value.frame) == 72
    assert raised.value.cause is None
    assert calls(world) == 0


SHIFTED = damage.shift(60_000).published()


@pytest.mark.slow(keep=("1d-1d-2024-03", "3d-3d-2024-03"))
@pytest.mark.fault("K21")
@pytest.mark.parametrize(("timeframe", "name"), [("5m", "5m-2024-03"), ("1d", "1d-2024-03"), ("3d", "3d-2024-03")])
def test_a_file_whose_times_are_all_off_the_grid_is_not_used(world: World, timeframe: str, name: str) -> None:
    """The checksum is right. REST is asked; the archive alone does not have such candles."""
    range_ = ("BTC/USDT", timeframe, "2024-03-01", "2024-04-01")
    world.exchange.archive.spoil(name, SHIFTED)  # the month, and its days too
    with pytest.warns(ArchiveMismatch, match="60 s after the start"), pytest.raises(IncompleteData) as raised:
        world.fetcher(source="archive").fetch(*range_[:3], "2024-03-04")
    assert raised.value.frame.empty
    if timeframe == "5m":
        with pytest.warns(ArchiveMismatch, match="60 s after the start"):
            frame = world.fetcher().fetch(*range_)
        same(frame, world.truth("BTCUSDT", *range_[1:]))
        assert manifest_of(frame).get("rejected")


@pytest.mark.fault("K21")
def test_a_file_in_which_some_candles_are_off_the_grid_is_used(world: World) -> None:
    moved = damage.shift(60_000, 100, 143).published()
    world.exchange.archive.spoil(HOUR_ZIP, moved)
    frame = world.fetcher(source="archive").fetch("BTC/USDT", "1h", "2024-03-01", "2024-04-01")
    assert (index_ms(frame) % HOUR == 60_000).sum() == 43


CHINESE = "币安人生USDT"


def chinese_rows(first: str, count: int) -> list[list[Any]]:
    starts = range(ms(first), ms(first) + count * 60_000, 60_000)
    return [[at, "1.0", "1.2", "0.9", "1.1", "10.0", at + 59_999, "11.0", 5, "3.0", "3.3", "0"] for at in starts]


@pytest.mark.fault("J03")
@pytest.mark.parametrize("flag", [0x800, 0], ids=["flagged", "unflagged"])
def test_files_of_a_symbol_in_chinese_are_used(world: World, tmp_path: Path, flag: int) -> None:
    def with_flag(data: bytes) -> bytes:
        """The zip, whose name is said to be UTF-8 or not."""
        changed = bytearray(data)
        for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            place = data.index(signature) + at
            changed[place : place + 2] = flag.to_bytes(2, "little")
        return bytes(changed)

    world.exchange.load("binance", CHINESE, "1m", chinese_rows("2024-01-01", 2880))
    world.exchange.archive.spoil(CHINESE, damage.Damage("flag", zip=with_flag).published())
    frame = world.fetcher().fetch("币安人生/USDT", "1m", "2024-01-01", "2024-01-03", source="archive")
    assert manifest_of(frame)["sources"]["archive"] == len(frame) == 2880
    assert manifest_of(frame)["unverified"] == manifest_of(frame).get("rejected", []) == []

    path = tmp_path / f"{CHINESE}-1m-2024-01.zip"
    key = f"data/spot/monthly/klines/{CHINESE}/1m/{path.name}"
    path.write_bytes(with_flag(world.exchange.archive.read(key)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.CHECKSUM").write_bytes(f"{digest}  {path.name}\n".encode())
    done = world.fetcher(cache_dir=tmp_path / "other").cache.import_file(path)
    assert (done.symbol, done.rows, done.verified) == ("币安人生/USDT", 2880, True)


# -- real files --------------------------------------------------------------------------------------------------------


def real_files(folder: Path) -> list[Path]:
    found = [*(folder / "vision").rglob("*.zip"), *(folder / "vision_csv").rglob("*.csv")]
    skipped = ("fundingRate", "-1h-2018-0", "-1h-2019-", "-1h-2017-")  # one kind is enough of these
    kept = ("1h-2018-02", "1h-2017-08", "1h-2019-06")
    return sorted(
        path for path in found if not any(p in path.name for p in skipped) or any(k in path.name for k in kept)
    )


def test_real_files_come_row_for_row(tmp_path: Path, shared: Path) -> None:
    most = 2_000_000 if FAULT_RUNS >= 1 else 60_000
    paths = real_files(shared / "market_data")
    if not paths:
        pytest.skip("no recorded files of the archive")
    with World(tmp_path, now="2025-07-10T12:00:30") as world:
        fetcher = world.fetcher(use_cache=False)
        for path in [path for path in paths if path.stat().st_size < most]:
            key = "/".join(["data", *path.relative_to(shared / "market_data").with_suffix(".zip").parts[1:]])
            data = path.read_bytes()
            if path.suffix == ".csv":
                data = pack(path.name, [data])
            world.exchange.archive.load(key, data)
            if "/daily/" in key:
                world.exchange.archive.spoil(f"{path.stem[:-3]}.zip", damage.missing())  # else the month's is taken
            text = unpack(data)[1].decode().splitlines()
            rows = [row for row in csv.reader(text) if row and row[0].isdigit()]
            symbol, timeframe, *date = path.stem.split("-")
            start = "-".join(date)
            day = np.datetime64(start)
            provider = {"spot": "binance", "um": "binance-um"}["um" if "/um/" in key else "spot"]
            try:
                frame = fetcher.fetch(
                    symbol,
                    timeframe,
                    start,
                    str(day + np.timedelta64(1, np.datetime_data(day.dtype)[0])),
                    provider=provider,
                    source="archive",
                    columns="all",
                )
            except IncompleteData as error:
                frame = error.frame
            unit = 1000 if len(rows[0][0]) == 16 else 1
            assert index_ms(frame).tolist() == [int(row[0]) // unit for row in rows], key
            for at, name in enumerate(("open", "high", "low", "close", "volume"), 1):
                assert frame[name].tolist() == [float(row[at]) for row in rows], (key, name)
            assert frame["trades"].tolist() == [int(row[8]) for row in rows]
