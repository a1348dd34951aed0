"""A backup of the cache has everything that answers a fetch, whatever is written, evicted or killed meanwhile; and a
restore adds it to a cache without a change to what is there, or is refused before it changes anything."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import random
import shutil
import signal
import tarfile
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import children
import pandas as pd
import pytest
from runs import FAULT_RUNS
from test_pages import Folder, page_files, span_of
from world import World, ms, same, wait_until

from candle_fetcher import (
    Backup,
    BadFile,
    CacheError,
    CacheWarning,
    CandleFetcher,
    CandleFetcherError,
    InputError,
    Progress,
    Restored,
)
from candle_fetcher.cli import main
from candle_fetcher.practice import damage
from candle_fetcher.store import Snapshot

SPAN = span_of(0, 12)  # of a page, and of hours and days that lie in entries of their own
BTC = ("BTC/USDT", "1m", *SPAN)
NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


class Stored(NamedTuple):
    """A cache that has something of every kind, a backup of it, and what it answers to every call."""

    folder: Path
    backup: Path
    report: Backup
    answers: dict[str, Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("backups") / "unused", weight_limit=10**9) as made:
        made.exchange.alpaca.rate_limit = 10**6
        yield made


@pytest.fixture(scope="module")
def stored(world: World, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    folder = tmp_path_factory.mktemp("stored")
    exchange = world.exchange
    exchange.hide("binance", "ETHUSDT", (ms("2024-03-10T05:00"), ms("2024-03-10T07:00")))
    exchange.archive.spoil("BTCUSDT-5m-2024-03.zip", damage.missing_checksum())
    with fetcher_on(world, folder / "cache") as fetcher:
        fetcher.fetch(*BTC, source="rest")
        fetcher.fetch("ETH/USDT", "1h", "2024-03-01", "2024-03-20")
        exchange.restate("binance", "ETHUSDT", "1h", ms("2024-03-05T05:00"), volume="77.00000000")
        fetcher.fetch("ETH/USDT", "1h", "2024-03-05", "2024-03-06", refresh=True)
        fetcher.fetch("BTC/USDT", "5m", "2024-03-01", "2024-05-01", source="archive")
        fetcher.fetch("BTC/USDT", "1d", "first")
        fetcher.fetch("BTC/USDT", "1M", "first")
        fetcher.fetch("BTC/USDT", "1h", "2024-06-10", provider="binance-um", kind="mark")
        fetcher.fetch("BTC/USD", "1h", "2024-06-10", provider="kraken")
        fetcher.fetch("NVDA", "1d", "2024-05-01", "2024-06-14", provider="alpaca")
        fetcher.fetch_funding("BTC/USDT", "2024-03-10", "2024-05-20", provider="binance-um")
        fetcher.fetch_funding("BTC/USDT", "2024-03-01", "2024-04-01", provider="binance-um", source="archive")
        fetcher.symbols()
        report = fetcher.cache.backup(folder / "all.tar")
        found = Stored(folder / "cache", folder / "all.tar", report, answers_of(fetcher))
    exchange.unhide("binance", "ETHUSDT")
    return found


def fetcher_on(world: World, folder: Path, **settings: Any) -> CandleFetcher:
    """A fetcher that has adjusted prices of stocks, and no candles in memory."""
    chosen = {"alpaca": {"adjustment": "split"}}
    keys = world.exchange.api_keys
    return world.fetcher(cache_dir=folder, api_keys=keys, provider_settings=chosen, memory_cache_size=0, **settings)


def answers_of(fetcher: CandleFetcher) -> dict[str, Any]:
    """What the cache alone answers: frames with their fingerprints, gaps, coverage, revisions, listings."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        (BTC, {}),
        (("ETH/USDT", "1h", "2024-03-01", "2024-03-20"), {}),
        (("BTC/USDT", "5m", "2024-03-01", "2024-05-01"), {}),
        (("BTC/USDT", "1d", "first"), {}),
        (("BTC/USDT", "1M", "first"), {}),
        (("BTC/USDT", "1h", "2024-06-10"), {"provider": "binance-um", "kind": "mark"}),
        (("BTC/USD", "1h", "2024-06-10"), {"provider": "kraken"}),
        (("NVDA", "1d", "2024-05-01", "2024-06-14"), {"provider": "alpaca"}),
    ]
    answers: dict[str, Any] = {}
    for words, given in calls:
        frame = fetcher.fetch(*words, **given, source="cache", columns="all")
        answers[f"{words} {given}"] = frame, json.dumps(frame.attrs["candle_fetcher"], sort_keys=True, default=str)
        answers[f"coverage {words} {given}"] = fetcher.coverage(*words, **given)
        answers[f"gaps {words} {given}"] = fetcher.gaps(*words, **given, source="cache")
    for source in ("cache",):
        found = fetcher.fetch_funding("BTC/USDT", "2024-03-10", "2024-05-20", provider="binance-um", source=source)
        answers["funding"] = found
    answers["revisions"] = fetcher.cache.revisions()
    answers["list"] = fetcher.cache.list().drop(columns="bytes")  # of a document, JSON may say the same in other bytes
    answers["symbols"] = fetcher.symbols()
    return answers


