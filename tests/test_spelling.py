"""Spellings that mean the same, and what is said of those that mean nothing."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import candle_fetcher
from candle_fetcher import (
    CandleFetcher,
    CandleFetcherWarning,
    InputError,
    NotOffered,
    UnknownArgument,
    UnknownSymbol,
    settings,
    summary,
)
from candle_fetcher.cli import main, tables, talk
from candle_fetcher.core.call import Reply
from candle_fetcher.practice import PracticeExchange, faults
from candle_fetcher.providers import alpaca

DAY = ("2024-03-01", "2024-03-02")


@pytest.fixture(scope="module")
def exchange() -> Iterator[PracticeExchange]:
    with PracticeExchange() as exchange:
        yield exchange


@pytest.fixture
def fetcher(exchange: PracticeExchange) -> Iterator[CandleFetcher]:
    with CandleFetcher(base_urls=exchange.base_urls, use_cache=False, progress=False) as fetcher:
        yield fetcher


@pytest.mark.fault("J12")
@pytest.mark.parametrize(
    ("symbol", "provider", "same"),
    [
        ("BTC/USDT:USDT", "binance-um", "BTC/USDT"),
        ("binance-um:btc/usdt:usdt", None, "BTC/USDT"),
        ("BTC/USD:BTC", "Binance-CM", "BTC/USD"),
        ("BINANCE-UM:BTCUSDT", None, "BTC/USDT"),
    ],
)
def test_spellings_of_a_perpetual(fetcher: CandleFetcher, symbol: str, provider: str | None, same: str) -> None:
    frame = fetcher.fetch(symbol, "1h", *DAY, provider=provider)
    facts = frame.attrs["candle_fetcher"]
    assert (facts["symbol"], len(frame)) == (same, 24)
    assert frame.equals(fetcher.fetch(same, "1h", *DAY, provider=facts["provider"]))


@pytest.mark.fault("J12")
@pytest.mark.usefixtures("no_waits")
def test_ids_of_providers_ignore_case_everywhere(exchange: PracticeExchange, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = {name.upper(): url for name, url in exchange.base_urls.items()}
    keys = {"Alpaca": {"key_id": "a", "secret_key": "b"}}
    settings = {"ALPACA": {"feed": "iex"}}
    monkeypatch.setenv("CANDLE_FETCHER_PROVIDER", "KRAKEN")
    with CandleFetcher(
        base_urls=roots, api_keys=keys, provider_settings=settings, use_cache=False, progress=False
    ) as fetcher:
        frame = fetcher.fetch("BTC/USD", "1h", limit=3)
        assert frame.attrs["candle_fetcher"]["provider"] == "kraken"
        assert len(fetcher.fetch("BTC/USDT", "1h", *DAY, provider="Binance")) == 24


@pytest.mark.fault("J12")
def test_a_perpetual_that_there_is_not_is_said_to_be_none(fetcher: CandleFetcher) -> None:
    with pytest.raises(InputError, match="settles in the quote"):
        fetcher.fetch("BTC/USDT:BTC", "1h", *DAY, provider="binance-um")
    with pytest.raises(InputError, match="is not valid for"):
        fetcher.fetch("BTC/USDT:USDT", "1h", *DAY)
    with pytest.raises(NotOffered, match="fetch_funding"):
        fetcher.fetch("BTC/USDT", "1h", *DAY, provider="binance-um", kind="funding")


@pytest.mark.fault("J12")
@pytest.mark.parametrize("provider", ["binance", "Binance-US"])
def test_a_perpetual_on_a_spot_market_names_the_futures(fetcher: CandleFetcher, provider: str) -> None:
    for symbol in ("BTC/USDT:USDT", "btc/usd:btc"):
        for call in (fetcher.fetch, fetcher.export, fetcher.plan, fetcher.gaps):
            with pytest.raises(InputError, match="binance-um"):
                call(symbol, "1h", *DAY, provider=provider)


@pytest.mark.fault("J17")
@pytest.mark.parametrize(
    ("call", "word", "meant"),
    [
        ("fetch", "interval", "timeframe"),
        ("fetch", "since", "start"),
        ("fetch_many", "exchange", "provider"),
        ("export", "filename", "path"),
        ("plan", "until", "end"),
        ("gaps", "start_time", "start"),
        ("iter_frames", "colums", "columns"),
        ("fetch_funding", "endTime", "end"),
        ("symbols", "exchange", "provider"),
    ],
)
def test_the_name_of_another_library_brings_ours(fetcher: CandleFetcher, call: str, word: str, meant: str) -> None:
    with pytest.raises(UnknownArgument, match=f"has no argument '{word}'; use '{meant}'") as raised:
        getattr(fetcher, call)(**{word: "1h"})
    assert isinstance(raised.value, TypeError)
    assert isinstance(raised.value, InputError)


@pytest.mark.fault("J15")
def test_what_is_not_there_yet_is_an_unknown_argument(
    fetcher: CandleFetcher, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnknownArgument, match="batch"):
        fetcher.fetch_many(["BTC/USDT"], "1h", *DAY, batch=None)  # type: ignore[call-overload]
    assert main(["fetch", "BTC/USDT", "1h", "--days", "1", "--arrow", "--practice"]) == 2
    assert "--arrow" in capsys.readouterr().err


@pytest.mark.fault("J17")
def test_a_hint_is_near(fetcher: CandleFetcher) -> None:
    with pytest.raises(InputError) as raised:
        CandleFetcher(provider="coinbase")
    assert "Did you mean" not in str(raised.value)
    with pytest.raises(InputError, match="Did you mean 'binance'"):
        CandleFetcher(provider="biannce")
    with pytest.raises(UnknownSymbol) as unlike:
        fetcher.fetch("ZZZZ/USDT", "1h", *DAY)
    assert unlike.value.closest == ()
    with pytest.raises(UnknownSymbol) as near:
        fetcher.fetch("BCT/USDT", "1h", *DAY)
    assert "BTC/USDT" in near.value.closest
    with pytest.raises(UnknownSymbol, match="'BTCUSDT_PERP'") as typed:
        fetcher.fetch("BTCUSDT_PERP", "1h", *DAY)
    assert "mean BTC/USDT?" not in str(typed.value)


@pytest.mark.fault("J17")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fetc", "BTC/USDT"), "did you mean fetch?"),
        (("fetch", "BTC/USDT", "1h", "--sart", "2024-01-01"), "did you mean --start?"),
    ],
)
def test_a_mistyped_word_of_the_command_line_has_a_hint(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.fault("J12")
def test_the_timeframe_of_the_command_line_is_an_hour_unless_given(
    exchange: PracticeExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = [word for name, url in exchange.base_urls.items() for word in ("--base-url", f"{name}={url}")]
    assert main(["fetch", "BTC/USDT", "--start", DAY[0], "--end", DAY[1], *hosts, "--cache-dir", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 25


def test_the_calls_of_the_package_are_those_of_the_class() -> None:
    for name in ("fetch", "fetch_many", "export", "plan", "gaps", "symbols"):
        ours = list(inspect.signature(getattr(candle_fetcher, name)).parameters.values())
        assert ours == list(inspect.signature(getattr(CandleFetcher, name)).parameters.values())[1:]


def test_a_summary_lists_the_gaps_with_their_causes(fetcher: CandleFetcher) -> None:
    frame = fetcher.fetch("BTC/USDT", "1h", "2023-03-24", "2023-03-25")
    candles = summary(frame)["candles"]
    assert candles["gap_count"] == 1
    assert candles["gaps"] == frame.attrs["candle_fetcher"]["gaps"]
    frame.attrs.clear()
    assert [gap["cause"] for gap in summary(frame, timeframe="1h")["candles"]["gaps"]] == [None]


@pytest.mark.fault("J28")
def test_no_line_is_longer_than_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(tables, "is_terminal", lambda: True)
    long = "asked on 2024-01-01 of https://api.example.com, which has no candle there and said so twice"
    tables.print_table(pd.DataFrame({"start": ["2024-01-01"], "state": ["no_candle"], "evidence": [long]}))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert long in " ".join(" ".join(lines).split())
    times = pd.date_range("2024-01-01 01:00", periods=20, freq="h", tz="UTC", name="timestamp")
    wide = pd.DataFrame({f"a_long_name_{number}": range(20) for number in range(9)}, index=times, dtype="float64")
    tables.print_candles(wide, None, with_header=True)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert all(name in out for name in wide)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has warned of no variable yet."""
    monkeypatch.setattr(settings, "_warned", set())


