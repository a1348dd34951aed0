"""Every series of real candles comes row for row by REST, by the archive and by both, with the gaps that it is known to
have. `python tests/real_series.py` prints the same as a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from real_series import (
    FOLDER,
    Listed,
    Proof,
    find_series,
    lay_into_archive,
    prove,
    read_gaps,
    read_rows,
    runs_of,
    why_unread,
)
from real_series import main as print_table
from world import World, ms, same

from candle_fetcher import ArchiveMismatch, IncompleteData
from candle_fetcher.practice.damage import pack

SERIES = find_series(FOLDER) if (FOLDER / "INDEX.md").is_file() else []
RUNS = {one: run for run in runs_of([one for one in SERIES if not why_unread(one)]) for one in run}
# In one call. The months before 2020, with the most gaps, have fewer.
LONG_ROWS = 21_000
# Of REST, where timeframes beside them come as well.
LIKE_OTHERS = ("/30m/", "/2h/", "/4h/", "/1d/", "/1w/", "/1M/")
DAMAGED = "spot/daily/klines/ADABTC/1m/ADABTC-1m-2021-11-27"

with_real_candles = pytest.mark.skipif(
    not SERIES, reason="there is no folder of real candles, `shared/market_data`, beside the repository"
)


def is_slow(listed: Listed) -> bool:
    """Whether files of its kind that are fetched sooner are in every run."""
    rows = sum(one.rows for one in RUNS.get(listed, ()))
    return rows > LONG_ROWS or (listed.key is None and any(part in listed.name for part in LIKE_OTHERS))


def series_of(all_: list[Listed]) -> list[object]:
    return [pytest.param(one, id=one.name, marks=[pytest.mark.slow] if is_slow(one) else []) for one in all_]


@pytest.fixture(scope="module")
def prove_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Listed], Proof]:
    """The proof of a file; those that follow on each other are fetched together, once."""
    proofs: dict[Listed, Proof] = {}

    def find(listed: Listed) -> Proof:
        if listed not in proofs:
            proofs.update(
                (proof.listed, proof) for proof in prove(FOLDER, RUNS[listed], tmp_path_factory.mktemp("run"))
            )
        return proofs[listed]

    return find


@pytest.mark.slow(
    keep=(
        "vision_csv/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2018-12.csv",
        "vision_csv/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2019-09.csv",
    )
)
@with_real_candles
@pytest.mark.parametrize("listed", series_of(SERIES))
def test_real_candles_come_row_for_row_with_their_gaps_by_each_way(
    listed: Listed, prove_once: Callable[[Listed], Proof]
) -> None:
    reason = why_unread(listed)
    if reason:
        pytest.skip(reason)
    assert prove_once(listed).said == {"rest": "", "archive": "", "auto": ""}


@pytest.mark.slow
@with_real_candles
def test_a_download_that_was_damaged_for_good_is_replaced_by_rest(tmp_path: Path) -> None:
    (listed,) = [one for one in SERIES if one.name == f"vision_csv/{DAMAGED}.csv"]
    rows, _ = read_rows(FOLDER, listed)
    with World(tmp_path) as world:
        world.exchange.load("binance", "ADABTC", "1m", rows)
        lay_into_archive(world, FOLDER, listed)
        assert listed.key is not None
        world.exchange.archive.load(listed.key, (FOLDER / "vision_damaged" / f"{DAMAGED}.zip").read_bytes())
        fetcher = world.fetcher()
        span = ("1m", "2021-11-27", "2021-11-28")
        with pytest.warns(ArchiveMismatch, match="ADABTC-1m-2021-11-27.zip"), pytest.raises(IncompleteData):
            fetcher.fetch("ADABTC", *span, source="archive")
        frame = fetcher.fetch("ADABTC", *span)
        same(frame, world.truth("ADABTC", *span))
        assert len(frame) == listed.rows == 1440


def lay_down(folder: Path, unit: int) -> None:
    """A folder like that of the real candles, with one file of the archive in it; `unit` is times per ms."""
    name, step = "BTCUSDT-1h-2025-01", 3_600_000 * unit
    opens = [ms("2025-01-01") * unit + step * at for at in range(744) if at != 7]
    lines = [f"{at},1.5,2.5,0.5,1.25,{row}.1,{at + step - 1},7.5,{row},3.5,4.5,0\n" for row, at in enumerate(opens)]
    path = folder / f"vision/spot/monthly/klines/BTCUSDT/1h/{name}.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(pack(f"{name}.csv", ["".join(lines).encode()]))
    ends = "2025-01-01 00:00 | 2025-01-31 23:00"
    (folder / "INDEX.md").write_text(
        "| file | venue/market | symbol | interval | rows | first | last | gaps | more |\n"
        f"| `{path.relative_to(folder).as_posix()}` | Binance spot | BTCUSDT | 1h | 743 | {ends} | "
        "1 gaps, 1 candles: 2025-01-01 07:00 (1) | - |\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1, 1000])
def test_the_table_says_so_where_a_series_does_not_come_as_it_lies_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unit: int
) -> None:
    lay_down(tmp_path, unit)
    assert print_table([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "743    1       1  ok    ok      ok\n" in out
    assert out.splitlines()[-1] == "1 of 1 files, 743 rows and 1 gaps, came by every way as they lie there"
    index = tmp_path / "INDEX.md"
    index.write_text(index.read_text().replace("01 07:00", "02 07:00"))
    assert print_table([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "743    1       1  WRONG WRONG   WRONG\n" in out
    assert out.count("gaps [('2025-01-01T07:00:00Z', '2025-01-01T07:00:00Z', 1)] are not") == 3
    assert print_table([str(tmp_path), "no such file"]) == 2
    assert print_table([str(tmp_path / "none")]) == 2


def test_an_index_that_does_not_tell_all_of_its_gaps_is_refused() -> None:
    assert list(read_gaps("0")) == []
    assert list(read_gaps("2 gaps, 3 candles: 2019-11-13 02:00 to 2019-11-13 03:00 (2); 2019-11-25 02:00 (1)")) == [
        ("2019-11-13T02:00:00Z", "2019-11-13T03:00:00Z", 2),
        ("2019-11-25T02:00:00Z", "2019-11-25T02:00:00Z", 1),
    ]
    with pytest.raises(ValueError, match="not all gaps"):
        list(read_gaps("12 gaps, 20 candles; since 2018: 2019-11-25 02:00 (1)"))