def assert_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, answer in ours.items():
        pairs = (each if isinstance(each, tuple) else (each,) for each in (answer, theirs[name]))
        for one, other in zip(*pairs, strict=True):
            if isinstance(one, pd.DataFrame):
                pd.testing.assert_frame_equal(one, other, obj=name)
            else:
                assert one == other, name


def read_head(path: Path) -> dict[str, Any]:
    with tarfile.open(path) as tar:
        member = tar.extractfile("candle_fetcher.json")
        assert member is not None
        return json.loads(member.read())


def elsewhere(work: Callable[[], object]) -> None:
    """Have another thread do the work: one of a fetcher may not call a fetcher."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- there and back ---------------------------------------------------------------------------------------------------


def test_what_was_restored_into_an_empty_folder_answers_as_the_cache_did(
    world: World, stored: Stored, tmp_path: Path
) -> None:
    world.exchange.clear_log()
    with fetcher_on(world, tmp_path / "cache") as fetcher:
        restored = fetcher.cache.restore(stored.backup)
        assert_equal(answers_of(fetcher), stored.answers)
        again = fetcher.cache.restore(stored.backup)
        assert_equal(answers_of(fetcher), stored.answers)
        assert fetcher.cache.verify().damaged == ()
    assert not world.exchange.requests
    assert isinstance(restored, Restored)
    count = stored.report.series, stored.report.entries, stored.report.candles
    assert restored[1:4] == count
    assert (restored.stored, restored.added, restored.differing) == (count[1], count[2], 0)
    assert again[1:4] == count
    assert (again.stored, again.added, again.differing) == (0, 0, 0)


def test_the_answers_are_those_of_the_exchange(world: World, stored: Stored) -> None:
    frame, manifest = stored.answers[f"{BTC} {{}}"]
    same(frame, world.exchange.truth("binance", "BTCUSDT", "1m", *SPAN))
    assert len(stored.answers["revisions"]) >= 1
    gaps = stored.answers[f"gaps {('ETH/USDT', '1h', '2024-03-01', '2024-03-20')} {{}}"]
    assert gaps["count"].tolist() == [2]
    _, manifest = stored.answers[f"{('BTC/USDT', '5m', '2024-03-01', '2024-05-01')} {{}}"]
    assert "BTCUSDT-5m-2024-03.zip" in manifest  # it has no checksum
    assert len(stored.answers["funding"]) == 71 * 3


def test_a_restored_cache_asks_for_no_more_than_the_one_that_was_saved(
    world: World, stored: Stored, tmp_path: Path
) -> None:
    """A hole that was confirmed, the listing, and what is known of symbols are not asked for again."""
    with fetcher_on(world, tmp_path / "cache") as fetcher:
        fetcher.cache.restore(stored.backup)
        world.exchange.clear_log()
        fetcher.fetch("ETH/USDT", "1h", "2024-03-01", "2024-03-20")
        fetcher.fetch("BTC/USDT", "1d", "first", "2024-06-01")
        fetcher.fetch(*BTC)
        assert world.asked() == []
        plan = fetcher.plan("BTC/USDT", "1d", "first", "2024-06-01")
        assert plan.requests == 0


def test_a_backup_of_what_was_restored_is_as_the_first_one(world: World, stored: Stored, tmp_path: Path) -> None:
    with fetcher_on(world, tmp_path / "cache") as fetcher:
        fetcher.cache.restore(stored.backup)
        again = fetcher.cache.backup(tmp_path / "again.tar")
    assert again[1:4] == stored.report[1:4]
    assert again[5:] == (0, 0, 0)


@pytest.mark.slow
def test_a_compressed_cache_goes_into_one_that_is_not_and_back(world: World, stored: Stored, tmp_path: Path) -> None:
    with fetcher_on(world, tmp_path / "packed", compression=True) as fetcher:
        fetcher.cache.restore(stored.backup)
        assert not page_files(tmp_path / "packed")
        fetcher.cache.backup(tmp_path / "packed.tar")
    assert (tmp_path / "packed.tar").stat().st_size < stored.backup.stat().st_size
    with fetcher_on(world, tmp_path / "plain") as fetcher:
        fetcher.cache.restore(tmp_path / "packed.tar")
        assert page_files(tmp_path / "plain")
        assert_equal(answers_of(fetcher), stored.answers)


def test_an_empty_cache_can_be_saved_and_restored(world: World, tmp_path: Path) -> None:
    with fetcher_on(world, tmp_path / "cache") as fetcher:
        assert fetcher.cache.backup(tmp_path / "empty.tar")[1:4] == (0, 0, 0)
        assert fetcher.cache.restore(tmp_path / "empty.tar")[1:] == (0,) * 7


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_is_a_tar_with_a_small_head(world: World, stored: Stored) -> None:
    head, report = read_head(stored.backup), stored.report
    assert (head["series"], head["entries"], head["candles"]) == report[1:4]
    assert head["version"] == 1
    assert head["written"] == "2024-06-15T12:00:30Z"
    assert report.bytes == stored.backup.stat().st_size
    with tarfile.open(stored.backup) as tar:
        members = tar.getmembers()
    assert sum(member.size for member in members[1:]) == head["bytes"]
    names = [member.name for member in members]
    assert names[0] == "candle_fetcher.json"
    assert len(set(names)) == len(names)
    for member in members:
        assert member.isreg()
        assert not member.name.startswith("/")
        assert ".." not in member.name.split("/")
    assert repr(report).startswith("Backup(path=")


def test_no_key_and_nothing_of_a_process_is_in_it(world: World, stored: Stored) -> None:
    data = stored.backup.read_bytes()
    for keys in world.exchange.api_keys.values():
        for value in keys.values():
            assert value.encode() not in data
    with tarfile.open(stored.backup) as tar:
        names = tar.getnames()
    for word in ("shelf", "pacing", "claims", "warned"):
        assert not [name for name in names if word in name.split("/")]


@pytest.mark.fault("F02")
def test_it_takes_the_place_of_an_older_one_in_one_step(
    world: World, stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "all.tar"
    target.write_bytes(b"the one before")
    with fetcher_on(world, stored.folder) as fetcher:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", no_room)
            with pytest.raises(OSError, match="No space left") as caught:
                fetcher.cache.backup(target)
        assert str(target) in str(caught.value)
        assert target.read_bytes() == b"the one before"
        assert files_in(tmp_path) == {"all.tar"}
        fetcher.cache.backup(target)
    assert read_head(target)["entries"] == stored.report.entries
    assert files_in(tmp_path) == {"all.tar"}


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["cache.csv", "cache", "."])
def test_another_ending_is_refused(world: World, tmp_path: Path, name: str) -> None:
    with fetcher_on(world, tmp_path / "cache") as fetcher, pytest.raises(InputError, match=r"\.tar"):
        fetcher.cache.backup(tmp_path / name)


def test_without_a_cache_on_disk_there_is_nothing_to_save(world: World, stored: Stored, tmp_path: Path) -> None:
    for settings in ({"use_cache": False}, {"disk_cache_size": 0}):
        with world.fetcher(**settings) as fetcher:
            with pytest.raises(InputError, match="use_cache"):
                fetcher.cache.backup(tmp_path / "x.tar")
            with pytest.raises(InputError, match="use_cache"):
                fetcher.cache.restore(stored.backup)


def test_progress_counts_the_candles_of_both(world: World, stored: Stored, tmp_path: Path) -> None:
    events: list[Progress] = []
    with fetcher_on(world, stored.folder, progress=events.append) as fetcher:
        fetcher.cache.backup(tmp_path / "x.tar")
    with fetcher_on(world, tmp_path / "cache", progress=events.append) as fetcher:
        fetcher.cache.restore(tmp_path / "x.tar")
    for label in ("backup", "restore"):
        mine = [event for event in events if event.label == label]
        assert [mine[0].phase, mine[-1].phase] == ["start", "end"]
        assert sum(event.done for event in mine) == stored.report.candles == mine[0].total


# -- what is there stays ----------------------------------------------------------------------------------------------

HOURS = ("ETH/USDT", "1h", "2024-04-01", "2024-04-20")


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[World]:
    """An exchange of its own, for what changes it."""
    with World(tmp_path / "cache") as made:
        yield made


def test_a_fuller_and_newer_entry_is_not_replaced(exchange: World, tmp_path: Path) -> None:
    fetcher = exchange.fetcher()
    fetcher.fetch("ETH/USDT", "1h", "2024-06-15")
    fetcher.cache.backup(tmp_path / "old.tar")
    exchange.now_s += 7_200
    exchange.exchange.restate("binance", "ETHUSDT", "1h", ms("2024-06-15T05:00"), volume="77.00000000")
    newest = fetcher.fetch("ETH/USDT", "1h", "2024-06-15", refresh=True)
    report = fetcher.cache.restore(tmp_path / "old.tar")
    assert (report.stored, report.added, report.differing) == (0, 0, 1)
    pd.testing.assert_frame_equal(fetcher.fetch("ETH/USDT", "1h", "2024-06-15", source="cache"), newest)
    (row,) = fetcher.cache.revisions().to_dict("records")
    assert (row["column"], row["new"]) == ("volume", 77.0)


def test_candles_before_and_after_those_that_are_there_are_added(exchange: World, tmp_path: Path) -> None:
    whole, part = exchange.fetcher(), exchange.fetcher(cache_dir=tmp_path / "part")
    whole.fetch("BTC/USDT", "1h", "2024-06-15")
    part.fetch("BTC/USDT", "1h", "2024-06-15", "2024-06-15T06:00")
    exchange.now_s += 3_600 * 4
    newest = whole.fetch("BTC/USDT", "1h", "2024-06-15")
    whole.cache.backup(tmp_path / "whole.tar")
    assert part.cache.restore(tmp_path / "whole.tar").added > 0
    pd.testing.assert_frame_equal(part.fetch("BTC/USDT", "1h", "2024-06-15", source="cache"), newest)


def test_a_hole_is_filled_unless_it_was_confirmed_later(exchange: World, tmp_path: Path) -> None:
    hole = ms("2024-04-10T05:00"), ms("2024-04-10T07:00")
    with exchange.fetcher(cache_dir=tmp_path / "early") as fetcher:
        early = fetcher.fetch(*HOURS)
        fetcher.cache.backup(tmp_path / "early.tar")
    exchange.exchange.hide("binance", "ETHUSDT", hole)
    exchange.now_s += 600
    between = exchange.fetcher()
    lacking = between.fetch(*HOURS)
    assert len(lacking) == len(early) - 2
    between.cache.restore(tmp_path / "early.tar")
    assert len(between.fetch(*HOURS, source="cache")) == len(lacking)  # the provider took them back
    exchange.exchange.unhide("binance", "ETHUSDT")
    exchange.now_s += 600
    with exchange.fetcher(cache_dir=tmp_path / "late") as fetcher:
        late = fetcher.fetch(*HOURS)
        fetcher.cache.backup(tmp_path / "late.tar")
    assert between.cache.restore(tmp_path / "late.tar").added == 2
    pd.testing.assert_frame_equal(between.fetch(*HOURS, source="cache"), late)


def test_origins_stay_apart(exchange: World, tmp_path: Path) -> None:
    fetcher = exchange.fetcher()
    frame = fetcher.fetch(*HOURS)
    fetcher.cache.backup(tmp_path / "one.tar")
    with World(tmp_path / "unused") as other:
        theirs = other.fetcher(cache_dir=tmp_path / "theirs")
        theirs.fetch(*HOURS)
        theirs.cache.restore(tmp_path / "one.tar")
        assert theirs.cache.list()["origin"].nunique() == 2
        frames = exchange.fetcher(cache_dir=tmp_path / "theirs").fetch(*HOURS, source="cache")
        pd.testing.assert_frame_equal(frames, frame)


def test_frames_in_memory_are_not_what_they_were_after_a_restore(exchange: World, tmp_path: Path) -> None:
    whole, part = exchange.fetcher(), exchange.fetcher(cache_dir=tmp_path / "part", source="cache")
    frame = whole.fetch(*HOURS)
    whole.cache.backup(tmp_path / "whole.tar")
    with pytest.raises(CandleFetcherError):
        part.fetch(*HOURS)
    part.cache.restore(tmp_path / "whole.tar")
    pd.testing.assert_frame_equal(part.fetch(*HOURS), frame)


@pytest.mark.slow
def test_two_backups_of_one_series_make_one(exchange: World, tmp_path: Path) -> None:
    spans = ("2024-01-01", "2024-03-01"), ("2024-02-01", "2024-05-01")
    for name, span in zip("ab", spans, strict=True):
        with exchange.fetcher(cache_dir=tmp_path / name) as fetcher:
            fetcher.fetch("BTC/USDT", "15m", *span)
            fetcher.fetch_funding("BTC/USDT", *span, provider="binance-um")
            fetcher.cache.backup(tmp_path / f"{name}.tar")
    for order in ("ab", "ba"):
        with exchange.fetcher(cache_dir=tmp_path / order) as fetcher:
            for name in order:
                fetcher.cache.restore(tmp_path / f"{name}.tar")
            frame = fetcher.fetch("BTC/USDT", "15m", "2024-01-01", "2024-05-01", source="cache")
            same(frame, exchange.truth("BTCUSDT", "15m", "2024-01-01", "2024-05-01"))
            funding = fetcher.fetch_funding(
                "BTC/USDT", "2024-01-01", "2024-05-01", provider="binance-um", source="cache"
            )
            assert len(funding) == (31 + 29 + 31 + 30) * 3


# -- what is refused --------------------------------------------------------------------------------------------------


def refused(world: World, folder: Path, path: Path, kinds: Any = (BadFile, InputError)) -> str:
    """What a restore of the file says, which leaves a cache without entries as it is."""
    with fetcher_on(world, folder) as fetcher:
        with pytest.raises(kinds) as caught:
            fetcher.cache.restore(path)
        assert fetcher.cache.stats().disk_entries == 0
    assert path.name in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def small(world: World, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A backup with a page, entries and documents."""
    folder = tmp_path_factory.mktemp("small")
    with world.fetcher(cache_dir=folder / "cache") as fetcher:
        fetcher.fetch("BTC/USDT", "1m", *span_of(0, 8), source="rest")
        fetcher.fetch("BTC/USDT", "1d", "2024-01-01", "2024-06-01")
        fetcher.cache.backup(folder / "small.tar")
    return (folder / "small.tar").read_bytes()


