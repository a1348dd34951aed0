"""What a frame shares with the cache and with other frames, and what its manifest says of it."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from world import World, same

MANIFEST = "candle_fetcher"


def manifest(frame: pd.DataFrame) -> Any:
    return frame.attrs[MANIFEST]


MIDNIGHT = pd.Timestamp("2000-01-01", tz="UTC")

# Ways to the arrays of a frame. Each may fail; none may reach another frame.
EDITS: dict[str, Callable[[pd.DataFrame], object]] = {
    "values": lambda frame: frame["close"].values.__setitem__(0, -1),
    "array": lambda frame: frame["close"].array.__setitem__(0, -1),
    "array.to_numpy": lambda frame: frame["close"].array.to_numpy().__setitem__(0, -1),
    "asarray": lambda frame: np.asarray(frame["close"].array).__setitem__(0, -1),
    "to_numpy": lambda frame: frame["close"].to_numpy().__setitem__(0, -1),
    "frame.values": lambda frame: frame[["open", "close"]].values.__setitem__((0, 0), -1),
    "transposed": lambda frame: frame[["open", "close"]].T.values.__setitem__((0, 0), -1),
    "slice": lambda frame: frame.iloc[:5]["close"].array.__setitem__(0, -1),
    "row": lambda frame: next(frame.iterrows())[1].array.__setitem__(0, -1),
    "in place": lambda frame: frame["close"].clip(upper=0, inplace=True),
    "replace": lambda frame: frame.replace(frame["close"].iloc[0], -1, inplace=True),
    "lacking column": lambda frame: frame["quote_volume"].array.__setitem__(0, -1),
    "trades.values": lambda frame: frame["trades"].values.__setitem__(0, -1),
    "trades.array": lambda frame: frame["trades"].array.__setitem__(0, -1),
    "trades missing": lambda frame: frame["trades"].array.__setitem__(0, pd.NA),
    "trades.view": lambda frame: frame["trades"].array.view().__setitem__(0, -1),
    "trades.array slice": lambda frame: frame["trades"].array[:5].__setitem__(0, -1),
    "trades.to_numpy": lambda frame: frame["trades"].to_numpy(dtype="int64", copy=False).__setitem__(0, -1),
    "trades.asarray": lambda frame: np.asarray(frame["trades"].array, dtype="int64").__setitem__(0, -1),
    "close_time.array": lambda frame: frame["close_time"].array.__setitem__(0, MIDNIGHT),
    "close_time.asi8": lambda frame: pd.DatetimeIndex(frame["close_time"]).asi8.__setitem__(0, 0),
    "close_time.array.asi8": lambda frame: frame["close_time"].array.asi8.__setitem__(0, 0),
    "close_time in a zone": lambda frame: frame["close_time"].dt.tz_convert("Asia/Tokyo").array.asi8.__setitem__(0, 0),
    "index.values": lambda frame: frame.index.values.__setitem__(0, 0),
    "index.asi8": lambda frame: frame.index.asi8.__setitem__(0, 0),
    "index.array": lambda frame: frame.index.array.__setitem__(0, MIDNIGHT),
    "index.array.asi8": lambda frame: frame.index.array.asi8.__setitem__(0, 0),
    "index in a zone": lambda frame: frame.index.tz_convert("Asia/Tokyo").asi8.__setitem__(0, 0),
    "frame in a zone": lambda frame: frame.tz_convert("Asia/Tokyo").index.asi8.__setitem__(0, 0),
    "index.view": lambda frame: frame.index.view("i8").__setitem__(0, 0),
    "index slice": lambda frame: frame.index[:5].asi8.__setitem__(0, 0),
    "index.to_series": lambda frame: frame.index.to_series().iloc.__setitem__(0, MIDNIGHT),
    "reset_index": lambda frame: frame.reset_index()["timestamp"].array.__setitem__(0, MIDNIGHT),
    "index.name": lambda frame: setattr(frame.index, "name", "x"),
    "index.freq": lambda frame: setattr(frame.index, "freq", "h"),
    "columns.array": lambda frame: frame.columns.array.__setitem__(0, "x"),
    "columns.values": lambda frame: frame.columns.values.__setitem__(0, "x"),
    "columns.name": lambda frame: setattr(frame.columns, "name", "x"),
    "gaps": lambda frame: manifest(frame)["gaps"].append("x"),
    "a gap": lambda frame: manifest(frame)["gaps"][0].update(count=99),
    "sources": lambda frame: manifest(frame)["sources"].update(rest=99),
    "attrs": lambda frame: frame.attrs.clear(),
}


@pytest.mark.slow
@pytest.mark.fault("D27", "H08", "K08")
@pytest.mark.filterwarnings("ignore::Warning")  # pandas warns of edits of what is a copy
def test_no_edit_of_an_array_reaches_another_frame(world: World) -> None:
    fetcher = world.fetcher()
    wanted = ("BTC/USDT", "1h", "2018-02-08", "2018-02-11")  # with a gap

    def seen() -> Any:
        frame = fetcher.fetch(*wanted, columns="all")
        facts = {key: value for key, value in manifest(frame).items() if key != "sources"}
        return frame.to_csv(), facts, frame.index.asi8.tolist(), frame.index.freq, list(frame.columns), frame.axes

    before = seen()
    reached = []
    for way, edit in EDITS.items():
        for is_first in (True, False):
            if is_first:
                fetcher.cache.clear()
            frame = fetcher.fetch(*wanted, columns="all")
            with contextlib.suppress(ValueError, TypeError):
                edit(frame)
            after = seen()
            if after[:-1] != before[:-1] or [axis.name for axis in after[-1]] != [axis.name for axis in before[-1]]:
                reached.append(way)
                fetcher.cache.clear()
    assert reached == []


@pytest.mark.slow
@pytest.mark.fault("D27", "H08")
@pytest.mark.filterwarnings("ignore::Warning")  # pandas warns of edits of what is a copy
@pytest.mark.parametrize("columns", ["ohlcv", "all"])
def test_a_frame_can_be_edited_in_place_though_the_cache_forgets_it(world: World, columns: str) -> None:
    fetcher = world.fetcher()
    wanted = ("BTC/USDT", "1h", "2024-06-01", "2024-06-08")
    fetcher.fetch(*wanted, columns=columns)
    frame = fetcher.fetch(*wanted, columns=columns)
    part, close = frame.iloc[2:9], frame["close"]
    copies = [frame.copy(), copy.deepcopy(frame), pickle.loads(pickle.dumps(frame, 4))]
    fetcher.cache.clear()
    gc.collect()
    for one in (frame, part, *copies):
        one.iloc[0, 3] = -1.0
        one.loc[one.index[1], "volume"] = -2.0
        if columns == "all":
            one.loc[one.index[1], "trades"] = -3
            one.loc[one.index[1], "close_time"] = MIDNIGHT
        assert (one["close"].iloc[0], one["volume"].iloc[1]) == (-1.0, -2.0)
    close.iloc[1] = -4.0
    assert close.iloc[1] == -4.0
    same(fetcher.fetch(*wanted), world.truth("BTCUSDT", "1h", "2024-06-01", "2024-06-08"))


@pytest.mark.fault("J26")
@pytest.mark.parametrize(
    "options",
    [
        {"start": "2024-06-01", "end": "2024-06-08"},
        {"start": "2018-02-08", "end": "2018-02-11", "columns": "all"},
        {"limit": 30, "end": "2024-06-08"},
        {"start": "2024-06-01", "end": "2024-06-02T06:30", "timeframe": "7h"},
        {"start": "2024-06-01", "end": "2024-06-08", "on_gap": "ffill"},
    ],
)
def test_two_warm_fetches_have_equal_pickles(world: World, options: dict[str, Any]) -> None:
    fetcher = world.fetcher()
    options = {"symbol": "BTC/USDT", "timeframe": "1h", **options}
    fetcher.fetch(**options)
    one = fetcher.fetch(**options)
    world.now_s += 1
    two = fetcher.fetch(**options)
    assert pickle.dumps(one) == pickle.dumps(two)
    assert manifest(one) == manifest(two)


def test_the_manifest_has_these_keys_and_no_others(world: World) -> None:
    keys = (
        *("provider", "origin", "symbol", "timeframe", "kind", "start", "end", "expected", "rows", "gaps", "gap_count"),
        *("sources", "unverified", "partial", "retries", "fingerprint", "version"),
    )
    fetcher = world.fetcher()
    for _ in range(2):
        assert tuple(manifest(fetcher.fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-02"))) == keys
