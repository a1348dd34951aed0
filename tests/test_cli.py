"""The command line: what it prints where, what it exits with, and that a person is told what is going on."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import forks
import pandas as pd
import pytest
from world import wait_until

from candle_fetcher import CandleFetcher, __version__, summary
from candle_fetcher.cli import main
from candle_fetcher.cli.commands import COMMANDS
from candle_fetcher.cli.talk import Talk, show_statistics
from candle_fetcher.practice import PracticeExchange
from candle_fetcher.practice.faults import status
from candle_fetcher.store import DiskTier

DAY = ("--start", "2024-03-01", "--end", "2024-03-02")
OUTAGE = ("--start", "2023-03-24", "--end", "2023-03-25")
ROOT = Path(__file__).resolve().parents[1]
# Started in the background, a shell's child ignores Ctrl-C: here it must not.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from candle_fetcher.cli import main
sys.exit(main())
"""
RUN = (sys.executable, "-c", PROGRAM)
posix = pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal or terminal on Windows")


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Line:
    """The command line against one exchange, with a cache folder of its own."""

    def __init__(self, exchange: PracticeExchange, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.exchange = exchange
        self.folder = folder
        self.capsys = capsys

    def hosts(self) -> list[str]:
        return [word for name, url in self.exchange.base_urls.items() for word in ("--base-url", f"{name}={url}")]

    def __call__(self, *words: str) -> Ran:
        self.capsys.readouterr()
        code = main([*words, *self.hosts(), "--cache-dir", str(self.folder)])
        return Ran(code, *self.capsys.readouterr())

    def fetcher(self) -> CandleFetcher:
        return CandleFetcher(base_urls=self.exchange.base_urls, cache_dir=self.folder, progress=False)


@pytest.fixture(scope="module")
def exchange() -> Iterator[PracticeExchange]:
    with PracticeExchange() as exchange:
        yield exchange


@pytest.fixture
def line(exchange: PracticeExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Line:
    return Line(exchange, tmp_path / "cache", capsys)


@pytest.fixture
def plain(capsys: pytest.CaptureFixture[str]) -> Any:
    """The command line as it is, with nothing added."""

    def run(*words: str) -> Ran:
        capsys.readouterr()
        code = main(words)
        return Ran(code, *capsys.readouterr())

    return run


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **changes}


def start(*words: str, **options: Any) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    return subprocess.Popen([*RUN, *words], text=True, env=environment(), **pipes)


# -- fetch -----------------------------------------------------------------------------------------


@pytest.mark.slow(keep=("more0", "more2"))
@pytest.mark.fault("E10")
@pytest.mark.parametrize("more", [(), ("--columns", "all"), ("--columns", "all", "--kind", "mark"), ("--limit", "7")])
def test_a_piped_fetch_is_byte_for_byte_the_exported_file(line: Line, tmp_path: Path, more: Sequence[str]) -> None:
    provider = ("--provider", "binance-um") if "--kind" in more else ()
    words = ("BTC/USDT", "1h", *DAY, *more, *provider)
    piped = line("fetch", *words)
    written = line("export", *words, "--output", str(tmp_path / "export"))
    saved = line("fetch", *words, "--export", "csv", "--output", str(tmp_path / "fetch"))
    one, other = Path(written.out.strip()), Path(saved.out.strip())
    assert (piped.code, written.code, saved.code) == (0, 0, 0)
    assert piped.out.encode() == one.read_bytes() == other.read_bytes()
    assert one.name == other.name
    assert piped.out.startswith("timestamp,open,high,low,close,volume")
    assert piped.out.count("\n") == (8 if "--limit" in more else 25)


@pytest.mark.slow(every=2)
@pytest.mark.parametrize(
    "words",
    [
        ("fetch", "BTC/USDT", "1h", *DAY),
        ("fetch", *DAY, "BTC/USDT", "1h"),
        ("fetch", "BTC/USDT", *DAY, "1h"),
        ("fetch", "btcusdt", "-i", "1h", *DAY),
        ("fetch", "1h", "-s", "BTC-USDT", *DAY),
        ("-s", "BTC/USDT", "-i", "1h", *DAY),
        ("--symbol", "BTC/USDT", "--timeframe", "1h", "--end", "2024-03-02", "-d", "1"),
        ("-s", "BTC/USDT", "-i", "1h", "--start", "1709251200000", "--end", "2024-03-02T00:00Z", "--limit", "99"),
    ],
)
def test_words_and_flags_mean_the_same_in_any_order(line: Line, words: Sequence[str]) -> None:
    ran = line(*words)
    assert ran.code == 0
    assert ran.out.splitlines()[1].startswith("2024-03-01 00:00:00,")
    assert ran.out.splitlines()[-1].startswith("2024-03-01 23:00:00,")
    assert len(ran.out.splitlines()) == 25


def test_the_talk_names_configuration_lookup_checks_and_statistics(line: Line) -> None:
    first, second = line("fetch", "BTC/USDT", "1h", *DAY), line("fetch", "BTC/USDT", "1h", *DAY)
    with line.fetcher() as fetcher:
        frame = fetcher.fetch("BTC/USDT", "1h", "2024-03-01", "2024-03-02")
    for said in (
        "binance",
        "BTC/USDT",
        "1h",
        "2024-03-01 to 2024-03-02",
        "auto",
        str(line.folder),
        "8 network, 4 disk",
    ):
        assert said in first.err
    assert "24 of 24 candles" in first.err
    assert f"{frame['high'].max():,}" in first.err
    assert f"{frame['low'].min():,}" in first.err
    for name in ("highest", "lowest", "average", "volume", "time", "hit ratio", "memory"):
        assert f"\n  {name} " in first.err
    assert "miss: 24 from REST" in first.err
    assert "0 % of the candles" in first.err
    assert "hit: 24 from disk" in second.err
    assert "100 % of the candles" in second.err
    assert "\x1b" not in first.err


def test_settings_reach_the_fetcher(line: Line) -> None:
    ran = line("fetch", "BTC/USDT", "1h", *DAY, "--performance-mode", "high", "--cache-size", "5", "--cache-ttl", "1")
    assert "16 network, 8 disk (high)" in ran.err
    ran = line("fetch", "BTC/USDT", "1h", *DAY, "--no-cache")
    assert "off: 24 from REST" in ran.err
    assert line("fetch", "BTC/USDT", "1h", *DAY, "--source", "cache").code == 0
    assert "miss" in line("fetch", "BTC/USDT", "1h", *DAY, "--refresh").err


@pytest.mark.slow
@pytest.mark.fault("J28")
def test_json_is_the_summary_and_nothing_else(line: Line, tmp_path: Path) -> None:
    with line.fetcher() as fetcher:
        frame = fetcher.fetch("BTC/USDT", "1h", "2024-03-01", "2024-03-02")
        expected = summary(frame)
    times = [f"{time:%Y-%m-%dT%H:%M:%SZ}" for time in frame.index]
    expected["rows"] = [{"timestamp": time, **row} for time, row in zip(times, frame.to_dict("records"), strict=True)]
    assert json.loads(line("fetch", "BTC/USDT", "1h", *DAY, "--json").out) == expected
    saved = line("fetch", "BTC/USDT", "1h", *DAY, "--json", "--export", "csv", "--output", str(tmp_path / "x.csv"))
    assert json.loads(saved.out) == expected
    assert (tmp_path / "x.csv").exists()
    several = json.loads(line("fetch", "--symbols", "BTC/USDT,ETH/USDT", "1h", *DAY, "--json").out)
    assert [one["symbol"] for one in several] == ["BTC/USDT", "ETH/USDT"]


def test_the_file_written_is_named_with_its_size(line: Line, tmp_path: Path) -> None:
    ran = line("fetch", "BTC/USDT", "1h", *DAY, "--export", "csv", "--output", str(tmp_path))
    path = tmp_path / "BTC_USDT_1h_20240301_20240302.csv"
    assert ran.out == f"{path}\n"
    assert f"{path.name}, {path.stat().st_size / 1000:.1f} kB" in ran.err


def test_every_gap_is_shown_with_its_cause(line: Line) -> None:
    ran = line("fetch", "BTC/USDT", "1m", *OUTAGE)
    assert ran.code == 0
    assert "1 gap, 80 candles missing" in ran.err
    assert "2023-03-24 12:40 to 2023-03-24 13:59  80  no_candle (provider has none)" in ran.err
    assert "1,360 of 1,440 candles" in ran.err


def test_partial_candles_are_noted(line: Line) -> None:
    ran = line("fetch", "BTC/USDT", "45m", *OUTAGE)
    assert "1 partial candle, made of what there is: 2023-03-24T13:30:00Z" in ran.err


def test_an_open_candle_and_invented_rows_are_marked_with_true_and_false(line: Line) -> None:
    opened = line("fetch", "BTC/USDT", "1d", "--limit", "2", "--include-open")
    assert [row.rpartition(",")[2] for row in opened.out.splitlines()] == ["is_closed", "true", "false"]
    assert "still forming" in opened.err
    span = ("--start", "2023-03-24T12:39", "--end", "2023-03-24T12:42")
    filled = line("fetch", "BTC/USDT", "1m", *span, "--columns", "all", "--on-gap", "ffill")
    rows = [row.split(",") for row in filled.out.splitlines()]
    assert [row[-1] for row in rows] == ["is_synthetic", "false", "true", "true"]
    assert [row[6] for row in rows] == ["close_time", "2023-03-24 12:39:41.999", "", ""]
    assert "2 rows invented" in filled.err


def test_several_symbols_come_with_a_column_that_tells_them_apart(line: Line, tmp_path: Path) -> None:
    ran = line("fetch", "--symbols", "btcusdt, ETH/USDT", "1d", "--start", "2024-03-01", "--end", "2024-03-03")
    assert [row[:25] for row in ran.out.splitlines()] == [
        "symbol,timestamp,open,hig",
        *(f"{symbol},2024-03-0{day} 00:00" for symbol in ("BTC/USDT", "ETH/USDT") for day in (1, 2)),
    ]
    saved = line("fetch", "--symbols", "BTC/USDT,ETH/USDT", "1h", *DAY, "--export", "csv", "--output", str(tmp_path))
    assert [Path(path).name[:12] for path in saved.out.splitlines()] == ["BTC_USDT_1h_", "ETH_USDT_1h_"]


# -- exit codes ------------------------------------------------------------------------------------


@pytest.mark.slow(every=2)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fetch",), "a symbol is missing"),
        (("fetch", "BTC/USDT", "ETH/USDT", "1h"), "--symbols A,B"),
        (("fetch", "--symbols", ",", "1h"), "--symbols names none"),
        (("fetch", "--symbols", "A/B,C/D", "1h", "--output", "x.csv"), "give a folder"),
        (("fetch", "BTC/USDT", "1h", "--nonsense"), "unknown flags: --nonsense"),
        (("fetch", "BTC/USDT", "1h", "--limit", "x"), "--limit"),
        (("fetch", "BTC/USDT", "1h", "--practice"), "not allowed with"),
        (("--days", "7", "plan", "BTC/USDT", "1h"), "the command comes before the flags: candle-fetcher plan"),
        (("fetsh", "BTC/USDT", "1h"), "fetsh"),
        (("symbols", "BTC"), "unexpected: BTC"),
        (("fetch", "BTC/USDT", "1x"), "unknown timeframe '1x'"),
        (("fetch", "BTC/USDT", "1h", "--start", "tomorrow"), "start 'tomorrow' is not understood"),
        (("fetch", "BTC/USDT", "1h", *DAY, "-d", "2"), "--days 2.0"),
        (("fetch", "XXX/USDT", "1h", *DAY), "does not know the symbol 'XXX/USDT'"),
        (("fetch", "--symbols", "XXX/USDT,YYY/USDT", "1h", *DAY), "2 of 2 symbols failed"),
        (("fetch", "BTC/USDT", "1h", "--provider", "binanse"), "Did you mean 'binance'?"),
        (("fetch", "BTC/USDT", "1h", "--on-gap", "fil"), "unknown on_gap 'fil'"),
        (("fetch", "BTC/USDT", "1h", "--cache-size", "-1"), "memory_cache_size"),
        (("gaps", "BTC/USDT", "1h"), "start is missing"),
    ],
)
def test_wrong_input_exits_with_2_and_a_reason(line: Line, words: Sequence[str], said: str) -> None:
    ran = line(*words)
    assert ran.code == 2
    assert said in ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err


