"""What is written for users is true: README code runs and prints what stands there, help and tables equal the code."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pages import ARCHITECTURE, README, ROOT, Block, all_pages, find_blocks, find_cells, summary_of, write_generated

import candle_fetcher
from candle_fetcher import CandleFetcher, CandleFetcherError, CandleFetcherWarning
from candle_fetcher.cli import main
from candle_fetcher.cli.pages import find_pages, lay_out
from candle_fetcher.practice import PracticeExchange
from candle_fetcher.providers import all_providers
from candle_fetcher.settings import ENVIRONMENT, MODES, Default

CHANGELOG = ROOT / "CHANGELOG.md"

# What one report differs from the next in: figures with their unit, and the spaces that align them.
_FIGURE = re.compile(r"–|[\d,]+(\.\d+)?( (%|s|ms|µs|B|kB|MB|GB))?\b%?")
# Lines of commands of other programs.
_OTHERS = re.compile(r"(pip|uv|git|python|ruff|mypy|source|cd|export) |#|\d+ |$")


def run_blocks(blocks: list[Block], folder: Path, warnings: str) -> list[tuple[Block, str, str]]:
    """Return what each block prints, and its error: run as a user would, but on the practice exchange."""
    by_page: dict[str, list[Block]] = {}
    for block in blocks:
        by_page.setdefault(str(block.page.relative_to(ROOT)), []).append(block)
    wanted = {name: [{"kind": block.kind, "code": block.code} for block in blocks] for name, blocks in by_page.items()}
    with PracticeExchange() as exchange:
        done = run(
            ["-W", warnings, str(ROOT / "tests" / "page_runner.py")],
            folder,
            stdin=json.dumps(wanted),
            CANDLE_FETCHER_BASE_URLS=",".join(f"{name}={url}" for name, url in exchange.base_urls.items()),
            **{
                key.environment: exchange.api_keys[name][key.name]
                for name in exchange.api_keys
                for key in all_providers()[name].keys
            },
        )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    return [
        (block, out, error)
        for name, blocks in by_page.items()
        for block, (out, error) in zip(blocks, printed[name], strict=True)
    ]


def run(words: list[str], folder: Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ENVIRONMENT)}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1", **environment},
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def find_wrong(blocks: list[Block], folder: Path, warnings: str) -> list[str]:
    """Return a text for each block that fails, or prints something else than the page says."""
    wrong = []
    for block, out, error in run_blocks(blocks, folder, warnings):
        if error:
            wrong.append(f"{block.place} fails:\n{error}")
        elif block.output is None:
            if out and block.kind == "python":
                wrong.append(f"{block.place} prints what the page does not show:\n{out}")
        elif not (sorted(shape(out)) == sorted(shape(block.output)) if block.varies else says(block.output, out)):
            wrong.append(f"{block.place} prints\n{out}\nwhere the page has\n{block.output}")
    return wrong


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


def page(name: str) -> str:
    """Return the text of the page."""
    return find_pages()[name].read_text(encoding="utf-8")


def prose(name: str) -> str:
    """Return the text of the page with its lines joined."""
    return " ".join(page(name).split())


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


def all_blocks() -> list[Block]:
    """Return the blocks of all pages, and the code in the tables for users of other tools."""
    blocks = [block for path in all_pages() for block in find_blocks(path)]
    return [*blocks, *find_cells(find_pages()["coming-from"])]


# -- code and what it prints -------------------------------------------------------------------------------------------


@pytest.mark.slow(keep=("readme",))
@pytest.mark.parametrize("which", ["readme", "pages"])
def test_every_block_prints_what_its_page_says(tmp_path: Path, which: str) -> None:
    blocks = [block for block in all_blocks() if not is_slow(block) and (block.page == README) == (which == "readme")]
    wrong = find_wrong(blocks, tmp_path, "error")
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.slow
def test_every_page_with_long_blocks_or_with_other_programs_prints_what_it_says(tmp_path: Path) -> None:
    pages = {block.page for block in all_blocks() if is_slow(block)}
    blocks = [block for block in all_blocks() if block.page in pages and not missing(block)]
    wrong = find_wrong(blocks, tmp_path, "default")  # other programs warn of what they please
    assert not wrong, "\n\n".join(wrong)


def is_slow(block: Block) -> bool:
    return "slow" in block.marks or bool(needs(block))


def needs(block: Block) -> list[str]:
    """Return the packages beside ours that the block imports: its marks `needs=NAME`."""
    return [mark.removeprefix("needs=") for mark in block.marks if mark.startswith("needs=")]


def missing(block: Block) -> list[str]:
    return [name for name in needs(block) if importlib.util.find_spec(name) is None]


def test_every_block_of_python_and_of_commands_is_run() -> None:
    for path in all_pages():
        text = path.read_text(encoding="utf-8")
        fences = re.findall(r"^```(\w*)", text, re.M)
        assert len(find_blocks(path)) == fences.count("python") + fences.count("sh"), path
        assert set(fences) <= {"python", "sh", "text", "toml", "ini", "csv", ""}, path
    assert sum(block.kind == "python" for block in all_blocks()) > 30


def test_lines_of_commands_are_ours_or_of_known_programs() -> None:
    for block in all_blocks():
        if block.kind == "sh":
            for line in block.code.replace("\\\n", " ").splitlines():
                assert line.startswith("candle-fetcher ") or _OTHERS.match(line), f"{block.place}: {line}"
                for file in re.findall(r"\b(?:tests|examples)/[\w/]+\.py", line):
                    assert (ROOT / file).is_file(), f"{block.place}: {file}"


@pytest.mark.parametrize("path", [*all_pages(), ARCHITECTURE], ids=lambda path: path.stem)
def test_the_generated_parts_are_what_the_code_says(path: Path) -> None:
    def plain(text: str) -> list[str]:
        # Since Python 3.13 `-s SYMBOL, --symbol SYMBOL` reads `-s, --symbol SYMBOL`.
        while (shorter := re.sub(r"(-\w|--[\w-]+) ([^\s,]+), (--[\w-]+(, --[\w-]+)* \2)", r"\1, \3", text)) != text:
            text = shorter
        return text.split()

    text = path.read_text(encoding="utf-8")
    assert plain(write_generated(text)) == plain(text), "python tests/pages.py --write"


def test_the_first_two_commands_are_one_line_each() -> None:
    # .ci/run pastes them as they stand.
    commands = re.findall(r"^```sh\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)
    assert [command.count("\n") for command in commands[:2]] == [1, 1]
    assert commands[0].startswith("pip install . && python examples/")
    assert commands[1] == 'pip install ".[test]" && python -m pytest\n'


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("J23")
def test_the_settings_table_has_every_setting_with_its_variable_and_default() -> None:
    def row(name: str, value: Any) -> list[str]:
        read = isinstance(value, Default)
        return [f"`{ENVIRONMENT}{name.upper()}`" if read else "", f"`{value!r}`"]

    settings = {
        name: row(name, setting.default)
        for name, setting in inspect.signature(CandleFetcher).parameters.items()
        if setting.kind is not setting.VAR_KEYWORD
    }
    table = {name: cells[:2] for name, cells in rows_of(page("settings")).items() if len(cells) == 3}
    assert table == settings


def test_every_variable_that_the_package_reads_is_on_the_settings_page() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "candle_fetcher").rglob("*.py")]
    read = {name for source in sources for name in re.findall(rf"{ENVIRONMENT}[A-Z_]*[A-Z]", source)}
    assert read <= set(re.findall(rf"{ENVIRONMENT}[A-Z_]*[A-Z]", page("settings")))


def test_every_public_error_has_its_row() -> None:
    rows = rows_of(page("errors"))
    assert set(rows) == public_errors()


def test_the_attributes_in_the_rows_of_errors_are_the_real_ones() -> None:
    for name, cells in rows_of(page("errors")).items():
        kind = getattr(candle_fetcher, name)
        attributes = re.findall(r"`(\w+)`", cells[1]) if issubclass(kind, CandleFetcherError) else []
        documented = set(re.findall(r"self\.(\w+) = ", inspect.getsource(kind))) - {"fix"}  # which all have
        assert set(attributes) == documented, name


@pytest.mark.fault("J23")
@pytest.mark.parametrize("provider", sorted(all_providers()))
def test_the_page_of_a_provider_has_all_that_the_provider_says(provider: str) -> None:
    (facts,) = CandleFetcher.providers().query(f"provider == '{provider}'").to_dict("records")
    rows = dict(re.findall(r"^\| ([\w ]+) \| (.*) \|$", page(provider).partition("<!-- end -->")[0], re.M))
    assert facts.pop("provider") == rows["id"].strip("`")
    assert {name: rows.get(name.replace("_", " "), "") for name in facts} == facts


def test_the_readme_has_a_row_for_each_provider() -> None:
    rows = re.findall(r"^\| \[([\w-]+)\]\(\S+\) \| .+ \| .+ \| (\w+) \|$", README.read_text(encoding="utf-8"), re.M)
    keys = CandleFetcher.providers().set_index("provider")["key"]
    assert [name for name, _ in rows] == list(keys.index)
    assert {name for name, key in rows if key == "none"} == set(keys.index[keys == "none"])


@pytest.mark.fault("J23")
@pytest.mark.parametrize("path", all_pages(), ids=lambda path: path.stem)
def test_no_row_of_a_table_is_there_twice(path: Path) -> None:
    for table in re.findall(r"(?:^\|.*\|\n)+", path.read_text(encoding="utf-8"), re.M):
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
    assert f"| {text} |" in page(provider)


@pytest.mark.fault("H11")
def test_a_page_says_how_a_file_is_read_where_the_decimal_sign_is_a_comma() -> None:
    found = re.search(r"read `([\d.]+)` as (\d+): set the language of the import to English", prose("export"))
    assert found is not None
    assert found[2] == found[1].replace(".", "")  # the point is taken for the sign between thousands


@pytest.mark.fault("H13")
def test_a_page_says_that_timestamps_are_opening_times(tmp_path: Path) -> None:
    text = prose("frames")
    assert "move the index by one timeframe" in text
    assert 'frame.index + pd.Timedelta("1h")' in text
    assert "opening times in UTC" in text
    assert "opening times in UTC" in README.read_text(encoding="utf-8")
    with PracticeExchange() as exchange, CandleFetcher(base_urls=exchange.base_urls, cache_dir=tmp_path) as fetcher:
        frame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-02", columns="all")
    assert frame.index[0] == pd.Timestamp("2024-01-01", tz="UTC")
    ends = frame.index + pd.Timedelta("1h")
    assert ((ends - frame["close_time"]) == pd.Timedelta("1ms")).all()


def test_the_modes_table_is_the_real_one() -> None:
    modes = dict(re.findall(r'^\| `"(\w+)"`.*?\| (\d+ \| \d+) \|$', page("speed"), re.M))
    assert modes == {mode: f"{network} | {io}" for mode, (network, io) in MODES.items()}


# -- pages -------------------------------------------------------------------------------------------------------------


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    versions = re.findall(r"^## (\S+)", CHANGELOG.read_text(encoding="utf-8"), re.M)
    assert versions[0] == candle_fetcher.__version__


def test_all_is_what_the_package_has() -> None:
    assert all(hasattr(candle_fetcher, name) for name in candle_fetcher.__all__)  # those that are imported late, too
    modules = {name for name, thing in vars(candle_fetcher).items() if inspect.ismodule(thing)}
    others = {"annotations", "TYPE_CHECKING", "Any"}
    public = {name for name in vars(candle_fetcher) if not name.startswith("_")} - modules - others
    assert sorted(candle_fetcher.__all__) == list(candle_fetcher.__all__)
    assert set(candle_fetcher.__all__) == public | {"__version__"}


def headings_of(text: str) -> set[str]:
    """Return the anchors that a page has, as GitHub makes them."""
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)}


@pytest.mark.parametrize("path", [*all_pages(), ARCHITECTURE, CHANGELOG], ids=lambda path: path.stem)
def test_links_within_the_repository_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            found = path.parent / file if file else path
            assert found.exists(), target
            assert not anchor or anchor in headings_of(found.read_text(encoding="utf-8")), target


def test_the_readme_is_short_and_leads_to_the_pages() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.encode()) <= 8192
    assert "prices are made up" in text.partition("```python")[0]
    assert "candle_fetcher/docs/index.md" in text


# -- candle-fetcher help -----------------------------------------------------------------------------------------------


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what `candle-fetcher help` prints on 80 columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        patch.setenv("NO_COLOR", "1")
        assert main(["help", *words]) == 0
    return capsys.readouterr().out


def test_help_lists_every_page_with_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    listed = " ".join(help_of(capsys).split())
    for name, path in find_pages().items():
        if name != "index":
            assert f" {name} {summary_of(path)} " in f"{listed} ", name


@pytest.mark.slow(every=8)
@pytest.mark.parametrize("name", sorted(find_pages()))
def test_help_prints_a_page_for_a_terminal_of_80_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = help_of(capsys, name).splitlines()
    title = re.match(r"# (.+)", page(name))
    assert title is not None
    assert printed[0] == title[1]
    code = "".join(re.findall(r"^```.*?^```$", page(name), re.M | re.S))
    prose_lines = [line for line in printed if line.strip() not in code]
    assert [line for line in prose_lines if len(line) > 80 and "://" not in line] == []
    assert [line for line in prose_lines if re.search(r"\]\(|<!--|^\||\*\*", line)] == []


def test_help_names_the_closest_page_for_an_unknown_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "gasp"]) == 2
    assert "Did you mean 'gaps'?" in capsys.readouterr().err


def test_help_of_a_command_without_a_page_is_the_help_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert help_of(capsys, "fetch").startswith("usage: candle-fetcher fetch ")
    assert help_of(capsys, "GAPS.md").startswith("Gaps\n====\n")


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("# A `b`\n\n*Some* **words** a*b\nhere.\n", 80, ["A `b`", "=====", "", "Some words a*b here.", ""]),
        (
            "See [gaps](gaps.md), [more](cache.md#x), [x](https://a.b).",
            80,
            ["See gaps, more (page cache), x (https://a.b).", ""],
        ),
        ("- one\n- two three four\n  five\n", 12, ["- one", "- two three", "  four five", ""]),
        ("| a | b |\n| --- | --- |\n| 1 | x\\|y |\n", 80, ["a  b", "-  ---", "1  x|y", ""]),
        ("| a | b |\n| --- | --- |\n| one | two three |\n", 10, ["a    b", "---  -----", "one  two", "     three", ""]),
        ("| a | b |\n| --- | --- |\n| longword | wordlong |\n", 12, ["longword", "  b:", "    wordlong", ""]),
        ("| a | b |\n| --- | --- |\n| one | https://a.b |\n", 12, ["a    b", "---  -------", "one  https://a.b", ""]),
        ("```python\nx = 1\n\ny = 2\n```\n", 80, ["x = 1", "", "y = 2", ""]),
        ("```text\n1\n2\n```\n", 80, ["  1", "  2", ""]),
        ("<!-- generated: x -->\ntext\n<!-- end -->\n", 80, ["text", ""]),
    ],
)
def test_markdown_is_laid_out_as_text(text: str, width: int, lines: list[str]) -> None:
    assert list(lay_out(text, width)) == lines
