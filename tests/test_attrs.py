"""What pandas does with the manifest in `frame.attrs`: the table of the page `frames`, each row run."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from world import World

from candle_fetcher import CandleFetcher, InputError, manifest_of
from candle_fetcher.core.frame import MANIFEST

PAGE = Path(__file__).resolve().parents[1] / "candle_fetcher" / "docs" / "frames.md"
SPAN = ("2024-01-01", "2024-01-03")


def rows_of(first: str) -> list[tuple[list[str], str, str]]:
    """The codes and the two other cells of each row of the table that begins with that cell."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |")) + 2
    rows = []
    while lines[at].startswith("|"):
        codes, kept, said = (cell.strip() for cell in lines[at].strip("|").split("|"))
        rows.append((re.findall(r"`([^`]+)`", codes), kept, said))
        at += 1
    return rows


ROWS = [(code, kept, said) for codes, kept, said in rows_of("what you write") for code in codes]
FILES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "to_csv": lambda frame: pd.read_csv(io.StringIO(frame.to_csv())),
    "to_json": lambda frame: pd.read_json(io.StringIO(frame.to_json(date_format="iso"))),
    "to_parquet": lambda frame: pd.read_parquet(io.BytesIO(frame.to_parquet())),
    "to_feather": lambda frame: _through_feather(frame.reset_index()).set_index("timestamp"),
}


def _through_feather(frame: pd.DataFrame) -> pd.DataFrame:
    file = io.BytesIO()
    frame.to_feather(file)
    return pd.read_feather(io.BytesIO(file.getvalue()))


@pytest.fixture(scope="module")
def fetcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CandleFetcher]:
    with World(tmp_path_factory.mktemp("cache")) as world:
        yield world.fetcher()


def outcome(frame: Any, whole: pd.DataFrame) -> str:
    """What `manifest_of` says, in the words of the table."""
    try:
        found = manifest_of(frame)
    except InputError:
        return "an `InputError`: no frame with times"
    if found is None or found == whole.attrs[MANIFEST]:
        return "None" if found is None else "its manifest"
    if "part_of" in found:
        return "that of a part"
    return "changed" if found.get("changed") else "without a fingerprint" if found["fingerprint"] is None else "?"


def test_the_table_has_rows_of_each_kind() -> None:
    assert len(ROWS) > 30
    assert {kept for _, kept, _ in ROWS} == {"yes", "no"}


@pytest.mark.fault("H07")
@pytest.mark.parametrize(("code", "kept", "said"), ROWS, ids=[code for code, _, _ in ROWS])
def test_an_operation_does_with_the_manifest_what_the_page_says(
    fetcher: CandleFetcher, code: str, kept: str, said: str
) -> None:
    frame = fetcher.fetch("BTC/USDT", "1h", *SPAN)
    other = fetcher.fetch("ETH/USDT", "1h", *SPAN)
    before = dict(frame.attrs[MANIFEST])
    made = eval(code, {"frame": frame, "other": other, "pd": pd, "pickle": pickle})
    assert (MANIFEST in made.attrs) == (kept == "yes")
    assert outcome(made, frame) == said
    assert dict(frame.attrs[MANIFEST]) == before


@pytest.mark.parametrize(("name", "kept"), [(name, kept) for names, kept, _ in rows_of("file") for name in names[:2]])
def test_a_file_of_pandas_does_with_the_manifest_what_the_page_says(
    fetcher: CandleFetcher, name: str, kept: str
) -> None:
    if kept == "yes":
        pytest.importorskip("pyarrow", reason="pandas writes such files with it")
    frame = fetcher.fetch("BTC/USDT", "1h", *SPAN)
    made = FILES[name](frame)
    assert (MANIFEST in made.attrs) == (kept == "yes")
    if kept == "yes":
        assert manifest_of(made) == frame.attrs[MANIFEST]


def test_agg_keeps_it_from_pandas_3_on(fetcher: CandleFetcher) -> None:
    made = fetcher.fetch("BTC/USDT", "1h", *SPAN).agg(["min", "max"])
    assert (MANIFEST in made.attrs) == (int(pd.__version__.partition(".")[0]) >= 3)
