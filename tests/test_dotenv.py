"""`.env` for the command line: it fills in what the environment lacks, says nothing, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from candle_fetcher import CandleFetcher
from candle_fetcher.cli import main
from candle_fetcher.cli.environment import is_ours
from candle_fetcher.practice import PracticeExchange
from candle_fetcher.providers import all_providers

Run = Callable[..., tuple[int, str, str]]
SECRET = "s3cr3t-that-nobody-may-see"
KEY = next((key.environment for one in all_providers().values() for key in one.keys), "CANDLE_FETCHER_NO_SUCH_KEY")
installed = pytest.importorskip("dotenv", reason="python-dotenv, of the extra dotenv, is not installed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder."""
    here = tmp_path / "above" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    before = set(os.environ)
    yield here
    assert set(os.environ) == before


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def cache_of(run: Run) -> str:
    code, out, err = run("cache", "stats", "--json")
    assert (code, err) == (0, "")
    return Path(json.loads(out)["path"]).name


def without_dotenv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dotenv", None)


@pytest.mark.parametrize(
    "line",
    ["CANDLE_FETCHER_CACHE_DIR={}", "export CANDLE_FETCHER_CACHE_DIR={}", "CANDLE_FETCHER_CACHE_DIR='{}'  # mine",
     "\n# comment\nOTHER=1\n CANDLE_FETCHER_CACHE_DIR = \"{}\"\r\n", "\ufeffCANDLE_FETCHER_CACHE_DIR={}"],
)  # fmt: skip
def test_a_setting_of_the_folder_is_read(folder: Path, tmp_path: Path, run: Run, line: str) -> None:
    (folder / ".env").write_text(line.format(tmp_path / "mine"), encoding="utf-8", newline="")
    assert cache_of(run) == "mine"


