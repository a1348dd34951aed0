"""Alpha Vantage: whole series and months, the clock of New York, and refusals that come with status 200. Over a server
on this machine that answers as its documentation says."""

from __future__ import annotations

import datetime as dt
import json
import random
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Loopback, Said
from runs import examples

from candle_fetcher import AccessDenied, IncompleteData, NotOffered, ProviderRefused, RateLimited, UnknownSymbol
from candle_fetcher.core import errors
from candle_fetcher.core.call import Reply
from candle_fetcher.core.candles import OHLCV
from candle_fetcher.core.errors import CandleFetcherError
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import HOUR_MS, parse_timeframe
from candle_fetcher.core.zones import NEW_YORK, zone
from candle_fetcher.providers import find_provider
from candle_fetcher.providers.alphavantage import parse_candles

# Where exchange_calendars is not installed, gaps count nights too, and a warning says so.
pytestmark = pytest.mark.filterwarnings("ignore:the gaps of")
SENTINEL = "Q7ZK2PWVXZ9LRTNB"
KEYS = {"api_keys": {"alphavantage": {"apikey": SENTINEL}}}
PREMIUM = {"provider_settings": {"alphavantage": {"plan": "premium"}}}
NOW = "2024-06-15T13:10:00"
EASTERN = ZoneInfo(NEW_YORK)
NAMES = ("1. open", "2. high", "3. low", "4. close", "5. volume")
REPLIES = Path(__file__).parent / "replies" / "alphavantage"
DAY = {
    "Information": "Our standard API rate limit is 25 requests per day. Please subscribe to any of the premium plans"
}


def series(timeframe="1d", symbol="IBM"):
    return Series("alphavantage", None, symbol, parse_timeframe(timeframe), "candles")


def row(stamp):
    chance = random.Random(stamp)
    low = chance.uniform(150, 160)
    texts = [f"{low + part:.4f}" for part in (1, 9, 0, chance.uniform(0, 9))]
    return dict(zip(NAMES, [*texts, str(chance.randrange(10**6))], strict=True))


def days(first, last):
    """The dates from one to the other on which stocks are traded, but for holidays."""
    count = (last - first).days + 1
    return [day for day in (first + dt.timedelta(days=at) for at in range(count)) if day.weekday() < 5]


def reply(title, stamps, symbol="IBM", zone_name="US/Eastern", indent=4):
    meta = {"1. Information": "Prices", "2. Symbol": symbol, "3. Last Refreshed": "", "5. Time Zone": zone_name}
    return json.dumps({"Meta Data": meta, title: {stamp: row(stamp) for stamp in stamps}}, indent=indent).encode()


class Vantage:
    """What the documentation says: the newest 100 days or all, months of minutes, newest first, and a key."""

    def __init__(self):
        self.world = None
        self.says = None

    def __call__(self, asked):
        if self.says is not None:
            return Said(json.dumps(self.says).encode())
        params = asked.params
        if not params.get("apikey"):
            return Said(b'{"Error Message": "the parameter apikey is invalid or missing."}')
        if params.get("symbol") != "IBM":
            return Said(b'{"Error Message": "Invalid API call. Please retry or visit the documentation"}')
        today = dt.datetime.fromtimestamp(self.world.now_s, EASTERN).date()
        if params["function"] == "TIME_SERIES_INTRADAY":
            year, month = map(int, params["month"].split("-"))
            dates = [day for day in days(dt.date(year, month, 1), today) if (day.year, day.month) == (year, month)]
            stamps = [f"{day} {hour:02}:00:00" for day in dates for hour in range(4, 20) if hour != 7]
            return Said(reply("Time Series (60min)", stamps[::-1]))
        stamps = [str(day) for day in days(dt.date(2023, 1, 2), today)][::-1]
        if params["function"] == "TIME_SERIES_WEEKLY":
            return Said(reply("Weekly Time Series", [stamp for stamp in stamps if is_friday(stamp)]))
        return Said(reply("Time Series (Daily)", stamps[:100] if params["outputsize"] == "compact" else stamps))


def is_friday(stamp):
    return dt.date.fromisoformat(stamp).weekday() == 4


@pytest.fixture
def vantage():
    return Vantage()


@pytest.fixture
def world(tmp_path, vantage):
    with Loopback(tmp_path, ("alphavantage",), vantage, now=NOW) as made:
        vantage.world = made
        yield made


