"""A series of a vault in its files: any sequence of writes, and any fault in one, leave it whole.

| fault in a write              | the series after it            | error                              | test           |
| ----------------------------- | ------------------------------ | ---------------------------------- | -------------- |
| disk full at any step         | the old state, or the new one  | OSError, names the file            | a_full_disk    |
| killed at any byte            | the old state, or the new one  |                                    | a_write_that   |
| processor or fetch fails      | the old state                  | that error                         | an_error_among |
| current file edited at an end | the old state                  | BadFile, names the file            | a_current_file |
| current file edited elsewhere | the old state                  | BadFile of verify and a whole read | an_edit_in     |
| older file edited or removed  | the new state; it is rebuilt   |                                    | the_older_file |
| current file removed          | the new state; rows come again |                                    | a_removed      |
| state file damaged            | the old state                  | BadFile, says what to do           | a_damaged      |
| folder cannot be written to   | the old state                  | OSError                            | test_vault.py  |

`python tests/vault_kills.py` kills processes that update.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples
from vault_files import MINUTE, SERIES, T0, facts, failing_at, is_equal, make_files, put, rows, slot_files, stored

from candle_fetcher import BadFile, InputError
from candle_fetcher.core.frame import COPIES_ON_WRITE
from candle_fetcher.core.spans import Span
from candle_fetcher.files.layout import CsvOptions
from candle_fetcher.vault.files import Files
from candle_fetcher.vault.state import Entry, Field, Piece, SeriesId, SeriesState, VaultDocument
from candle_fetcher.vault.trees import FolderTree

# -- what the documents say --------------------------------------------------------------------------------------------

_text = st.text(min_size=1, max_size=8)
_ms = st.integers(0, 2**45)
_ids = st.builds(
    SeriesId, _text, _text, _text, st.sampled_from(["1m", "1M"]), _text, st.just((("feed", "iex"),)) | st.just(())
)
_pieces = st.builds(Piece, _ms, _ms, _ms, _ms, st.none() | _ms, st.none() | _ms, _ms)
_columns = st.sampled_from(["ohlcv", "all", (("ds", "timestamp"), ("y", "close"))])


@given(series=_ids, piece=_pieces, other=_pieces, end_ms=_ms, where=st.floats(0, 1))
@examples()
def test_a_state_reads_back_and_a_changed_byte_is_damage(
    series: SeriesId, piece: Piece, other: Piece, end_ms: int, where: float
) -> None:
    said = facts(7)._replace(end_ms=end_ms, fields=(Field("ds", "timestamp", "time"),), settings=(("feed", "iex"),))
    state = SeriesState(series, said, (("1", piece), ("2", other)), "2")
    data = state.to_bytes()
    assert SeriesState.from_bytes(data, "x.json") == state
    cut = data[: int(where * (len(data) - 3))]
    with pytest.raises(BadFile, match=r"x\.json"):
        SeriesState.from_bytes(cut, "x.json")


@given(entries=st.lists(_ids, max_size=4), columns=_columns, where=st.floats(0, 1))
@examples()
def test_a_document_reads_back_and_a_changed_digit_is_damage(
    entries: list[SeriesId], columns: str, where: float
) -> None:
    document = VaultDocument("csv", columns, (("separator", ";"),), ("f",), 20)
    for series in entries:
        if document.find(series) is None:
            document = document.with_series(series, 5, None)
    data = document.to_bytes()
    assert VaultDocument.from_bytes(data, "vault.json") == document
    names = [entry.name.casefold() for entry in document.entries]
    assert len(set(names)) == len(names)
    digits = [at for at, byte in enumerate(data) if byte in b"0123456789"]
    at = digits[int(where * (len(digits) - 1))]
    changed = data[:at] + str((int(chr(data[at])) + 1) % 10).encode() + data[at + 1 :]
    with pytest.raises((BadFile, InputError)):
        VaultDocument.from_bytes(changed, "vault.json")


def test_names_tell_the_whole_series() -> None:
    mark = SeriesId("binance-um", "BTC/USDT:USDT", "BTCUSDT", "1M", "mark")
    iex = SeriesId("alpaca", "BRK.B", "BRK.B", "1d", "candles", (("feed", "iex"),))
    assert [one.name() for one in (SERIES, mark, iex)] == [
        "binance_BTCUSDT_1m",
        "binance-um_BTCUSDT_mark_1mo",
        "alpaca_BRK_B_iex_1d",
    ]
    document = VaultDocument("csv").with_series(SeriesId("x", "a", "a/b", "1m"), 1, None)
    document = document.with_series(SeriesId("x", "a", "A-b", "1m"), 1, None)
    document = document.with_series(SeriesId("x", "a", "A_B", "1m"), 1, None)
    assert [one.name for one in document.entries] == ["x_A-b_1m", "x_A_B_1m-2", "x_a_b_1m"]
    assert document.find(SeriesId("x", "a", "A_B", "1m")) == Entry(SeriesId("x", "a", "A_B", "1m"), "x_A_B_1m-2", 1)


# -- any sequence of writes --------------------------------------------------------------------------------------------

_steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 40)),
        st.tuples(st.just("rewrite"), st.integers(0, 60)),
        st.tuples(st.just("cut"), st.floats(0, 1)),
        st.tuples(st.just("junk"), st.integers(1, 200)),
        st.tuples(st.just("remove"), st.integers(0, 1)),
        st.tuples(st.just("edit"), st.floats(0, 1)),
    ),
    max_size=12,
)


def put_step(
    files: Files, what: str, size: int, seed: int, expected: pd.DataFrame, stop: int
) -> tuple[pd.DataFrame, int]:
    """Append rows, or rewrite those from a row on; return what the files then hold, and how many rows."""
    if what == "append":
        new = rows(stop, stop + size, seed)
        put(files, stop + size, new)
        return pd.concat([expected, new]), stop + size
    first = min(size, stop)
    new = rows(first, stop + 2, seed)
    put(files, stop + 2, new, first=first)
    return pd.concat([expected[expected.index < new.index[0]], new]), stop + 2


@given(steps=_steps, options=st.sampled_from([CsvOptions(), CsvOptions(";", ",")]))
@examples(100)
def test_any_sequence_of_writes_and_damage_of_the_older_file_keeps_the_series_whole(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, float]], options: CsvOptions
) -> None:
    folder = tmp_path_factory.mktemp("series")
    files = slot_files(folder, options)
    expected = rows(0, 5)
    put(files, 5, expected)
    stop = 5
    for seed, (what, size) in enumerate(steps, start=1):
        state = files.load()
        assert state is not None
        older = folder / f"{SERIES.name()}_{'21'[int(state.current) - 1]}.csv"
        if what in ("append", "rewrite"):
            expected, stop = put_step(files, what, int(size), seed, expected, stop)
        elif older.exists():
            data = bytearray(older.read_bytes())
            at = int(size * (len(data) - 1)) if isinstance(size, float) else 0
            if what == "remove":
                older.unlink()
            elif what == "junk":
                older.write_bytes(data + b"9" * int(size))
            elif what == "cut":
                older.write_bytes(data[:at])
            elif data and len(data) - at < 4096:  # what an update looks at
                data[at] ^= 1
                older.write_bytes(data)
        if what in ("append", "rewrite"):
            assert is_equal(stored(files), expected)
    put(files, stop, rows(0, 0))
    assert is_equal(stored(files), expected)


@given(count=st.integers(0, 300), first=st.integers(-5, 310), length=st.integers(0, 320))
@examples(100)
def test_a_span_is_read_as_the_rows_that_open_in_it(
    tmp_path_factory: pytest.TempPathFactory, count: int, first: int, length: int
) -> None:
    files = slot_files(tmp_path_factory.mktemp("series"))
    whole = rows(0, count)
    whole = whole[(whole["volume"] % 7 != 3).to_numpy()]  # with holes
    state = put(files, count, whole)
    span = Span(T0 + first * MINUTE - 1, T0 + (first + length) * MINUTE)
    times = (whole.index.as_unit("ms").asi8 >= span.start_ms) & (whole.index.as_unit("ms").asi8 < span.end_ms)
    assert is_equal(files.read(state, span), whole[times])


def test_an_update_writes_what_is_new_and_what_the_older_file_lacks(tmp_path: Path) -> None:
    files = slot_files(tmp_path)
    put(files, 1000, rows(0, 1000))
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.csv")}
    assert len(set(sizes.values())) == 1
    state = put(files, 1100, rows(1000, 1100))
    assert state.current == "2"
    assert files.path(state).stat().st_size > sizes["binance_BTCUSDT_1m_1.csv"]
    assert (tmp_path / "binance_BTCUSDT_1m_1.csv").stat().st_size == sizes["binance_BTCUSDT_1m_1.csv"]
    assert put(files, 1200, rows(1100, 1200)).current == "1"


def test_a_program_that_reads_the_current_file_is_not_disturbed_by_the_next_update(tmp_path: Path) -> None:
    files = slot_files(tmp_path)
    state = put(files, 100, rows(0, 100))
    with files.path(state).open("rb") as reader:
        half = reader.read(1000)
        put(files, 120, rows(50, 120, seed=3), first=50)
        text = half + reader.read()
    assert text.count(b"\n") == 101


# -- months ------------------------------------------------------------------------------------------------------------


@given(steps=_steps, file_format=st.sampled_from(["parquet", "arrow"]))
@examples(60)
def test_any_sequence_of_writes_keeps_the_months_whole(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, float]], file_format: str
) -> None:
    files = make_files(file_format, tmp_path_factory.mktemp("series"))
    expected, stop = rows(0, 5), 5
    put(files, 5, expected)
    for seed, (what, size) in enumerate(steps, start=1):
        if what in ("append", "rewrite"):
            expected, stop = put_step(files, what, int(size), seed, expected, stop)
        assert is_equal(stored(files), expected)


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_a_closed_month_is_never_touched_again(tmp_path: Path, file_format: str) -> None:
    files = make_files(file_format, tmp_path)
    folder = files.path(put(files, 30, rows(0, 30)))
    may = folder / f"2024-05.{file_format}"
    before = may.stat().st_ino, may.stat().st_mtime_ns
    for stop in (35, 40, 50):
        put(files, stop, rows(stop - 5 if stop < 50 else 40, stop))
        if stop == 35:
            put(files, 35, rows(30, 35), first=30)
    assert (may.stat().st_ino, may.stat().st_mtime_ns) == before
    assert is_equal(stored(files), rows(0, 50))
    assert sorted(one.name for one in folder.iterdir()) == [f"2024-05.{file_format}", f"2024-06.{file_format}"]
    assert [one.name for one in (tmp_path / "_series" / SERIES.name()).iterdir()] == ["_state.json"]


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_a_month_that_was_removed_ends_the_series_before_it_and_one_that_was_edited_is_an_error(
    tmp_path: Path, file_format: str
) -> None:
    files = make_files(file_format, tmp_path)
    folder = files.path(put(files, 50, rows(0, 50)))
    june = folder / f"2024-06.{file_format}"
    data = june.read_bytes()
    june.write_bytes(data[:-7])
    with pytest.raises(BadFile, match="Remove that file"):
        files.load()
    june.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    state = files.load()
    assert state is not None
    assert files.verify(state) == [f"{june.name} is not what was written: it was edited or is damaged"]
    with pytest.raises(BadFile, match="Remove that file"):
        put(files, 60, rows(50, 60))
    june.unlink()
    assert is_equal(stored(files), rows(0, 30))
    put(files, 60, rows(30, 60))
    assert is_equal(stored(files), rows(0, 60))


def test_other_programs_read_the_months_as_one_table(tmp_path: Path) -> None:
    files = make_files("parquet", tmp_path)
    folder = files.path(put(files, 50, rows(0, 50)))
    assert folder == tmp_path / "candles" / "provider=binance" / "kind=candles" / "symbol=BTCUSDT" / "timeframe=1m"
    table = pd.read_parquet(folder)
    assert table["close"].tolist() == rows(0, 50)["close"].tolist()
    whole = pd.read_parquet(tmp_path)
    assert whole["symbol"].unique().tolist() == ["BTCUSDT"]


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_months_of_an_update_that_was_cut_are_no_part_of_the_table_and_the_next_update_moves_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    files = make_files(file_format, tmp_path)
    folder = Path(files.path(put(files, 50, rows(0, 50))))
    before = {one.name: one.read_bytes() for one in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(FolderTree, "move", lambda self, name, target: None)  # killed before the first rename
        put(files, 60, rows(20, 60, seed=1), first=20)
    assert {one.name: one.read_bytes() for one in (tmp_path / "candles").rglob("*") if one.is_file()} == before
    expected = pd.concat([rows(0, 20), rows(20, 60, seed=1)])
    assert is_equal(stored(files), expected)
    state = files.load()
    assert state is not None
    files.repair(state)
    assert len({one.read_bytes() for one in folder.iterdir()} - set(before.values())) == 2
    assert [one.name for one in (tmp_path / "_series" / SERIES.name()).iterdir()] == ["_state.json"]
    assert is_equal(stored(files), expected)


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_a_series_that_another_program_changes_under_an_update_stays_as_that_left_it(
    tmp_path: Path, file_format: str
) -> None:
    files, other = make_files(file_format, tmp_path), make_files(file_format, tmp_path)
    put(files, 40, rows(0, 40))

    def frames() -> Iterator[pd.DataFrame]:
        yield rows(40, 50)
        put(other, 45, rows(40, 45, seed=2))

    with pytest.raises(BadFile, match="changed while it was updated"):
        files.write(files.load(), lambda: facts(50), None, frames())
    assert is_equal(stored(files), pd.concat([rows(0, 40), rows(40, 45, seed=2)]))
    put(files, 50, rows(45, 50))
    assert [one.name for one in (tmp_path / "_series" / SERIES.name()).iterdir()] == ["_state.json"]


def test_a_month_that_no_state_names_is_removed_from_the_table(tmp_path: Path) -> None:
    files = make_files("parquet", tmp_path)
    folder = Path(files.path(put(files, 40, rows(0, 40))))
    (folder / "2024-07.parquet").write_bytes((folder / "2024-06.parquet").read_bytes())
    (folder / "notes.txt").write_text("mine")
    put(files, 50, rows(40, 50))
    assert sorted(one.name for one in folder.iterdir()) == ["2024-05.parquet", "2024-06.parquet", "notes.txt"]


def test_two_series_that_differ_by_capitals_alone_are_not_put_into_one_folder(tmp_path: Path) -> None:
    document = VaultDocument("parquet").with_series(SeriesId("x", "a", "abc", "1m"), 1, None)
    document.with_series(SeriesId("x", "a", "abc", "1M"), 1, None)
    with pytest.raises(InputError, match="differ by capitals alone"):
        document.with_series(SeriesId("x", "A", "ABC", "1m"), 1, None)


def test_a_month_of_arrow_is_read_without_a_copy(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    files = make_files("arrow", tmp_path)
    state = put(files, 20_000, rows(0, 20_000))
    before = pa.total_allocated_bytes()
    frame = files.read(state, Span(T0 + 30 * MINUTE, T0 + 20_000 * MINUTE))
    assert len(frame) == 19_970
    assert pa.total_allocated_bytes() - before < 1000
    if COPIES_ON_WRITE:
        assert not any(frame[name].to_numpy().flags.owndata for name in frame)
        assert not any(frame[name].to_numpy().flags.writeable for name in frame)
    put(files, 20_001, rows(20_000, 20_001))  # what was read stays as it was
    assert is_equal(frame, rows(30, 20_000))


# -- faults ------------------------------------------------------------------------------------------------------------


def _first(files: Files) -> None:
    put(files, 40, rows(0, 40), first=0)


def _append(files: Files) -> None:
    put(files, 60, rows(40, 60), first=40)


def _rewrite(files: Files) -> None:
    put(files, 60, rows(30, 60, seed=5), first=30)


def _prepend(files: Files) -> None:
    put(files, 40, pd.concat([rows(-20, 0), rows(0, 40)]), first=-20)


_WRITES = {"first": _first, "append": _append, "rewrite": _rewrite, "prepend": _prepend}


FORMATS = ("csv", "parquet", "arrow")


@pytest.mark.slow(keep=[f"{what}-csv" for what in _WRITES])
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("what", _WRITES)
def test_a_full_disk_at_any_step_leaves_the_old_state_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, file_format: str
) -> None:
    number, seen = 0, set()
    while True:
        folder = tmp_path / str(number)
        folder.mkdir()
        files = make_files(file_format, folder)
        if what != "first":
            _first(files)
        before, error = stored(files), None
        with failing_at(number, monkeypatch):
            try:
                _WRITES[what](files)
            except OSError as caught:
                error = caught
        after = stored(files)
        if error is not None:
            assert "was not written" in str(error)
            assert error.filename is not None
            seen.add("old" if is_equal(after, before) else "new")
        if file_format == "csv":
            assert not list(folder.glob("*.part"))
        _WRITES[what](files)
        expected = stored(files)
        assert is_equal(after, before) or is_equal(after, expected)
        if error is None:
            break
        number += 1
    assert number >= 4
    assert "old" in seen


@pytest.mark.slow(keep=[f"{what}-csv" for what in _WRITES])
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("what", _WRITES)
def test_a_write_that_was_cut_at_any_step_is_no_part_of_the_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, file_format: str
) -> None:
    # What a killed process leaves: it cleans nothing up.
    number, is_over = 0, False
    while not is_over:
        folder = tmp_path / str(number)
        folder.mkdir()
        files = make_files(file_format, folder)
        if what != "first":
            _first(files)
        before = stored(files)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
            patch.setattr(os, "ftruncate", lambda fd, size: None)
            with failing_at(number, patch):
                try:
                    _WRITES[what](files)
                    is_over = True
                except OSError:
                    pass
        after = stored(files)
        _WRITES[what](files)
        assert is_equal(after, before) or is_equal(after, stored(files))
        number += 1


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_error_among_the_frames_leaves_the_series_as_it_was(tmp_path: Path, file_format: str) -> None:
    files = make_files(file_format, tmp_path)
    _first(files)
    before = stored(files)

    def frames() -> Iterator[pd.DataFrame]:
        yield rows(40, 50)
        raise InputError("a processor failed")

    with pytest.raises(InputError, match="a processor failed"):
        files.write(files.load(), lambda: facts(60), None, frames())
    assert is_equal(stored(files), before)
    _append(files)
    assert is_equal(stored(files), rows(0, 60))


@pytest.mark.parametrize("edit", [lambda data: data + b"x\n", lambda data: data[:-9], lambda data: data[:-3] + b"9.9"])
def test_a_current_file_that_was_edited_or_cut_is_an_error_that_names_it(
    tmp_path: Path, edit: Callable[[bytes], bytes]
) -> None:
    files = slot_files(tmp_path)
    _first(files)
    state = files.load()
    assert state is not None
    path = files.path(state)
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(BadFile, match=r"binance_BTCUSDT_1m_1\.csv .*Remove that file"):
        _append(files)
    path.unlink()
    _append(files)
    assert is_equal(stored(files), rows(0, 60))


def test_an_edit_in_the_middle_is_found_by_verify_and_by_a_whole_read(tmp_path: Path) -> None:
    files = slot_files(tmp_path)
    state = put(files, 2000, rows(0, 2000))
    path = files.path(state)
    data = bytearray(path.read_bytes())
    at = data.index(b"100.0625")  # the high of the first row
    data[at] = ord("9")
    path.write_bytes(data)
    assert files.verify(state) == [f"{path.name} is not what was written: it was edited or is damaged"]
    with pytest.raises(BadFile, match="was edited or is damaged"):
        files.read(state)


@pytest.mark.parametrize("what", ["removed", "cut", "edited"])
def test_the_older_file_is_made_again_whatever_was_done_to_it(tmp_path: Path, what: str) -> None:
    files = slot_files(tmp_path)
    _first(files)
    older = tmp_path / "binance_BTCUSDT_1m_2.csv"
    if what == "removed":
        older.unlink()
    else:
        data = older.read_bytes()
        older.write_bytes(data[:100] if what == "cut" else data[:-5] + b"9999\n")
    _append(files)
    assert is_equal(stored(files), rows(0, 60))


def test_a_removed_current_file_is_replaced_by_the_older_one_as_far_as_that_goes(tmp_path: Path) -> None:
    files = slot_files(tmp_path)
    _first(files)
    _append(files)
    state = files.load()
    assert state is not None
    files.path(state).unlink()
    state = files.load()
    assert state is not None
    assert state.facts.end_ms == T0 + 40 * MINUTE
    assert is_equal(files.read(state), rows(0, 40))
    put(files, 60, rows(40, 60), first=40)
    assert is_equal(stored(files), rows(0, 60))


def test_a_damaged_state_file_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    files = slot_files(tmp_path)
    _first(files)
    path = tmp_path / "binance_BTCUSDT_1m.json"
    path.write_bytes(path.read_bytes().replace(b'"rows": 40', b'"rows": 41'))
    with pytest.raises(BadFile, match="remove the series and update it again"):
        files.load()


def test_a_folder_in_a_files_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "binance_BTCUSDT_1m_1.csv").mkdir()
    with pytest.raises(BadFile, match="is no file"):
        _first(slot_files(tmp_path))