def test_environment_and_words_come_first(
    folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("CANDLE_FETCHER_CACHE_DIR=here\n")
    assert cache_of(run) == "here"
    with monkeypatch.context() as patch:
        patch.setenv("CANDLE_FETCHER_CACHE_DIR", str(tmp_path / "env"))
        assert cache_of(run) == "env"
        _, out, _ = run("cache", "stats", "--json", "--cache-dir", str(tmp_path / "word"))
        assert Path(json.loads(out)["path"]).name == "word"


def test_the_folders_above_are_not_looked_into(folder: Path, run: Run) -> None:
    (folder.parent / ".env").write_text("CANDLE_FETCHER_CACHE_DIR=above\n")
    assert cache_of(run) != "above"


def test_only_what_is_ours_is_taken(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    (folder / ".env").write_text("HTTPS_PROXY=http://127.0.0.1:1\nPATH=/nowhere\nCANDLE_FETCHER_CACHE_DIR=here\n")
    seen: dict[str, str] = {}
    real = CandleFetcher.__init__

    def init(self: CandleFetcher, **settings: object) -> None:
        seen.update(os.environ)
        real(self, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(CandleFetcher, "__init__", init)
    cache_of(run)
    assert seen["CANDLE_FETCHER_CACHE_DIR"] == "here"
    assert "HTTPS_PROXY" not in seen
    assert seen["PATH"] == os.environ["PATH"]


def test_the_keys_of_providers_are_ours() -> None:
    named = {key.environment for one in all_providers().values() for key in one.keys}
    assert all(map(is_ours, named))
    assert not is_ours("HOME")


def test_a_wrong_setting_is_told_like_any_other(folder: Path, run: Run) -> None:
    (folder / ".env").write_text("CANDLE_FETCHER_PROVIDER=binanc\n")
    code, _, err = run("symbols")
    assert code == 2
    assert "unknown provider 'binanc'" in err


def test_a_library_reads_no_such_file(folder: Path) -> None:
    (folder / ".env").write_text("CANDLE_FETCHER_CACHE_DIR=here\nCANDLE_FETCHER_PROVIDER=binance-um\n")
    with CandleFetcher(progress=False) as fetcher:
        assert fetcher.cache.path is not None
        assert fetcher.cache.path.name != "here"


@pytest.mark.parametrize("name", [KEY, "CANDLE_FETCHER_API_KEY"])
def test_what_is_in_it_is_never_shown(folder: Path, run: Run, name: str) -> None:
    (folder / ".env").write_text(f"{name}={SECRET}\nCANDLE_FETCHER_CACHE_DIR=here\n")
    with PracticeExchange() as exchange:
        hosts = ("--base-url", f"binance={exchange.base_urls['binance']}")
        for words in (
            ("fetch", "BTC/USDT", "1h", "--limit", "3", *hosts),
            ("fetch", "BTC/USDT", "1x", *hosts),
            ("fetch", "NO/THING", "1h", "--limit", "3", *hosts),
            ("cache", "stats"),
        ):
            _, out, err = run(*words, "--debug")
            assert SECRET not in out + err


def test_without_the_extra_it_is_said_in_one_line(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    without_dotenv(monkeypatch)
    (folder / ".env").write_text(f"{KEY}={SECRET}\n")
    code, out, err = run("cache", "stats")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert f".env of this folder sets {KEY}" in err
    assert 'pip install "candle-fetcher[dotenv]"' in err
    assert SECRET not in err


@pytest.mark.parametrize("text", ["", "OTHER=1\n", "# CANDLE_FETCHER_PROVIDER=kraken\n", "no settings at all"])
def test_without_the_extra_a_file_of_others_is_left_alone(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    without_dotenv(monkeypatch)
    (folder / ".env").write_text(text)
    assert run("cache", "stats")[0] == 0


def test_without_the_extra_what_the_environment_has_is_enough(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_dotenv(monkeypatch)
    (folder / ".env").write_text("CANDLE_FETCHER_CACHE_DIR=here\n")
    with monkeypatch.context() as patch:
        patch.setenv("CANDLE_FETCHER_CACHE_DIR", "there")
        assert cache_of(run) == "there"


def test_what_is_no_text_is_left_alone_with_a_warning(folder: Path, run: Run) -> None:
    (folder / ".env").write_bytes(b"CANDLE_FETCHER_PROVIDER=\xff\xfe\n")
    code, _, err = run("cache", "stats")
    assert code == 0
    assert "left alone" in err


def test_a_folder_of_that_name_is_no_file(folder: Path, run: Run) -> None:
    (folder / ".env").mkdir()
    assert run("cache", "stats")[0] == 0


@pytest.mark.fault("G01", "G11")
@pytest.mark.parametrize(
    "url", ["https://evil.example", "HTTPS://evil.example/x", "http://127.0.0.1:9,x=https://evil.example"]
)
def test_a_folder_sends_nobody_elsewhere(folder: Path, run: Run, url: str) -> None:
    (folder / ".env").write_text(f"CANDLE_FETCHER_BASE_URLS=binance={url}\nCANDLE_FETCHER_SOURCE=rst\n")
    code, _, err = run("symbols")
    assert code == 2
    assert "unknown source 'rst'" in err
    assert "CANDLE_FETCHER_BASE_URLS, which is not taken from a file" in err
    assert "evil" not in err


@pytest.mark.fault("G01")
@pytest.mark.parametrize("form", ["${{{}}}", "${{{}:-x}}", '"${{{}}}"'])
def test_a_folder_gets_nothing_out_of_the_environment(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    (folder / ".env").write_text(f"CANDLE_FETCHER_SOURCE={form.format('OTHER_SECRET')}\n")
    with monkeypatch.context() as patch:
        patch.setenv("OTHER_SECRET", SECRET)
        code, out, err = run("symbols")
    assert code == 2
    assert "OTHER_SECRET" in err
    assert SECRET not in out + err


@pytest.mark.parametrize("data", [b"CANDLE_FETCHER_SOURCE=a\0b\n", b"CANDLE_FETCHER_SOURCE=\xff\n"])
def test_a_file_that_is_no_text_is_left_alone(folder: Path, run: Run, data: bytes) -> None:
    (folder / ".env").write_bytes(data)
    code, _, err = run("cache", "stats")
    assert code == 0
    assert "it cannot be read" in err
