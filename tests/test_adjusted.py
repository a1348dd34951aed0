"""Adjusted prices: history is asked for again where a corporate action happened since it was stored, and only there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests
from world import World, ms, same

from candle_fetcher import CandleFetcher, CandleFetcherWarning, IncompleteData
from candle_fetcher.core.actions import RECENT_DAYS, Action, Known
from candle_fetcher.practice import faults
from candle_fetcher.providers import Series, find_provider

# The hours in which an exchange is closed are known with exchange_calendars alone.
pytestmark = [
    pytest.mark.fault("J09"),
    pytest.mark.filterwarnings("ignore:the gaps of .* count hours:candle_fetcher.CandleFetcherWarning"),
]

MANIFEST = "candle_fetcher"
NEW_YORK = "America/New_York"
# NVDA is split in ten on 2024-06-10. A dividend of AAPL has its ex-date on 2024-05-10, and is paid on 2024-06-20.
NVDA = ("NVDA", "15m", "2024-04-08", "2024-04-11")
AAPL = ("AAPL", "15m", "2024-04-08", "2024-04-11")
ACTIONS, BARS = "/corporate-actions", "/bars"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path / "cache", now="2024-07-10T17:00:32") as made:
        made.exchange.alpaca.rate_limit = 10**6
        yield made


def at(world: World, now: str, adjustment: str = "split", **settings: Any) -> CandleFetcher:
    """A fetcher of another run of the program, at that time."""
    world.now_s = ms(now) / 1000
    world.exchange.clear_log()
    chosen = {"alpaca": {"adjustment": adjustment}}
    keys = world.exchange.api_keys
    return world.fetcher(provider="alpaca", api_keys=keys, provider_settings=chosen, **settings)


def asked(world: World) -> tuple[int, int]:
    """How many requests for actions and for bars there were since the last look."""
    paths = [request.path for request in world.exchange.requests]
    world.exchange.clear_log()
    return sum(path.endswith(ACTIONS) for path in paths), sum(path.endswith(BARS) for path in paths)


def truth(world: World, wanted: tuple[str, str, str, str], adjustment: str = "split") -> dict[str, Any]:
    symbol, timeframe, start, end = wanted
    return world.exchange.alpaca.truth(symbol, timeframe, ms(start), ms(end), adjustment=adjustment)


def adjusted(frame: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = frame.attrs[MANIFEST]["adjusted"]
    return found


# -- the next day ------------------------------------------------------------------------------------------------------


@pytest.mark.slow(keep=("wanted0-split-2024-06-10",))
@pytest.mark.parametrize(("wanted", "adjustment", "as_of"), [
    (NVDA, "split", "2024-06-10"), (NVDA, "dividend", "2024-06-10"), (AAPL, "all", "2024-05-10"),
    (AAPL, "dividend", "2024-05-10"), (AAPL, "split", "none"), (AAPL, "spin-off", "none"),
])  # fmt: skip
@pytest.mark.slow
def test_history_is_not_asked_for_again_while_nothing_happens(
    world: World, wanted: Any, adjustment: str, as_of: str
) -> None:
    frame = at(world, "2024-07-10T17:00", adjustment).fetch(*wanted)
    same(frame, truth(world, wanted, adjustment))
    assert adjusted(frame) == {
        "as_of": as_of,
        "basis": "newest_action",
        "actions_asked": "2024-07-10T17:00:00Z",
    }
    assert asked(world)[0] == 1
    assert at(world, "2024-07-10T23:59", adjustment).fetch(*wanted).equals(frame)
    assert asked(world) == (0, 0)
    for now in ("2024-07-11T12:00", "2024-08-29T12:00"):
        again = at(world, now, adjustment).fetch(*wanted)
        assert again.equals(frame)
        assert again.attrs[MANIFEST]["fingerprint"] == frame.attrs[MANIFEST]["fingerprint"]
        assert adjusted(again) == {**adjusted(frame), "actions_asked": f"{now}:00Z"}
        assert asked(world) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("wanted", "adjustment", "day"), [(NVDA, "split", "2024-06-10"), (AAPL, "all", "2024-05-10")])
def test_history_is_asked_for_again_after_an_action(world: World, wanted: Any, adjustment: str, day: str) -> None:
    """A dividend counts from its ex-date on, though it is listed by the day on which it is paid, weeks later."""
    date = pd.Timestamp(day)

    def fetch(days: int, hour: str = "17") -> tuple[pd.DataFrame, int]:
        frame = at(world, f"{date + pd.Timedelta(days=days):%Y-%m-%d}T{hour}:00", adjustment).fetch(*wanted)
        same(frame, truth(world, wanted, adjustment))
        return frame, asked(world)[1]

    before, _ = fetch(-6)
    assert fetch(-5)[1] == 0
    # An action is near: what it changes is kept for the day.
    assert [fetch(days)[1] > 0 for days in (-1, 0, 1, RECENT_DAYS)] == [True] * 4
    after, bars = fetch(RECENT_DAYS + 1)
    assert bars > 0
    assert adjusted(after)["as_of"] == day
    assert not after.equals(before)
    assert fetch(RECENT_DAYS + 2)[1] == 0
    assert fetch(RECENT_DAYS + 3)[0].equals(after)


@pytest.mark.slow
def test_an_action_takes_effect_at_midnight_of_the_exchange(world: World) -> None:
    """At 03:59 UTC it is 23:59 of the day before in New York, and the first of the new day's bars are long to come."""
    before = at(world, "2024-06-10T03:59").fetch(*NVDA)
    after = at(world, "2024-06-10T04:01").fetch(*NVDA)
    assert before["close"].min() > 700
    assert after["close"].max() < 100
    same(after, truth(world, NVDA))
    assert [adjusted(frame)["as_of"] for frame in (before, after)] == ["2024-06-10"] * 2
    settings = [frame.attrs[MANIFEST]["settings"]["actions"] for frame in (before, after)]
    assert settings[0] != settings[1]