@pytest.mark.fault("F03")
def test_every_damaged_byte_is_found(world: World, small: bytes, tmp_path: Path) -> None:
    rng, path = random.Random(7), tmp_path / "damaged.tar"
    ends = [*range(0, 3072, 61), *range(len(small) - 1536, len(small), 97)]
    places = [*ends, *(rng.randrange(len(small)) for _ in range(max(40, round(400 * FAULT_RUNS))))]
    with fetcher_on(world, tmp_path / "cache") as fetcher:
        for place in places:
            data = bytearray(small)
            data[place] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            with pytest.raises((BadFile, InputError)):
                fetcher.cache.restore(path)
        assert fetcher.cache.stats().disk_entries == 0
        path.write_bytes(small)
        assert fetcher.cache.restore(path).stored > 0


@pytest.mark.fault("F03")
def test_a_file_that_was_cut_or_went_on_is_found(world: World, small: bytes, tmp_path: Path) -> None:
    rng, path = random.Random(8), tmp_path / "cut.tar"
    cuts = [0, 1, 511, 512, 2047, 2048, len(small) - 1, len(small) - 512, len(small) - 1024]
    for end in [*cuts, *(rng.randrange(len(small)) for _ in range(10))]:
        path.write_bytes(small[:end])
        refused(world, tmp_path / "cache", path)
    for more in (b"\0", bytes(512), small):
        path.write_bytes(small + more)
        refused(world, tmp_path / "cache", path, BadFile)