@pytest.mark.slow(every=2)
@pytest.mark.fault("J15")
@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize(
    ("provider", "words", "said", "unsaid"),
    [
        ("kraken", ("BTC/USD", "1h", "-d", "60"), "candle-fetcher cache import adds candles from files", ".frame"),
        ("kraken", ("BTC/USD", "1h", "-d", "60"), "not in the cache. What was fetched stays stored", "what was"),
        ("binance", ("BTC/USDT", "1h", *OUTAGE, "--on-gap", "raise"), "--on-gap leave lists them instead", "on_gap="),
        ("binance-um", ("BTC/USDT", "1h", *DAY, "--kind", "funding"), "use candle-fetcher funding.", "fetch_"),
    ],
)
def test_a_remedy_is_in_the_words_of_the_command_line(
    line: Line, provider: str, words: Sequence[str], said: str, unsaid: str
) -> None:
    ran = line("fetch", *words, "--provider", provider)
    assert said in ran.err
    assert unsaid not in ran.err


@pytest.mark.slow
def test_one_failure_of_several_exits_with_3_and_keeps_the_others(line: Line, tmp_path: Path) -> None:
    ran = line("fetch", "--symbols", "BTC/USDT,XRQ/USDT,ETH/USDT", "1h", *DAY)
    assert ran.code == 3
    assert {row[:8] for row in ran.out.splitlines()[1:]} == {"BTC/USDT", "ETH/USDT"}
    assert "error: 1 of 3 symbols failed" in ran.err
    assert "error: XRQ/USDT: binance does not know the symbol" in ran.err
    assert line("fetch", "--symbols", "BTC/USDT,XRQ/USDT", "1h", *DAY, "--json").code == 3


