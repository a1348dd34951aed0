"""What is written for users is true: README code runs and prints what stands there, help and tables equal the code."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

import candle_fetcher
from candle_fetcher import CandleFetcher, CandleFetcherError, CandleFetcherWarning
from candle_fetcher.fetcher.settings import ENVIRONMENT, MODES, Default
from candle_fetcher.practice import PracticeExchange
from candle_fetcher.providers import all_providers

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "candle_fetcher" / "ARCHITECTURE.md"
PAGES = (README, ARCHITECTURE, ROOT / "CHANGELOG.md")

# A python block, and the text block right after it, which is what it prints.
_BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```(?P<said>\n\n```text(?P<varies> varies)?\n(?P<output>.*?)^```)?$", re.M | re.S
)
_HELP = re.compile(r"^<!-- help: candle-fetcher(?P<words>[ \w]*) -->\n```text\n(?P<output>.*?)^```$", re.M | re.S)
# What one report differs from the next in: figures with their unit, and the spaces that align them.
_FIGURE = re.compile(r"–|[\d,]+(\.\d+)?( (%|s|ms|µs|B|kB|MB|GB))?\b%?")
# Every block runs in turn in one namespace, in a process of its own.
_RUNNER = """
import contextlib, io, json, sys
names, said = {"__name__": "readme"}, []
for number, code in enumerate(json.load(sys.stdin), 1):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, f"README block {number}", "exec"), names)
    said.append(out.getvalue())
names["fetcher"].close()
json.dump(said, sys.stdout)
"""


class Block(NamedTuple):
    """A python block: what it prints (None where the README does not say), whether the figures in it vary."""

    code: str
    output: str | None
    varies: bool
    line: int
    end: int


def python_blocks() -> list[Block]:
    text = README.read_text(encoding="utf-8")
    return [
        Block(
            code=match["code"],
            output=match["output"],
            varies=match["varies"] is not None,
            line=text.count("\n", 0, match.start()) + 1,
            end=match.start("said") if match["said"] else match.end(),
        )
        for match in _BLOCK.finditer(text)
    ]


def run_blocks(folder: Path) -> list[str]:
    """What each block prints, run in the folder as a user would, but on the practice exchange."""
    with PracticeExchange() as exchange:
        done = run(
            ["-W", "error", "-c", _RUNNER],
            folder,
            stdin=json.dumps([block.code for block in python_blocks()]),
            CANDLE_FETCHER_BASE_URLS=",".join(f"{name}={url}" for name, url in exchange.base_urls.items()),
            CANDLE_FETCHER_CACHE_DIR=str(folder / "cache"),
            **{
                key.environment: exchange.api_keys[name][key.name]
                for name in exchange.api_keys
                for key in all_providers()[name].keys
            },
        )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def run(words: list[str], folder: Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ENVIRONMENT)}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1", **environment},
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def real_help(words: list[str]) -> str:
    """What --help prints on a terminal of 100 columns."""
    done = run(["-m", "candle_fetcher", *words, "--help"], ROOT, COLUMNS="100")
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines_of(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def shape(text: str) -> list[str]:
    """The lines with `#` for each figure."""
    return [re.sub(r"\s+", " ", _FIGURE.sub("#", line)) for line in lines_of(text)]


def says(expected: str, printed: str) -> bool:
    """Whether the lines are equal, where … stands for anything within a line."""
    ours, theirs = lines_of(expected), lines_of(printed)
    patterns = [".*".join(map(re.escape, line.split("…"))) for line in ours]
    return len(ours) == len(theirs) and all(map(re.fullmatch, patterns, theirs))


def section(title: str, page: Path = README) -> str:
    """The text below the heading, up to the next one of its level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.M | re.S)
    assert found is not None, title
    return found[1]


def prose(title: str) -> str:
    """The section with its lines joined."""
    return " ".join(section(title).split())


def rows_of(text: str) -> dict[str, list[str]]:
    """The rows of all tables whose first cell is one `name`: their other cells, by that name."""
    rows = {}
    for line in re.findall(r"^\| `\w[\w-]*` \|.*\|$", text, re.M):
        first, *cells = (cell.strip() for cell in line[1:-1].split(" |"))
        rows[first.strip("`")] = [cell.strip("|").strip() for cell in cells]
    return rows


