"""Days of stocks and of coins side by side: by the date of their own market, with every row of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from world import World

from candle_fetcher import CandleFetcher, InputError, combine, manifest_of, resample
from candle_fetcher.core.frame import MANIFEST


@pytest.fixture(scope="module")
def fetcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CandleFetcher]:
    with World(tmp_path_factory.mktemp("cache")) as world:
        yield world.fetcher(api_keys=world.exchange.api_keys)


def pair(fetcher: CandleFetcher, timeframe: str, start: str, end: str) -> dict[str, pd.DataFrame]:
    return fetcher.fetch_many(["alpaca:AAPL", "BTC/USDT"], timeframe, start, end)


def dates(frame: pd.DataFrame) -> list[str]:
    return [str(date.date()) for date in frame.index]


def days(times: list[str], zone: str | None = "UTC", value: float = 1.0) -> pd.DataFrame:
    index = pd.DatetimeIndex(times).tz_localize(zone).rename("timestamp")
    return pd.DataFrame({"close": np.full(len(times), value)}, index=index)


def test_a_day_of_a_stock_shares_a_row_with_the_day_of_a_coin(fetcher: CandleFetcher) -> None:
    frames = pair(fetcher, "1d", "2024-01-05", "2024-01-10")
    assert combine(frames, "close").notna().all(axis=1).sum() == 0  # by time they have no row in common
    made = combine(frames, "close", align="date")
    assert (made.index.name, made.index.tz, made.index.freq) == ("date", None, None)
    assert dates(made) == ["2024-01-05", "2024-01-06", "2024-01-07", "2024-01-08", "2024-01-09"]
    stock, coin = frames["alpaca:AAPL"]["close"], frames["BTC/USDT"]["close"]
    # The Friday of the stock began at 05:00 UTC, that of the coin at 00:00.
    assert made.loc["2024-01-05", "alpaca:AAPL"] == stock["2024-01-05 05:00:00+00:00"]
    assert made.loc["2024-01-05", "BTC/USDT"] == coin["2024-01-05 00:00:00+00:00"]
    assert made["alpaca:AAPL"].isna().tolist() == [False, True, True, False, False]
    assert made["BTC/USDT"].tolist() == coin.tolist()


@pytest.mark.slow(every=3)
@pytest.mark.parametrize(
    ("start", "end", "closed", "opened"),
    [
        # The clock is put forward on Sunday the 10th: days begin at 05:00 UTC before, at 04:00 after it.
        ("2024-03-07", "2024-03-14", ["2024-03-09", "2024-03-10"], {"2024-03-08": "05:00", "2024-03-11": "04:00"}),
        # It is put back on Sunday the 3rd.
        ("2024-10-31", "2024-11-06", ["2024-11-02", "2024-11-03"], {"2024-11-01": "04:00", "2024-11-04": "05:00"}),
        # Thanksgiving, and the half day after it.
        ("2023-11-22", "2023-11-28", ["2023-11-23", "2023-11-25", "2023-11-26"], {"2023-11-24": "05:00"}),
        # Christmas and New Year.
        ("2023-12-25", "2024-01-03", ["2023-12-25", "2023-12-30", "2023-12-31", "2024-01-01"],
         {"2023-12-26": "05:00", "2024-01-02": "05:00"}),
        # Good Friday
        ("2024-03-27", "2024-04-02", ["2024-03-29", "2024-03-30", "2024-03-31"], {"2024-04-01": "04:00"}),
    ],
)  # fmt: skip
def test_dates_are_right_over_clock_changes_holidays_and_half_days(
    tmp_path: Any, start: str, end: str, closed: list[str], opened: dict[str, str]
) -> None:
    with World(tmp_path, now="2024-12-15T12:00:30") as world:
        frames = pair(world.fetcher(api_keys=world.exchange.api_keys), "1d", start, end)
    made = combine(frames, "close", align="date")
    whole = [str(date.date()) for date in pd.date_range(start, end, inclusive="left")]
    assert dates(made) == whole
    assert dates(made[made["alpaca:AAPL"].isna()]) == closed
    assert made["BTC/USDT"].notna().all()
    for date, time in opened.items():
        value = frames["alpaca:AAPL"].loc[f"{date} {time}:00+00:00", "close"]
        assert made.loc[date, "alpaca:AAPL"] == value
    assert made["alpaca:AAPL"].notna().sum() == len(frames["alpaca:AAPL"])  # no row is lost


def test_rows_of_one_market_alone_are_kept_unless_another_how_is_given(fetcher: CandleFetcher) -> None:
    frames = pair(fetcher, "1d", "2024-01-05", "2024-01-10")
    outer, inner, left = (combine(frames, "close", align="date", how=how) for how in ("outer", "inner", "left"))
    assert (len(outer), len(inner), len(left)) == (5, 3, 3)
    assert dates(inner) == dates(left) == ["2024-01-05", "2024-01-08", "2024-01-09"]
    for made, left_out in ((outer, 0), (inner, 2)):
        stated = made.attrs[MANIFEST]
        assert stated["alpaca:AAPL"]["aligned"]["zone"] == "America/New_York"
        assert stated["BTC/USDT"]["aligned"] == {
            "by": "date", "zone": "UTC", "how": "outer" if made is outer else "inner", "left_out": left_out,
        }  # fmt: skip
        for name, frame in frames.items():
            assert stated[name]["fingerprint"] == frame.attrs[MANIFEST]["fingerprint"]
            assert "aligned" not in frame.attrs[MANIFEST]
    hours = fetcher.fetch("BTC/USDT", "1h", "2024-01-05", "2024-01-06")
    part = combine({"all": hours, "some": hours.iloc[5:8]}, "close", how="inner")
    assert len(part) == 3
    assert part.attrs[MANIFEST]["all"]["aligned"] == {"by": "time", "how": "inner", "left_out": 21}
    assert combine({"some": hours.iloc[5:8], "all": hours}, how="left").shape == (3, 10)
    assert combine(frames, align="time").equals(combine(frames))


@pytest.mark.slow
def test_weeks_and_months_join_by_the_date_of_their_first_day(fetcher: CandleFetcher) -> None:
    weeks = combine(pair(fetcher, "1w", "2024-03-04", "2024-03-26"), "close", align="date")
    assert dates(weeks) == ["2024-03-04", "2024-03-11", "2024-03-18", "2024-03-25"]
    assert weeks.notna().all(axis=None)
    months = combine(pair(fetcher, "1M", "2024-01-01", "2024-05-01"), align="date")
    assert dates(months) == ["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"]
    assert months["alpaca:AAPL"].columns.tolist() == ["open", "high", "low", "close", "volume"]
    made = resample(fetcher.fetch("alpaca:AAPL", "1d", "2024-01-01", "2024-05-01"), "1M")
    joined = combine(
        {"made": made, "own": pair(fetcher, "1M", "2024-01-01", "2024-05-01")["alpaca:AAPL"]}, align="date"
    )
    assert joined["made"].equals(joined["own"])


@pytest.mark.slow
def test_days_of_a_coin_that_begin_in_another_zone_have_their_own_date(fetcher: CandleFetcher) -> None:
    # Alpaca's days of coins begin at midnight in Chicago.
    frame = fetcher.fetch("alpaca-crypto:BTC/USD", "1d", "2024-03-08", "2024-03-13")
    assert frame.index[0] == pd.Timestamp("2024-03-08 06:00", tz="UTC")
    made = combine({"mine": frame}, align="date")
    assert dates(made) == ["2024-03-08", "2024-03-09", "2024-03-10", "2024-03-11", "2024-03-12"]
    assert made.attrs[MANIFEST]["mine"]["aligned"]["zone"] == "America/Chicago"


def test_frames_from_elsewhere_are_days_of_the_zone_of_their_index() -> None:
    tokyo = days(["2024-01-04", "2024-01-05"], "Asia/Tokyo")
    assert combine({"a": tokyo, "b": days(["2024-01-04", "2024-01-05"])}, align="date").shape == (2, 2)
    assert combine({"a": days(["2024-01-04"], None)}, align="date").index[0] == pd.Timestamp("2024-01-04")
    assert combine({"a": days(["2024-03-08", "2024-03-11"], "America/New_York")}, align="date").shape == (2, 1)
    with pytest.raises(InputError, match=r"2024-01-03 15:00:00\+00:00, which is no midnight, and no manifest says"):
        combine({"a": tokyo.tz_convert("UTC")}, align="date")


def test_what_has_no_dates_is_refused(fetcher: CandleFetcher) -> None:
    hours = fetcher.fetch("BTC/USDT", "1h", "2024-01-05", "2024-01-08")
    with pytest.raises(InputError, match=r"is of 1h; expected days or longer.*resample"):
        combine({"a": hours}, align="date")
    with pytest.raises(InputError, match="no midnight"):
        combine({"a": fetcher.fetch_funding("binance-um:BTC/USDT", "2024-01-05", "2024-01-08")}, align="date")
    for words in ({"align": "day"}, {"align": 5}, {"how": "right"}, {"how": None}, {"how": []}):
        with pytest.raises(InputError):
            combine({"a": resample(hours, "1d")}, **words)
    twice = resample(hours, "1d").rename(index=lambda time: time - pd.Timedelta("1h") if time.day == 6 else time)
    with pytest.raises(InputError, match="two candles on 2024-01-05"):
        combine({"a": twice}, align="date")


def test_a_joined_frame_says_nothing_of_one_series(fetcher: CandleFetcher) -> None:
    made = combine(pair(fetcher, "1d", "2024-01-05", "2024-01-10"), "close", align="date")
    assert manifest_of(made) is None
