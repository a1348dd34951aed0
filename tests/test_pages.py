"""Pages: runs of 32 settled chunks in files of columns beside the database.

What lies in pages answers as what lies in the database does, bit for bit; what is damaged, cut off, evicted, replaced
or written by an older version is asked for again; and nothing wrong is ever served.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
import threading
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import children
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import FAULT_RUNS
from world import World, ms, same

from candle_fetcher import CacheWarning, CandleCache, CandleFetcher, IncompleteData
from candle_fetcher.core.candles import OHLCV, Candles, candles_from, join, part_of_one_block
from candle_fetcher.core.entry import Entry, Hole, HoleState, pack
from candle_fetcher.core.merging import Merged
from candle_fetcher.core.page import PAGE_CHUNKS, Page, PageFile, pack_page, unpack_page
from candle_fetcher.core.plan import chunk_of, chunk_span
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.practice import damage
from candle_fetcher.store import DiskTier, MemoryTier, Store

MINUTE = parse_timeframe("1m")
FIRST = -(-chunk_of(MINUTE, ms("2024-03-01")) // PAGE_CHUNKS) * PAGE_CHUNKS  # the first chunk of a page
TAIL = 3  # chunks after the last page, which lie in the database
CHUNKS = range(FIRST, FIRST + 2 * PAGE_CHUNKS + TAIL)
CHUNK_MS = 60_000 * 1000


def span_of(first: int, stop: int) -> tuple[int, int]:
    """Unix ms of chunks, counted from FIRST."""
    return chunk_span(MINUTE, FIRST + first).start_ms, chunk_span(MINUTE, FIRST + stop).start_ms


SPAN = span_of(0, len(CHUNKS))
PAGE_SPAN = span_of(0, PAGE_CHUNKS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for all tests: what a test changes in it, it changes back."""
    with World(tmp_path_factory.mktemp("pages") / "unused", weight_limit=10**9) as made:
        yield made