def test_a_fetcher_that_goes_on_over_a_split_does_not_hand_out_what_it_handed_out_before(world: World) -> None:
    fetcher = at(world, "2024-06-05T17:00")
    before = fetcher.fetch(*NVDA)
    assert before["close"].min() > 700
    assert fetcher.fetch(*NVDA).equals(before)
    world.now_s = ms("2024-06-11T17:00") / 1000
    same(fetcher.fetch(*NVDA), truth(world, NVDA))


@pytest.mark.slow
def test_a_list_that_was_corrected_makes_another_series(world: World) -> None:
    """Another rate of a dividend of long ago. A list without any is not believed: it may not know the symbol."""
    frame = at(world, "2024-07-10T17:00", "all").fetch(*AAPL)
    asked(world)

    def corrected(body: bytes) -> bytes:
        return body.replace(b'"rate":0.24', b'"rate":0.26')

    def emptied(body: bytes) -> bytes:
        return json.dumps({"corporate_actions": {}, "next_page_token": None}).encode()

    for day, change, basis in ((11, corrected, "recent_action"), (12, emptied, "actions_unknown")):
        fault = world.exchange.fail(faults.transform(change), times=None, match=ACTIONS)
        again = at(world, f"2024-07-{day}T17:00", "all").fetch(*AAPL)
        assert asked(world)[1] > 0
        assert adjusted(again)["basis"] == basis
        assert again.equals(frame)
        fault.stop()
    assert adjusted(at(world, "2024-07-25T17:00", "all").fetch(*AAPL))["basis"] == "recent_action"
    assert adjusted(at(world, "2024-08-02T17:00", "all").fetch(*AAPL))["basis"] == "newest_action"
    assert asked(world) == (1, 0)


def test_a_symbol_without_any_action_is_asked_for_each_day(world: World) -> None:
    """Whether it has none, or the list does not know it, cannot be seen."""
    wanted = ("GENC", *NVDA[1:])
    frame = at(world, "2024-07-10T17:00").fetch(*wanted)
    assert (adjusted(frame)["basis"], adjusted(frame)["as_of"]) == ("actions_unknown", "2024-07-10")
    assert adjusted(frame)["error"] == "alpaca lists no corporate action of GENC"
    assert at(world, "2024-07-11T17:00").fetch(*wanted).equals(frame)
    assert asked(world)[1] > 0