@pytest.mark.fault("F03")
def test_blocks_that_were_exchanged_or_doubled_are_found(world: World, small: bytes, tmp_path: Path) -> None:
    path, block = tmp_path / "odd.tar", 512
    blocks = [small[at : at + block] for at in range(0, len(small), block)]
    for change in (lambda all_: all_[:9] + all_[8:], lambda all_: [*all_[:20], all_[21], all_[20], *all_[22:]]):
        path.write_bytes(b"".join(change(blocks)))
        refused(world, tmp_path / "cache", path)


def test_what_is_no_backup_is_said_so(world: World, small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("notes.txt"), io.BytesIO())
    assert "not a backup" in refused(world, tmp_path / "cache", path, InputError)
    path.write_bytes(small.replace(b'"version": 1,', b'"version": 2,'))
    assert "newer candle_fetcher" in refused(world, tmp_path / "cache", path, InputError)
    path.write_bytes(b"")
    assert "empty" in refused(world, tmp_path / "cache", path, BadFile)
    with fetcher_on(world, tmp_path / "cache") as fetcher, pytest.raises(FileNotFoundError):
        fetcher.cache.restore(tmp_path / "absent.tar")
    path.write_bytes(small)
    tiny = fetcher_on(world, tmp_path / "tiny", disk_cache_size="400KB")
    with pytest.raises(InputError, match="raise disk_cache_size"):
        tiny.cache.restore(path)


