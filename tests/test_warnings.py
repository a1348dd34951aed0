"""A warning points at the line that made the call, whichever thread of the package found the reason."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from world import World, hide_calendars

from candle_fetcher import (
    ArchiveMismatch,
    CacheWarning,
    CandleFetcher,
    CandleFetcherWarning,
    ClockSkew,
    combine,
    summary,
)
from candle_fetcher.core import errors
from candle_fetcher.practice import damage

MARCH = ("BTC/USDT", "5m", "2024-03-01", "2024-04-01")
DAY = ("BTC/USDT", "1h", "2024-03-05", "2024-03-06")
ZIP = "BTCUSDT-5m-2024-03.zip"
Made = tuple[CandleFetcher, tuple[str, ...]]


def with_a_wrong_clock(world: World, _: pytest.MonkeyPatch) -> Made:
    return world.fetcher(clock=lambda: world.now_s - 600, source="rest"), ("BTC/USDT", "1h", "2024-06-14")


def with_a_spoiled_file(world: World, _: pytest.MonkeyPatch) -> Made:
    world.exchange.archive.spoil(ZIP, damage.wrong_checksum())
    return world.fetcher(max_retries=0, timeout_s=5), MARCH


def without_a_folder(world: World, _: pytest.MonkeyPatch) -> Made:
    (world.folder.parent / "file").write_text("not a folder")
    return world.fetcher(cache_dir=world.folder.parent / "file" / "cache", source="rest"), DAY


def without_calendars(world: World, monkeypatch: pytest.MonkeyPatch) -> Made:
    hide_calendars(monkeypatch)
    return world.fetcher(api_keys=world.exchange.api_keys), ("alpaca:AAPL", "1h", "2024-03-04", "2024-03-06")


CAUSES: dict[str, tuple[Callable[[World, pytest.MonkeyPatch], Made], type[CandleFetcherWarning], str]] = {
    "clock": (with_a_wrong_clock, ClockSkew, "behind"),
    "archive": (with_a_spoiled_file, ArchiveMismatch, ZIP),
    "cache": (without_a_folder, CacheWarning, "cannot be"),
    "calendar": (without_calendars, CandleFetcherWarning, "exchange is closed"),
}


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


# Each on one line, which is where its warnings point.
CALLS: dict[str, Callable[[CandleFetcher, tuple[Any, ...]], object]] = {
    "fetch": lambda fetcher, words: fetcher.fetch(*words),
    "fetch_many": lambda fetcher, words: fetcher.fetch_many([words[0], "ETH/USDT"], *words[1:]),
    "iter_frames": lambda fetcher, words: list(fetcher.iter_frames(*words)),
    "iter_frames by hand": lambda fetcher, words: next(fetcher.iter_frames(*words)),
    "export": lambda fetcher, words: fetcher.export(*words),
    "gaps": lambda fetcher, words: fetcher.gaps(*words),
    "a thread of the caller's": lambda fetcher, words: in_a_thread(lambda: fetcher.fetch(*words)),
}


def places_of(caught: list[warnings.WarningMessage], kind: type[Warning], text: str) -> set[tuple[str, int]]:
    return {(one.filename, one.lineno) for one in caught if isinstance(one.message, kind) and text in str(one.message)}


def levels() -> list[Any]:
    """The two ways of finding the line: from Python 3.12 on `warnings` has one, before it is counted."""
    return [
        pytest.param(False, id="counted"),
        *([pytest.param(True, id="skipped")] if sys.version_info >= (3, 12) else []),
    ]


@pytest.fixture(params=levels())
def skips_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_SKIPS_FILES", request.param)


# Each cause by the usual call, each call for one cause.
USUAL = [f"{level.id}-{cause}-fetch" for level in levels() for cause in CAUSES]
USUAL += [f"counted-clock-{call}" for call in CALLS]


@pytest.mark.slow(keep=USUAL)
@pytest.mark.fault("J19")
@pytest.mark.usefixtures("skips_files")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("cause", CAUSES)
def test_a_warning_points_at_the_line_of_the_call(
    cause: str, call: str, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make, kind, text = CAUSES[cause]
    if cause == "calendar" and call == "gaps":
        pytest.skip("without calendars gaps is a MissingExtra")
    monkeypatch.chdir(tmp_path)
    fetcher, words = make(world, monkeypatch)
    work = CALLS[call]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work(fetcher, words)
    assert places_of(caught, kind, text) == {(__file__, work.__code__.co_firstlineno)}


@pytest.mark.slow
@pytest.mark.fault("J19")
@pytest.mark.usefixtures("skips_files")
def test_a_warning_about_a_frame_points_at_the_line_too(world: World) -> None:
    hours = world.fetcher(source="rest").fetch(*MARCH)
    some = hours.iloc[[0, 5, 7]]
    for work in (lambda: summary(some), lambda: combine({"a": some, "b": hours})):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
        assert places_of(caught, CandleFetcherWarning, "is ignored") == {(__file__, work.__code__.co_firstlineno)}
