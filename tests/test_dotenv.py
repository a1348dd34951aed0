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


def environment_of(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment that the fetchers are made in, the last one's."""
    seen: dict[str, str] = {}
    real = CandleFetcher.__init__

    def init(self: CandleFetcher, **settings: object) -> None:
        seen.clear()
        seen.update(os.environ)
        real(self, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(CandleFetcher, "__init__", init)
    return seen


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


@pytest.mark.fault("J05")
def test_without_the_extra_what_the_command_needs_is_said_in_one_line(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_dotenv(monkeypatch)
    (folder / ".env").write_text(f"ALPACA_API_KEY_ID={SECRET}\n")
    for words in (("symbols", "--provider", "alpaca"), ("fetch", "alpaca:AAPL", "1d", "--days", "3")):
        code, out, err = run(*words)
        assert (code, out) == (1, "")
        assert err.count("\n") == 1
        assert ".env of this folder sets ALPACA_API_KEY_ID" in err
        assert 'pip install "candle-fetcher[dotenv]"' in err
        assert SECRET not in err
    (folder / ".env").write_text("CANDLE_FETCHER_CACHE_DIR=here\n")
    assert run("cache", "stats")[0] == 1


@pytest.mark.fault("J05")
@pytest.mark.parametrize("has_extra", [True, False])
def test_the_keys_of_another_project_keep_no_command_from_its_work(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, has_extra: bool
) -> None:
    if not has_extra:
        without_dotenv(monkeypatch)
    (folder / ".env").write_text(f"ALPACA_API_KEY_ID={SECRET}\nLOG_LEVEL=verbose\nDEBUG=1\n")
    seen = environment_of(monkeypatch)
    with PracticeExchange() as exchange:
        hosts = ("--base-url", f"binance={exchange.base_urls['binance']}")
        code, _, err = run("fetch", "BTC/USDT", "1h", "--start", "2024-03-01", "--end", "2024-03-02", *hosts)
    assert code == 0
    assert err.count("LOG_LEVEL") == 1
    assert "ALPACA_API_KEY_ID" not in seen
    assert "CANDLE_FETCHER_LOG_LEVEL" not in seen
    assert SECRET not in err


@pytest.mark.fault("J05")
def test_older_names_are_read_from_the_file_alone(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("CACHE_DIR=mine\nMAX_RETRIES=3\nTHREAD_POOL_SIZE=7\nLOG_LEVEL=error\n")
    seen = environment_of(monkeypatch)
    assert cache_of(run) == "mine"
    assert {name: seen[f"CANDLE_FETCHER_{name}"] for name in ("MAX_RETRIES", "NETWORK_THREADS", "LOG_LEVEL")} == {
        "MAX_RETRIES": "3",
        "NETWORK_THREADS": "7",
        "LOG_LEVEL": "error",
    }
    (folder / ".env").write_text("CACHE_DIR=mine\nCANDLE_FETCHER_CACHE_DIR=ours\n")
    assert cache_of(run) == "ours"
    (folder / ".env").unlink()
    with monkeypatch.context() as patch:
        patch.setenv("CACHE_DIR", "mine")
        assert cache_of(run) != "mine"


# -- a folder that is not trusted -------------------------------------------------------------------------------------


@pytest.mark.fault("K13")
@pytest.mark.parametrize(
    ("root", "is_taken"), [("alpaca", False), ("alpaca-stream", False), ("alpaca-crypto", False), ("binance", True)]
)
def test_keys_of_the_environment_go_to_no_root_of_the_file(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, root: str, is_taken: bool
) -> None:
    (folder / ".env").write_text(
        f"CANDLE_FETCHER_BASE_URLS=kraken=http://127.0.0.1:9,{root}=http://127.0.0.1:9\nALPACA_API_KEY_ID=abcdef\n"
    )
    seen = environment_of(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setenv("ALPACA_API_SECRET_KEY", SECRET)
        _, _, err = run("cache", "stats")
    assert ("CANDLE_FETCHER_BASE_URLS" in seen) == is_taken
    assert ("does not hold the keys of alpaca" in err) != is_taken
    run("cache", "stats")  # without one in the environment
    assert "CANDLE_FETCHER_BASE_URLS" in seen


@pytest.mark.fault("K13")
def test_a_file_names_no_log_where_there_are_keys_that_it_does_not_hold(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("CANDLE_FETCHER_LOG_FILE=all.log\nALPACA_API_KEY_ID=abcdef\n")
    with monkeypatch.context() as patch:
        patch.setenv("ALPACA_API_SECRET_KEY", SECRET)
        code, _, err = run("cache", "stats")
    assert code == 0
    assert "CANDLE_FETCHER_LOG_FILE, which is not taken from it" in err
    assert not (folder / "all.log").exists()


@pytest.mark.fault("K13")
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner here")
def test_a_file_of_another_owner_is_not_read(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("CANDLE_FETCHER_PROVIDER=binanc\n")
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    code, _, err = run("providers")
    assert code == 0
    assert "belongs to another user, and is not read" in err


@pytest.mark.fault("K12")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_of_that_name_keeps_nothing_waiting(folder: Path, run: Run) -> None:
    os.mkfifo(folder / ".env")
    assert run("cache", "stats")[0] == 0


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
