"""What commands print for programs: --json, --jsonl and -q mean the same for each of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from candle_fetcher import CandleFetcher
from candle_fetcher.cli import main
from candle_fetcher.cli.commands import COMMANDS
from candle_fetcher.cli.documents import records
from candle_fetcher.practice import PracticeExchange

DAY = ("--start", "2024-03-01", "--end", "2024-03-02")
OUTAGE = ("--start", "2023-03-24", "--end", "2023-03-25")
# Words of commands that print rows, and how many rows with {folder} as it is prepared; None where it varies.
TABLES: dict[str, tuple[str, int | None]] = {
    "fetch": ("fetch BTC/USDT 1h --start 2024-03-01 --end 2024-03-02", 24),
    "fetch several": ("fetch --symbols BTC/USDT,ETH/USDT 1d --start 2024-03-01 --end 2024-03-03", 4),
    "export": ("export --symbols BTC/USDT,ETH/USDT 1d --start 2024-03-01 --end 2024-03-03 --output {folder}/out", 2),
    "plan": ("plan BTC/USDT 1h --start 2024-03-01 --end 2024-03-02", 1),
    "gaps": ("gaps BTC/USDT 1m --start 2023-03-24 --end 2023-03-25", 1),
    "gaps --coverage": ("gaps BTC/USDT 1h --start 2024-03-01 --end 2024-03-02 --coverage", None),
    "audit": ("audit BTC/USDT 1h --start 2024-03-01 --end 2024-03-01T05:00 --against cache", 0),
    "funding": ("funding BTC/USDT --start 2024-03-01 --end 2024-03-02", 3),
    "symbols": ("symbols", None),
    "providers": ("providers", None),
    "doctor": ("doctor", None),
    "verify": ("verify {folder}/a.csv {folder}/b.csv", 2),
    "cache stats": ("cache stats", 1),
    "cache list": ("cache list", 2),
    "cache verify": ("cache verify", 1),
    "cache revisions": ("cache revisions", 0),
    "cache import": ("cache import {folder}/a.csv {folder}/b.csv", 2),
    "cache backup": ("cache backup {folder}/candles.tar", 1),
    "vault update": ("vault update {folder}/vault BTC/USDT ETH/USDT 1d --start 2024-03-01 --end 2024-03-03", 2),
    "vault list": ("vault list {folder}/kept", 1),
    "vault verify": ("vault verify {folder}/kept", 1),
    "vault read": ("vault read {folder}/kept BTC/USDT 1d", 2),
}
# Those that print no table, whose rows come without an end, or that have their own tests of --json.
OTHERS = {"practice", "help", "completion", "plot", "quotes", "watch", "follow", "serve"}


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Line:
    """The command line against one exchange, in a folder with two files, a vault and a cache."""

    def __init__(self, exchange: PracticeExchange, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.hosts = [word for name, url in exchange.base_urls.items() for word in ("--base-url", f"{name}={url}")]

    def __call__(self, text: str, *more: str) -> Ran:
        words = text.format(folder=self.folder).split()
        if words[0] not in ("providers", "cache") or "import" in words:
            words += self.hosts
        if words[0] != "providers":
            words += ["--cache-dir", str(self.folder / "cache")]
        self.capsys.readouterr()
        code = main([*words, *more])
        return Ran(code, *self.capsys.readouterr())

    def prepare(self) -> None:
        for day, name in (("2024-03-01", "a"), ("2024-03-02", "b")):
            words = f"export BTC/USDT 1h --start {day} -d 1 --end {day}T12:00 --output {{folder}}/{name}.csv"
            assert self(words.replace(" -d 1", "")).code == 0
            (self.folder / f"{name}.csv.json").unlink(missing_ok=True)
        assert self("vault update {folder}/kept BTC/USDT 1d --start 2024-03-01 --end 2024-03-03").code == 0


@pytest.fixture(scope="module")
def exchange() -> Iterator[PracticeExchange]:
    with PracticeExchange() as exchange:
        yield exchange


@pytest.fixture
def line(exchange: PracticeExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Line:
    return Line(exchange, tmp_path, capsys)


def test_every_command_is_tried_here() -> None:
    assert set(COMMANDS) <= {name.split()[0] for name in TABLES} | OTHERS


@pytest.mark.slow(keep=("fetch-", "gaps-", "cache list-"))
@pytest.mark.parametrize(("words", "count"), TABLES.values(), ids=(f"{name}-" for name in TABLES))
def test_json_is_one_document_and_json_lines_are_its_rows(line: Line, words: str, count: int | None) -> None:
    line.prepare()
    one, lines = line(words, "--json"), line(words, "--jsonl")
    assert one.code == lines.code, lines.err
    document, rows = json.loads(one.out), [json.loads(row) for row in lines.out.splitlines()]
    if words.startswith("fetch"):
        several = document if isinstance(document, list) else [document]
        names = [{"symbol": each["symbol"]} if isinstance(document, list) else {} for each in several]
        document = [{**name, **row} for name, each in zip(names, several, strict=True) for row in each["rows"]]
    expected = document if isinstance(document, list) else [document]
    assert [list(row) for row in rows] == [list(row) for row in expected]
    assert count is None or len(rows) == count
    if not words.startswith(
        ("doctor", "cache", "vault update", "vault list", "plan")
    ):  # these differ from one run to the next
        assert rows == expected
    for text in _texts(rows):  # every time is ISO with Z
        assert not re.search(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?!\.\d{3}Z|Z)", text), text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


@pytest.mark.slow(keep=("gaps-", "verify-", "vault list-"))
@pytest.mark.parametrize("words", [words for words, _ in TABLES.values()], ids=(f"{name}-" for name in TABLES))
def test_quiet_says_nothing_where_nothing_is_wrong_and_prints_what_is_asked_for(line: Line, words: str) -> None:
    line.prepare()
    usual, quiet = line(words), line(words, "-q")
    assert quiet.code == usual.code == 0
    assert quiet.err == ""
    reports = ("verify", "doctor", "vault update", "vault verify", "cache verify", "cache import", "cache backup")
    if words.startswith(reports):  # what went well is not said
        assert usual.out
        assert quiet.out == ""
    elif words.startswith("vault list"):
        assert quiet.out.count("\n") == usual.out.count("\n") == 2
    else:
        assert quiet.out == usual.out


@pytest.mark.parametrize(
    ("words", "code"), [("fetch XXX/USDT 1h", 2), ("fetch BTC/USDT 1x", 2), ("verify {folder}/none.csv", 1)]
)
def test_quiet_says_what_is_wrong(line: Line, words: str, code: int) -> None:
    ran = line(words, "--quiet")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("error: ")


def test_quiet_prints_the_file_that_is_broken_and_not_the_whole_one(line: Line) -> None:
    line.prepare()
    with (line.folder / "b.csv").open("ab") as file:
        file.write(b"2024-03-02 12:00:00,1,2,3")
    ran = line("verify {folder}/a.csv {folder}/b.csv", "-q")
    assert ran.code == 3
    assert "a.csv" not in ran.out + ran.err
    assert "b.csv" in ran.out + ran.err


def test_json_and_json_lines_exclude_each_other(line: Line) -> None:
    ran = line("fetch BTC/USDT 1h", "--json", "--jsonl")
    assert (ran.code, ran.out) == (2, "")
    assert "not allowed with" in ran.err


def test_records_keep_milliseconds_and_every_bit_and_have_none_for_what_is_not_known() -> None:
    index = pd.DatetimeIndex(["2024-01-01T00:00:00.123Z", "2024-01-01T00:01:00Z"], name="timestamp")
    frame = pd.DataFrame(
        {
            "price": [0.1 + 0.2, float("nan")],
            "count": pd.array([2**53 + 1, None], dtype="Int64"),
            "closed": pd.array([True, None], dtype="boolean"),
            "last": [pd.Timestamp("2024-01-01T00:00:59.999Z"), pd.NaT],
            "age": [pd.Timedelta("90.5s"), pd.NaT],
            "text": ["naïve", None],
        },
        index=index,
    )
    first, second = json.loads(json.dumps(records(frame), allow_nan=False))
    assert first == {
        "timestamp": "2024-01-01T00:00:00.123Z",
        "price": 0.1 + 0.2,
        "count": 2**53 + 1,
        "closed": True,
        "last": "2024-01-01T00:00:59.999Z",
        "age": 90.5,
        "text": "naïve",
    }
    assert second == {"timestamp": "2024-01-01T00:01:00Z", **dict.fromkeys(list(first)[1:])}


def test_json_lines_of_candles_are_those_of_an_export(line: Line) -> None:
    piped = line("fetch BTC/USDT 1h --start 2024-03-01 --end 2024-03-02 --columns all", "--jsonl")
    path = line.folder / "x.jsonl"
    words = f"export BTC/USDT 1h --start 2024-03-01 --end 2024-03-02 --columns all --output {path}"
    assert line(words).code == 0
    assert piped.out == path.read_text(encoding="utf-8")
    first = json.loads(piped.out.splitlines()[0])
    with CandleFetcher(cache_dir=line.folder / "cache", source="cache", base_urls=_urls(line), progress=False) as own:
        frame = own.fetch("BTC/USDT", "1h", "2024-03-01", "2024-03-02", columns="all")
    assert np.float64(first["close"]) == frame["close"].iloc[0]
    assert first["close_time"] == "2024-03-01T00:59:59.999Z"


def _urls(line: Line) -> dict[str, str]:
    pairs: Sequence[str] = line.hosts[1::2]
    return dict(pair.split("=", 1) for pair in pairs)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("plann BTC/USDT", "did you mean plan?"),
        ("list", "cache list"),
        ("cache lst", "did you mean list?"),
        ("fetch BTC/USDT --provder kraken", "did you mean --provider?"),
        ("export BTC/USDT --format parqet", "did you mean parquet?"),
        ("fetch BTC/USDT 1hh", "Did you mean 1h?"),
        ("fetch BTC/USDT h4", "Did you mean 4h?"),
        ("fetch BTC/USDT 4hous", "Did you mean 4h?"),
        ("fetch BTC/USDT 1h --provider krakn", "Did you mean 'kraken'?"),
        ("fetch BTC/USDT 1h --columns ohlc", "Did you mean 'ohlcv'?"),
        ("fetch BTC/USDT 1h --start yesterdy", "Did you mean 'yesterday'?"),
        ("help gasp", "Did you mean 'gaps'?"),
        ("help fetsh", "Did you mean 'fetch'?"),
    ],
)
def test_a_near_miss_is_answered_by_what_was_meant(
    words: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [] if words.startswith(("help", "list", "plann")) else ["--cache-dir", str(tmp_path)]
    assert main([*words.split(), *more]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert meant in said.err