# -- fetching ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault("B16")
def test_days_keep_the_date_of_their_session_and_the_second_fetch_sends_nothing(world):
    frame = world.fetcher(**KEYS).fetch("IBM", "1d", "2024-03-04", "2024-06-01")
    dates = days(dt.date(2024, 3, 4), dt.date(2024, 5, 31))
    assert [stamp.date() for stamp in frame.index] == dates
    assert {stamp.hour for stamp in frame.index[:5]} == {5}
    assert {stamp.hour for stamp in frame.index[5:]} == {4}
    assert frame["close"].tolist() == [float(row(str(day))["4. close"]) for day in dates]
    (asked,) = world.asked()
    assert asked.params == {
        "function": "TIME_SERIES_DAILY", "symbol": "IBM", "outputsize": "compact", "apikey": SENTINEL,
    }  # fmt: skip
    assert world.fetcher(**KEYS).fetch("ibm", "1d", "2024-03-04", "2024-06-01").equals(frame)
    assert world.asked() == []


@pytest.mark.slow(every=7)
@pytest.mark.fault("B16")
@pytest.mark.parametrize("year", range(1999, 2027))
def test_each_day_of_a_year_opens_at_midnight_of_new_york(year, record_property):
    dates = days(dt.date(year, 1, 1), dt.date(year, 12, 31))
    candles = parse_candles(reply("Time Series (Daily)", [str(day) for day in dates][::-1]), series())
    told = [dt.datetime.fromtimestamp(ms / 1000, EASTERN) for ms in candles.open_ms.tolist()]
    assert [(one.date(), one.hour, one.minute) for one in told] == [(day, 0, 0) for day in dates]
    assert [ms // 86_400_000 for ms in candles.open_ms.tolist()] == [(day - dt.date(1970, 1, 1)).days for day in dates]
    record_property("runs", len(dates))


@pytest.mark.fault("B12")
def test_weeks_open_on_their_monday_though_they_are_stamped_with_their_last_day(world):
    frame = world.fetcher(**KEYS).fetch("IBM", "1w", "2024-03-01", "2024-05-01")
    assert {stamp.weekday() for stamp in frame.index} == {0}
    fridays = [str((stamp + dt.timedelta(days=4)).date()) for stamp in frame.index]
    assert frame["open"].tolist() == [float(row(stamp)["1. open"]) for stamp in fridays]


def test_hours_are_asked_for_by_the_month_of_new_york(world):
    frame = world.fetcher(**KEYS, **PREMIUM).fetch("IBM", "1h", "2024-02-26", "2024-03-16")
    months = [one.params["month"] for one in world.asked()]
    assert sorted(set(months)) == sorted(months)
    assert {"2024-02", "2024-03"} <= set(months) <= {"2024-01", "2024-02", "2024-03", "2024-04"}
    local = frame.index.tz_convert(NEW_YORK)
    assert (local[0].hour, local[-1].hour) == (4, 19)
    # The hour in which nothing is traded is a gap, and asked for once.
    assert {stamp.hour for stamp in local} == {*range(4, 20)} - {7}
    assert frame["high"].tolist() == [float(row(f"{stamp:%Y-%m-%d %H:00:00}")["2. high"]) for stamp in local]


def test_a_free_key_brings_a_hundred_days_and_what_is_before_is_missing(world):
    with pytest.raises(IncompleteData) as caught:
        world.fetcher(**KEYS).fetch("IBM", "1d", "2023-06-01", "2024-06-01")
    assert {gap.cause for gap in caught.value.missing} == {"depth_limit"}
    frame = world.fetcher(**KEYS, **PREMIUM, use_cache=False).fetch("IBM", "1d", "2023-06-01", "2024-06-01")
    assert len(frame) == len(days(dt.date(2023, 6, 1), dt.date(2024, 5, 31)))
    assert world.asked()[-1].params["outputsize"] == "full"


@pytest.mark.fault("J02")
def test_the_newest_days_come_on_a_monday_too_although_a_hundred_are_all_that_is_served(world):
    world.now_s = dt.datetime(2024, 6, 17, 13, 10, tzinfo=EASTERN).timestamp()
    dates = days(dt.date(2024, 1, 1), dt.date(2024, 6, 14))
    for limit in (1, 50, 99):
        frame = world.fetcher(**KEYS).fetch("IBM", "1d", limit=limit)
        assert [stamp.date() for stamp in frame.index] == dates[-limit:]
    stored = world.fetcher(**KEYS, source="cache").fetch("IBM", "1d", limit=3)
    assert [stamp.date() for stamp in stored.index] == dates[-3:]
    with pytest.raises(IncompleteData):
        world.fetcher(**KEYS).fetch("IBM", "1d", limit=120)


def test_pairs_have_days_weeks_and_months_alone(world):
    with pytest.raises(NotOffered, match=r"1d, 1w, 1M of BTC/USD, or candles of 5m from kraken"):
        world.fetcher(**KEYS).fetch("BTC/USD", "5m", "2024-03-01", "2024-03-02")
    call = find_provider("alphavantage").feed("candles").call(series("1w", "BTC/EUR"), Span(0, 1), 1)
    assert call.params == (("function", "DIGITAL_CURRENCY_WEEKLY"), ("symbol", "BTC"), ("market", "EUR"))


@pytest.mark.parametrize(
    ("symbol", "calendar"),
    [("IBM", "XNYS"), ("BRK.B", "XNYS"), ("TSCO.LON", "XLON"), ("600104.SHH", "XSHG"), ("X.NOWHERE", None),
     ("BTC/USD", None)],
)  # fmt: skip
def test_sessions_are_those_of_the_exchange(symbol, calendar):
    assert find_provider("alphavantage").calendar(series("1d", symbol)) == calendar


# -- refusals ---------------------------------------------------------------------------------------------------------

REFUSALS = [
    (path.name.partition(".")[0], path.read_text().split(",")[-1].strip())
    for path in sorted(REPLIES.glob("*.refused.answer.csv"))
    if "\n200," in path.read_text()
]


@pytest.mark.slow(every=3)
@pytest.mark.fault("A07")
@pytest.mark.parametrize(("name", "kind"), REFUSALS)
def test_a_refusal_with_status_200_is_its_error_and_leaves_nothing_in_the_cache(
    world, vantage, name, kind, record_property
):
    vantage.says = json.loads((REPLIES / f"{name}.refused.body").read_bytes())
    fetcher = world.fetcher(**KEYS, max_retries=0)
    with pytest.raises(CandleFetcherError) as caught:
        fetcher.fetch("IBM", "1d", "2024-03-04", "2024-06-01")
    error = caught.value.cause if isinstance(caught.value, IncompleteData) else caught.value
    assert type(error) is getattr(errors, kind)
    assert len(world.asked()) == 1
    fetcher.close()
    vantage.says = None
    # Nothing was stored: the same fetch has to ask.
    world.now_s += 100_000
    with pytest.raises(IncompleteData):
        world.fetcher(**KEYS, source="cache").fetch("IBM", "1d", "2024-03-04", "2024-06-01")
    assert world.asked() == []
    record_property("runs", 1)


def test_a_used_up_day_is_told_and_nothing_more_is_sent(world, vantage):
    vantage.says = DAY
    for _ in range(3):
        with pytest.raises((RateLimited, IncompleteData)) as caught:
            world.fetcher(**KEYS).fetch("IBM", "1d", "2024-03-04", "2024-06-01")
        error = caught.value.cause if isinstance(caught.value, IncompleteData) else caught.value
        assert isinstance(error, RateLimited)
        assert error.retry_after_s > 300
    assert len(world.asked()) == 1


@pytest.mark.parametrize(
    ("now", "back"),
    [
        ("2024-06-15T13:10:00", "2024-06-16 04:00"),
        ("2024-06-16T03:59:59", "2024-06-16 04:00"),
        ("2024-01-15T13:10:00", "2024-01-16 05:00"),
        ("2024-03-10T06:00:00", "2024-03-11 04:00"),
        ("2024-11-03T05:00:00", "2024-11-04 05:00"),
    ],
)
def test_the_day_is_over_at_midnight_of_new_york_as_far_as_is_known(now, back):
    at = dt.datetime.fromisoformat(f"{now}+00:00")
    now_ms = int(at.timestamp() * 1000)
    error = find_provider("alphavantage").refuse(Reply(200, {}, json.dumps(DAY).encode(), 0.0), "IBM", now_ms)
    assert isinstance(error, RateLimited)
    assert f"{back} UTC" in str(error)
    assert error.retry_after_s == (dt.datetime.fromisoformat(f"{back}+00:00") - at).total_seconds()


def test_a_month_that_it_refuses_is_no_unknown_symbol(world):
    with pytest.raises(ProviderRefused, match="no candles of it in that month: request 1d"):
        world.fetcher(**KEYS, **PREMIUM).fetch("IBMX", "1h", "2024-02-26", "2024-02-27")
    with pytest.raises(UnknownSymbol, match="IBMX"):
        world.fetcher(**KEYS).fetch("IBMX", "1d", "2024-02-26", "2024-02-27")


# -- the key ----------------------------------------------------------------------------------------------------------


def test_the_key_is_never_shown_though_it_comes_back(world, vantage, caplog):
    vantage.says = {
        "Information": f"We have detected your API key as {SENTINEL} and our rate limit is 25 requests per day"
    }
    fetcher = world.fetcher(**KEYS)
    with pytest.raises(CandleFetcherError) as caught:
        fetcher.fetch("IBM", "1d", "2024-03-04", "2024-06-01")
    error, texts = caught.value, [repr(fetcher), fetcher.monitor.report(), caplog.text]
    while error is not None:
        texts += [str(error), repr(error)]
        error = error.cause
    assert not any(SENTINEL in text for text in texts)
    assert any("***" in text for text in texts)


def test_without_a_key_nothing_is_sent_and_the_error_says_where_to_get_one(world):
    with pytest.raises(AccessDenied) as caught:
        world.fetcher().fetch("IBM", "1d", "2024-03-04", "2024-06-01")
    assert "https://www.alphavantage.co/support/#api-key" in str(caught.value)
    assert "ALPHAVANTAGE_API_KEY" in str(caught.value)
    assert world.asked() == []


# -- replies ----------------------------------------------------------------------------------------------------------

decimals = st.decimals(min_value=0, max_value=10**9, places=4, allow_nan=False).map(str)
rows = st.lists(st.lists(decimals, min_size=5, max_size=5), min_size=1, max_size=12)


@examples()
@given(rows=rows, indent=st.sampled_from([None, 1, 4]), is_intraday=st.booleans(), data=st.data())
def test_the_fast_and_the_careful_reader_agree_to_the_last_bit(rows, indent, is_intraday, data):
    first = dt.datetime(2023, data.draw(st.integers(1, 12)), data.draw(st.integers(1, 28)), 19, 55)  # noqa: DTZ001 - a wall clock
    step = dt.timedelta(minutes=5) if is_intraday else dt.timedelta(days=1)
    stamps = [str(first - at * step)[: 19 if is_intraday else 10] for at in range(len(rows))]
    title = "Time Series (5min)" if is_intraday else "Time Series (Daily)"
    meta = {"2. Symbol": "IBM", "5. Time Zone": "US/Eastern"}
    table = {stamp: dict(zip(NAMES, row, strict=True)) for stamp, row in zip(stamps, rows, strict=True)}
    wanted = series("5m" if is_intraday else "1d")
    fast = parse_candles(json.dumps({"Meta Data": meta, title: table}, indent=indent).encode(), wanted)
    # With the series before what is said about it, no row is read with the others.
    careful = parse_candles(json.dumps({title: table, "Meta Data": meta}).encode(), wanted)
    assert fast.block.tolist() == careful.block.tolist()
    assert fast.floats("high").tolist() == [float(row[1]) for row in rows[::-1]]


@pytest.mark.slow
@pytest.mark.fault("B16")
def test_a_month_of_real_minutes_is_read_to_the_last_bit(shared, record_property):
    path = shared / "market_data" / "stocks" / "mock_time_series_extended"
    if not path.exists():
        pytest.skip("the month of minutes is not among the real data beside the repository")
    _, *lines = path.read_text().split()
    rows = [(" ".join(pair).split(",")) for pair in zip(lines[::2], lines[1::2], strict=True)]
    table = {stamp: dict(zip(NAMES, texts, strict=True)) for stamp, *texts in rows}
    meta = {"2. Symbol": "MSFT", "6. Time Zone": "US/Eastern"}
    body = json.dumps({"Meta Data": meta, "Time Series (1min)": table}, indent=4).encode()
    candles = parse_candles(body, series("1m", "MSFT"))
    assert candles.count == len(rows) == 11_190
    for at, (stamp, *texts) in enumerate(reversed(rows)):
        opened = dt.datetime.fromisoformat(stamp).replace(tzinfo=EASTERN)
        assert int(candles.open_ms[at]) == int(opened.timestamp()) * 1000
        assert [candles.floats(name)[at] for name in OHLCV] == [float(text) for text in texts]
    record_property("runs", candles.count)


def test_the_clock_of_new_york_is_read_as_the_tz_database_has_it():
    eastern = zone(NEW_YORK)
    hours = np.arange(0, 4_000_000_000, 1_800 * 7, dtype=np.int64) * 1000
    local = eastern.to_local(hours)
    for at in range(0, len(hours), 501):
        told = dt.datetime.fromtimestamp(int(hours[at]) // 1000, EASTERN).replace(tzinfo=dt.timezone.utc)
        assert int(local[at]) == int(told.timestamp() * 1000)
    back = eastern.to_utc(local)
    assert set(np.unique(back - hours).tolist()) <= {0, -HOUR_MS}  # an hour that comes twice is the first one
    assert (back == hours).mean() > 0.999