@pytest.mark.fault("J18")
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("PROVDER", "did you mean CANDLE_FETCHER_PROVIDER?"),
        ("CACHEDIR", "did you mean CANDLE_FETCHER_CACHE_DIR?"),
        ("TIMEOUT", "did you mean CANDLE_FETCHER_TIMEOUT_S?"),
        ("LOGLEVEL", "did you mean CANDLE_FETCHER_LOG_LEVEL?"),
        ("BASE_URL", "did you mean CANDLE_FETCHER_BASE_URLS?"),
        ("HOUSE", "`candle-fetcher help settings` lists them; or unset it"),
    ],
)
@pytest.mark.usefixtures("fresh")
def test_a_variable_that_nothing_reads_is_warned_of_once(
    name: str, hint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"CANDLE_FETCHER_{name}", "secret")
    with pytest.warns(CandleFetcherWarning) as caught:
        CandleFetcher(cache_dir=tmp_path).close()
        CandleFetcher(cache_dir=tmp_path).close()
    (one,) = caught
    assert (
        str(one.message) == f"the environment variable CANDLE_FETCHER_{name} is not a setting of candle_fetcher; {hint}"
    )
    assert one.filename == __file__


@pytest.mark.fault("J18")
@pytest.mark.usefixtures("fresh")
@pytest.mark.skipif(os.name == "nt", reason="variables ignore case there")
@pytest.mark.parametrize("name", ["CANDLEFETCHER_PROVIDER", "candle_fetcher_provider", "CANDLE_FETCHER_Provider"])
def test_a_variable_with_the_letters_of_a_setting_is_warned_of(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "kraken")
    with pytest.warns(CandleFetcherWarning, match=f"variable {name} is not .*; did you mean CANDLE_FETCHER_PROVIDER"):
        CandleFetcher(cache_dir=tmp_path).close()