# -- where the list cannot be had --------------------------------------------------------------------------------------


@pytest.mark.slow(keep=("action0-does not include the data",))
@pytest.mark.parametrize(("action", "words"), [
    (faults.status(403, b'{"message": "subscription does not permit it"}'), "does not include the data"),
    (faults.status(404, b'{"message": "endpoint not found."}'), "refused the request"),
    (faults.body(b'{"corporate_actions": [1]}'), "expected a JSON object with corporate_actions"),
    (faults.body(b'{"corporate_actions": {"forward_splits": [{"symbol": "NVDA"}]}}'), "with its day"),
    (faults.body(b'{"corporate_actions": {"forward_splits": [{"symbol": "MSFT", "ex_date": "2024-06-10"}]}}'), "NVDA"),
    (faults.body(b'{"message": "symbols is required"}'), "symbols is required"),
    (faults.body(b"<html>"), "<html>"),
])  # fmt: skip
@pytest.mark.slow
def test_without_a_list_prices_are_those_of_the_day(world: World, action: faults.FaultAction, words: str) -> None:
    fault = world.exchange.fail(action, times=None, match=ACTIONS)
    for day in ("2024-07-10", "2024-07-11"):
        with pytest.warns(CandleFetcherWarning, match="corporate actions of NVDA could not be fetched"):
            frame = at(world, f"{day}T17:00", max_retries=0).fetch(*NVDA)
        same(frame, truth(world, NVDA))
        assert asked(world)[1] > 0
        assert {**adjusted(frame), "error": ""} == {
            "as_of": day, "basis": "actions_unknown", "actions_asked": f"{day}T17:00:00Z", "error": "",
        }  # fmt: skip
        assert words in adjusted(frame)["error"]
        assert "actions" not in frame.attrs[MANIFEST]["settings"]
        assert at(world, f"{day}T17:59").fetch(*NVDA).equals(frame)  # not asked again for an hour
        assert asked(world) == (0, 0)
    fault.stop()
    assert adjusted(at(world, "2024-07-11T18:01").fetch(*NVDA))["basis"] == "newest_action"
    assert asked(world)[0] == 1


def test_pages_are_read_to_the_end(world: World) -> None:
    frame = at(world, "2024-07-10T17:00", "all").fetch(*AAPL)
    assert frame.attrs[MANIFEST]["settings"]["actions"].startswith("2-")
    world.exchange.alpaca.page_cap = 1
    fetcher = at(world, "2024-07-11T17:00", "all")
    assert fetcher.fetch(*AAPL).attrs[MANIFEST]["settings"] == frame.attrs[MANIFEST]["settings"]
    assert asked(world) == (2, 0)


def test_a_wrong_clock_of_this_machine_does_not_decide_which_actions_count(world: World) -> None:
    with pytest.warns(CandleFetcherWarning, match="this machine's clock says 2024-06-08"):
        frame = at(world, "2024-06-11T17:00", clock=lambda: ms("2024-06-08T17:00") / 1000, max_retries=0).fetch(*NVDA)
    assert adjusted(frame)["basis"] == "actions_unknown"


# -- during a call -----------------------------------------------------------------------------------------------------


def at_midnight(world: World, *, request: int) -> Callable[[str, dict[str, str]], bool]:
    """Lets the split take effect after so many requests for bars."""
    seen = []

    def match(path: str, params: dict[str, str]) -> bool:
        if path.endswith(BARS) and params["sort"] == "asc":
            seen.append(path)
            if len(seen) == request:
                world.now_s = ms("2024-06-10T04:00:01") / 1000
        return False

    return match


@pytest.mark.parametrize("request_", [1, 2])
def test_an_action_during_a_fetch_is_in_all_of_it_or_in_none(world: World, request_: int) -> None:
    fetcher = at(world, "2024-06-10T03:59:50")
    world.exchange.fail(faults.reset(), match=at_midnight(world, request=request_))
    frame = fetcher.fetch("NVDA", "15m", "2024-03-01", "2024-04-11")
    same(frame, truth(world, ("NVDA", "15m", "2024-03-01", "2024-04-11")))
    assert frame["close"].max() < 200