def public_errors() -> set[str]:
    kinds = (CandleFetcherError, CandleFetcherWarning)
    public = {name: getattr(candle_fetcher, name) for name in candle_fetcher.__all__}
    return {name for name, thing in public.items() if inspect.isclass(thing) and issubclass(thing, kinds)}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return run_blocks(tmp_path_factory.mktemp("readme"))


# -- code and what it prints -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(python_blocks())), ids=lambda n: f"line_{python_blocks()[n].line}")
def test_a_block_of_the_readme_prints_what_stands_there(number: int, printed: list[str]) -> None:
    block = python_blocks()[number]
    if block.output is None:
        assert printed[number] == ""
    elif block.varies:
        assert shape(printed[number]) == shape(block.output)
    else:
        assert says(block.output, printed[number]), f"printed\n{printed[number]}\nwhere the README has\n{block.output}"


def test_no_python_block_of_the_readme_is_left_out() -> None:
    assert len(python_blocks()) == README.read_text(encoding="utf-8").count("```python\n") > 10


@pytest.mark.parametrize("words", ["", "fetch"])
def test_the_help_in_the_readme_is_the_real_one(words: str) -> None:
    def plain(text: str) -> str:
        # Since Python 3.13 `-s SYMBOL, --symbol SYMBOL` reads `-s, --symbol SYMBOL`.
        return " ".join(re.sub(r"(-\w) (\S+), (--[\w-]+ \2)", r"\1, \3", text).split())

    helps = {match["words"].strip(): match["output"] for match in _HELP.finditer(README.read_text(encoding="utf-8"))}
    shown = helps[words]
    assert plain(shown) == plain(real_help(words.split())), f"printed\n{real_help(words.split())}"


def test_the_first_two_commands_are_one_line_each() -> None:
    # .ci/run pastes them as they stand.
    commands = re.findall(r"^```sh\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)
    assert [command.count("\n") for command in commands[:2]] == [1, 1]
    assert commands[0].startswith("pip install . && python examples/")
    assert commands[1] == 'pip install ".[test]" && python -m pytest\n'


# -- tables ------------------------------------------------------------------------------------------------------------


def test_the_settings_table_has_every_setting_with_its_variable_and_default() -> None:
    def row(name: str, value: Any) -> list[str]:
        read = isinstance(value, Default)
        return [f"`{ENVIRONMENT}{name.upper()}`" if read else "", f"`{value!r}`"]

    settings = {
        name: row(name, setting.default)
        for name, setting in inspect.signature(CandleFetcher).parameters.items()
        if setting.kind is not setting.VAR_KEYWORD
    }
    table = {name: cells[:2] for name, cells in rows_of(section("Settings")).items() if len(cells) == 3}
    assert table == settings


def test_every_variable_that_the_package_reads_is_in_the_settings_section() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "candle_fetcher").rglob("*.py")]
    read = {name for source in sources for name in re.findall(rf"{ENVIRONMENT}[A-Z_]*[A-Z]", source)}
    assert read <= set(re.findall(rf"{ENVIRONMENT}[A-Z_]*[A-Z]", section("Settings")))


def test_every_public_error_has_its_row() -> None:
    rows = rows_of(section("Troubleshooting"))
    assert set(rows) == public_errors()


def test_the_attributes_in_the_rows_of_errors_are_the_real_ones() -> None:
    for name, cells in rows_of(section("Troubleshooting")).items():
        kind = getattr(candle_fetcher, name)
        attributes = re.findall(r"`(\w+)`", cells[1]) if issubclass(kind, CandleFetcherError) else []
        documented = set(re.findall(r"self\.(\w+) = ", inspect.getsource(kind))) - {"fix"}  # which all have
        assert set(attributes) == documented, name


def test_the_providers_table_is_what_the_providers_say() -> None:
    names = ["provider", "timeframes", "kinds", "history", "quiet_interval", "sessions", "symbols", "key", "limits"]
    told = CandleFetcher.providers()[[*names, "settings"]].to_dict("records")
    lines = [f"| `{one.pop('provider')}` | {' | '.join(one.values())} |" for one in told]
    written = [line for line in section("Providers").splitlines() if line.startswith("| `")]
    assert written == lines, "\n".join(lines)