def test_files_of_several_symbols_are_printed_in_order_and_one_failure_keeps_the_others(
    line: Line, tmp_path: Path
) -> None:
    words = ("export", "--symbols", "ETH/USDT,XRQ/USDT,BTC/USDT", "1h", *DAY, "--output", str(tmp_path))
    ran = line(*words, "--name", "{symbol}_now", "--format", "jsonl")
    assert ran.code == 3
    assert ran.out.splitlines() == [str(tmp_path / f"{name}_USDT_now.jsonl") for name in ("ETH", "BTC")]
    assert "error: 1 of 3 symbols failed" in ran.err
    assert "error: XRQ/USDT: binance does not know the symbol" in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--symbols", "A,B", "--name", "x"), "--name x is one name for several symbols"),
        (("--symbols", "A,B", "--output", "x.jsonl"), "one file"),
        (("BTC/USDT", "--output", "x.xls"), "which is not written"),
        (("BTC/USDT", "--columns", "ds=timestamp,close"), "--columns has 'close'"),
        (("BTC/USDT", "--columns", "y=close,y=open"), "twice"),
        (("BTC/USDT", "--separator", ";;"), "separator"),
    ],
)
def test_files_that_cannot_be_meant_are_refused(plain: Any, words: Sequence[str], said: str) -> None:
    ran = plain("export", *words)
    assert ran.code == 2
    assert said in ran.err


