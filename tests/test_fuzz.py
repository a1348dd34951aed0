"""Hostile input for every parser, from a fixed seed (see fuzz.py), and how much memory bodies can take that are made to
take much."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from fuzz import CASES, cases_of, main, run, share, table
from parsers import BY_NAME, PARSERS, Parser
from runs import FAULT_RUNS

TESTS = Path(__file__).resolve().parent
QUICK = 5_000
every_parser = pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)


@pytest.mark.slow(keep=("numbers",))
@every_parser
def test_hostile_input_is_read_right_or_refused_in_a_line(parser: Parser, record_property: Any) -> None:
    tally = run(parser, share(parser, QUICK))
    record_property("runs", tally.cases)
    assert not tally.failure, tally.failure


@pytest.mark.long
@every_parser
def test_a_million_of_hostile_inputs_are_read_right_or_refused_in_a_line(parser: Parser, record_property: Any) -> None:
    tally = run(parser, share(parser, round(FAULT_RUNS * CASES)))
    record_property("runs", tally.cases)
    sys.stdout.write(f"\n{table([tally])}\n")
    assert not tally.failure, tally.failure


def test_cases_are_the_same_again() -> None:
    assert len(BY_NAME) == len(PARSERS)
    for parser in PARSERS:
        one, other = cases_of(parser, 7), cases_of(parser, 7)
        assert [next(one) for _ in range(20)] == [next(other) for _ in range(20)]


def test_what_is_read_wrongly_is_found() -> None:
    """The judge judges: a reader that takes the first row for all is caught."""

    def judge(case: bytes, columns: Any) -> None:
        assert case.count(b"],[") == 0, "read what is wrong"

    tally = run(BY_NAME["rows"]._replace(judge=judge), 1_000)
    assert tally.failure
    assert "FAILED" in table([tally])


def test_the_command_prints_a_line_for_each_parser(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cases", "2000", "--parser", "CHECKSUM", "--parser", "timeframe"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "parser",
        "CHECKSUM",
        "timeframe",
        "all",
    ]


# -- bombs ------------------------------------------------------------------------------------------------------------

MEMORY = """
    import io, json, os, re, struct, sys, zipfile
    from pathlib import Path
    from candle_fetcher.core.text.rows import parse_csv
    from candle_fetcher.core.errors import InputError, ReplyError
    from candle_fetcher.core.series import Series
    from candle_fetcher.core.timeframe import parse_timeframe
    from candle_fetcher.net.transport import MAX_BODY_BYTES
    from candle_fetcher.providers import find_provider
    from candle_fetcher.providers.binance import parse_candles, parse_clock, parse_listing
    from candle_fetcher.providers.binance_archive import find_file, read_file
    from candle_fetcher.providers.binance_bucket import parse_listing as parse_bucket
    from candle_fetcher.providers.binance_klines import KLINE

    MB = 2**20
    day = Series("binance", None, "BTCUSDT", parse_timeframe("1s"))
    file = find_file(day, 1_717_200_000_000, monthly=False)
    member = file.path.rpartition("/")[2].removesuffix(".zip") + ".csv"

    def zipped(piece, times, lie, packing=zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", packing) as archive, archive.open(member, "w") as out:
            for _ in range(times):
                out.write(piece)
        data = buffer.getvalue()
        whole = struct.pack("<I", len(piece) * times)
        return data.replace(whole, struct.pack("<I", 1_000_000)) if lie else data

    def filled(unit, size, first=b"", last=b""):
        return first + unit * (size // len(unit)) + last

    def bucket(body):
        return parse_bucket(body, "")

    bombs = {
        "rows of nothing": (parse_candles, lambda: filled(b"[],", MAX_BODY_BYTES, b"[")),
        "values": (parse_candles, lambda: filled(b"0,", MAX_BODY_BYTES, b"[[")),
        "values in bounds": (parse_candles, lambda: filled(b"0,", 2 * MB - 9, b"[[", b"0]]")),
        "nested": (parse_candles, lambda: b"[" * 100_000),
        "nested objects": (parse_listing, lambda: b'{"a":' * 100_000),
        "integer": (parse_candles, lambda: b"[[" + b"9" * 5_000 + b"]]"),
        "integer in a clock": (parse_clock, lambda: b'{"serverTime":' + b"9" * MB + b"}"),
        "integer in a listing": (parse_listing, lambda: b'{"symbols":[' + b"9" * MB + b"]}"),
        "lists in a listing": (parse_listing, lambda: filled(b"[],", MAX_BODY_BYTES, b'{"symbols":[', b"[]]}")),
        "values in a listing": (parse_listing, lambda: filled(b'"ab",', MAX_BODY_BYTES, b'{"symbols":[', b'""]}')),
        "values in bounds of a listing": (parse_listing, lambda: filled(b'"ab",', 11 * MB, b'{"symbols":[', b'""]}')),
        "lists in bounds of a listing": (parse_listing, lambda: filled(b"[],", MB, b'{"symbols":[', b"[]]}")),
        "elements": (bucket, lambda: filled(b"<a/>", MAX_BODY_BYTES, b"<r>", b"</r>")),
        "elements in bounds": (bucket, lambda: filled(b"<a/>", 4 * MB - 9, b"<r>", b"</r>")),
        "entities": (bucket, lambda: filled(b"&a;", 3_000, b'<!DOCTYPE r [<!ENTITY a "aaa">]><r>', b"</r>")),
        "a long line": (lambda body: parse_csv(body, KLINE), lambda: filled(b"12,", 26 * MB)),
        "blank lines": (lambda body: parse_csv(body, KLINE), lambda: b"1," + b"\\n" * 26 * MB + b"1"),
        "zip": (lambda body: read_file(body, file, day), lambda: zipped(b"1," * MB, 100, False)),
        "zip that lies": (lambda body: read_file(body, file, day), lambda: zipped(b"1," * MB, 100, True)),
        "zip in bzip2": (lambda body: read_file(body, file, day), lambda: zipped(b"1," * MB, 20, True, 12)),
        "zip in LZMA": (lambda body: read_file(body, file, day), lambda: zipped(b"1," * MB, 20, True, 14)),
        "zip of one line": (lambda body: read_file(body, file, day), lambda: zipped(b"1," * (MB // 2), 24, False)),
        "zip of lines": (lambda body: read_file(body, file, day), lambda: zipped(b"1\\n" * (MB // 2), 24, False)),
    }
    for name in sys.argv[1:]:
        if os.fork():  # a process for each: what one has freed would serve the next
            if os.wait()[1]:
                sys.exit(f"{name} ended badly")
            continue
        parse, made = bombs[name]
        body = made()
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
        before = int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
        said = "nothing was raised"
        try:
            parse(body)
        except (ReplyError, InputError) as error:
            said = str(error)
        peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
        print(json.dumps([name, peak - before, said]), flush=True)
        os._exit(0)
"""

BOMBS = [
    "rows of nothing", "values", "values in bounds", "nested", "nested objects", "integer", "integer in a clock",
    "integer in a listing", "lists in a listing", "values in a listing", "values in bounds of a listing",
    "lists in bounds of a listing", "elements", "elements in bounds", "entities", "a long line", "blank lines", "zip",
    "zip that lies", "zip in bzip2", "zip in LZMA", "zip of one line", "zip of lines",
]  # fmt: skip
CAP_KB = 64 * 1024


@pytest.fixture(scope="module")
def exploded() -> dict[str, tuple[int, str]]:
    """How much memory each bomb took in a process of its own (kB), and what was said of it."""
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), *BOMBS]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2_000:]
    return {name: (grown_kb, said) for name, grown_kb, said in map(json.loads, ran.stdout.splitlines())}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak out of /proc")
@pytest.mark.fault("A14", "A18", "C08")
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_body_that_is_made_to_take_memory_is_an_error_and_takes_little(
    exploded: dict[str, tuple[int, str]], bomb: str
) -> None:
    grown_kb, said = exploded[bomb]
    sys.stdout.write(f"{grown_kb / 1024:.0f} MB: {said[:100]}\n")
    assert grown_kb < 4 * CAP_KB
    assert 0 < len(said) < 400
    assert said != "nothing was raised"