@pytest.mark.fault("J18")
@pytest.mark.usefixtures("fresh")
def test_variables_of_the_package_and_of_a_container_platform_are_not_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parameters = inspect.signature(CandleFetcher).parameters.values()
    for one in parameters:
        if isinstance(one.default, settings.Default) and one.default.value is not None:
            monkeypatch.setenv(f"CANDLE_FETCHER_{one.name.upper()}", str(one.default.value))
    monkeypatch.setenv("CANDLE_FETCHER_CACHE_DIR", str(tmp_path))
    for name in ("LOG_LEVEL", "LOG_FILE", "PORT", "PORT_80_TCP_ADDR", "SERVICE_HOST", "SERVICE_PORT_HTTP"):
        monkeypatch.setenv(f"CANDLE_FETCHER_{name}", "")
    CandleFetcher().close()  # warnings are errors here


@pytest.mark.fault("J17")
def test_a_stored_listing_says_where_an_id_is_split(exchange: PracticeExchange, tmp_path: Path) -> None:
    entry = {"symbol": "BTCAEUR", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "AEUR"}
    listing = json.dumps({"rateLimits": [], "symbols": [entry]}).encode()
    words = ("1h", *DAY)
    fault = exchange.fail(faults.status(200, listing), times=None, match="exchangeInfo")
    try:
        with CandleFetcher(base_urls=exchange.base_urls, cache_dir=tmp_path, progress=False) as fetcher:
            exchange.clear_log()
            assert fetcher.plan("BTCAEUR", *words).symbol == "BTCA/EUR"  # a guess, since no listing is stored
            assert exchange.requests == []
            fetcher.symbols()
            assert fetcher.plan("BTCAEUR", *words).symbol == "BTC/AEUR"
            assert fetcher.plan("btca-eur", *words).symbol == "BTCA/EUR"  # as it was written
            assert fetcher.plan("GALAEUR", *words).symbol == "GALA/EUR"
    finally:
        fault.stop()
    exchange.clear_log()
    with CandleFetcher(base_urls=exchange.base_urls, cache_dir=tmp_path, progress=False) as fetcher:
        assert fetcher.plan("BTCAEUR", *words).symbol == "BTC/AEUR"
    assert exchange.requests == []