def test_files_are_verified_against_the_cache_and_the_exit_code_says_how_many_are_good(
    line: Line, tmp_path: Path, plain: Any
) -> None:
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    for path in (good, bad):
        assert line("export", "BTC/USDT", "1h", *DAY, "--output", str(path)).code == 0
    text = bad.read_text()
    first = text.splitlines()[1].split(",")
    bad.write_text(text.replace(",".join(first), ",".join([*first[:4], "1", first[5]]), 1).replace(first[3], "0.5", 1))
    (tmp_path / "cut.csv").write_bytes(good.read_bytes()[:-1])
    host = ("--base-url", f"binance={line.exchange.url}", "--cache-dir", str(line.folder))
    ran = plain("verify", str(good), *host)
    assert (ran.code, ran.out) == (0, "good.csv: whole, 24 rows, equal to the cache\n")
    ran = plain("verify", str(bad), *host)
    assert ran.code == 1
    assert ran.out.splitlines()[0] == "bad.csv: NOT WHOLE, 24 rows, 2 values differ from the cache"
    assert f"  2024-03-01 00:00:00  close: 1.0 in the file, {float(first[4])!r} in the cache" in ran.out
    ran = plain("verify", str(good), str(bad), str(tmp_path / "cut.csv"), "--json", *host)
    assert ran.code == 3
    documents = json.loads(ran.out)
    assert [one.get("whole") for one in documents] == [True, False, None]
    assert [one["column"] for one in documents[1]["differences"]] == ["low", "close"]
    assert plain("verify", str(tmp_path / "cut.csv"), *host).code == 1
    assert plain("verify", "x.txt", *host).code == 2
    assert plain("verify").code == 2