@pytest.mark.fault("J23")
def test_no_row_of_a_table_is_there_twice() -> None:
    for table in re.findall(r"(?:^\|.*\|\n)+", README.read_text(encoding="utf-8"), re.M):
        lines = table.splitlines()
        assert len(set(lines)) == len(lines), lines[0]


@pytest.mark.fault("J23")
@pytest.mark.parametrize(
    ("provider", "column", "text"),
    [
        ("binance", "key", "none"),
        ("alpaca", "key", "ALPACA_API_KEY_ID ALPACA_API_SECRET_KEY"),
        ("coingecko", "key", "optional: COINGECKO_DEMO_API_KEY"),
        (
            "tradestation",
            "key",
            "TRADESTATION_ACCESS_TOKEN, or "
            + " ".join(f"TRADESTATION_{name}" for name in ("CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN together")),
        ),
        ("tradestation", "limits", "500 requests in 5 minutes"),
        ("alphavantage", "limits", "1 request a second, 25 requests a day"),
        ("alpaca", "limits", "200 requests a minute"),
    ],
)
def test_keys_and_limits_of_a_provider_read_as_they_are(provider: str, column: str, text: str) -> None:
    table = CandleFetcher.providers().set_index("provider")
    assert table.loc[provider, column] == text
    assert text in section("Providers")


@pytest.mark.fault("H11")
def test_the_readme_says_how_a_file_is_read_where_the_decimal_sign_is_a_comma() -> None:
    found = re.search(r"read `([\d.]+)` as (\d+): set the language of the import to English", prose("Exporting CSV"))
    assert found is not None
    assert found[2] == found[1].replace(".", "")  # the point is taken for the sign between thousands


@pytest.mark.fault("H13")
def test_the_readme_says_that_timestamps_are_opening_times(tmp_path: Path) -> None:
    text = prose("Columns")
    assert 'moved on by one timeframe, `frame.index + pd.Timedelta("1h")`' in text
    assert "opening times in UTC" in text
    with PracticeExchange() as exchange, CandleFetcher(base_urls=exchange.base_urls, cache_dir=tmp_path) as fetcher:
        frame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-02", columns="all")
    assert frame.index[0] == pd.Timestamp("2024-01-01", tz="UTC")
    ends = frame.index + pd.Timedelta("1h")
    assert ((ends - frame["close_time"]) == pd.Timedelta("1ms")).all()


def test_the_modes_table_is_the_real_one() -> None:
    modes = dict(re.findall(r'^\| `"(\w+)"`.*?\| (\d+ \| \d+) \|$', section("Speed and pacing"), re.M))
    assert modes == {mode: f"{network} | {io}" for mode, (network, io) in MODES.items()}


# -- pages -------------------------------------------------------------------------------------------------------------


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert versions[0] == candle_fetcher.__version__


def test_all_is_what_the_package_has() -> None:
    modules = {name for name, thing in vars(candle_fetcher).items() if inspect.ismodule(thing)}
    public = {name for name in vars(candle_fetcher) if not name.startswith("_")} - modules - {"annotations"}
    assert sorted(candle_fetcher.__all__) == list(candle_fetcher.__all__)
    assert set(candle_fetcher.__all__) == public | {"__version__"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_section_is_in_the_contents() -> None:
    titles = re.findall(r"^## (.+)$", README.read_text(encoding="utf-8"), re.M)
    assert re.findall(r"^- \[(.+?)\]", section("Contents"), re.M) == titles[1:]


def test_the_architecture_page_draws_every_module_and_no_other() -> None:
    picture = re.search(r"^```text\n(.*?)^```$", ARCHITECTURE.read_text(encoding="utf-8"), re.M | re.S)
    assert picture is not None
    package = ROOT / "candle_fetcher"
    modules = [path for path in package.rglob("*.py") if not path.name.startswith("__")]
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    drawn = re.findall(r"\b[a-z_]+(?:\.py|/)", picture[1])
    assert sorted(drawn) == sorted([*(path.name for path in modules), *folders])