def test_an_action_during_a_stream_ends_it(world: World) -> None:
    fetcher = at(world, "2024-06-10T03:59:50")
    frames = fetcher.iter_frames("NVDA", "15m", "2024-03-01", "2024-04-11", rows=400)
    assert next(frames)["close"].min() > 0
    world.now_s = ms("2024-06-10T04:00:01") / 1000
    with pytest.raises(IncompleteData, match="took effect while") as caught:
        list(frames)
    assert caught.value.frame is None
    assert caught.value.fix == "Call again"


# -- out of the cache alone --------------------------------------------------------------------------------------------


def test_what_is_stored_is_served_on_the_next_day(world: World) -> None:
    for now, later in (("2024-07-10T17:00", "2024-07-11T17:00"), ("2024-06-11T17:00", "2024-06-12T17:00")):
        frame = at(world, now).fetch(*NVDA)
        offline = at(world, later, source="cache").fetch(*NVDA)
        assert offline.equals(frame)
        assert adjusted(offline) == {**adjusted(frame), "basis": "stored"}
        assert asked(world) == (0, 0)


def test_what_is_stored_is_served_after_a_day_on_which_nothing_could_be_had(world: World) -> None:
    frame = at(world, "2024-07-10T17:00").fetch(*NVDA)
    fault = world.exchange.fail(faults.status(500), times=None)
    fetcher = at(world, "2024-07-11T17:00", max_retries=0)
    with pytest.warns(CandleFetcherWarning, match="could not be fetched"), pytest.raises(IncompleteData):
        fetcher.fetch(*NVDA)
    assert fetcher.fetch(*NVDA, source="cache").equals(frame)
    assert not fetcher.coverage(*NVDA).empty
    fault.stop()


def test_a_file_is_imported_for_the_actions_that_it_is_adjusted_by(world: World, tmp_path: Path) -> None:
    path = at(world, "2024-07-10T17:00").export(*NVDA, path=tmp_path)
    settings = json.loads(path.with_suffix(".json").read_text())["settings"]
    assert settings["as_of"] == "2024-06-10"
    frame = at(world, "2024-07-10T17:00").fetch(*NVDA)
    at(world, "2024-07-12T17:00", cache_dir=tmp_path / "other").cache.import_file(path)
    first, last = frame.index[0], frame.index[-1]  # a file says nothing of what lies before and after
    for source in ("cache", "auto"):
        fetcher = at(world, "2024-07-13T17:00", cache_dir=tmp_path / "other")
        assert fetcher.fetch(*NVDA[:2], first, last, source=source).equals(frame[:-1])
        assert asked(world)[1] == 0


# -- without a request -------------------------------------------------------------------------------------------------


def test_a_plan_sends_no_request_and_expects_that_nothing_happened(world: World) -> None:
    at(world, "2024-07-10T17:00").fetch(*NVDA)
    plan = at(world, "2024-07-12T17:00").plan(*NVDA)
    assert {step.source for step in plan.steps} == {"disk"}
    assert any("corporate actions" in note for note in plan.notes)
    at(world, "2024-07-12T17:01").fetch(*NVDA)
    assert asked(world) == (1, 0)
    plan = at(world, "2024-07-12T17:02").plan(*NVDA)
    assert not any("corporate actions" in note for note in plan.notes)
    assert asked(world) == (0, 0)


def test_raw_prices_need_no_list(world: World) -> None:
    frame = at(world, "2024-07-10T17:00", "raw").fetch(*NVDA)
    assert asked(world)[0] == 0
    assert "adjusted" not in frame.attrs[MANIFEST]


# -- what is known -----------------------------------------------------------------------------------------------------


def test_what_is_known_serves_until_the_day_ends_there_or_in_utc() -> None:
    known = Known(0).with_list([], ms("2024-07-10T17:00"), NEW_YORK)
    ends = {"2024-07-10T16:58": False, "2024-07-10T23:59": True, "2024-07-11T00:00": False}
    assert {now: known.serves(ms(now), NEW_YORK) for now in ends} == ends
    early = Known(0).with_list([], ms("2024-07-10T01:00"), NEW_YORK)
    assert [early.serves(ms(f"2024-07-10T{time}"), NEW_YORK) for time in ("03:59", "04:00")] == [True, False]


