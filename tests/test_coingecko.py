"""CoinGecko: candles by the end of their time, the newest ones alone, and what it refuses. Over a server on this
machine that answers as its documentation says."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Loopback, Said
from runs import examples

from candle_fetcher import AccessDenied, IncompleteData, InputError, RateLimited, UnknownSymbol, summary
from candle_fetcher.core.errors import ReplyError
from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, parse_timeframe
from candle_fetcher.providers import find_provider
from candle_fetcher.providers.coingecko import parse_candles

SENTINEL = "CG-7Qk2pWvXz9LrTnB4"
NOW = "2024-06-15T13:10:00"
STEPS = {"1": 30 * MINUTE_MS, "30": 4 * HOUR_MS, "365": 4 * DAY_MS}
COINS = [
    {"id": "bitcoin", "symbol": "btc", "name": "Bitcoin"},
    {"id": "bitcoin-cash", "symbol": "bch", "name": "Bitcoin Cash"},
]


def series(timeframe="4h", symbol="bitcoin/usd"):
    return Series("coingecko", None, symbol, parse_timeframe(timeframe), "candles")


def price(opened_ms):
    """Open, high, low and close of the candle, by its time alone."""
    chance = random.Random(opened_ms)
    low = chance.uniform(50_000, 60_000)
    return [round(low + part, 2) for part in (1, 9, 0, chance.uniform(0, 9))]


class Gecko:
    """What the documentation says: rows by their end, as many as the days bring, the last of a candle that forms."""

    def __init__(self):
        self.world = None
        self.refusal = None

    def __call__(self, asked):
        if self.refusal is not None:
            return self.refusal
        if asked.path == "/api/v3/coins/list":
            return Said(json.dumps(COINS).encode())
        coin = asked.path.split("/")[4]
        if coin not in {one["id"] for one in COINS}:
            return Said(b'{"error":"coin not found"}', 404)
        step = STEPS[asked.params["days"]]
        now_ms = int(self.world.now_s * 1000)
        first = (now_ms - int(asked.params["days"]) * DAY_MS) // step + 1
        ends = range((first + 1) * step, now_ms + step + 1, step)
        return Said(json.dumps([[end, *price(end - step)] for end in ends]).encode())


@pytest.fixture
def world(tmp_path):
    gecko = Gecko()
    with Loopback(tmp_path, ("coingecko",), gecko, now=NOW) as made:
        gecko.world = made
        made.says = lambda said: setattr(gecko, "refusal", said)
        yield made


# -- fetching ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault("B12")
def test_a_fetch_brings_candles_by_their_open_time_and_the_second_one_sends_nothing(world):
    frame = world.fetcher().fetch("bitcoin/usd", "4h", "2024-06-05", "2024-06-13")
    assert len(frame) == 48
    assert frame.index[0].isoformat() == "2024-06-05T00:00:00+00:00"
    opens = frame.index.as_unit("ms").asi8.tolist()
    assert frame[["open", "high", "low", "close"]].to_numpy().tolist() == [price(at) for at in opens]
    assert frame["volume"].isna().all()
    assert [(one.path, one.params) for one in world.asked()] == [
        ("/api/v3/coins/bitcoin/ohlc", {"vs_currency": "usd", "days": "30"})
    ]
    again = world.fetcher().fetch("Bitcoin/USD", "4h", "2024-06-05", "2024-06-13")
    assert again.equals(frame)
    assert world.asked() == []


def test_days_are_made_of_four_hours(world):
    frame = world.fetcher().fetch("bitcoin", "1d", "2024-06-10", "2024-06-12")
    firsts = [price(at)[0] for at in (frame.index.as_unit("ms").asi8).tolist()]
    assert frame["open"].tolist() == firsts
    assert frame["volume"].isna().all()
    assert {one.params["days"] for one in world.asked()} == {"30"}


@pytest.mark.fault("H09")
def test_volumes_that_the_provider_does_not_have_add_up_to_nothing_known(world):
    figures = summary(world.fetcher().fetch("bitcoin/usd", "4h", "2024-06-05", "2024-06-13"))["candles"]["statistics"]
    assert figures["total_volume"] is None
    assert figures["highest_price"] > figures["avg_price"] > 0


def test_what_is_older_than_it_serves_is_missing_and_says_so(world):
    with pytest.raises(IncompleteData) as caught:
        world.fetcher().fetch("bitcoin/usd", "4h", "2024-04-01", "2024-06-10")
    assert {gap.cause for gap in caught.value.missing} == {"depth_limit"}
    assert caught.value.missing[0].first == "2024-04-01T00:00:00Z"
    assert len(caught.value.frame) > 100


def test_a_candle_that_may_still_change_is_not_taken_for_settled(world):
    frame = world.fetcher().fetch("bitcoin/usd", "30m", "2024-06-15")
    # At 13:10 the candle of 12:30 has settled; the row after it says that its own is whole.
    assert frame.index[-1].isoformat() == "2024-06-15T12:30:00+00:00"


def test_what_it_has_no_candles_of_is_an_input_error_that_names_what_it_has(world):
    with pytest.raises(InputError, match="30m, 4h, 4d"):
        world.fetcher().fetch("bitcoin/usd", "5m", "2024-06-15")
    assert world.asked() == []


def test_a_coin_that_it_does_not_know_is_an_unknown_symbol_and_the_list_has_those_that_it_does(world):
    fetcher = world.fetcher()
    with pytest.raises(UnknownSymbol, match=r"(?i)bitcoinn/usd"):
        fetcher.fetch("bitcoinn/usd", "4h", "2024-06-10", "2024-06-12")
    assert sorted(fetcher.symbols()["symbol"]) == ["bitcoin-cash/usd", "bitcoin/usd"]


# -- keys and limits --------------------------------------------------------------------------------------------------


def test_the_key_is_sent_with_each_request_and_never_shown(world, caplog):
    world.says(Said(f'{{"status":{{"error_code":10010,"error_message":"{SENTINEL}"}}}}'.encode(), 400))
    fetcher = world.fetcher(api_keys={"coingecko": {"demo_key": SENTINEL}})
    with pytest.raises(AccessDenied) as caught:
        fetcher.fetch("bitcoin/usd", "4h", "2024-06-10", "2024-06-12")
    assert [one.headers["x-cg-demo-api-key"] for one in world.asked()] == [SENTINEL]
    assert "pro_key" in caught.value.fix
    shown = [str(caught.value), repr(caught.value), repr(fetcher), fetcher.monitor.report(), caplog.text]
    assert not any(SENTINEL in text for text in shown)


def test_without_a_key_it_is_asked_all_the_same(world):
    world.fetcher().fetch("bitcoin/usd", "4h", "2024-06-10", "2024-06-12")
    assert "x-cg-demo-api-key" not in world.asked()[0].headers


def test_the_paid_plan_has_a_host_and_a_header_of_its_own(world):
    pro = find_provider("coingecko").configure({"plan": "pro"})
    assert pro.hosts == ("https://pro-api.coingecko.com",)
    settings = {"provider_settings": {"coingecko": {"plan": "pro"}}}
    fetcher = world.fetcher(api_keys={"coingecko": {"pro_key": SENTINEL}}, **settings)
    fetcher.fetch("bitcoin/usd", "4h", "2024-06-10", "2024-06-12")
    assert world.asked()[0].headers["x-cg-pro-api-key"] == SENTINEL
    with pytest.raises(AccessDenied, match="COINGECKO_PRO_API_KEY"):
        world.fetcher(use_cache=False, **settings).fetch("bitcoin/usd", "4h", "2024-06-10", "2024-06-12")
    assert world.asked() == []


def test_a_pause_that_it_asks_for_is_kept_by_those_who_come_after(world):
    world.says(Said(b'{"status":{"error_code":429,"error_message":"Slow down"}}', 429, (("Retry-After", "900"),)))
    for _ in range(2):
        with pytest.raises((RateLimited, IncompleteData)) as caught:
            world.fetcher().fetch("bitcoin/usd", "4h", "2024-06-10", "2024-06-12")
        error = caught.value.cause if isinstance(caught.value, IncompleteData) else caught.value
        assert isinstance(error, RateLimited)
        assert 0 < error.retry_after_s <= 901
    assert len(world.asked()) == 1


# -- replies ----------------------------------------------------------------------------------------------------------

decimals = st.decimals(min_value=0, max_value=10**9, places=8, allow_nan=False).map(str) | st.integers(0, 10**9).map(
    str
)


@pytest.mark.fault("B12")
@examples()
@given(rows=st.lists(st.lists(decimals, min_size=4, max_size=4), max_size=20), blank=st.sampled_from(["", " ", "\n"]))
def test_the_fast_and_the_careful_reader_agree_to_the_last_bit(rows, blank):
    step = 4 * HOUR_MS
    texts = [f"[{(number + 400_000) * step},{','.join(row)}]" for number, row in enumerate(rows)]
    compact = f"[{','.join(texts)}]".encode()
    fast, careful = (
        parse_candles(compact, series()),
        parse_candles(compact.replace(b",", b"," + blank.encode()), series()),
    )
    assert fast.block.tolist() == careful.block.tolist()
    assert fast.count == len(rows)
    assert fast.floats("close").tolist() == [float(row[3]) for row in rows]
    assert (fast.open_ms == (np.arange(fast.count) + 400_000 - 1) * step).all()


def test_candles_of_another_length_are_an_error():
    halves = f"[{','.join(f'[{at * 30 * MINUTE_MS},1,2,1,2]' for at in range(900_000, 900_048))}]".encode()
    assert parse_candles(halves, series("30m")).count == 48
    for timeframe in ("4h", "4d"):
        with pytest.raises(ReplyError, match=f"candles of {timeframe}"):
            parse_candles(halves, series(timeframe))