def crafted(small: bytes, target: Path, change: Callable[[str, bytes], tuple[tarfile.TarInfo, bytes] | None]) -> Path:
    """A backup with other members, and with right checksums."""
    from candle_fetcher.files import container

    with tarfile.open(fileobj=io.BytesIO(small)) as tar, target.open("w+b") as file:
        writer = container.ContainerWriter(file)
        for member in tar.getmembers()[1:]:
            source = tar.extractfile(member)
            assert source is not None
            made = change(member.name, source.read())
            if made is None:
                continue
            info, data = made
            info.size = len(data)
            for piece in (info.tobuf(tarfile.GNU_FORMAT), data, bytes(-len(data) % 512)):
                writer._write(piece)
        writer.finish({"bytes": 1, "candles": 1})
    return target


@pytest.mark.fault("F04")
@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "pages/../../evil", "values/../evil", "evil"])
def test_a_name_is_never_a_path(world: World, small: bytes, tmp_path: Path, name: str) -> None:
    path = crafted(small, tmp_path / "crafted.tar", lambda _, data: (tarfile.TarInfo(name), data))
    refused(world, tmp_path / "in" / "cache", path, BadFile)
    assert files_in(tmp_path) == {"crafted.tar", "in"}
    assert files_in(tmp_path / "in") == {"cache"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_plain_file_is_refused(world: World, small: bytes, tmp_path: Path, kind: bytes) -> None:
    def change(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        return info, data

    refused(world, tmp_path / "cache", crafted(small, tmp_path / "crafted.tar", change), BadFile)


def test_values_under_other_names_and_pages_without_files_are_refused(
    world: World, small: bytes, tmp_path: Path
) -> None:
    def renamed(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        return tarfile.TarInfo(name.replace("BTCUSDT", "ETHUSDT")), data

    def without_files(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes] | None:
        return None if name.startswith("pages/") else (tarfile.TarInfo(name), data)

    for change in (renamed, without_files):
        refused(world, tmp_path / "cache", crafted(small, tmp_path / "crafted.tar", change), BadFile)
    path = crafted(small, tmp_path / "same.tar", lambda name, data: (tarfile.TarInfo(name), data))
    with fetcher_on(world, tmp_path / "cache") as fetcher:
        assert fetcher.cache.restore(path).stored > 0


# -- while others write -----------------------------------------------------------------------------------------------


def test_a_backup_is_of_one_moment(world: World, stored: Stored, tmp_path: Path, monkeypatch: Any) -> None:
    """What is stored or removed once it has begun does not change it, but for the files of pages that are gone."""
    folder = Path(shutil.copytree(stored.folder, tmp_path / "cache"))
    writing = fetcher_on(world, folder, source="rest")
    reading, begun = Snapshot.beginnings, []

    def interrupted(self: Snapshot, length: int) -> Iterator[Any]:
        yield from reading(self, length)
        if not begun:
            begun.append(True)
            elsewhere(lambda: writing.fetch("SOL/USDT", "1h", "2024-01-01", "2024-03-01"))
            elsewhere(lambda: writing.cache.clear("ETH/USDT", "1h"))

    monkeypatch.setattr(Snapshot, "beginnings", interrupted)
    with fetcher_on(world, folder) as fetcher:
        report = fetcher.cache.backup(tmp_path / "x.tar")
    assert begun
    assert report[1:4] == stored.report[1:4]
    with fetcher_on(world, tmp_path / "again") as fetcher:
        fetcher.cache.restore(tmp_path / "x.tar")
        assert_equal(answers_of(fetcher), stored.answers)


WRITER = """
    import itertools, sys
    from candle_fetcher import CandleFetcher

    folder, url, now_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
    urls = {"binance": url, "binance-archive": url}
    with CandleFetcher(cache_dir=folder, base_urls=urls, clock=lambda: now_s, progress=False, source="rest") as fetcher:
        print("ready", flush=True)
        for day in itertools.count():
            start = f"2024-0{1 + day % 5}-{1 + day % 27:02}"
            fetcher.fetch("ADA/USDT", "1m", start, limit=3000, refresh=day > 100)
"""


def assert_stored_is_true(world: World, fetcher: CandleFetcher, symbol: str) -> None:
    """Fails unless some of what the cache has of the symbol is what the exchange has."""
    lines = fetcher.coverage(symbol, "1m", "2023-12-01", ms("2024-06-15"))
    spans = lines[lines["state"] == "stored"]
    for start, end in spans[["start", "end"]].iloc[:: max(1, len(spans) // 3)].itertuples(index=False):
        frame = fetcher.fetch(symbol, "1m", start, end)
        same(frame, world.exchange.truth("binance", symbol.replace("/", ""), "1m", *map(utc_ms, (start, end))))


def utc_ms(time: pd.Timestamp) -> int:
    return time.value // 1_000_000


@pytest.mark.slow
@pytest.mark.fault("D16")
def test_a_backup_is_whole_under_four_writing_threads_and_a_writing_process(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    done = threading.Event()
    process = children.start(WRITER, folder, world.exchange.url, world.now_s)
    assert process.stdout.readline() == "ready\n"
    wanted = ("BTC/USDT", "1m", *span_of(0, 40))
    with world.fetcher(cache_dir=folder, source="rest") as fetcher:
        fetcher.fetch(*wanted)

        def write(symbol: str) -> None:
            for day in itertools.count():
                if done.is_set():
                    return
                start = f"2024-0{1 + day % 5}-{1 + day % 27:02}"
                fetcher.fetch(symbol, "1m", start, limit=10_000, refresh=day % 7 == 0)

        threads = [threading.Thread(target=write, args=(f"{name}/USDT",)) for name in ("ETH", "SOL", "XRP", "BNB")]
        for thread in threads:
            thread.start()
        try:
            reports = [fetcher.cache.backup(tmp_path / f"{number}.tar") for number in range(4)]
            assert process.poll() is None
        finally:
            done.set()
            for thread in threads:
                thread.join()
            process.kill()
            process.communicate(timeout=30)
    truth = world.exchange.truth("binance", "BTCUSDT", "1m", *wanted[2:])
    for number, report in enumerate(reports):
        assert (report.vanished, report.damaged, report.newer) == (0, 0, 0)
        with world.fetcher(cache_dir=tmp_path / f"cache{number}", source="cache") as restored:
            assert restored.cache.restore(tmp_path / f"{number}.tar").entries == report.entries
            same(restored.fetch(*wanted), truth)
            for row in restored.cache.list().itertuples():
                assert row.rows > 0
                assert_stored_is_true(world, restored, row.symbol)
            assert restored.cache.verify().damaged == ()
    assert reports[-1].entries > reports[0].entries


@pytest.mark.filterwarnings("ignore:.*is full:candle_fetcher.CacheWarning")
def test_what_was_evicted_meanwhile_is_left_out_and_counted(
    world: World, stored: Stored, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = Path(shutil.copytree(stored.folder, tmp_path / "cache"))
    loading, others = Snapshot.load_many, fetcher_on(world, folder, disk_cache_size="2MB", source="rest")
    calls: list[int] = []

    def interrupted(self: Snapshot, keys: Any) -> dict[str, bytes]:
        calls.append(len(keys))
        if len(calls) == 2:  # the survey has read the heads of pages
            for _ in range(4):
                elsewhere(lambda: others.fetch("SOL/USDT", "1m", "2024-01-01", limit=12_000, refresh=True))
        return loading(self, keys)

    monkeypatch.setattr(Snapshot, "load_many", interrupted)
    with fetcher_on(world, folder) as fetcher:
        report = fetcher.cache.backup(tmp_path / "x.tar")
    assert report.vanished > 0
    assert report.damaged == 0
    assert report.vanished + report.entries == stored.report.entries
    with fetcher_on(world, tmp_path / "again", source="cache") as fetcher:
        assert fetcher.cache.restore(tmp_path / "x.tar").entries == report.entries
        for row in fetcher.cache.list().itertuples():
            assert row.symbol != "SOL/USDT"
        frame = fetcher.fetch("BTC/USDT", "1d", "first")
        assert len(frame) == len(stored.answers[f"{('BTC/USDT', '1d', 'first')} {{}}"][0])


def test_a_cache_that_is_cleared_meanwhile_leaves_a_backup_that_says_what_vanished(
    world: World, stored: Stored, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = Path(shutil.copytree(stored.folder, tmp_path / "cache"))
    loading, others, calls = Snapshot.load_many, fetcher_on(world, folder), []

    def interrupted(self: Snapshot, keys: Any) -> dict[str, bytes]:
        calls.append(len(keys))
        if len(calls) == 2:
            elsewhere(others.cache.clear)
        return loading(self, keys)

    monkeypatch.setattr(Snapshot, "load_many", interrupted)
    with fetcher_on(world, folder) as fetcher:
        report = fetcher.cache.backup(tmp_path / "x.tar")
    paged = sum(len(page.chunks) for page in Folder(stored.folder).heads().values())
    assert report.vanished == paged > 0
    assert report.entries == stored.report.entries - paged
    with fetcher_on(world, tmp_path / "again") as fetcher:
        assert fetcher.cache.restore(tmp_path / "x.tar").entries == report.entries


@pytest.mark.slow
def test_a_page_whose_file_was_replaced_meanwhile_is_in_the_backup(
    world: World, stored: Stored, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = Path(shutil.copytree(stored.folder, tmp_path / "cache"))
    loading, others, calls = Snapshot.load_many, fetcher_on(world, folder, source="rest"), []

    def interrupted(self: Snapshot, keys: Any) -> dict[str, bytes]:
        calls.append(len(keys))
        if len(calls) == 2:
            elsewhere(lambda: others.fetch(*BTC, refresh=True))
        return loading(self, keys)

    monkeypatch.setattr(Snapshot, "load_many", interrupted)
    before = {path.name for path in page_files(folder)}
    with fetcher_on(world, folder) as fetcher:
        report = fetcher.cache.backup(tmp_path / "x.tar")
    assert before - {path.name for path in page_files(folder)}
    assert report[1:4] == stored.report[1:4]
    assert report[5:] == (0, 0, 0)
    with fetcher_on(world, tmp_path / "again") as fetcher:
        fetcher.cache.restore(tmp_path / "x.tar")
        assert_equal(answers_of(fetcher), stored.answers)


def test_what_is_damaged_in_the_cache_is_left_out_and_counted(world: World, stored: Stored, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stored.folder, tmp_path / "cache"))
    file = Folder(folder).file_of(0)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    key, value = next(iter(Folder(folder).rows().items()))
    Folder(folder).query("UPDATE Cache SET value = ? WHERE key = ?", value[:-1] + b"?", key)
    with fetcher_on(world, folder) as fetcher:
        report = fetcher.cache.backup(tmp_path / "x.tar")
    assert report.damaged > 1
    assert report.vanished == 0
    assert report.damaged + report.entries == stored.report.entries
    with fetcher_on(world, tmp_path / "again") as fetcher:
        assert fetcher.cache.restore(tmp_path / "x.tar").entries == report.entries


def test_a_cache_that_cannot_be_read_is_an_error_and_no_empty_backup(world: World, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cache.db").write_bytes(b"of another program")
    with fetcher_on(world, tmp_path / "cache") as fetcher, pytest.raises(CacheError, match="not written by"):
        fetcher.cache.backup(tmp_path / "x.tar")
    assert files_in(tmp_path) == {"cache"}


@NEEDS_FORK
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python's own advice against fork
def test_a_fork_meanwhile_has_the_backup_begin_again(
    world: World, stored: Stored, tmp_path: Path, monkeypatch: Any
) -> None:
    loading, calls = Snapshot.load_many, []

    def interrupted(self: Snapshot, keys: Any) -> dict[str, bytes]:
        calls.append(len(keys))
        if len(calls) == 3:
            child = os.fork()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)
        return loading(self, keys)

    monkeypatch.setattr(Snapshot, "load_many", interrupted)
    with fetcher_on(world, stored.folder) as fetcher:
        assert fetcher.cache.backup(tmp_path / "x.tar")[1:4] == stored.report[1:4]
    assert files_in(tmp_path) == {"x.tar"}


# -- killed and interrupted -------------------------------------------------------------------------------------------

COPY = """
    import sys, warnings
    from candle_fetcher import CandleFetcher

    warnings.simplefilter("ignore")
    with CandleFetcher(cache_dir=sys.argv[1], progress=False) as fetcher:
        print("ready", flush=True)
        getattr(fetcher.cache, sys.argv[2])(sys.argv[3])
        print("done", flush=True)
"""


# Its process is killed when it is about to save the value of that number: in the midst of a transaction.
DYING_COPY = """
    import os, signal
    from candle_fetcher.store.database import Database

    saving, left = Database.save, [int(sys.argv[4])]

    def save(*words, **more):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return saving(*words, **more)

    Database.save = save
"""


def killed_at(folder: Path, action: str, path: Path, saves: int) -> bool:
    """Whether the program had more values to save than that, and so was killed."""
    imports, rest = textwrap.dedent(COPY).split("\n\n", 1)
    process = children.start("\n".join((imports, textwrap.dedent(DYING_COPY), rest)), folder, action, path, saves)
    out, _ = process.communicate(timeout=120)
    return "done" not in out


def killed(folder: Path, action: str, path: Path, seconds: float) -> bool:
    """Whether the program was killed before it was done."""
    process = children.start(COPY, folder, action, path)
    assert process.stdout.readline() == "ready\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    return "done" not in out


@NEEDS_FORK
@pytest.mark.slow
@pytest.mark.fault("F01")
def test_a_killed_backup_leaves_the_one_before(world: World, stored: Stored, tmp_path: Path) -> None:
    target, rng, kills = tmp_path / "all.tar", random.Random(3), 0
    shutil.copy(stored.backup, target)
    before = target.read_bytes()
    for _ in range(max(4, round(20 * FAULT_RUNS))):
        kills += killed(stored.folder, "backup", target, rng.uniform(0, 0.05))
        assert target.read_bytes() == before or read_head(target)["entries"] == stored.report.entries
    assert kills
    with fetcher_on(world, stored.folder) as fetcher:
        assert fetcher.cache.backup(target)[1:4] == stored.report[1:4]
    assert files_in(tmp_path) == {"all.tar"}  # what the killed ones left is gone


@NEEDS_FORK
@pytest.mark.slow
@pytest.mark.fault("D09")
def test_a_killed_restore_leaves_a_cache_that_is_right_and_the_next_one_completes_it(
    world: World, stored: Stored, tmp_path: Path
) -> None:
    rng, partly = random.Random(4), 0
    for number in range(max(5, round(25 * FAULT_RUNS))):
        folder = tmp_path / f"cache{number}"
        assert killed_at(folder, "restore", stored.backup, 3 * number + rng.randrange(3))
        with fetcher_on(world, folder) as fetcher:
            assert fetcher.cache.verify().damaged == ()
            report = fetcher.cache.restore(stored.backup)
            partly += 0 < report.stored < report.entries
            assert_equal(answers_of(fetcher), stored.answers)
        shutil.rmtree(folder)
    assert partly


def test_a_backup_that_is_ended_by_close_leaves_nothing_behind(
    world: World, stored: Stored, tmp_path: Path, monkeypatch: Any
) -> None:
    loading, stopping = Snapshot.load_many, threading.Event()

    def slow(self: Snapshot, keys: Any) -> dict[str, bytes]:
        stopping.set()
        time.sleep(0.02)
        return loading(self, keys)

    monkeypatch.setattr(Snapshot, "load_many", slow)
    fetcher = fetcher_on(world, stored.folder)
    errors: list[BaseException] = []

    def save() -> None:
        try:
            fetcher.cache.backup(tmp_path / "x.tar")
        except CandleFetcherError as error:
            errors.append(error)

    thread = threading.Thread(target=save)
    thread.start()
    assert stopping.wait(30)
    fetcher.close()
    thread.join(30)
    assert [str(error) for error in errors if "closed" in str(error)]
    wait_until(lambda: files_in(tmp_path) == set())


# -- a disk that is full ----------------------------------------------------------------------------------------------


@pytest.mark.fault("D11")
@pytest.mark.slow
def test_a_full_disk_is_a_clear_error_and_the_same_call_completes_the_restore(
    world: World, stored: Stored, tmp_path: Path, monkeypatch: Any
) -> None:
    from candle_fetcher.store.database import Database

    saving, calls = Database.save, []

    def full(self: Database, *words: Any, **more: Any) -> None:
        calls.append(words[0])
        if len(calls) > 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saving(self, *words, **more)

    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        patch.setattr(Database, "save", full)
        with (
            fetcher_on(world, tmp_path / "cache") as fetcher,
            pytest.raises(CacheError, match="No space left") as error,
        ):
            fetcher.cache.restore(stored.backup)
    assert "not restored completely" in str(error.value)
    with fetcher_on(world, tmp_path / "cache") as fetcher:
        report = fetcher.cache.restore(stored.backup)
        assert 0 < report.stored < report.entries
        assert_equal(answers_of(fetcher), stored.answers)


# -- the command line -------------------------------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_line_saves_restores_and_lists(
    stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into, target = ("--cache-dir", tmp_path / "cache"), tmp_path / "x.tar"
    code, out, _ = command(capsys, "cache", "backup", target, "--cache-dir", stored.folder)
    assert code == 0
    assert out.splitlines() == [out.strip()]
    assert out.startswith(f"{target}: {stored.report.series} series, {stored.report.candles:,} candles, ")
    code, out, _ = command(capsys, "cache", "restore", target, *into)
    assert code == 0
    assert out.strip().endswith(f"{stored.report.candles:,} candles, {stored.report.candles:,} new")
    code, out, _ = command(capsys, "cache", "restore", target, *into, "--json")
    assert json.loads(out)["added"] == 0
    code, out, _ = command(capsys, "cache", "list", *into, "--json")
    assert {row["provider"] for row in json.loads(out)} == {"binance", "binance-um", "kraken", "alpaca"}
    assert command(capsys, "cache", "list", *into)[1].count("\n") == 1 + stored.report.series


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("backup",), "a file is missing"),
        (("restore",), "a file is missing"),
        (("backup", "a.tar", "b.tar"), "takes one file"),
        (("restore", "a.tar", "--kind", "mark"), "takes one file"),
        (("backup", "a.csv"), "ends in .tar"),
    ],
)
def test_wrong_words_are_wrong_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    code, _, err = command(capsys, "cache", *words, "--cache-dir", tmp_path)
    assert code == 2
    assert said in err


def test_a_damaged_backup_is_an_error_without_a_traceback(
    small: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(small[:-1])
    code, out, err = command(capsys, "cache", "restore", path, "--cache-dir", tmp_path / "cache")
    assert (code, out) == (1, "")
    assert err.startswith("error: x.tar is damaged or incomplete")
    assert "Traceback" not in err


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal of POSIX")
def test_the_list_lines_up_within_eighty_columns(world: World, stored: Stored, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("candle_fetcher.cli.tables.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = command(capsys, "cache", "list", "--cache-dir", stored.folder)
    lines = out.splitlines()
    assert code == 0
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines[1:] if not line.startswith(" ") and " of all: " not in line]
    assert len(rows) == stored.report.series
    assert lines[0].split()[:4] == ["provider", "symbol", "timeframe", "kind"]
    first = lines[0].index("first")
    assert all(row[first : first + 3] == "201" or row[first : first + 3] == "202" for row in rows)