@pytest.fixture(scope="module")
def filled(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of SPAN: two pages, and the rest in the database."""
    folder = tmp_path_factory.mktemp("filled") / "cache"
    with world.fetcher(cache_dir=folder, source="rest") as fetcher:
        fetcher.fetch("BTC/USDT", "1m", *SPAN)
    Folder(folder).unpage()
    with world.fetcher(cache_dir=folder) as fetcher:
        assert fetcher.cache.compact().chunks == 2 * PAGE_CHUNKS
    assert len(page_files(folder)) == 2
    assert len(Folder(folder).rows()) == TAIL
    return folder


@pytest.fixture
def folder(filled: Path, tmp_path: Path) -> Path:
    """A copy of the filled folder."""
    return Path(shutil.copytree(filled, tmp_path / "cache"))


def page_files(folder: Path) -> list[Path]:
    """The files of pages, in no order."""
    return list((folder / "pages").glob("*.page"))


def real_bytes(folder: Path) -> int:
    """The bytes of all candles in a cache folder as the file system has them."""
    files = [folder / "cache.db", folder / "cache.db-wal", *(folder / "pages").glob("*")]
    return sum(path.stat().st_size for path in files if path.exists())


class Folder:
    """What the database in a cache folder says, read and changed as another program would."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def query(self, sql: str, *values: object) -> list[Any]:
        con = sqlite3.connect(self.path / "cache.db", isolation_level=None)
        try:
            return con.execute(sql, values).fetchall()
        finally:
            con.close()

    def heads(self) -> dict[str, Page]:
        """The heads of pages, by key."""
        found = self.query("SELECT key, value FROM Cache WHERE key GLOB '*|page|*' ORDER BY key")
        return {key: page for key, value in found if (page := unpack_page(key, value)) is not None}

    def rows(self) -> dict[str, bytes]:
        """The values of the chunks that lie in the database, by key."""
        found = self.query("SELECT key, value FROM Cache ORDER BY key")
        return {key: value for key, value in found if key.split("|")[-1].isdigit() and not key.split("|")[-2]}

    def file_of(self, number: int) -> Path:
        """The first file of the page of that number, counted from the first."""
        return self.path / "pages" / f"{list(self.heads().values())[number].files[0].name}.page"

    def entry_of(self, key: str, chunk: int) -> Entry:
        """The entry of a chunk that lies in a page."""
        page = self.heads()[key]
        file = page.files[page.chunks[chunk].file]
        block = np.fromfile(self.path / "pages" / f"{file.name}.page", "<i8").reshape(len(file.names), file.rows)
        return page.entry(chunk, Candles(file.names, block))

    def copy_out(self, chunks: Collection[int] = CHUNKS) -> None:
        """Store chunks of pages as an older version does, which knows of no pages: a chunk then lies in both places."""
        for key, page in self.heads().items():
            for chunk in page.chunks.keys() & set(chunks):
                own = f"{key.rpartition('|page|')[0]}|{chunk}"
                self.put(own, pack(own, self.entry_of(key, chunk)))

    def unpage(self, chunks: Collection[int] = CHUNKS) -> None:
        """Have chunks of pages lie in the database in place of their pages."""
        self.copy_out(chunks)
        for key, page in self.heads().items():
            left = page.without(chunks)
            for file in set(page.files).difference(left.files):
                (self.path / "pages" / f"{file.name}.page").unlink()
            names = ",".join(file.name for file in left.files)
            if left.chunks:
                edit = "UPDATE Cache SET value = ?, tag = ?, size = ? WHERE key = ?"
                self.query(edit, pack_page(key, left), names, left.size_bytes, key)
            else:
                self.query("DELETE FROM Cache WHERE key = ?", key)

    def put(self, key: str, value: bytes) -> None:
        """Store a value as an older version does, which knows of no files."""
        self.query(
            "INSERT INTO Cache(key, raw, store_time, access_time, access_count, size, mode, value)"
            " VALUES (?, 1, strftime('%s','now') + 0.5, 0.0, 0, 0, 1, ?)"
            " ON CONFLICT(key, raw) DO UPDATE SET value = excluded.value, store_time = excluded.store_time",
            key,
            value,
        )


def fetch(fetcher: CandleFetcher, span: tuple[int, int] = SPAN, **more: Any) -> pd.DataFrame:
    return fetcher.fetch("BTC/USDT", "1m", *span, **more)


def truth(world: World, span: tuple[int, int] = SPAN) -> Any:
    return world.exchange.truth("binance", "BTCUSDT", "1m", *span)


def check(world: World, folder: Path, span: tuple[int, int] = SPAN, **settings: Any) -> list[dict[str, str]]:
    """A new fetcher gives the truth, once more from what it holds, and a second one asks for nothing; the cache is
    whole. Return what the first one asked for."""
    settings = {"cache_dir": folder, "source": "rest", **settings}
    asked_now(world)
    with world.fetcher(**settings) as fetcher:
        same(fetch(fetcher, span, columns="all"), truth(world, span))
        asked = asked_now(world)
        same(fetch(fetcher, span), truth(world, span))
    with world.fetcher(**settings) as fetcher:
        same(fetch(fetcher, span), truth(world, span))
        same(fetch(fetcher, span, columns="all"), truth(world, span))
        assert fetcher.cache.verify().damaged == ()
    assert asked_now(world) == []
    return asked


def asked_now(world: World) -> list[dict[str, str]]:
    """What was asked for since the last look, but for what a killed process had sent, which may be answered late."""
    found = [one for one in world.exchange.requests if "killed" not in one.headers["user-agent"]]
    world.exchange.clear_log()
    return [one.params for one in found if "klines" in one.path]


@contextmanager
def restated(world: World, open_ms: int, **fields: float) -> Iterator[None]:
    """The provider has other values of a candle for the time being."""
    before = truth(world, (open_ms, open_ms + 60_000))
    world.exchange.restate("binance", "BTCUSDT", "1m", open_ms, **fields)
    try:
        yield
    finally:
        was = {name: float(before[name][0]) for name in fields}
        world.exchange.restate("binance", "BTCUSDT", "1m", open_ms, **was)


@contextmanager
def warned(*texts: str) -> Iterator[None]:
    """The body gives exactly those CacheWarnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    messages = [str(one.message) for one in said]
    assert len(messages) == len(texts), messages
    for one, text in zip(said, texts, strict=True):
        assert one.category is CacheWarning
        assert text in str(one.message)


# -- a chunk lies in one place --------------------------------------------------------------------------------------


@pytest.mark.slow(keep=("ohlcv",))
@pytest.mark.parametrize("columns", ["ohlcv", "all"])
def test_of_a_chunk_that_lies_in_both_places_the_database_counts_and_the_page_loses_it(
    world: World, folder: Path, columns: str
) -> None:
    """An older version asked for it again, found another value, and stored that in the database."""
    chunk = CHUNKS[17]
    (key, _), cache = next(iter(Folder(folder).heads().items())), Folder(folder)
    with restated(world, span_of(17, 18)[0], volume=12.5):
        cache.copy_out([chunk])
        own = f"{key.rpartition('|page|')[0]}|{chunk}"
        entry = cache.entry_of(key, chunk)
        block = entry.candles.block.copy()
        block[entry.candles.names.index("volume"), 0] = np.float64(12.5).view(np.int64)
        cache.put(own, pack(own, entry._replace(candles=Candles(entry.candles.names, block))))
        with world.fetcher(cache_dir=folder, source="cache") as fetcher:
            same(fetch(fetcher, columns=columns), truth(world))
        assert chunk not in cache.heads()[key].chunks
        cache.query("DELETE FROM Cache WHERE key = ?", own)  # as an eviction does
        assert len(check(world, folder)) == 1


def test_a_copy_in_the_database_that_is_damaged_is_not_replaced_by_an_older_one_in_the_page(
    world: World, folder: Path
) -> None:
    chunk = CHUNKS[17]
    (key, _), cache = next(iter(Folder(folder).heads().items())), Folder(folder)
    with restated(world, span_of(17, 18)[0], volume=12.5):
        cache.put(f"{key.rpartition('|page|')[0]}|{chunk}", b"no entry")
        with warned("cut or changed"), world.fetcher(cache_dir=folder, source="rest") as fetcher:
            same(fetch(fetcher), truth(world))
        assert check(world, folder) == []


def test_compact_takes_the_copy_in_the_database_for_the_page(world: World, folder: Path) -> None:
    cache = Folder(folder)
    cache.copy_out(CHUNKS[:3])
    cache.copy_out(CHUNKS[40:52])
    with world.fetcher(cache_dir=folder) as fetcher:
        assert fetcher.cache.compact().chunks == 3 + 12
    assert len(cache.rows()) == TAIL
    assert check(world, folder) == []


def test_chunks_that_are_written_into_a_page_leave_no_older_copy_in_the_database(world: World, folder: Path) -> None:
    Folder(folder).unpage(CHUNKS[10:PAGE_CHUNKS])
    with restated(world, span_of(17, 18)[0], volume=12.5):
        with world.fetcher(cache_dir=folder, source="rest") as fetcher:
            fetch(fetcher, span_of(17, 18), refresh=True)
        assert len(Folder(folder).rows()) == TAIL
        assert check(world, folder) == []


# -- the same bits ----------------------------------------------------------------------------------------------------

HIDDEN = [span_of(3, 5), (span_of(9, 10)[0] + 60_000 * 400, span_of(9, 10)[0] + 60_000 * 407), span_of(31, 33)]


@pytest.fixture(scope="module")
def both(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders with ETH/USDT, with holes and with candles of a file without a checksum: in the first all chunks lie
    in the database, in the second in pages."""
    apart = tmp_path_factory.mktemp("both") / "apart"
    month = "ETHUSDT-1m-2024-03"
    world.exchange.archive.spoil(month, damage.missing_checksum())
    for span in HIDDEN:
        world.exchange.hide("binance", "ETHUSDT", span)
    with world.fetcher(cache_dir=apart) as fetcher:
        fetcher.fetch("ETH/USDT", "1m", *SPAN)
    Folder(apart).unpage()
    paged = apart.with_name("paged")
    shutil.copytree(apart, paged)
    with world.fetcher(cache_dir=paged) as fetcher:
        assert fetcher.cache.compact().chunks == 2 * PAGE_CHUNKS
    world.asked()
    assert not Folder(apart).heads()
    assert len(Folder(paged).rows()) == TAIL
    return apart, paged


def answer(fetcher: CandleFetcher, span: tuple[int, int], columns: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    frame = fetcher.fetch("ETH/USDT", "1m", *span, columns=columns, source="cache")
    manifest = dict(frame.attrs["candle_fetcher"])
    return frame, {name: manifest[name] for name in manifest.keys() - {"sources", "fetched_at", "as_of"}}


SPANS = {
    "all": SPAN,
    "a page": PAGE_SPAN,
    "parts of both pages": (span_of(30, 31)[0] + 60_000 * 250, span_of(35, 36)[0] + 60_000 * 3),
    "a hole and its edges": (HIDDEN[1][0] - 60_000, HIDDEN[1][1] + 60_000),
    "in a hole": (HIDDEN[1][0], HIDDEN[1][1]),
    "one candle": (span_of(63, 64)[1] - 60_000, span_of(63, 64)[1]),
    "from the last page into the database": (span_of(63, 64)[1] - 60_000, span_of(64, 65)[0] + 60_000),
    "the database alone": span_of(65, 66),
    "far apart from any border": (SPAN[0] + 60_000 * 1234, SPAN[1] - 60_000 * 777),
}


@pytest.mark.slow(every=4)
@pytest.mark.parametrize("memory", [0, "64MB", "1GB"])
@pytest.mark.parametrize("what", SPANS)
def test_pages_answer_as_the_database_does(world: World, both: tuple[Path, Path], what: str, memory: Any) -> None:
    apart, paged = both
    settings = {"memory_cache_size": memory}
    with world.fetcher(cache_dir=apart, **settings) as one, world.fetcher(cache_dir=paged, **settings) as other:
        for columns in ("ohlcv", "all", "all", "ohlcv"):  # out of memory too, after fewer columns were read
            ours, manifest = answer(other, SPANS[what], columns)
            theirs, their_manifest = answer(one, SPANS[what], columns)
            pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
            assert manifest == their_manifest
    assert not world.asked()


def test_pages_keep_what_is_known_of_holes_and_of_files_without_a_checksum(
    world: World, both: tuple[Path, Path]
) -> None:
    tables = []
    for folder in both:
        with world.fetcher(cache_dir=folder, source="cache") as fetcher:
            frame, manifest = answer(fetcher, SPAN, "all")
            assert manifest["unverified"]
            tables.append((fetcher.coverage("ETH/USDT", "1m", *SPAN), fetcher.gaps("ETH/USDT", "1m", *SPAN)))
            assert len(tables[-1][1]) == len(HIDDEN)
            assert len(frame) == len(CHUNKS) * 1000 - 2000 - 7 - 2000
    for one, other in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("rows", [PAGE_CHUNKS * 1000, 50_000])
def test_an_answer_in_parts_ends_them_where_pages_end(world: World, folder: Path, rows: int) -> None:
    """So that the chunks of a page come together, and are written into one file."""
    start_ms, end_ms = span_of(5, len(CHUNKS))
    with world.fetcher(cache_dir=folder, source="cache") as fetcher:
        frames = list(fetcher.iter_frames("BTC/USDT", "1m", start_ms, end_ms, rows=rows))
    assert max(map(len, frames)) <= rows
    assert sum(map(len, frames)) == (end_ms - start_ms) // 60_000
    last_ms = [int(frame.index[-1].timestamp() * 1000) for frame in frames]
    assert [chunk_of(MINUTE, ms) % PAGE_CHUNKS for ms in last_ms[:-1]] == [PAGE_CHUNKS - 1] * 2


def test_a_hole_in_a_page_is_asked_for_again_when_its_answer_expires(
    world: World, both: tuple[Path, Path], tmp_path: Path
) -> None:
    """And what comes is merged with all of the columns, though only some were wanted."""
    folder, now_s = tmp_path / "cache", world.now_s
    shutil.copytree(both[1], folder)
    world.exchange.unhide("binance", "ETHUSDT", HIDDEN[1])
    world.exchange.clear_log()
    try:
        world.now_s += 40 * 86_400
        with world.fetcher(cache_dir=folder, source="rest") as fetcher:
            span = (HIDDEN[1][0] - 60_000 * 100, HIDDEN[1][1] + 60_000)
            same(fetcher.fetch("ETH/USDT", "1m", *span), world.exchange.truth("binance", "ETHUSDT", "1m", *span))
            same(
                fetcher.fetch("ETH/USDT", "1m", *span, columns="all"),
                world.exchange.truth("binance", "ETHUSDT", "1m", *span),
            )
            assert len(world.asked()) == 1
    finally:
        world.now_s = now_s
        world.exchange.hide("binance", "ETHUSDT", HIDDEN[1])


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("columns", ["ohlcv", "all"])
@pytest.mark.parametrize("span", [SPAN, span_of(0, 1), span_of(10, 60)], ids=["all", "a chunk", "many"])
@pytest.mark.parametrize("memory", [0, "2MB", "256MB"])
def test_a_frame_can_be_edited_without_a_change_of_what_is_kept(
    world: World, folder: Path, columns: str, span: tuple[int, int], memory: Any
) -> None:
    with world.fetcher(cache_dir=folder, source="cache", memory_cache_size=memory) as fetcher:
        for _ in range(2):
            frame = fetch(fetcher, span, columns=columns)
            frame.loc[frame.index[3], "close"] = -1.0
            frame["volume"] *= 2
            frame.iloc[5:9] = frame.iloc[0:4].to_numpy()
            same(fetch(fetcher, span, columns=columns), truth(world, span))
        same(fetch(fetcher, span, columns="all"), truth(world, span))


def test_a_short_frame_does_not_keep_the_page_that_it_was_read_with(world: World, folder: Path) -> None:
    with world.fetcher(cache_dir=folder, source="cache") as fetcher:
        frame = fetch(fetcher, (SPAN[0], SPAN[0] + 60_000 * 100))
        values = frame["close"].to_numpy()
        while isinstance(values.base, np.ndarray):
            values = values.base
        assert values.nbytes < 100_000


# -- damage -----------------------------------------------------------------------------------------------------------


def flipped(at: float) -> Callable[[Path], None]:
    """Flip a bit at that part of the file."""

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[min(int(at * len(data)), len(data) - 1)] ^= 16
        path.write_bytes(data)

    return flip


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put something else in the place of the file."""

    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


def elsewhere(path: Path) -> Path:
    return path.parents[2] / "elsewhere"


def link_to_itself(path: Path) -> None:
    """A link to a file with the right bytes."""
    path.rename(elsewhere(path))
    path.symlink_to(elsewhere(path))


def swapped(path: Path) -> None:
    """The bytes of the other page of the series."""
    (other,) = set(path.parent.glob("*.page")) - {path}
    path.write_bytes(other.read_bytes())


# What happens to a file of a page, and whether something that is not ours has its name afterwards.
DAMAGES: dict[str, Callable[[Path], object]] = {
    **{f"a flip at {at:.0%}": flipped(at) for at in (0.0, 0.02, 0.3, 0.5, 1.0)},
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a byte more": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "zeros at the end": lambda path: path.write_bytes(path.read_bytes()[:-99] + bytes(99)),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
    "a folder": replaced(Path.mkdir),
    "a pipe": replaced(os.mkfifo),
    "a link to the right bytes": link_to_itself,
    "a link to nothing": replaced(lambda path: path.symlink_to("nothing")),
    "another page": swapped,
}


@pytest.mark.slow(keep=("a flip at 50%", "missing"))
@pytest.mark.parametrize("what", DAMAGES)
def test_a_page_that_is_damaged_is_asked_for_again_with_one_warning(world: World, folder: Path, what: str) -> None:
    path = Folder(folder).file_of(0)
    DAMAGES[what](path)
    before = path.lstat().st_mode if path.is_symlink() or path.exists() else None
    with warned("cut or changed"):
        world.asked()
        with world.fetcher(cache_dir=folder, source="rest") as fetcher:
            same(fetch(fetcher, columns="all"), truth(world))
        assert len(world.asked()) == PAGE_CHUNKS
        assert check(world, folder) == []
    if before is not None and not stat.S_ISREG(before):
        assert path.lstat().st_mode == before  # it is not ours, and stays
        if elsewhere(path).exists():
            assert elsewhere(path).read_bytes()
    else:
        assert not path.exists()


@pytest.mark.slow(keep=("cut by a byte",))
@pytest.mark.parametrize("what", DAMAGES)
def test_verify_finds_a_page_that_is_damaged_and_drops_it(world: World, folder: Path, what: str) -> None:
    cache = Folder(folder)
    DAMAGES[what](cache.file_of(0))
    (key, _) = cache.heads()
    with world.fetcher(cache_dir=folder) as fetcher:
        assert fetcher.cache.verify().damaged == (key,)
        assert fetcher.cache.verify().damaged == ()
        assert list(cache.heads()) != [key]
    assert len(check(world, folder)) == PAGE_CHUNKS


@pytest.mark.slow(keep=("40",))
@pytest.mark.parametrize("at", [0, 4, 9, 20, 40, 120, 600, -1])
def test_a_head_that_is_damaged_is_asked_for_again_with_one_warning(world: World, folder: Path, at: int) -> None:
    cache = Folder(folder)
    ((key, value),) = cache.query("SELECT key, value FROM Cache WHERE key GLOB '*|page|*' ORDER BY key LIMIT 1")
    data = bytearray(value)
    data[at] ^= 1
    cache.query("UPDATE Cache SET value = ? WHERE key = ?", bytes(data), key)
    with warned("cut or changed"):
        assert len(check(world, folder)) == PAGE_CHUNKS
    assert len(page_files(folder)) >= 2


def folder_is_gone(pages: Path) -> None:
    shutil.rmtree(pages)


def folder_is_a_link(pages: Path) -> None:
    pages.rename(pages.parents[1] / "pages elsewhere")
    pages.symlink_to(pages.parents[1] / "pages elsewhere")


def folder_is_a_file(pages: Path) -> None:
    shutil.rmtree(pages)
    pages.write_text("mine")


@pytest.mark.slow(keep=("folder_is_a_link",))
@pytest.mark.parametrize("what", [folder_is_gone, folder_is_a_link, folder_is_a_file], ids=lambda what: what.__name__)
def test_a_folder_of_pages_that_is_not_there_costs_its_pages_and_nothing_else(
    world: World, folder: Path, what: Callable[[Path], None]
) -> None:
    pages = folder / "pages"
    what(pages)
    with warned("cut or changed"):
        assert len(check(world, folder)) == 2 * PAGE_CHUNKS
    if what is folder_is_a_link:
        assert pages.is_symlink()
        assert len(list((folder.parent / "pages elsewhere").iterdir())) == 2  # nothing is removed through a link
    if what is folder_is_a_file:
        assert pages.read_text() == "mine"


@pytest.mark.slow(keep=("EMFILE",))
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO], ids=errno.errorcode.get)
def test_a_page_that_cannot_be_read_now_is_a_miss_and_stays(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    opened = os.open

    def refuse(path: Any, *more: Any, **words: Any) -> int:
        if str(path).endswith(".page"):
            raise OSError(number, os.strerror(number), path)
        return opened(path, *more, **words)

    with world.fetcher(cache_dir=folder, source="cache") as fetcher:
        monkeypatch.setattr(os, "open", refuse)
        with warned(os.strerror(number)), pytest.raises(IncompleteData):
            fetch(fetcher)
        assert fetcher.cache.verify().damaged == ()
        monkeypatch.undo()
        same(fetch(fetcher, columns="all"), truth(world))


def test_a_head_that_says_what_cannot_be_is_damaged(world: World, folder: Path) -> None:
    cache = Folder(folder)
    key, page = next(iter(cache.heads().items()))
    strange = [
        page.files[0]._replace(name="../cache.db"),
        page.files[0]._replace(name=7),
        page.files[0]._replace(rows=2**40),
        page.files[0]._replace(rows=-1),
        page.files[0]._replace(rows=0.5),
        page.files[0]._replace(names=()),
        page.files[0]._replace(names=(*page.files[0].names[:-1], None)),
        page.files[0]._replace(checksums=()),
    ]
    for file in strange:
        cache.query("UPDATE Cache SET value = ? WHERE key = ?", pack_page(key, page._replace(files=(file,))), key)
        with world.fetcher(cache_dir=folder) as fetcher:
            assert fetcher.cache.verify().damaged == (key,), file
        cache.query("INSERT INTO Cache(key, raw, mode) VALUES (?, 1, 1)", key)
    cache.query("DELETE FROM Cache WHERE key = ?", key)
    assert len(check(world, folder)) == PAGE_CHUNKS


def test_keys_and_settings_of_pages_that_are_not_ours_are_passed_over(world: World, folder: Path) -> None:
    cache = Folder(folder)
    key = next(iter(cache.heads()))
    cache.put(f"{key.rpartition('|')[0]}|mine", b"1")
    cache.query("UPDATE Settings SET value = 'many' WHERE key = 'size'")
    with world.fetcher(cache_dir=folder, source="rest") as fetcher:
        assert fetcher.cache.list()["chunks"].tolist() == [len(CHUNKS)]
        assert fetcher.cache.stats().disk_bytes > 0
        fetch(fetcher, span_of(0, 1), refresh=True)
    cache.query("DELETE FROM Settings WHERE key = 'size'")
    cache.query("UPDATE Cache SET tag = x'ff00' WHERE key = ?", key)
    with world.fetcher(cache_dir=folder, source="rest") as fetcher:
        assert fetcher.cache.stats().disk_bytes > 0
        fetch(fetcher, span_of(0, 12), refresh=True)
        same(fetch(fetcher), truth(world))
        fetcher.cache.clear("BTC/USDT")


# -- parts of one block -----------------------------------------------------------------------------------------------


@given(
    st.integers(0, 12),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=4),
    st.booleans(),
)
def test_parts_of_a_block_are_joined_as_copies_of_them_are(
    rows: int, columns: int, cuts: list[tuple[int, int]], adjoin: bool
) -> None:
    names = ("open_time", "open", "high", "low", "close", "volume")
    block = np.arange(len(names) * rows, dtype=np.int64).reshape(len(names), rows)
    block.flags.writeable = False
    if adjoin:
        ends = sorted(min(stop, rows) for _, stop in cuts)
        cuts = list(zip([ends[0], *ends[:-1]], ends, strict=True))
    parts = [Candles(names[:columns], block[:columns, first:stop]) for first, stop in cuts]
    joined = join(parts)
    assert joined.names == names[:columns]
    expected = np.concatenate([part.block for part in parts], axis=1)
    assert joined.block.shape == expected.shape
    assert np.array_equal(joined.block, expected)


CHUNK_OF_PAGE = st.tuples(st.sampled_from([0, 1, 3]), st.sampled_from(["", "", "", "hole", "unverified", "gone"]))


@given(st.lists(CHUNK_OF_PAGE, min_size=1, max_size=6), st.integers(0, 5), st.integers(1, 6))
def test_chunks_in_one_entry_say_what_their_own_entries_say(
    chunks: list[tuple[int, str]], first: int, stop: int
) -> None:
    """Each chunk is (rows, what is said of it): a chunk that is gone lies in the file and is no chunk of the page."""
    names, entries, at = ("open_time", "open"), {}, 0
    block = np.arange(2 * sum(rows for rows, _ in chunks), dtype=np.int64).reshape(2, -1)
    for number, (rows, what) in enumerate(chunks):
        span = Span(number * 1000, (number + 1) * 1000)
        entries[number] = Entry(
            span,
            10_000 + number,
            (Hole(Span(span.start_ms, span.start_ms + 1), HoleState.CONFIRMED),) if what == "hole" else (),
            Candles(names, block[:, at : at + rows]),
            (span,) if what == "unverified" else (),
        )
        at += rows
    page = Page((), {}).added(PageFile("0" * 32, names, (0, 0), at), entries)
    page = page._replace(chunks={one: head for one, head in page.chunks.items() if chunks[one][1] != "gone"})
    wanted = [one for one in page.chunks if first <= one < stop]
    if not wanted:
        return
    apart = page.entries(wanted, Candles(names, block), together=False)
    assert all(apart[one].candles.equals(entries[one].candles) for one in wanted)
    found = page.entries(wanted, Candles(names, block), together=True)
    assert list(found) == wanted
    if wanted[-1] - wanted[0] >= len(wanted) or any(chunks[one][1] for one in wanted):
        assert [one._replace(candles=None) for one in found.values()] == [
            one._replace(candles=None) for one in apart.values()
        ]
        assert all(found[one].candles.equals(apart[one].candles) for one in wanted)
        return
    entry, last = found[wanted[0]], apart[wanted[-1]]
    assert all(one is entry for one in found.values())
    assert entry.candles.equals(join([apart[one].candles for one in wanted]))
    assert entry[:3] == (Span(wanted[0] * 1000, last.covered.end_ms), last.stored_ms, ())


# -- others at work in the same moment --------------------------------------------------------------------------------


@contextmanager
def at_first_open(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[], object], *, after: bool = False
) -> Iterator[None]:
    """Something happens when a file of a page is opened for the first time in the body, before it or `after` it."""
    opened, waiting = os.open, [work]
    lock = threading.Lock()

    def open_page(path: Any, *more: Any, **words: Any) -> int:
        if not str(path).endswith(".page"):
            return opened(path, *more, **words)
        fd = opened(path, *more, **words) if after else -1
        with lock:
            todo = [waiting.pop()] if waiting else []
        for one in todo:
            worker = threading.Thread(target=one)
            worker.start()
            worker.join()
        return fd if after else opened(path, *more, **words)

    monkeypatch.setattr(os, "open", open_page)
    yield
    monkeypatch.setattr(os, "open", opened)
    assert not waiting


def test_chunks_that_leave_their_pages_while_these_are_read_are_found(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.fetcher(cache_dir=folder, source="cache") as fetcher:
        with at_first_open(monkeypatch, Folder(folder).unpage):
            same(fetch(fetcher), truth(world))
        same(fetch(fetcher, columns="all"), truth(world))


def test_a_page_that_is_written_again_while_it_is_read_is_found(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_again() -> None:
        Folder(folder).unpage()
        with world.fetcher(cache_dir=folder) as other:
            assert other.cache.compact().chunks == 2 * PAGE_CHUNKS

    with world.fetcher(cache_dir=folder, source="cache") as fetcher:
        with at_first_open(monkeypatch, write_again):
            same(fetch(fetcher), truth(world))
        same(fetch(fetcher, columns="all"), truth(world))


def test_verify_drops_no_page_that_is_written_again_while_it_looks(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_again() -> None:
        Folder(folder).unpage()
        with world.fetcher(cache_dir=folder) as other:
            other.cache.compact()

    with world.fetcher(cache_dir=folder) as fetcher, at_first_open(monkeypatch, write_again):
        assert fetcher.cache.verify().damaged == ()
    assert check(world, folder) == []


@pytest.mark.slow(keep=("into the page",))
@pytest.mark.parametrize("chunks", [1, 12], ids=["into the database", "into the page"])
def test_what_was_read_before_a_refresh_is_not_kept_after_it(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    span = span_of(4, 4 + chunks)
    with restated(world, span[0], volume=12.5), world.fetcher(cache_dir=folder, source="rest") as fetcher:

        def refresh() -> None:
            fetch(fetcher, span, refresh=True)
            fetcher.cache.store.memory.drop_prefix(f"{next(iter(Folder(folder).rows())).rpartition('|')[0]}|2")

        with at_first_open(monkeypatch, refresh, after=True):
            fetch(fetcher, PAGE_SPAN)  # it began before the refresh
        same(fetch(fetcher, span_of(2, 20)), truth(world, span_of(2, 20)))
        assert check(world, folder) == []


def test_a_page_in_memory_has_no_chunk_that_an_older_version_stored_since(world: World, folder: Path) -> None:
    """It is seen when the page is read, though another chunk of it is asked for."""
    chunk, cache = CHUNKS[17], Folder(folder)
    key = next(iter(cache.heads()))
    with restated(world, span_of(17, 18)[0], volume=12.5):
        cache.copy_out([chunk])
        entry = cache.entry_of(key, chunk)
        block = entry.candles.block.copy()
        block[entry.candles.names.index("volume"), 0] = np.float64(12.5).view(np.int64)
        own = f"{key.rpartition('|page|')[0]}|{chunk}"
        cache.put(own, pack(own, entry._replace(candles=Candles(entry.candles.names, block))))
        with world.fetcher(cache_dir=folder, source="cache") as fetcher:
            fetch(fetcher, span_of(3, 4))
            same(fetch(fetcher), truth(world))


# -- room on the disk -------------------------------------------------------------------------------------------------


def known_files(folder: Path) -> set[str]:
    return {f"{file.name}.page" for page in Folder(folder).heads().values() for file in page.files}


@pytest.mark.slow(keep=("5",))
@pytest.mark.parametrize("bound", [1, 3, 5, 9])
def test_the_bound_of_the_disk_counts_the_files_of_pages(world: World, tmp_path: Path, bound: int) -> None:
    """After each fetch, refresh and compaction: no more than the bound, and no file without a page."""
    folder, most = tmp_path / "cache", bound * 1_000_000
    dice = random.Random(bound)
    settings = {"cache_dir": folder, "source": "rest", "disk_cache_size": most}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        for turn in range(12):
            with world.fetcher(**settings) as fetcher:
                first = dice.randrange(len(CHUNKS) - 12)
                span = span_of(first, first + dice.randrange(1, 12))
                same(fetch(fetcher, span, refresh=turn % 3 == 2), truth(world, span))
                if turn % 4 == 3:
                    fetcher.cache.compact()
            assert real_bytes(folder) <= most  # without the log, which is gone when nothing is at work
            assert {path.name for path in page_files(folder)} == known_files(folder)
        with world.fetcher(**settings) as fetcher:
            assert fetcher.cache.verify().damaged == ()
            stats = fetcher.cache.stats()
            assert stats.disk_bytes == real_bytes(folder) <= stats.disk_max_bytes


def test_a_file_waits_until_there_is_room_for_it(tmp_path: Path) -> None:
    """Each save evicts so many values at most: small ones do not make room for a file at once."""
    tier = DiskTier(tmp_path / "cache", 3_000_000)
    assert tier.save_many((f"{at:04d}", bytes(900)) for at in range(2500))
    saved: list[bool] = []
    with warned("is full"):
        while not any(saved):
            name = tier.files.write([memoryview(bytes(2_000_000))], syncs=False)
            saved.append(tier.save_with_files("page", b"head", [name], 2_000_000, name, 2_000_000))
            assert tier.stats().bytes < 3_000_000 + 300_000  # with the log
            assert [path.stem for path in (tmp_path / "cache" / "pages").iterdir()] == [name] * saved[-1]
            assert len(saved) < 60
    assert len(saved) > 1
    tier.close()


def test_a_bound_that_was_lowered_drops_pages_with_their_files(world: World, folder: Path) -> None:
    settings = {"cache_dir": folder, "source": "rest", "disk_cache_size": "4MB"}
    with warned("is full"), world.fetcher(**settings) as fetcher:
        for chunk in range(3):
            fetch(fetcher, span_of(70 + chunk, 71 + chunk))
        assert len(page_files(folder)) == 1
        assert real_bytes(folder) <= 4_400_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        check(world, folder)


def test_a_page_larger_than_the_bound_is_not_written_and_its_chunks_are(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    settings = {"cache_dir": folder, "source": "rest", "disk_cache_size": "500KB", "network_threads": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        with world.fetcher(**settings) as fetcher:
            same(fetch(fetcher, PAGE_SPAN), truth(world, PAGE_SPAN))
            assert fetcher.cache.compact().chunks == 0
        assert not page_files(folder)
        assert real_bytes(folder) < 650_000


# -- values that change -----------------------------------------------------------------------------------------------


@pytest.mark.slow(keep=("one chunk",))
@pytest.mark.parametrize("chunks", [1, 12], ids=["one chunk", "many"])
def test_a_value_that_changed_is_served_for_good_and_listed(world: World, folder: Path, chunks: int) -> None:
    span = span_of(4, 4 + chunks)
    with restated(world, span[0] + 60_000 * 7, close=0.125, low=0.125):
        with world.fetcher(cache_dir=folder, source="rest") as fetcher:
            fetch(fetcher)
            fetch(fetcher, span, refresh=True)
            same(fetch(fetcher), truth(world))
            assert sorted(fetcher.cache.revisions()["column"]) == ["close", "low"]
        assert check(world, folder) == []
        cache = Folder(folder)
        assert CHUNKS[4] not in next(iter(cache.heads().values())).chunks or chunks > 1
        # Rows leave by their age, and nothing older comes to light.
        for key in [key for key in cache.rows() if int(key.rpartition("|")[2]) < CHUNKS[PAGE_CHUNKS]]:
            cache.query("DELETE FROM Cache WHERE key = ?", key)
        assert len(check(world, folder)) == (1 if chunks == 1 else 0)
        with world.fetcher(cache_dir=folder) as fetcher:
            fetcher.cache.compact()
        assert check(world, folder) == []


def test_an_import_adds_to_pages_and_changes_nothing_in_them(world: World, folder: Path, tmp_path: Path) -> None:
    with world.fetcher(cache_dir=folder, source="cache") as fetcher:
        path = fetcher.export("BTC/USDT", "1m", *span_of(2, 6), path=tmp_path / "out")
    lines = path.read_text().splitlines()
    fields = lines[5].split(",")
    lines[5] = ",".join([*fields[:5], f"{float(fields[5]) + 1}", *fields[6:]])
    path.with_suffix(".json").unlink()
    other = path.with_name(path.name)
    other.write_text("\n".join(lines) + "\n")
    Folder(folder).query("DELETE FROM Cache WHERE key GLOB '*|page|*' AND key != ?", next(iter(Folder(folder).heads())))
    Folder(folder).unpage([CHUNKS[3]])
    Folder(folder).query("DELETE FROM Cache WHERE key GLOB ?", f"*|{CHUNKS[3]}")
    with world.fetcher(cache_dir=folder, source="rest") as fetcher:
        done = fetcher.cache.import_file(other, "BTC/USDT", "1m")
        assert (done.added, done.differing) == (1000, 1)
        same(fetch(fetcher, PAGE_SPAN), truth(world, PAGE_SPAN))
        assert fetcher.cache.revisions()["column"].tolist() == ["volume"]
        fetcher.cache.compact()
    with world.fetcher(cache_dir=folder, source="cache") as fetcher:
        same(fetch(fetcher, PAGE_SPAN), truth(world, PAGE_SPAN))
        assert fetcher.cache.verify().damaged == ()


# -- what is said of a cache ------------------------------------------------------------------------------------------


def test_what_is_said_of_a_cache_is_true_with_pages(world: World, folder: Path) -> None:
    apart = folder.with_name("apart")
    shutil.copytree(folder, apart)
    Folder(apart).unpage()
    with world.fetcher(cache_dir=folder) as paged, world.fetcher(cache_dir=apart) as rows:
        for ask in (
            lambda one: one.coverage("BTC/USDT", "1m", SPAN[0] - CHUNK_MS, SPAN[1] + CHUNK_MS),
            lambda one: one.cache.list().drop(columns="bytes"),
            lambda one: one.gaps("BTC/USDT", "1m", *SPAN),
            lambda one: one.cache.revisions(),
        ):
            pd.testing.assert_frame_equal(ask(paged), ask(rows))
        assert str(paged.plan("BTC/USDT", "1m", *SPAN)) == str(rows.plan("BTC/USDT", "1m", *SPAN))
        wide = SPAN[0] - CHUNK_MS, SPAN[1] + CHUNK_MS
        assert str(paged.plan("BTC/USDT", "1m", *wide)) == str(rows.plan("BTC/USDT", "1m", *wide))
        (row,) = paged.cache.list().to_dict("records")
        assert (row["chunks"], row["rows"]) == (len(CHUNKS), 1000 * len(CHUNKS))
        assert abs(row["bytes"] - 88_000 * len(CHUNKS)) < 20_000
        assert abs(paged.cache.stats().disk_bytes - real_bytes(folder)) < 20_000
        assert rows.cache.clear("BTC/USDT") - paged.cache.clear("BTC/USDT") == 2 * PAGE_CHUNKS - 2
        assert paged.cache.list().empty
        assert not page_files(folder)
        assert paged.cache.stats().disk_entries == 0


@pytest.mark.slow(keep=("series",))
@pytest.mark.parametrize("words", [(), ("BTC/USDT",), ("BTC/USDT", "1m")], ids=["all", "symbol", "series"])
def test_clear_leaves_nothing_of_pages(world: World, folder: Path, words: tuple[str, ...]) -> None:
    with world.fetcher(cache_dir=folder, source="rest") as fetcher:
        fetch(fetcher)
        assert fetcher.cache.clear(*words) > 0
        assert not page_files(folder)
        assert not list((folder / "pages").iterdir())
        world.asked()
        same(fetch(fetcher, span_of(0, 2)), truth(world, span_of(0, 2)))
        assert len(world.asked()) == 2


# -- versions and settings --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_cache_with_compression_reads_pages_and_writes_none(world: World, folder: Path) -> None:
    with world.fetcher(cache_dir=folder, source="cache", compression=True) as fetcher:
        same(fetch(fetcher), truth(world))
        assert fetcher.cache.verify().damaged == ()
        assert fetcher.cache.list()["chunks"].tolist() == [len(CHUNKS)]
    span = span_of(4, 20)
    with restated(world, span[0], volume=12.5):
        with world.fetcher(cache_dir=folder, source="rest", compression=True) as fetcher:
            same(fetch(fetcher, span, refresh=True), truth(world, span))
            assert fetcher.cache.compact().chunks == 0
        assert check(world, folder, compression=True) == []
        assert check(world, folder) == []
        assert len(Folder(folder).rows()) == 16 + TAIL


def test_what_a_newer_version_stored_in_place_of_a_page_stays(world: World, folder: Path) -> None:
    cache = Folder(folder)
    newer = {}
    for key, value in cache.query("SELECT key, value FROM Cache WHERE key GLOB '*|page|*'"):
        rest = bytearray(value[8:])
        rest[0] += 1
        newer[key] = value[:4] + struct.pack("<I", zlib.crc32(rest, zlib.crc32(key.encode()))) + bytes(rest)
        cache.query("UPDATE Cache SET value = ? WHERE key = ?", newer[key], key)
    with world.fetcher(cache_dir=folder, source="rest") as fetcher:
        same(fetch(fetcher), truth(world))
        fetcher.cache.compact()
        assert fetcher.cache.verify()[1:] == ((), 2)
    assert dict(cache.query("SELECT key, value FROM Cache WHERE key GLOB '*|page|*'")) == newer
    assert len(page_files(folder)) == 2


@pytest.mark.slow
def test_an_older_version_misses_pages_and_harms_nothing(world: World, folder: Path) -> None:
    """It stores what it asks for in the database, and deletes rows of pages when it needs room."""
    cache = Folder(folder)
    first, second = cache.heads()
    cache.copy_out(CHUNKS[:PAGE_CHUNKS])  # it asked for them again
    cache.query("DELETE FROM Cache WHERE key = ?", second)  # it made room; the file stays
    assert len(page_files(folder)) == 2
    asked = check(world, folder)
    assert len(asked) == PAGE_CHUNKS
    assert second in cache.heads() or len(cache.rows()) > PAGE_CHUNKS
    with world.fetcher(cache_dir=folder) as fetcher:
        fetcher.cache.compact()
    assert {path.name for path in page_files(folder)} == known_files(folder)
    assert check(world, folder) == []
    assert first in cache.heads()


# -- trouble in the middle of writing ---------------------------------------------------------------------------------


def refuse_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """No new file of a page can be made."""
    opened = os.open

    def refuse(path: Any, *more: Any, **words: Any) -> int:
        if str(path).endswith(".new"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return opened(path, *more, **words)

    monkeypatch.setattr(os, "open", refuse)


def cut_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file of a page can be made, and has no room for all of it."""

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > 500_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    def open_fd(fd: int, mode: str = "r", *more: Any, **words: Any) -> Any:
        return Full(fd, mode) if mode == "wb" else opened(fd, mode, *more, **words)

    opened = os.fdopen
    monkeypatch.setattr(os, "fdopen", open_fd)


@pytest.mark.parametrize("fails", [refuse_pages, cut_pages], ids=lambda fails: fails.__name__)
def test_chunks_whose_page_cannot_be_written_lie_in_the_database(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[[pytest.MonkeyPatch], None]
) -> None:
    folder, span = tmp_path / "cache", span_of(0, 12)
    fails(monkeypatch)
    with world.fetcher(cache_dir=folder, source="rest") as fetcher:
        same(fetch(fetcher, span), truth(world, span))
        assert fetcher.cache.compact().chunks == 0
    assert len(Folder(folder).rows()) == 12
    monkeypatch.undo()
    assert not list((folder / "pages").iterdir())
    assert check(world, folder, span) == []
    with world.fetcher(cache_dir=folder) as fetcher:
        assert fetcher.cache.compact().chunks == 12
    assert check(world, folder, span) == []


def test_a_refresh_that_cannot_write_its_page_leaves_no_older_value_in_it(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    span = span_of(4, 20)
    with restated(world, span[0], volume=12.5):
        refuse_pages(monkeypatch)
        with world.fetcher(cache_dir=folder, source="rest") as fetcher:
            same(fetch(fetcher, span, refresh=True), truth(world, span))
        monkeypatch.undo()
        assert check(world, folder) == []


@pytest.mark.slow
def test_a_locked_database_costs_the_writing_and_nothing_else(world: World, folder: Path) -> None:
    span = span_of(4, 20)
    other = sqlite3.connect(folder / "cache.db", isolation_level=None, check_same_thread=False)
    with restated(world, span[0], volume=12.5):
        other.execute("BEGIN IMMEDIATE")
        try:
            with warned("another program is writing"), world.fetcher(cache_dir=folder, source="rest") as fetcher:
                same(fetch(fetcher, span, refresh=True), truth(world, span))
                same(fetch(fetcher, span), truth(world, span))
                assert fetcher.cache.compact().chunks == 0
        finally:
            other.execute("ROLLBACK")
            other.close()
        assert {path.name for path in (folder / "pages").iterdir()} == known_files(folder)
        with world.fetcher(cache_dir=folder, source="rest") as fetcher:
            fetch(fetcher, span, refresh=True)
        assert check(world, folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("is_damaged", [False, True], ids=["whole", "damaged"])
def test_pages_in_a_folder_that_cannot_be_written_are_read(world: World, folder: Path, is_damaged: bool) -> None:
    if is_damaged:
        flipped(0.5)(Folder(folder).file_of(0))
    mount = ["mount", "--bind", "-o", "ro", folder, folder]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        world.asked()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)
            with world.fetcher(cache_dir=folder, source="rest") as fetcher:
                for _ in range(2):
                    same(fetch(fetcher, columns="all"), truth(world))
                assert len(world.asked()) == (PAGE_CHUNKS if is_damaged else 0)
                assert fetcher.cache.compact().chunks == 0
    finally:
        subprocess.run(["umount", folder], check=True)
    assert len(check(world, folder)) == (PAGE_CHUNKS if is_damaged else 0)


def test_a_database_that_fails_at_the_commit_has_what_it_had(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was published for the page is a leftover, and is swept."""
    Folder(folder).unpage()
    before = Folder(folder).rows()

    def fail(path: Any, target: Any) -> None:
        renamed(path, target)
        raise OSError(errno.EIO, os.strerror(errno.EIO), target)

    renamed = os.replace
    monkeypatch.setattr(os, "replace", fail)
    with warned(os.strerror(errno.EIO)), world.fetcher(cache_dir=folder) as fetcher:
        assert fetcher.cache.compact().chunks == 0
    monkeypatch.undo()
    assert Folder(folder).rows() == before
    assert page_files(folder)
    with world.fetcher(cache_dir=folder) as fetcher:
        fetcher.cache.verify()
        assert not page_files(folder)
    assert check(world, folder) == []


def test_leftovers_are_swept_and_what_is_not_ours_stays(world: World, folder: Path) -> None:
    pages, name = folder / "pages", "0123456789abcdef" * 2
    old = pages / f"{name}.new"
    (pages / f"{name}.page").write_bytes(b"1")  # of a process that was killed before its row was committed
    old.write_bytes(b"1")
    os.utime(old, (0, 0))
    young = pages / f"{name[::-1]}.new"
    young.write_bytes(b"1")  # of a process that may be at work
    mine = [pages / "notes.txt", pages / "notes.page", pages / f"{name}.csv"]
    for path in mine:
        path.write_bytes(b"1")
    with world.fetcher(cache_dir=folder, source="rest") as fetcher:
        fetch(fetcher, span_of(0, 12), refresh=True)
        fetcher.cache.compact()
    assert set(pages.iterdir()) == {pages / one for one in known_files(folder)} | {young, *mine}
    assert check(world, folder) == []


# -- anything in any order --------------------------------------------------------------------------------------------


class Random:
    """A cache folder under random operations, with the provider beside it."""

    def __init__(self, world: World, folder: Path, dice: random.Random) -> None:
        self.world, self.folder, self.dice = world, folder, dice
        self.settings: dict[str, Any] = {"cache_dir": folder, "source": "rest"}
        self.fetcher = world.fetcher(**self.settings)
        self.restored: list[tuple[int, float]] = []

    def span(self) -> tuple[int, int]:
        first = self.dice.randrange(len(CHUNKS) - 1)
        count = self.dice.choice((1, 2, 9, 20))
        start, end = span_of(first, min(first + count, len(CHUNKS)))
        return start + 60_000 * self.dice.randrange(400), end - 60_000 * self.dice.randrange(400)

    def fetch(self) -> None:
        span, columns = self.span(), self.dice.choice(("all", "ohlcv"))
        same(fetch(self.fetcher, span, columns=columns), truth(self.world, span))

    def refresh(self) -> None:
        span = self.span()
        same(fetch(self.fetcher, span, refresh=True), truth(self.world, span))

    def restate(self) -> None:
        """The provider changes a value, and the user asks for it again."""
        first = self.dice.randrange(len(CHUNKS))
        count = self.dice.choice((1, 10))
        span = span_of(first, min(first + count, len(CHUNKS)))
        open_ms = span[0] + 60_000 * self.dice.randrange(1000)
        self.restored.append((open_ms, float(truth(self.world, (open_ms, open_ms + 60_000))["volume"][0])))
        self.world.exchange.restate("binance", "BTCUSDT", "1m", open_ms, volume=self.dice.uniform(1, 99))
        same(fetch(self.fetcher, span, refresh=True), truth(self.world, span))

    def compact(self) -> None:
        self.fetcher.cache.compact()

    def reopen(self) -> None:
        self.fetcher.close()
        memory, compression = self.dice.choice((0, "3MB", "256MB")), self.dice.random() < 0.2
        bound = self.dice.choice(("2MB", "5MB", "10GB", "10GB"))
        self.settings |= {"memory_cache_size": memory, "disk_cache_size": bound, "compression": compression}
        self.fetcher = self.world.fetcher(**self.settings)

    def damage(self) -> None:
        files = [*page_files(self.folder)]
        if files:
            path = self.dice.choice(sorted(files))
            self.dice.choice([flipped(self.dice.random()), DAMAGES["cut by a byte"], DAMAGES["missing"]])(path)

    def evict(self) -> None:
        """A row leaves, as it does for another program that makes room."""
        cache = Folder(self.folder)
        rows = [*cache.rows(), *cache.heads()]
        if rows:
            cache.query("DELETE FROM Cache WHERE key = ?", self.dice.choice(rows))

    def downgrade(self) -> None:
        """An older version asked for some chunks again."""
        first = self.dice.randrange(len(CHUNKS))
        with contextlib.suppress(OSError, ValueError, KeyError):  # it is damaged, or has just been replaced
            cache = Folder(self.folder)
            for key, page in cache.heads().items():
                for chunk in page.chunks.keys() & set(CHUNKS[first : first + 5]):
                    entry, file = cache.entry_of(key, chunk), page.files[page.chunks[chunk].file]
                    if (self.folder / "pages" / f"{file.name}.page").stat().st_size != file.size_bytes:
                        continue
                    own = f"{key.rpartition('|page|')[0]}|{chunk}"
                    span = chunk_span(MINUTE, chunk)
                    now = truth(self.world, (span.start_ms, span.end_ms))
                    block = entry.candles.block.copy()
                    for name in entry.candles.names:
                        block[entry.candles.names.index(name)] = now[name].view(np.int64)
                    cache.put(own, pack(own, entry._replace(candles=Candles(entry.candles.names, block))))

    def clear(self) -> None:
        self.fetcher.cache.clear(*self.dice.choice([(), ("BTC/USDT",)]))

    def verify(self) -> None:
        self.fetcher.cache.verify()
        assert self.fetcher.cache.verify().damaged == ()

    def run(self, steps: int) -> None:
        often = [self.fetch] * 6 + [self.refresh, self.restate, self.compact, self.reopen, self.damage]
        often += [self.evict, self.downgrade, self.verify]
        try:
            for step in range(steps):
                work = self.dice.choice([*often, self.clear] if step % 8 == 7 else often)
                work()
            self.reopen()
            same(fetch(self.fetcher, columns="all"), truth(self.world))
            self.verify()
            assert {path.name for path in page_files(self.folder)} == known_files(self.folder)
        finally:
            self.fetcher.close()
            for open_ms, volume in reversed(self.restored):
                self.world.exchange.restate("binance", "BTCUSDT", "1m", open_ms, volume=volume)


def run_random(world: World, filled: Path, tmp_path: Path, seed: int, steps: int) -> None:
    folder = tmp_path / f"cache {seed}"
    shutil.copytree(filled, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        Random(world, folder, random.Random(seed)).run(steps)
    shutil.rmtree(folder)


@pytest.mark.slow(keep=("0",))
@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_to_a_cache_every_answer_is_what_the_provider_has(
    world: World, filled: Path, tmp_path: Path, seed: int
) -> None:
    run_random(world, filled, tmp_path, seed, 25)


@pytest.mark.long
def test_whatever_happens_to_many_caches_every_answer_is_what_the_provider_has(
    world: World, filled: Path, tmp_path: Path, record_property: Any
) -> None:
    count = round(500 * FAULT_RUNS)
    for seed in range(100, 100 + count):
        run_random(world, filled, tmp_path, seed, 40)
    record_property("runs", count)


# -- processes that are killed ----------------------------------------------------------------------------------------

KILLED = """
    import json, os, signal, sys, warnings
    from candle_fetcher import CandleFetcher
    from candle_fetcher.fetcher import runtime
    from candle_fetcher.store.database import Database

    runtime.__version__ = "killed"  # so that the exchange can tell whose requests are whose
    job, warnings.filters[:] = json.loads(sys.argv[1]), []
    warnings.simplefilter("ignore")
    left = job["steps"]

    def step():
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def stepping(call, is_step):
        def called(*words, **more):
            if not is_step(words[0]):
                return call(*words, **more)
            step()
            done = call(*words, **more)
            step()
            return done
        return called

    for name in ("open", "replace", "unlink"):
        setattr(os, name, stepping(getattr(os, name), lambda path: f"{os.sep}pages{os.sep}" in str(path)))
    for name in ("fsync", "fdopen"):
        setattr(os, name, stepping(getattr(os, name), lambda fd: True))
    Database.end = stepping(Database.end, lambda database: True)
    with CandleFetcher(**job["settings"], clock=lambda: job["now_s"], progress=False) as fetcher:
        for call in job["calls"]:
            if call[0] == "fetch":
                fetcher.fetch("BTC/USDT", "1m", *call[1], **call[2])
            else:
                getattr(fetcher.cache, call[0])()
"""


def unpaged(folder: Path) -> None:
    Folder(folder).unpage()


def scattered(folder: Path) -> None:
    Folder(folder).unpage([*CHUNKS[::3], *CHUNKS[20:60:2]])


def as_it_is(folder: Path) -> None:
    """Two pages and the rest."""


# What is prepared and done, and how much is missing afterwards, at most.
KILLS: dict[str, tuple[Callable[[Path], None], list[Any], dict[str, Any], int]] = {
    "compact": (unpaged, [["compact"]], {}, 0),
    "compact into pages": (scattered, [["compact"]], {}, 0),
    "refresh": (as_it_is, [["fetch", span_of(4, 20), {"refresh": True}]], {}, 0),
    "refresh a chunk": (as_it_is, [["fetch", span_of(4, 5), {"refresh": True}]], {}, 0),
    "clear": (as_it_is, [["clear"]], {}, len(CHUNKS)),
    "evict": (as_it_is, [["fetch", span_of(70, 80), {}]], {"disk_cache_size": "4MB"}, len(CHUNKS)),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")
@pytest.mark.slow
@pytest.mark.fault("D09", "F01")
@pytest.mark.parametrize("what", KILLS)
def test_a_process_that_is_killed_at_any_step_of_a_page_loses_nothing_that_was_stored(
    world: World, filled: Path, tmp_path: Path, what: str
) -> None:
    prepare, calls, more, missing = KILLS[what]
    codes = []
    while not codes or codes[-1]:
        folder = tmp_path / f"cache {len(codes)}"
        shutil.copytree(filled, folder)
        prepare(folder)
        settings = {"base_urls": world.exchange.base_urls, "cache_dir": str(folder), "source": "rest", **more}
        job = {"settings": settings, "steps": len(codes), "calls": calls, "now_s": world.now_s}
        code, _, err = children.run(KILLED, json.dumps(job))
        assert code in (0, -signal.SIGKILL), err
        codes.append(code)
        assert len(check(world, folder)) <= missing
        with world.fetcher(cache_dir=folder) as fetcher:
            fetcher.cache.compact()
        left = {path.name for path in (folder / "pages").iterdir()} - known_files(folder)
        assert len(left) <= 1
        assert all(name.endswith(".new") for name in left)
        for name in left:
            os.utime(folder / "pages" / name, (0, 0))
        assert check(world, folder) == []
        shutil.rmtree(folder)
    assert len(codes) > 4


# -- at once ----------------------------------------------------------------------------------------------------------

AT_ONCE = """
    import json, random, sys, warnings
    from candle_fetcher import CandleFetcher

    job = json.loads(sys.argv[1])
    warnings.filters[:] = []
    warnings.simplefilter("ignore")
    dice = random.Random(job["seed"])
    with CandleFetcher(**job["settings"], clock=lambda: job["now_s"], progress=False) as fetcher:
        for turn in range(job["turns"]):
            first = dice.randrange(job["chunks"] - 1)
            last = min(first + dice.choice((1, 3, 12, 40)), job["chunks"])
            span = job["start"] + first * 60_000_000, job["start"] + last * 60_000_000
            what = dice.choice(job["works"])
            if what in ("fetch", "refresh"):
                frame = fetcher.fetch("BTC/USDT", "1m", *span, refresh=what == "refresh", columns="all")
                print(*span, float(frame["close"].sum()), float(frame["volume"].sum()), len(frame), flush=True)
            else:
                getattr(fetcher.cache, what)()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a nest of programs")
@pytest.mark.slow
@pytest.mark.fault("D16")
@pytest.mark.parametrize("works", ["fetch refresh compact", "fetch fetch refresh compact clear verify"])
def test_processes_that_write_the_same_pages_at_once_serve_the_truth(
    world: World, filled: Path, tmp_path: Path, works: str
) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(filled, folder)
    Folder(folder).unpage(CHUNKS[::2])
    settings = {"base_urls": world.exchange.base_urls, "cache_dir": str(folder), "source": "rest"}
    job = {"settings": settings, "now_s": world.now_s, "chunks": len(CHUNKS), "start": SPAN[0], "turns": 25}
    programs = [children.start(AT_ONCE, json.dumps({**job, "seed": seed, "works": works.split()})) for seed in range(4)]
    whole = truth(world)
    for program in programs:
        out, err = program.communicate(timeout=120)
        assert (program.returncode, err) == (0, "")
        for line in out.splitlines():
            start, end, close, volume, rows = (float(word) for word in line.split())
            rows_of = slice(*np.searchsorted(whole["open_time"], (start, end)))
            assert rows == rows_of.stop - rows_of.start
            assert (close, volume) == pytest.approx((whole["close"][rows_of].sum(), whole["volume"][rows_of].sum()))
    check(world, folder)
    with world.fetcher(cache_dir=folder) as fetcher:
        fetcher.cache.compact()
    assert {path.name for path in page_files(folder)} == known_files(folder)
    assert check(world, folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("memory", [0, "3MB", "256MB"])
def test_threads_that_write_the_same_pages_at_once_serve_the_truth(world: World, folder: Path, memory: Any) -> None:
    Folder(folder).unpage(CHUNKS[::2])
    with world.fetcher(cache_dir=folder, source="rest", memory_cache_size=memory) as fetcher:

        def work(seed: int) -> None:
            dice = random.Random(seed)
            for _ in range(20):
                first = dice.randrange(len(CHUNKS) - 1)
                span = span_of(first, min(first + dice.choice((1, 3, 12, 40)), len(CHUNKS)))
                what = dice.randrange(10)
                if what == 0:
                    fetcher.cache.compact()
                elif what == 1:
                    fetcher.cache.verify()
                elif what == 2:
                    fetcher.cache.clear("BTC/USDT")
                else:
                    same(fetch(fetcher, span, refresh=what > 7), truth(world, span))

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
    check(world, folder)
    with world.fetcher(cache_dir=folder) as fetcher:
        fetcher.cache.compact()
    assert {path.name for path in page_files(folder)} == known_files(folder)


# -- the order of files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_chunks_that_come_in_any_order_are_read_into_one_block(tmp_path: Path, seed: int) -> None:
    dice, grid = random.Random(seed), parse_timeframe("1m")
    series = Series("binance", None, "BTCUSDT", grid)
    chunks = list(range(28_000, 28_096))

    def entry(chunk: int) -> Entry:
        span = chunk_span(grid, chunk)
        opens = np.arange(span.start_ms, span.end_ms, 60_000)
        prices = [np.full(len(opens), float(chunk))] * 5
        return Entry(span, span.end_ms + 10**9, (), candles_from(("open_time", *OHLCV), [opens, *prices]))

    with closing(DiskTier(tmp_path / "cache", 10**8)) as disk:
        entries = CandleCache(Store(MemoryTier(0), disk), path=tmp_path / "cache").entries
        waiting = sorted(chunks, key=lambda chunk: chunk + dice.uniform(0, 12))  # as eight threads bring them
        while waiting:
            batch, waiting = waiting[: (size := dice.choice((1, 5, 14, 30)))], waiting[size:]
            entries.update(series, batch, lambda _, batch=batch: {one: Merged(entry(one), ()) for one in batch})
        entries.pack(series, chunks)
        assert all(page.is_in_order for page in entries.pages.find_all(series).values())
        found = entries.load(series, chunks, keep=False)
        assert sorted(found) == chunks
        whole = part_of_one_block([found[chunk][1].candles for chunk in chunks])
    assert whole is not None, "they were to be joined by a copy"
    assert whole.equals(join([entry(chunk).candles for chunk in chunks]))