@pytest.mark.fault("J17")
def test_days_beyond_all_candles_are_refused_with_the_bound(fetcher: CandleFetcher) -> None:
    with pytest.raises(
        InputError, match=r"days 1000000000\.0 is not allowed; expected a number above 0 and at most 100,000"
    ):
        fetcher.fetch("BTC/USDT", "1h", days=1e9)
    assert len(fetcher.fetch("BTC/USDT", "1M", "2024-01-01", "2024-03-01")) == 2
    assert fetcher.plan("BTC/USDT", "1d", days=100_000).steps


@pytest.mark.fault("J28")
def test_a_table_shows_nothing_where_there_is_no_value_and_names_hidden_columns_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = pd.to_datetime(["2024-01-01", None], utc=True)
    table = pd.DataFrame({"asked": times, "ours": [1.5, None], "count": pd.array([1, None], dtype="Int64")})
    assert tables.table_csv(table).splitlines() == ["asked,ours,count", "2024-01-01 00:00:00,1.5,1", ",,"]
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(tables, "is_terminal", lambda: True)
    monkeypatch.setattr(tables.Palette, "paint", lambda _, text, role: f"\x1b[1m{text}\x1b[0m")
    index = pd.date_range("2024-01-01 01:00", periods=3, freq="h", tz="UTC", name="timestamp")
    wide = pd.DataFrame({f"long_name_{number}": 1.5 for number in range(9)}, index=index)
    tables.print_candles(wide, None, with_header=True)
    said = " ".join(capsys.readouterr().out.partition("not shown: ")[2].split())
    assert said.startswith("long_name_3, long_name_4, ")


@pytest.mark.fault("J28")
def test_what_is_said_on_a_terminal_is_broken_between_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = "binance does not know the symbol 'XX/USDT'; candle-fetcher symbols lists those that it knows"
    for is_terminal in (False, True):
        monkeypatch.setattr(talk, "is_on_terminal", lambda _, answer=is_terminal: answer)
        shown = talk.Talk()
        for say in (shown.warn, shown.fail, shown.notice):
            say(text)
            lines = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().err).splitlines()
            assert " ".join(" ".join(lines).split()).endswith(text)
            assert (len(lines) > 1 and max(map(len, lines)) <= 40) is is_terminal


@pytest.mark.fault("J15")
def test_a_message_about_keys_and_settings_speaks_of_what_the_command_line_has(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["fetch", "alpaca:AAPL", "1d", "--days", "3", "--no-cache"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "api_keys" not in said
    assert "in a file .env of this folder, as ALPACA_API_KEY_ID and ALPACA_API_SECRET_KEY" in said
    for name in ("ACCESS_TOKEN", "CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN"):
        monkeypatch.delenv(f"TRADESTATION_{name}", raising=False)
    assert main(["fetch", "tradestation:MSFT", "1d", "--limit", "3", "--no-cache"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "TRADESTATION_ACCESS_TOKEN, or TRADESTATION_CLIENT_ID, TRADESTATION_CLIENT_SECRET, " in said
    reply = Reply(403, {}, b'{"message": "subscription does not permit querying recent SIP data"}', 0.0)
    for body, expected in ((reply.body, "--set alpaca.feed=iex"), (b'{"message": "forbidden."}', "providers shows")):
        error = alpaca.PROVIDERS[0].refusal(reply._replace(body=body), "AAPL", 0)
        assert expected in talk.in_command_words(error)
        assert not re.search(r"api_keys|provider_settings", talk.in_command_words(error))


@pytest.mark.fault("J15")
def test_the_range_is_shown_as_it_was_given(
    exchange: PracticeExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ("--base-url", f"binance={exchange.base_urls['binance']}", "--cache-dir", str(tmp_path))
    assert main(["fetch", "BTC/USDT", "1h", "--limit", "0", *place]) == 2
    said = capsys.readouterr().err
    assert "range     the newest 0 before now (UTC)" in said
    assert "error: limit 0 is not allowed; expected a whole number from 1" in said
