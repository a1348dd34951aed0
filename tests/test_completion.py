"""Completion in real shells: what TAB brings, in bash, zsh and fish."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from candle_fetcher.cli import main
from candle_fetcher.cli.commands import COMMANDS
from candle_fetcher.cli.completion import describe
from candle_fetcher.core.types import FILE_FORMATS
from candle_fetcher.providers import all_providers

posix = pytest.mark.skipif(os.name != "posix", reason="these shells need a terminal of POSIX")
# What is typed before TAB, and words of which all are offered, or the one that is completed.
OFFERED: dict[str, Sequence[str]] = {
    "candle-fetcher ": ("fetch", "export", "vault", "doctor", "completion"),
    "candle-fetcher fetch --export ": FILE_FORMATS,
    "candle-fetcher -s BTC/USDT --source ": ("auto", "cache", "archive", "rest"),
    "candle-fetcher fetch BTC/USDT --limit 5 ": ("1m", "1h", "1M"),
    "candle-fetcher fetch BTC/USDT 1h --provider ": ("binance", "kraken", "binance-um"),
    "candle-fetcher cache ": ("stats", "import", "backup"),
    "candle-fetcher vault ": ("update", "list", "read"),
    "candle-fetcher help ": ("gaps", "kraken", "fetch"),
    "candle-fetcher verify ": ("candles.csv", "candles.tar"),
}
COMPLETED = {
    "candle-fetcher fe": "candle-fetcher fetch ",
    "candle-fetcher fetch --symbols-f": "candle-fetcher fetch --symbols-file",
    "candle-fetcher fetch --export=p": "candle-fetcher fetch --export=parquet",
    "candle-fetcher fetch BTC/USDT 1h --output cand": "candle-fetcher fetch BTC/USDT 1h --output candles.",
    "candle-fetcher cache import candles.t": "candle-fetcher cache import candles.tar",
    "candle-fetcher vault update v": "candle-fetcher vault update vault/",
    "candle-fetcher doctor --qui": "candle-fetcher doctor --quiet",
    "candle-fetcher help tradest": "candle-fetcher help tradestation",
}


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with the scripts, and files to complete."""
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        (tmp_path / f"script.{shell}").write_text(capsys.readouterr().out, encoding="utf-8")
    for name in ("candles.csv", "candles.tar"):
        (tmp_path / name).touch()
    (tmp_path / "vault").mkdir()
    return tmp_path


def shell_path(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} on this machine")
    return found


def typed(argv: Sequence[str], setup: str, line: str, until: Sequence[str], folder: Path) -> str:
    """What an interactive shell shows after the line and TAB, until all of the texts are there."""
    import pty

    pid, fd = pty.fork()
    if pid == 0:
        environment = {
            "PATH": os.environ["PATH"],
            "TERM": "xterm",
            "HOME": str(folder),
            "COLUMNS": "180",
            "LINES": "60",
        }
        os.chdir(folder)
        os.execvpe(argv[0], list(argv), environment)
    try:
        os.write(fd, f"stty cols 180 rows 60; {setup}; echo read''y\n".encode())
        _read_until(fd, ["ready\r\n"])
        os.write(fd, line.encode())
        return _read_until(fd, until)
    finally:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        os.close(fd)
        os.waitpid(pid, 0)


def _read_until(fd: int, texts: Sequence[str]) -> str:
    shown, ends_s = "", time.monotonic() + 20
    while time.monotonic() < ends_s and not all(text in shown for text in texts):
        if select.select([fd], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):
                shown += os.read(fd, 65_536).decode(errors="replace")
        plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\x1b[=>]|\x07", "", shown)
        if all(text in plain for text in texts):
            return plain
    return shown


SETUPS = {
    "bash": (("--norc", "--noprofile", "-i"), "PS1='> '; bind 'set completion-query-items 0'; source script.bash"),
    "zsh": (
        ("-f", "-i"),
        "PROMPT='> '; LISTMAX=0; autoload -Uz compinit; compinit -u -D; source script.zsh; setopt no_auto_menu",
    ),
}


@pytest.mark.slow
@posix
@pytest.mark.parametrize("line", OFFERED)
@pytest.mark.parametrize("shell", SETUPS)
def test_tab_offers_the_words_that_may_follow(folder: Path, shell: str, line: str) -> None:
    flags, setup = SETUPS[shell]
    shown = typed((shell_path(shell), *flags), setup, f"{line}\t\t", [f"{word}" for word in OFFERED[line]], folder)
    assert [word for word in OFFERED[line] if word not in shown.partition("\n")[2]] == [], shown


@pytest.mark.slow
@posix
@pytest.mark.parametrize("line", COMPLETED)
@pytest.mark.parametrize("shell", SETUPS)
def test_tab_completes_the_only_word(folder: Path, shell: str, line: str) -> None:
    flags, setup = SETUPS[shell]
    assert COMPLETED[line] in typed((shell_path(shell), *flags), setup, f"{line}\t", [COMPLETED[line]], folder)


@pytest.mark.slow
@posix
@pytest.mark.parametrize("line", [*OFFERED, *COMPLETED])
def test_fish_offers_the_same(folder: Path, line: str) -> None:
    command = [shell_path("fish"), "--no-config", "-c", f"source script.fish; complete -C '{line}'"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    words = [row.partition("\t")[0] for row in ran.stdout.splitlines()]
    if line in OFFERED:
        assert set(OFFERED[line]) <= set(words)
    else:
        end = COMPLETED[line].split()[-1]
        assert any(word.startswith(end) for word in words), words
    assert ran.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_valid_for_its_shell(folder: Path, shell: str) -> None:
    ran = subprocess.run(
        [shell_path(shell), "-n", f"script.{shell}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_every_command_and_flag_is_described() -> None:
    found = {one.name: one for one in describe()}
    assert set(found) == set(COMMANDS)
    for one in found.values():
        assert {"-h", "--help", "--version", "-q"} <= set(one.spellings)
    provider = next(flag for flag in found["fetch"].flags if "--provider" in flag.names)
    assert provider.takes is not None
    assert set(provider.takes.words) == set(all_providers())


def test_a_shell_that_is_not_known_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fsh"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "expected one of bash, zsh, fish; did you mean fish?" in said.err


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such shell on Windows")
def test_bash_completes_without_a_terminal_too(folder: Path) -> None:
    script = "source script.bash; COMP_WORDS=(candle-fetcher fetch --on-gap ''); COMP_CWORD=3; _candle_fetcher"
    ran = subprocess.run(
        [shell_path("bash"), "-c", f'{script}; echo "${{COMPREPLY[*]}}"'],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout.split() == ["leave", "raise", "refetch", "ffill", "interpolate"]
