"""What users see in Jupyter: a real kernel runs the cells, and the messages that it sends are looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernels import Kernel, Message, kernel

from candle_fetcher.practice import PracticeExchange

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # what a kernel's own packages warn of
]
YEAR = 'frame = fetcher.fetch("BTC/USDT", "1m", "2023-01-01", "2023-04-01", source="rest")'


@pytest.fixture(scope="module")
def exchange() -> Iterator[PracticeExchange]:
    with PracticeExchange(delay_s=0.05, weight_limit=10**7) as exchange:
        yield exchange


@pytest.fixture
def cells(exchange: PracticeExchange, tmp_path: Path) -> Iterator[Kernel]:
    """A kernel with a `fetcher` as users make one."""
    with kernel(tmp_path) as made:
        made.run(f"""
from candle_fetcher import CandleFetcher
fetcher = CandleFetcher(base_urls={{"binance": {exchange.base_urls["binance"]!r}}}, cache_dir={str(tmp_path / "c")!r})
""")
        yield made
        assert made.run("fetcher.close()") == []


def bars(messages: list[Message]) -> list[str]:
    """The kinds of the messages that draw a bar."""
    return [one.kind for one in messages if "<progress " in one.content.get("data", {}).get("text/html", "")]


def test_a_bar_is_one_output_that_is_replaced_in_its_place(cells: Kernel) -> None:
    shown = cells.run(YEAR)
    drawn = bars(shown)
    assert drawn[0] == "display_data"
    assert set(drawn[1:]) == {"update_display_data"}
    assert len(shown) == len(drawn), "no comm messages, no text on stderr, no warning"
    names = {one.content["transient"]["display_id"] for one in shown}
    assert len(names) == 1
    last = shown[-1].content["data"]
    value, most = re.findall(r"(?:value|max)='(\d+)'", last["text/html"])
    assert value == most == str(90 * 1440)
    assert last["text/plain"].startswith("BTC/USDT 1m: 100%")
    assert "█" in last["text/plain"]
    modules = cells.show("sorted(name for name in __import__('sys').modules if name.startswith('ipywidgets'))")
    assert modules["text/plain"] == "[]"


def test_a_fetch_that_is_quick_shows_no_bar(cells: Kernel) -> None:
    cells.run(YEAR)
    assert cells.run(YEAR) == []


SHOWN = {
    "fetcher": "CandleFetcher",
    "fetcher.cache": "memory_max",
    "fetcher.monitor": "requests",
    "fetcher.plan('BTC/USDT', '1m', '2020-01-01', '2024-01-01')": "2,103,840 candles at most",
    "fetcher.doctor()": "clock skew",
    "fetcher.providers()": "tradestation",
    "fetcher.fetch('BTC/USDT', '1h', '2023-03-24', '2023-03-25').attrs['candle_fetcher']": "no_candle",
    "fetcher.gaps('BTC/USDT', '1h', '2023-03-24', '2023-03-25')": "no_candle",
    "fetcher.quotes(['BTC/USDT'])": "BTC/USDT",
}


def test_what_a_cell_ends_with_is_shown_as_a_table_and_as_text(cells: Kernel) -> None:
    for line, said in SHOWN.items():
        data = cells.show(line)
        assert set(data) == {"text/html", "text/plain"}, line
        assert "<table" in data["text/html"], line
        assert said in data["text/html"], line
        assert data["text/plain"].strip(), line
        assert "<td" not in data["text/plain"], line


@pytest.mark.fault("E03")
def test_a_cell_that_is_interrupted_shows_one_error_and_runs_again(cells: Kernel, exchange: PracticeExchange) -> None:
    exchange.clear_log()
    shown = cells.run(YEAR, interrupt_when=lambda: len(exchange.requests) > 20)
    errors = [one for one in shown if one.kind == "error"]
    assert [one.content["ename"] for one in errors] == ["KeyboardInterrupt"]
    assert bars(shown)[:1] in ([], ["display_data"])
    again = cells.run(YEAR)
    assert {one.kind for one in again} <= {"display_data", "update_display_data"}
    assert bars(again).count("display_data") <= 1
    assert cells.show("len(frame)")["text/plain"] == str(90 * 1440 - 80)
