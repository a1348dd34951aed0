"""What is said while something keeps a call waiting, and what the log has."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from candle_fetcher import CandleFetcher, InputError
from candle_fetcher.cli import main
from candle_fetcher.core.events import Gaps, Lookup, Operation, Rerouted, Retried, Sent, Waited
from candle_fetcher.log import LOG, EventLog
from candle_fetcher.practice import PracticeExchange, faults

DAY = ("BTC/USDT", "1h", "2024-03-01", "2024-03-02")


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def exchange() -> Iterator[PracticeExchange]:
    with PracticeExchange() as exchange:
        yield exchange


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="candle_fetcher")
    return caplog


def lines(log: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}" for record in log.records]


def sent(status: int | None = 200) -> Sent:
    return Sent("binance", "/api/v3/klines", status, 0.25, 1234)


@pytest.mark.fault("J14")
def test_a_wait_is_written_once_whatever_number_of_threads_waits(log: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    tell = EventLog(clock)
    for late_s in (0.0, 0.1, 5.0):
        clock.now_s = 1000.0 + late_s
        tell(Waited("binance", "budget", 37.2 - late_s))
    tell(sent())  # one that was on its way
    clock.now_s = 1037.5
    tell(sent(None))
    tell(sent())
    tell(sent())
    assert [line for line in lines(log) if line.startswith("WARNING")] == [
        "WARNING binance: rate limit near: waiting 37 s",
        "WARNING binance: going on",
    ]


@pytest.mark.fault("J14")
def test_two_waits_of_two_providers_are_four_lines(log: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    tell = EventLog(clock)
    for name in ("binance", "kraken", "binance"):
        tell(Waited(name, "hold", 4.0))
    clock.now_s += 60
    tell(Waited("binance", "hold", 4.0))
    notices = [record.notice for record in log.records if hasattr(record, "notice")]
    assert notices == ["asked for a pause: waiting 4.0 s"] * 3


@pytest.mark.fault("J14")
def test_pauses_between_requests_are_no_news(log: pytest.LogCaptureFixture) -> None:
    tell = EventLog(Clock())
    for _ in range(5):
        tell(Waited("kraken", "budget", 1.05))
    assert lines(log) == []


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            Retried("binance", "TransportError", 1, 0.6, 5, "status 503"),
            "WARNING binance: retry 1/5 in 0.6 s: status 503",
        ),
        (Retried("binance", "ReplyError", 2, 12.4), "WARNING binance: retry 2 in 12 s: ReplyError"),
        (Rerouted("binance", "https://b", "status 451"), "WARNING binance: going on with https://b: status 451"),
        (Gaps("BTC/USDT 1h", 2, 30), "WARNING BTC/USDT 1h: the provider lacks 30 candles in 2 gaps"),
        (Operation("fetch", 0.5, 24, 0, "BTC/USDT 1h"), "INFO fetch BTC/USDT 1h: 24 rows in 0.500 s"),
        (Operation("parse", 0.5, 24, 9), "DEBUG parse: 24 rows in 0.500 s, 9 bytes"),
        (Lookup("disk", 3, 1), "DEBUG disk: 3 found, 1 not found"),
        (sent(503), "DEBUG binance /api/v3/klines: status 503 in 0.250 s, 1,234 bytes"),
        (sent(None), "DEBUG binance /api/v3/klines: no reply in 0.250 s, 1,234 bytes"),
    ],
)
def test_each_event_has_its_line_and_level(log: pytest.LogCaptureFixture, event: object, line: str) -> None:
    EventLog(Clock())(event)  # type: ignore[arg-type]
    assert lines(log) == [line]


@pytest.mark.slow
@pytest.mark.fault("J14")
def test_the_command_line_says_that_it_tries_again_and_goes_on(
    exchange: PracticeExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exchange.fail(faults.status(503), match="klines")
    exchange.fail(faults.rate_limited(0.3), match="klines")
    hosts = [word for name, url in exchange.base_urls.items() for word in ("--base-url", f"{name}={url}")]
    words = ["fetch", *DAY[:2], "--start", DAY[2], "--end", DAY[3], *hosts, "--cache-dir", str(tmp_path)]
    before = list(LOG.handlers), LOG.level
    assert main(words) == 0
    said = capsys.readouterr()
    assert [
        re.sub(r"in 0\.\d s", "in S", line) for line in said.err.splitlines() if line.startswith(("retry", "going"))
    ] == [
        "retry 1/5 in S: status 503",
        "retry 2/5 in S: status 429",
        "going on",
    ]
    assert main([*words, "--log-level", "debug"]) == 0
    assert "INFO fetch BTC/USDT 1h: 24 rows in" in capsys.readouterr().err
    assert (list(LOG.handlers), LOG.level) == before


def test_an_unknown_level_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["providers", "--log-level", "loud"]) == 2
    assert "expected one of DEBUG, INFO, WARNING" in capsys.readouterr().err


def test_the_folder_of_the_log_file_is_made_and_a_failed_call_is_in_it(
    exchange: PracticeExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a" / "b" / "x.log"
    monkeypatch.setenv("CANDLE_FETCHER_LOG_FILE", str(file))
    monkeypatch.setattr(LOG, "handlers", list(LOG.handlers))
    with CandleFetcher(base_urls=exchange.base_urls, use_cache=False, progress=False) as fetcher:
        fetcher.fetch(*DAY)
        fetcher.gaps("BTC/USDT", "1h", "2023-03-24", "2023-03-25")
        with pytest.raises(InputError):
            fetcher.fetch("BTC/USDT", "1h", "2024-03-02", "2024-03-01")
    for handler in LOG.handlers:
        handler.close()
    kept = [line.partition(" INFO ")[2] for line in file.read_text(encoding="utf-8").splitlines()]
    assert [re.sub(r"\d\.\d+ s", "S", line)[:44] for line in kept] == [
        "fetch BTC/USDT 1h: 24 rows in S",
        "gaps BTC/USDT 1h: 23 rows in S",
        "fetch BTC/USDT 1h: failed after S: InputErro",
    ]
