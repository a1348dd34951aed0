"""TradeStation: bars by the end of their time, sessions across the change of the clock, and tokens that live for
minutes. Over a server on this machine that answers as the documentation says; no reply of the real service is known."""

from __future__ import annotations

import datetime as dt
import json
import random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Loopback, Said
from runs import examples

from candle_fetcher import AccessDenied, IncompleteData, RateLimited, UnknownSymbol
from candle_fetcher.core.errors import CandleFetcherError
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import MINUTE_MS, parse_timeframe
from candle_fetcher.providers import find_provider
from candle_fetcher.providers.tradestation import final_until, parse_candles, parse_token

# Where exchange_calendars is not installed, gaps count nights too, and a warning says so.
pytestmark = pytest.mark.filterwarnings("ignore:the gaps of")
SENTINEL = "TS7Qk2pWvXz9LrTnB4mY"
LASTING = {"client_id": f"{SENTINEL}-client", "client_secret": f"{SENTINEL}-secret", "refresh_token": f"{SENTINEL}-r0"}
KEYS = {"api_keys": {"tradestation": LASTING}}
NOW = "2024-06-15T13:10:00"
EASTERN = ZoneInfo("America/New_York")
MINUTE = dt.timedelta(minutes=1)


def series(timeframe="1d", symbol="MSFT", session="Default"):
    return Series("tradestation", None, symbol, parse_timeframe(timeframe), "candles", (("session", session),))


def bar(ends, *, is_last=False, status="Closed"):
    """The bar that ends then, by its time alone."""
    chance = random.Random(ends.isoformat())
    low = chance.uniform(400, 420)
    opened, high, close = (f"{low + part:.2f}" for part in (1, 9, chance.uniform(0, 9)))
    up, down = chance.randrange(10**6), chance.randrange(10**6)
    return {
        "High": high, "Low": f"{low:.2f}", "Open": opened, "Close": close,
        "TimeStamp": f"{ends.astimezone(dt.timezone.utc):%Y-%m-%dT%H:%M:%SZ}", "TotalVolume": str(up + down),
        "DownTicks": down // 90, "DownVolume": down, "OpenInterest": "0", "IsRealtime": False,
        "IsEndOfHistory": is_last, "TotalTicks": down // 90 + up // 90, "UnchangedTicks": 0, "UnchangedVolume": 0,
        "UpTicks": up // 90, "UpVolume": up, "Epoch": int(ends.timestamp() * 1000), "BarStatus": status,
    }  # fmt: skip


def sessions(first, last):
    """The dates from one to the other on which stocks are traded, but for holidays."""
    return [
        day
        for at in range((last - first).days + 1)
        if (day := dt.datetime(first.year, first.month, first.day, tzinfo=EASTERN) + dt.timedelta(days=at)).weekday()
        < 5
    ]


