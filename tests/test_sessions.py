"""Stocks know their sessions: what a closed exchange lacks is no gap, what an open one lacks is."""

from __future__ import annotations

import warnings
from typing import Any

import pandas as pd
import pytest
from world import World, hide_calendars, ms

from candle_fetcher import CandleFetcher, CandleFetcherWarning, IncompleteData, MissingExtra, sessions
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS, parse_timeframe

MINUTES_OF_A_DAY = 390
# New Year, Martin Luther King, Washington, Good Friday, Memorial, Juneteenth, Independence, Labor, Thanksgiving,
# Christmas: the holidays of 2024 as the exchange announced them; on three days it closed at 13:00.
HOLIDAYS = ("01-01", "01-15", "02-19", "03-29", "05-27", "06-19", "07-04", "09-02", "11-28", "12-25")
HALF_DAYS = ("07-03", "11-29", "12-24")


@pytest.fixture
def without_calendars(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_calendars(monkeypatch)


def stocks(world: World, **settings: Any) -> CandleFetcher:
    return world.fetcher(provider="alpaca", api_keys=world.exchange.api_keys, **settings)


def open_slots(timeframe: str, start: str, end: str) -> list[str]:
    """The slots of the range that an open session touches, as ISO times."""
    grid, span = parse_timeframe(timeframe), Span(ms(start), ms(end))
    parts = sessions.find_open_parts("XNYS", grid, span.start_ms)(span)
    slots = [slot for part in parts for slot in range(grid.ordinal(part.start_ms), grid.first_slot(part.end_ms))]
    return [str(pd.Timestamp(grid.open_ms(slot), unit="ms"))[:16] for slot in slots]


def test_a_year_has_the_sessions_that_the_exchange_announced() -> None:
    days = [day[:10] for day in open_slots("1d", "2024-01-01", "2025-01-01")]
    weekdays = pd.bdate_range("2024-01-01", "2024-12-31").strftime("%Y-%m-%d")
    assert days == [day for day in weekdays if day[5:] not in HOLIDAYS]


@pytest.mark.parametrize(
    ("day", "first", "last"),
    [
        ("2024-03-08", "14:30", "20:59"),  # the Friday before the clocks go forward
        ("2024-03-11", "13:30", "19:59"),
        ("2024-11-01", "13:30", "19:59"),
        ("2024-11-04", "14:30", "20:59"),
        *(
            (f"2024-{day}", "13:30" if day == "07-03" else "14:30", "16:59" if day == "07-03" else "17:59")
            for day in HALF_DAYS
        ),
    ],
)
def test_a_session_begins_and_ends_by_the_clock_of_new_york(day: str, first: str, last: str) -> None:
    minutes = open_slots("1m", day, f"{day}T23:59:00")
    assert (minutes[0][11:], minutes[-1][11:]) == (first, last)
    assert len(minutes) == (MINUTES_OF_A_DAY if day[5:] not in HALF_DAYS else 210)


@pytest.mark.slow
def test_weeks_and_hours_count_where_a_session_touches_them() -> None:
    assert open_slots("1h", "2024-03-11", "2024-03-12")[0][11:] == "13:00"
    assert len(open_slots("1h", "2024-03-11", "2024-03-12")) == 7
    assert open_slots("1w", "2024-03-11", "2024-03-25") == ["2024-03-11 00:00", "2024-03-18 00:00"]
    assert open_slots("1m", "2024-03-09", "2024-03-11") == []
    assert open_slots("1d", "2001-09-11", "2001-09-17") == []


@pytest.mark.slow
@pytest.mark.fault("B16")
def test_nights_weekends_holidays_and_half_days_are_no_gaps(world: World) -> None:
    fetcher = stocks(world)
    for timeframe, start, end in (
        ("1m", "2024-03-07", "2024-03-13"),  # over the change of clocks
        ("1m", "2023-11-22", "2023-11-28"),  # Thanksgiving, and a half day
        ("1d", "2023-12-01", "2024-06-01"),
        ("1h", "2023-12-20", "2024-01-03"),
    ):
        frame = fetcher.fetch("AAPL", timeframe, start, end)
        assert fetcher.gaps("AAPL", timeframe, start, end).empty, timeframe
        assert frame.attrs["candle_fetcher"]["gap_count"] == 0
        assert frame.attrs["candle_fetcher"]["expected"] == len(frame) > 20
        assert fetcher.fetch("AAPL", timeframe, start, end, on_gap="raise").equals(frame)


@pytest.mark.slow
def test_a_missing_minute_of_a_session_is_a_gap(world: World) -> None:
    world.exchange.hide("alpaca", "AAPL", (ms("2024-03-12T14:31"), ms("2024-03-12T14:33")))  # 10:31 and 10:32
    fetcher = stocks(world)
    gaps = fetcher.gaps("AAPL", "1m", "2024-03-11", "2024-03-14")
    assert gaps.to_dict("records") == [
        {
            "first": pd.Timestamp("2024-03-12T14:31Z"),
            "last": pd.Timestamp("2024-03-12T14:32Z"),
            "count": 2,
            "cause": "no_candle",
        }
    ]
    with pytest.raises(IncompleteData, match="2 candles"):
        fetcher.fetch("AAPL", "1m", "2024-03-11", "2024-03-14", on_gap="raise")


@pytest.mark.slow
def test_invented_rows_stand_in_sessions_only(world: World) -> None:
    world.exchange.hide("alpaca", "AAPL", (ms("2024-03-12T14:31"), ms("2024-03-12T14:33")))
    frame = stocks(world).fetch("AAPL", "1m", "2024-03-11", "2024-03-14", on_gap="ffill")
    assert len(frame) == 3 * MINUTES_OF_A_DAY
    assert frame.index[frame["is_synthetic"]].strftime("%H:%M").tolist() == ["14:31", "14:32"]


@pytest.mark.slow
def test_a_hole_of_a_stock_is_not_asked_for_twice(world: World) -> None:
    world.exchange.hide("alpaca", "AAPL", (ms("2024-03-12T14:31"), ms("2024-03-12T14:33")))
    fetcher = stocks(world)
    fetcher.fetch("AAPL", "1m", "2024-03-11", "2024-03-14")
    world.asked("bars")
    for _ in range(3):
        world.now_s += 40 * 86_400
        stocks(world).fetch("AAPL", "1m", "2024-03-11", "2024-03-14")
    assert world.asked("bars") == []


@pytest.mark.slow
def test_without_the_calendar_the_frame_comes_with_a_warning_and_gaps_name_the_extra(
    world: World, without_calendars: None
) -> None:
    fetcher = stocks(world)
    with pytest.warns(
        CandleFetcherWarning, match=r"include hours in which its exchange is closed.*candle-fetcher\[calendars\]"
    ):
        frame = fetcher.fetch("AAPL", "1m", "2024-03-11", "2024-03-13")
    assert len(frame) == 2 * MINUTES_OF_A_DAY
    assert frame.attrs["candle_fetcher"]["gap_count"] == 3  # two nights and a half
    for asked in (
        lambda: fetcher.gaps("AAPL", "1m", "2024-03-11", "2024-03-13"),
        lambda: fetcher.fetch("AAPL", "1m", "2024-03-11", "2024-03-13", on_gap="raise", refresh=True),
        lambda: fetcher.fetch("AAPL", "1m", "2024-03-11", "2024-03-13", on_gap="ffill"),
    ):
        with warnings.catch_warnings(), pytest.raises(MissingExtra) as caught:
            warnings.simplefilter("ignore", CandleFetcherWarning)
            asked()
        assert caught.value.extra == "calendars"
        assert caught.value.fix == 'pip install "candle-fetcher[calendars]"'


def test_who_trades_always_needs_no_calendar(world: World, without_calendars: None) -> None:
    fetcher = stocks(world)
    assert fetcher.gaps("binance:BTC/USDT", "1h", "2024-03-11", "2024-03-13").empty
    assert fetcher.gaps("alpaca-crypto:BTC/USD", "1h", "2024-03-11", "2024-03-13").empty


@pytest.mark.slow(keep=("XBOM-1985-01-07-1985-01-12",))
@pytest.mark.parametrize(
    ("calendar", "start", "end"),
    [("XBOM", "1985-01-07", "1985-01-12"), ("XSHG", "1975-01-06", "1975-01-11"), ("XNYS", "2080-01-01", "2080-01-08")],
)
def test_of_years_that_a_calendar_does_not_know_the_whole_hole_counts(calendar: str, start: str, end: str) -> None:
    hole = Span(ms(start), ms(end))
    grid = parse_timeframe("1d")
    assert sessions.find_open_parts(calendar, grid, hole.start_ms)(hole) == [hole]
    if calendar != "XNYS":  # and of those that it knows the sessions
        week = sessions.find_open_parts(calendar, grid, hole.start_ms)(Span(ms("2024-05-20"), ms("2024-05-27")))
        assert sum(part.end_ms - part.start_ms for part in week) in (4 * DAY_MS, 5 * DAY_MS)