def test_an_announcement_changes_nothing_before_its_day() -> None:
    now = ms("2024-07-10T17:00")
    known = Known(0).with_list([Action("2024-01-02", "x")], now, NEW_YORK)
    later = known.with_list([Action("2024-01-02", "x"), Action("2024-08-01", "y")], now + 1, NEW_YORK)
    assert later.settings(now + 1, NEW_YORK) == known.settings(now, NEW_YORK)
    late = known.with_list([Action("2024-01-02", "x"), Action("2024-01-03", "y")], now + 1, NEW_YORK)
    assert late.settings(now + 1, NEW_YORK)[0] == ("as_of", "2024-07-10")
    assert late.settings(now + 1 + RECENT_DAYS * 86_400_000, NEW_YORK)[0] == ("as_of", "2024-01-03")


def test_cash_counts_for_prices_adjusted_for_dividends_alone() -> None:
    feed = find_provider("alpaca").feed("candles")
    assert feed.actions is not None
    for adjustment, counts in (("split", False), ("spin-off", False), ("dividend", True), ("all", True)):
        series = Series("alpaca", None, "AAPL", None, "candles", (("adjustment", adjustment),))  # type: ignore[arg-type]
        call = feed.actions.call(series, ms("2024-07-10"))
        assert (call.path, dict(call.params)["end"]) == ("/v1/corporate-actions", "2025-07-11")
        row = {"symbol": "AAPL", "ex_date": "2024-05-10", "rate": 0.25, "new_rate": 2, "process_date": "2024-06-20"}
        groups = {"cash_dividends": [row], "forward_splits": [row]}
        body = json.dumps({"corporate_actions": groups, "next_page_token": None}).encode()
        actions, more = feed.actions.parse(call, body, series)
        assert [(one.day, one.counts) for one in actions] == [("2024-05-10", counts), ("2024-05-10", True)]
        assert more is None


# -- the practice exchange ---------------------------------------------------------------------------------------------


def listed(world: World, now: str, **params: str) -> Any:
    world.now_s = ms(now) / 1000
    keys = world.exchange.alpaca.keys
    headers = {"APCA-API-KEY-ID": keys["key_id"], "APCA-API-SECRET-KEY": keys["secret_key"]}
    return requests.get(f"{world.exchange.url}/v1/corporate-actions", params=params, headers=headers, timeout=10)


def test_the_practice_exchange_lists_actions_by_the_day_on_which_they_are_processed(world: World) -> None:
    wanted = {"symbols": "AAPL,NVDA,SPY", "start": "2024-01-01", "end": "2024-12-31"}
    groups = listed(world, "2024-07-10T17:00", **wanted).json()["corporate_actions"]
    assert [row["ex_date"] for row in groups["cash_dividends"]] == ["2024-02-09", "2024-05-10"]
    (split,) = groups["forward_splits"]
    assert split == {
        "ex_date": "2024-06-10", "new_rate": 10, "old_rate": 1, "process_date": "2024-06-10", "symbol": "NVDA",
    }  # fmt: skip
    until = {**wanted, "end": "2024-06-19"}
    assert len(listed(world, "2024-07-10T17:00", **until).json()["corporate_actions"]["cash_dividends"]) == 1
    assert listed(world, "2024-05-26T17:00", **wanted).json()["corporate_actions"].keys() == {"cash_dividends"}
    assert listed(world, "2024-05-28T17:00", **wanted).json()["corporate_actions"].keys() == set(groups)
    types = {**wanted, "types": "forward_split"}
    assert listed(world, "2024-07-10T17:00", **types).json()["corporate_actions"].keys() == {"forward_splits"}
    page = listed(world, "2024-07-10T17:00", **wanted, limit="2").json()
    assert page["next_page_token"] == "2"
    assert listed(world, "2024-07-10T17:00", **wanted, limit="2", page_token="2").json()["next_page_token"] is None
    assert listed(world, "2024-07-10T17:00", **wanted, kind="x").status_code == 400
    assert requests.get(f"{world.exchange.url}/v1/corporate-actions", timeout=10).status_code == 401