@pytest.mark.parametrize("words", [("--separator", ";"), ("--name", "x"), ("--manifest",), ("--columns", "y=close")])
def test_flags_about_a_file_are_refused_where_none_is_written(plain: Any, words: Sequence[str]) -> None:
    ran = plain("fetch", "BTC/USDT", *words)
    assert ran.code == 2
    assert "add --export csv" in ran.err


def test_a_csv_for_a_german_spreadsheet_on_the_command_line(line: Line, tmp_path: Path) -> None:
    words = ("--separator", ";", "--decimal", ",", "--columns", "Zeit=timestamp,{symbol}=close", "--decimals", "2")
    ran = line("export", "BTC/USDT", "1h", *DAY, "--output", str(tmp_path / "de.csv"), *words)
    assert ran.code == 0
    lines = (tmp_path / "de.csv").read_text().splitlines()
    assert lines[0] == "Zeit;BTCUSDT"
    assert re.fullmatch(r"2024-03-01 00:00:00;\d+,\d\d", lines[1])
    again = line("fetch", "BTC/USDT", "1h", *DAY, "--export", "csv", "--output", str(tmp_path / "again.csv"), *words)
    assert again.code == 0
    assert (tmp_path / "again.csv").read_text().splitlines() == lines


def test_an_incomplete_range_exits_with_3_prints_no_data_and_lists_what_is_missing(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANDLE_FETCHER_MAX_RETRIES", "0")
    fault = line.exchange.fail(status(503), times=None, match="klines")
    try:
        words = ("fetch", "BTC/USDT", "1h", *DAY, "--export", "csv", "--output", str(tmp_path / "files"))
        ran = line(*words)
    finally:
        fault.stop()
    assert ran.code == 3
    assert ran.out == ""
    assert "2024-03-01 00:00 to 2024-03-01 23:00  24  fetch_failed" in ran.err
    assert "--practice" not in ran.err  # a host did answer
    assert not (tmp_path / "files").exists()
    assert line("fetch", "BTC/USDT", "1m", *OUTAGE, "--on-gap", "raise").code == 3


def test_when_no_host_answers_the_error_says_so_and_names_practice(
    plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANDLE_FETCHER_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    nowhere = ("--base-url", f"binance=http://127.0.0.1:{port}", "--cache-dir", str(tmp_path))
    for words, code in [
        (("fetch", "BTC/USDT", "1h", *DAY), 3),
        (("fetch", "--symbols", "BTC/USDT,ETH/USDT", "1h", *DAY), 3),
        (("symbols",), 1),
    ]:
        ran = plain(*words, *nowhere)
        assert ran.code == code
        assert ran.out == ""
        assert "No host could be reached" in ran.err
        assert "--practice" in ran.err


def test_only_debug_shows_a_traceback_and_where_the_time_went(line: Line) -> None:
    assert "Traceback" in line("fetch", "BTC/USDT", "1x", "--debug").err
    assert "\noperation " in line("fetch", "BTC/USDT", "1h", *DAY, "--debug").err


def test_a_file_that_cannot_be_written_is_an_error_in_a_line(line: Line, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder belongs")
    ran = line("fetch", "BTC/USDT", "1h", *DAY, "--output", str(tmp_path / "file" / "x.csv"))
    assert ran.code == 1
    path = re.escape(str(tmp_path / "file" / "x.csv"))
    assert re.search(rf"^error: [\w ]+; {path} was not written$", ran.err, re.M)
    assert ran.out == ""


def test_a_file_that_cannot_be_opened_is_named(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "file" / "x.log"
    (tmp_path / "file").touch()
    monkeypatch.setenv("CANDLE_FETCHER_LOG_FILE", str(log))
    ran = line("fetch", "BTC/USDT", "1h", *DAY)
    assert ran.code == 2
    said = f"error: CANDLE_FETCHER_LOG_FILE {str(log)!r} cannot be written: {os.strerror(errno.ENOTDIR)}"
    assert ran.err == f"{said}. Correct it and call again\n"


def test_warnings_are_a_line_each(line: Line, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder belongs")
    ran = line("fetch", "BTC/USDT", "1h", *DAY)
    assert ran.code == 0
    assert "\nwarning: the cache in" in ran.err
    assert ".py" not in ran.err


@pytest.mark.fault("G03")
def test_foreign_text_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk()
    for show in (talk.title, talk.warn, talk.fail, lambda text: talk.fact("name", text)):
        show("a\x1b[2Jb\r\nc")
    assert capsys.readouterr().err.count("a\\x1b[2Jb\\r\\nc") == 4


# -- the other commands ----------------------------------------------------------------------------


def test_export_prints_the_path_alone(line: Line, tmp_path: Path) -> None:
    ran = line("export", "ETH/USDT", "1h", *DAY, "--output", str(tmp_path / "eth.csv"))
    assert (ran.code, ran.out) == (0, f"{tmp_path / 'eth.csv'}\n")
    assert "eth.csv, 1." in ran.err
    assert "candles   24" in ran.err


def test_plan_explains_and_asks_nobody(line: Line) -> None:
    line.exchange.clear_log()
    ran = line("plan", "BTC/USDT", "1h", *DAY)
    with line.fetcher() as fetcher:
        made = fetcher.plan("BTC/USDT", "1h", "2024-03-01", "2024-03-02")
    assert (ran.code, ran.out) == (0, f"{made}\n")
    document = json.loads(line("plan", "BTC/USDT", "1h", *DAY, "--json").out)
    assert (document["candles"], document["requests"]) == (made.candles, made.requests)
    assert (document["start"], document["end"]) == ("2024-03-01T00:00:00Z", "2024-03-02T00:00:00Z")
    assert line.exchange.requests == []


def test_gaps_are_csv_or_json(line: Line) -> None:
    ran = line("gaps", "BTC/USDT", "1m", *OUTAGE)
    assert ran.out == "first,last,count,cause\n2023-03-24 12:40:00,2023-03-24 13:59:00,80,no_candle\n"
    assert json.loads(line("gaps", "BTC/USDT", "1m", *OUTAGE, "--json").out) == [
        {"first": "2023-03-24T12:40:00Z", "last": "2023-03-24T13:59:00Z", "count": 80, "cause": "no_candle"}
    ]
    none = line("gaps", "BTC/USDT", "1h", *DAY)
    assert (none.code, none.out) == (0, "first,last,count,cause\n")


def test_symbols_are_csv_or_json(line: Line) -> None:
    ran = line("symbols")
    assert ran.out.splitlines()[0] == "symbol,provider_symbol,base,quote,status"
    assert "BTC/USDT,BTCUSDT,BTC,USDT,TRADING" in ran.out.splitlines()
    assert {"symbol": "BTC/USDT", "base": "BTC"}.items() <= next(
        one for one in json.loads(line("symbols", "--json").out) if one["symbol"] == "BTC/USDT"
    ).items()


def test_the_cache_can_be_looked_at_checked_and_cleared(line: Line, plain: Any) -> None:
    line("fetch", "BTC/USDT", "1h", *DAY)
    folder = ("--cache-dir", str(line.folder))
    stats = json.loads(plain("cache", "stats", *folder, "--json").out)
    assert stats["path"] == str(line.folder)
    assert stats["disk_entries"] > 0
    assert str(line.folder) in plain("cache", "stats", *folder).out
    assert json.loads(plain("cache", "verify", *folder, "--json").out)["damaged"] == []
    tier = DiskTier(line.folder, 10**8)
    tier.save("junk", b"nothing of ours")
    tier.close()
    damaged = plain("cache", "verify", *folder)
    assert damaged.code == 1
    assert "junk" in damaged.out
    assert plain("cache", "verify", *folder).code == 0
    assert plain("cache", "clear", *folder, "--yes").code == 0
    assert json.loads(plain("cache", "stats", *folder, "--json").out)["disk_entries"] == 0


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_and_version_are_for_every_command(plain: Any, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = [command] if command else []
    ran = plain(*words, "--help")
    assert ran.code == 0
    assert "example" in ran.out
    assert [row for row in ran.out.splitlines() if len(row) > 80] == []
    assert plain(*words, "--version") == (0, f"candle-fetcher {__version__}\n", "")


def test_without_words_the_help_is_shown_as_wrong_usage(plain: Any) -> None:
    ran = plain()
    assert (ran.code, ran.out) == (2, "")
    assert "COMMAND" in ran.err


# -- as a process ----------------------------------------------------------------------------------


@pytest.mark.slow
@forks.needs_fork
def test_practice_needs_no_network_and_keeps_a_cache_of_its_own(tmp_path: Path) -> None:
    words = ("fetch", "BTC/USDT", "1h", *DAY, "--practice", "--cache-dir", str(tmp_path))
    first = forks.run(lambda: main(words))
    code, out, err = forks.run(lambda: main(words))
    assert (first.code, code) == (0, 0)
    assert first.out == out
    assert b"\r" not in first.out
    assert len(first.out.splitlines()) == 25
    assert (tmp_path / "practice").is_dir()
    assert b"practice exchange" in first.err
    if b"is taken" not in first.err + err:  # another program uses the port
        assert b"hit: 24 from disk" in err


@pytest.mark.slow
@posix
def test_a_reader_that_leaves_early_is_no_error(line: Line) -> None:
    words = ("fetch", "BTC/USDT", "1m", "--start", "2024-03-01", "--end", "2024-03-04", *line.hosts())
    with start(*words, "--cache-dir", str(line.folder)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


@contextlib.contextmanager
def broken() -> Iterator[TextIO]:
    """A stream whose reader has gone."""
    ours, theirs = os.pipe()
    os.close(ours)
    stream = open(theirs, "w", encoding="utf-8", buffering=1)  # noqa: PTH123, SIM115
    yield stream
    stream.close()


@pytest.mark.slow(keep=("more0-none", "more2-broken"))
@pytest.mark.fault("E10")
@posix
@pytest.mark.parametrize("stderr", ["none", "broken"])
@pytest.mark.parametrize("more", [(), ("--json",), ("--export", "csv"), ("--debug",)])
def test_where_the_talk_cannot_be_written_the_data_come_alone(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, more: tuple[str, ...]
) -> None:
    words = ("fetch", "BTC/USDT", "1h", *DAY, *more, *(("--output", str(tmp_path / "out")) if "csv" in more else ()))
    usual = line(*words)
    with broken() as gone:
        monkeypatch.setattr(sys, "stderr", gone if stderr == "broken" else None)
        ran = line(*words)
    assert (ran.code, ran.out) == (usual.code, usual.out) == (0, usual.out)
    assert usual.out
    assert list(tmp_path.glob("out/*.csv")) or "csv" not in more


@posix
def test_where_nobody_reads_the_paths_all_files_are_written(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("export", "--symbols", "BTC/USDT,ETH/USDT,BNB/USDT", "1h", *DAY, "--output", str(tmp_path / "out"))
    with broken() as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        assert line(*words).code == 0
    assert len(list(tmp_path.glob("out/*.csv"))) == 3


@pytest.mark.parametrize(
    "words", [("fetch", "BTC/USDT", "1h", *DAY), ("symbols",), ("doctor",), ("gaps", "BTC/USDT", "1h", *DAY)]
)
def test_a_program_without_streams_works(line: Line, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert line(*words).code == 0
    assert main(["cache", "clear", "--cache-dir", str(line.folder)]) == 2  # nothing can confirm
    assert main(["cache", "clear", "--cache-dir", str(line.folder), "--yes"]) == 0


@pytest.mark.slow(keep=("export",))
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file has a name that can be decoded")
@pytest.mark.parametrize("command", ["fetch", "export", "symbols"])
def test_a_path_that_is_no_text_is_printed_as_it_is(line: Line, tmp_path: Path, command: str) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\x1b.csv"
    words = ("symbols",) if command == "symbols" else (command, "BTC/USDT", "1h", *DAY)
    given = ("--base-url", f"binance={line.exchange.url}", "--cache-dir", str(line.folder), "--output", path)
    code, out, err = forks.run(lambda: main([os.fsdecode(word) for word in (*words, *given)]))
    assert (code, out) == (0, path + b"\n")
    assert Path(os.fsdecode(path)).exists()
    assert b"\x1b" not in err


@pytest.mark.fault("G03")
def test_what_was_typed_is_said_back_escaped(plain: Any) -> None:
    for words in (
        ("fetch", "X", "1h", "--\x1b[2J"),
        ("\x1b[2J",),
        ("fetch", "a\x1b[2J", "1h"),
        ("export", "A", "B\x9b", "C\x07"),
    ):
        ran = plain(*words)
        assert ran.code == 2
        assert all(row.isprintable() for row in ran.err.split("\n"))


@pytest.mark.slow(keep=("forked",))
@pytest.mark.fault("E01")
@posix
@pytest.mark.parametrize("how", ["forked", "started"])
def test_ctrl_c_ends_at_once_with_130(tmp_path: Path, how: str) -> None:
    with PracticeExchange(delay_s=0.3) as exchange:
        words = ("fetch", "BTC/USDT", "1m", "--start", "2023-01-01", "--end", "2024-01-01")
        words += ("--base-url", f"binance={exchange.url}", "--cache-dir", str(tmp_path))
        with forks.Forked(lambda: main(words)) if how == "forked" else start(*words) as process:
            wait_until(lambda: len(exchange.requests) >= 8)
            process.send_signal(signal.SIGINT)
            done = process.wait(30)
            if isinstance(process, subprocess.Popen):
                done = forks.Done(process.returncode, *(said.encode() for said in process.communicate()))
    assert done.code == 130
    assert len(exchange.requests) < 300, "of 527"
    assert done.out == b""
    assert b"interrupted" in done.err
    assert b"Traceback" not in done.err


@pytest.mark.slow
@posix
def test_practice_serves_until_ctrl_c(tmp_path: Path) -> None:
    with forks.Forked(lambda: main(["practice", "--port", "0"])) as process:
        url = process.stdout.readline().decode().split()[1]
        ran = main(["fetch", "BTC/USDT", "1h", *DAY, "--base-url", f"binance={url}", "--cache-dir", str(tmp_path)])
        process.send_signal(signal.SIGINT)
        done = process.wait()
    assert ran == 0
    assert done.code == 0
    assert f"--base-url binance={url}" in done.err.decode()
    lines = re.findall(r"^  export (\w+)=(\S+)$", done.err.decode(), re.M)
    assert [name for name, _ in lines] == ["CANDLE_FETCHER_BASE_URLS", "ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY"]
    assert set(lines[0][1].split(",")) >= {f"binance={url}", f"kraken={url}", f"alpaca={url}"}


@pytest.mark.slow
@posix
@pytest.mark.parametrize("no_color", ["", "1"])
def test_on_a_terminal_head_and_tail_are_shown_in_colour_unless_that_is_not_wanted(line: Line, no_color: str) -> None:
    words = ("fetch", "BTC/USDT", "1h", *DAY, *line.hosts(), "--cache-dir", str(line.folder))
    code, shown = forks.run_on_terminal(lambda: main(words), NO_COLOR=no_color, COLUMNS="80", TERM="xterm")
    assert code == 0
    assert ("\x1b[" in shown) is not bool(no_color)
    assert "\n... 14 more" in shown
    assert shown.count("\n2024-03-01 ") == 10
    assert "2024-03-01 00:00  " in shown
    assert "timestamp,open" not in shown


def test_revisions_are_listed_and_none_is_no_error(tmp_path, capsys):
    assert main(["cache", "revisions", "--cache-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("provider,symbol,timeframe,kind,timestamp,column,old,new")
    assert main(["cache", "revisions", "--cache-dir", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.fault("H09")
def test_a_volume_that_is_not_known_is_shown_as_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    index = pd.date_range("2024-01-01", periods=2, freq="D", tz="UTC", name="timestamp")
    frame = pd.DataFrame({"high": 2.0, "low": 1.0, "close": 1.5, "volume": float("nan")}, index=index)
    show_statistics(Talk(), frame)
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().err.splitlines())
    assert (lines["volume"], lines["highest"]) == ("-", "2")