def ends_of(params, now):
    """When the bars end that the parameters ask for, by the end of their time and with both bounds."""
    first = dt.datetime.fromisoformat(params["firstdate"].replace("Z", "+00:00"))
    last = min(
        now, dt.datetime.fromisoformat(params["lastdate"].replace("Z", "+00:00")) if "lastdate" in params else now
    )
    since = max(first.date(), dt.date(2023, 6, 1))
    for day in sessions(since, last.astimezone(EASTERN).date()):
        if params["unit"] == "Daily":
            ends = [day.replace(hour=16)]
        else:
            step = int(params["interval"])
            ends = [day.replace(hour=9, minute=30) + at * step * MINUTE for at in range(1, 390 // step + 1)]
        yield from (one for one in ends if first <= one.astimezone(dt.timezone.utc) <= last + step_of(params))


def step_of(params):
    return dt.timedelta(days=1) if params["unit"] == "Daily" else int(params["interval"]) * MINUTE


class Station:
    """What the documentation says: bars for whoever has the token of the moment, and a new one for a refresh token."""

    def __init__(self):
        self.world = None
        self.says = None
        self.tokens = 0
        self.is_ended = False
        self.seconds = 1200
        self.token_refusal = 403

    @property
    def token(self):
        return f"{SENTINEL}-t{self.tokens}"

    def __call__(self, asked):
        if asked.path == "/oauth/token":
            if asked.method != "POST" or asked.params.get("refresh_token") != LASTING["refresh_token"]:
                return Said(
                    b'{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}',
                    self.token_refusal,
                )
            self.tokens += 1
            self.is_ended = False
            told = {"access_token": self.token, "token_type": "Bearer", "expires_in": self.seconds}
            return Said(json.dumps(told).encode())
        if self.is_ended or asked.headers.get("authorization") != f"Bearer {self.token}":
            return Said(b'{"Error":"Unauthorized","Message":"Access token expired"}', 401)
        if self.says is not None:
            return self.says
        if not asked.path.endswith("/MSFT"):
            return Said(b'{"Error":"BadRequest","Message":"Invalid symbol"}', 400)
        now = dt.datetime.fromtimestamp(self.world.now_s, dt.timezone.utc)
        ends = list(ends_of(asked.params, now))
        bars = [bar(one, is_last=one == ends[-1], status="Closed" if one <= now else "Open") for one in ends]
        return Said(json.dumps({"Bars": bars}, separators=(",", ":")).encode())


@pytest.fixture
def station():
    return Station()


@pytest.fixture
def world(tmp_path, station):
    with Loopback(tmp_path, ("tradestation", "tradestation-signin"), station, now=NOW) as made:
        station.world = made
        yield made


def tokens_asked(asked):
    return [one for one in asked if one.path == "/oauth/token"]


# -- fetching ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault("B12")
@pytest.mark.fault("B16")
def test_days_keep_the_date_of_their_session_and_the_second_fetch_sends_nothing(world):
    frame = world.fetcher(**KEYS).fetch("MSFT", "1d", "2023-10-30", "2024-04-01")
    dates = sessions(dt.date(2023, 10, 30), dt.date(2024, 3, 31))
    assert [stamp.tz_convert(EASTERN).isoformat() for stamp in frame.index] == [day.isoformat() for day in dates]
    assert [stamp.date() for stamp in frame.index] == [day.date() for day in dates]
    assert frame["close"].tolist() == [float(bar(day.replace(hour=16))["Close"]) for day in dates]
    signed_in, *asked = world.asked()
    assert (signed_in.method, signed_in.path) == ("POST", "/oauth/token")
    assert signed_in.params == {"grant_type": "refresh_token", **LASTING}
    assert {one.params["sessiontemplate"] for one in asked} == {"Default"}
    assert world.fetcher(**KEYS).fetch("msft", "1d", "2023-10-30", "2024-04-01").equals(frame)
    assert world.asked() == []


@pytest.mark.slow
@pytest.mark.fault("B12")
@pytest.mark.parametrize("timeframe", ["1m", "5m", "15m", "30m"])
def test_minutes_open_their_length_before_their_stamp(world, timeframe):
    step = int(timeframe[:-1]) * MINUTE
    frame = world.fetcher(**KEYS).fetch("MSFT", timeframe, "2024-03-07", "2024-03-13")
    opens = [stamp.tz_convert(EASTERN) for stamp in frame.index]
    assert len(opens) == 4 * 390 * MINUTE // step
    assert {(one.hour, one.minute) for one in opens if one.hour == 9} >= {(9, 30)}
    assert frame["open"].tolist() == [float(bar((one + step).to_pydatetime())["Open"]) for one in opens]
    assert frame["volume"].tolist() == [float(bar((one + step).to_pydatetime())["TotalVolume"]) for one in opens]


@pytest.mark.slow
def test_hours_are_made_of_half_hours(world):
    frame = world.fetcher(**KEYS).fetch("MSFT", "1h", "2024-03-07", "2024-03-08")
    assert [stamp.hour for stamp in frame.index] == [14, 15, 16, 17, 18, 19, 20]
    assert {one.params["interval"] for one in world.asked() if one.path != "/oauth/token"} == {"30"}


def test_a_bar_that_forms_is_no_candle(world):
    world.now_s = dt.datetime(2024, 6, 14, 15, 10, tzinfo=dt.timezone.utc).timestamp()
    frame = world.fetcher(**KEYS).fetch("MSFT", "30m", "2024-06-14")
    assert frame.index[-1].isoformat() == "2024-06-14T14:30:00+00:00"


@pytest.mark.slow
def test_another_session_is_another_series(world):
    world.fetcher(**KEYS).fetch("MSFT", "1d", "2024-03-04", "2024-03-08")
    world.asked()
    chosen = {"provider_settings": {"tradestation": {"session": "USEQPreAndPost"}}}
    world.fetcher(**KEYS, **chosen).fetch("MSFT", "1d", "2024-03-04", "2024-03-08")
    assert world.asked()[-1].params["sessiontemplate"] == "USEQPreAndPost"


def test_calls_are_for_windows_within_the_documented_bounds():
    feed = find_provider("tradestation").feed("candles")
    for timeframe in ("1m", "5m", "15m", "30m"):
        wanted = series(timeframe)
        window = feed.window(wanted, 1_710_000_000_000)
        params = dict(feed.call(wanted, window, 1).params)
        first, last = (
            dt.datetime.fromisoformat(params[name].replace("Z", "+00:00")) for name in ("firstdate", "lastdate")
        )
        assert (last - first) // MINUTE // int(params["interval"]) < 57_600
        assert (last - first).days < 3 * 365
        assert (params["unit"], params["interval"]) == ("Minute", timeframe[:-1])
    for timeframe, unit in (("1d", "Daily"), ("1w", "Weekly"), ("1M", "Monthly")):
        params = dict(feed.call(series(timeframe), Span(1_710_000_000_000, 1_711_000_000_000), 1).params)
        assert (params["unit"], params["interval"]) == (unit, "1")


@pytest.mark.parametrize(
    ("symbol", "calendar"), [("MSFT", "XNYS"), ("BRK.B", "XNYS"), ("@ES", None), ("$SPX.X", None), ("BTCUSD", None)]
)
def test_sessions_are_those_of_stocks_alone(symbol, calendar):
    assert find_provider("tradestation").calendar(series("1d", symbol)) == calendar


# -- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_token_that_is_refused_is_got_anew_once_and_the_call_repeated(world, station):
    fetcher = world.fetcher(**KEYS)
    fetcher.fetch("MSFT", "1d", "2024-03-04", "2024-03-08")
    world.asked()
    station.is_ended = True
    frame = fetcher.fetch("MSFT", "5m", "2024-03-04", "2024-03-05")
    assert len(frame) == 78
    asked = world.asked()
    assert len(tokens_asked(asked)) == 1
    assert asked[0].headers["authorization"] == f"Bearer {SENTINEL}-t1"
    assert asked[-1].headers["authorization"] == f"Bearer {SENTINEL}-t2"


@pytest.mark.slow
def test_a_token_that_stays_refused_is_an_error_after_one_new_one(world, station):
    station.says = Said(b'{"Error":"Unauthorized","Message":"No such user"}', 401)
    with pytest.raises(AccessDenied) as caught:
        world.fetcher(**KEYS).fetch("MSFT", "1d", "2024-03-04", "2024-03-08")
    assert len(tokens_asked(world.asked())) == 2
    assert "refresh_token" in caught.value.fix


@pytest.mark.slow
def test_a_token_that_has_ended_is_got_anew_before_it_is_used(world, station):
    station.seconds = 1
    fetcher, now_s = world.fetcher(**KEYS), 0.0
    fetcher._runtime.wire = fetcher._runtime.wire._replace(steady_s=lambda: now_s)
    fetcher.fetch("MSFT", "1d", "2024-03-04", "2024-03-08")
    now_s = 0.51  # a token of a second is used for half of it
    fetcher.fetch("MSFT", "5m", "2024-03-04", "2024-03-05")
    asked = world.asked()
    assert len(tokens_asked(asked)) == 2
    assert [one.path for one in asked][::2] == ["/oauth/token"] * 2
    used = [one.headers["authorization"] for one in asked if one.path != "/oauth/token"]
    assert used == [f"Bearer {SENTINEL}-t1", f"Bearer {SENTINEL}-t2"]


def test_a_token_by_itself_serves_until_it_is_refused(world, station):
    station.tokens = 1
    keys = {"api_keys": {"tradestation": {"access_token": station.token}}}
    assert len(world.fetcher(**keys).fetch("MSFT", "1d", "2024-03-04", "2024-03-09")) == 5
    assert tokens_asked(world.asked()) == []
    station.is_ended = True
    with pytest.raises(AccessDenied) as caught:
        world.fetcher(**keys).fetch("MSFT", "5m", "2024-03-04", "2024-03-05")
    assert "client_id" in caught.value.fix


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refused_refresh_token_is_access_denied(world, station, status):
    station.token_refusal = status
    wrong = {**LASTING, "refresh_token": f"{SENTINEL}-wrong"}
    with pytest.raises(AccessDenied, match=f"gave no token .status {status}."):
        world.fetcher(api_keys={"tradestation": wrong}).fetch("MSFT", "1d", "2024-03-04", "2024-03-08")
    assert len(world.asked()) == 1


def test_keys_are_never_shown_whatever_fails(world, station, caplog):
    wrong = {**LASTING, "refresh_token": f"{SENTINEL}-wrong"}
    for keys, says in ((wrong, None), (LASTING, Said(f"<html>{SENTINEL}-t1 {SENTINEL}-secret</html>".encode(), 400))):
        station.says = says
        fetcher = world.fetcher(api_keys={"tradestation": keys}, use_cache=False)
        with pytest.raises(CandleFetcherError) as caught:
            fetcher.fetch("MSFT", "1d", "2024-03-04", "2024-03-08")
        error, texts = caught.value, [repr(fetcher), fetcher.monitor.report(), caplog.text]
        while error is not None:
            texts += [str(error), repr(error)]
            error = error.cause
        assert not any(SENTINEL in text for text in texts)


def test_without_keys_nothing_is_sent(world):
    with pytest.raises(AccessDenied, match="TRADESTATION_ACCESS_TOKEN"):
        world.fetcher().fetch("MSFT", "1d", "2024-03-04", "2024-03-08")
    assert world.asked() == []


def test_a_token_is_read_with_its_time_and_what_is_to_be_kept():
    assert parse_token(b'{"access_token":"abcd","expires_in":60}') == ({"access_token": "abcd"}, 60.0)
    rotated = parse_token(b'{"access_token":"abcd","refresh_token":"efgh"}')
    assert rotated == ({"access_token": "abcd", "refresh_token": "efgh"}, 1200.0)


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_an_unknown_symbol_is_told(world):
    with pytest.raises(UnknownSymbol, match="MSFTX"):
        world.fetcher(**KEYS).fetch("MSFTX", "1d", "2024-03-04", "2024-03-08")


def test_a_quota_that_is_used_up_holds_those_who_come_after(world, station):
    station.says = Said(b'{"Error":"TooManyRequests","Message":"Slow down"}', 429, (("Retry-After", "1200"),))
    for _ in range(2):
        with pytest.raises((RateLimited, IncompleteData)) as caught:
            world.fetcher(**KEYS).fetch("MSFT", "1d", "2024-03-04", "2024-03-08")
        error = caught.value.cause if isinstance(caught.value, IncompleteData) else caught.value
        assert isinstance(error, RateLimited)
    assert len([one for one in world.asked() if one.path != "/oauth/token"]) == 1


# -- replies ----------------------------------------------------------------------------------------------------------

times = st.integers(1_600_000_000 // 60, 1_700_000_000 // 60).map(
    lambda minute: dt.datetime.fromtimestamp(60 * minute, dt.timezone.utc)
)


@examples()
@given(ends=st.lists(times, min_size=1, max_size=12, unique=True).map(sorted), is_open=st.booleans())
def test_the_fast_and_the_careful_reader_agree_to_the_last_bit(ends, is_open):
    bars = [bar(one, is_last=one == ends[-1]) for one in ends]
    bars[-1]["BarStatus"] = "Open" if is_open else "Closed"
    fast = parse_candles(json.dumps({"Bars": bars}, separators=(",", ":")).encode(), series("1m"))
    careful = parse_candles(json.dumps({"Bars": bars}).encode(), series("1m"))
    assert fast.block.tolist() == careful.block.tolist()
    assert fast.count == len(ends)
    assert fast.floats("low").tolist() == [float(one["Low"]) for one in bars]
    assert fast.open_ms.tolist() == [int(one.timestamp() * 1000) - MINUTE_MS for one in ends]
    for body in (json.dumps({"Bars": bars}, separators=(",", ":")), json.dumps({"Bars": bars}, indent=1)):
        assert final_until(body.encode(), fast) == (fast.open_ms[-1] if is_open else FOREVER_MS)
