"""Runs the blocks of the pages that stdin names, each page in a folder of its own; what they print goes to stdout.

A process of its own: what a page sets up reaches no other test, and a warning in Python code is an error.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any


def main() -> None:
    """Read `{page: [{kind, code}]}`, write `{page: [[what it prints, what went wrong]]}`."""
    pages: dict[str, list[dict[str, str]]] = json.load(sys.stdin)
    home = Path.cwd()
    printed = {}
    for page, blocks in pages.items():
        folder = home / page.replace("/", "+")
        folder.mkdir()
        os.chdir(folder)
        os.environ["CANDLE_FETCHER_CACHE_DIR"] = str(folder / "cache")
        printed[page] = run_page(blocks)
    os.chdir(home)
    json.dump(printed, sys.stdout)


def run_page(blocks: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Return what each block prints and its error, "" without one. The blocks of Python share their names."""
    names: dict[str, Any] = {"__name__": "page"}
    results = []
    for block in blocks:
        out, said, error = io.StringIO(), io.StringIO(), ""
        with contextlib.redirect_stdout(out):
            try:
                if block["kind"] == "python":
                    exec(compile(block["code"], "page", "exec"), names)
                else:
                    with contextlib.redirect_stderr(said):
                        run_commands(block["code"])
            except Exception:  # noqa: BLE001 - each error is one of the page
                error = f"{said.getvalue()}{traceback.format_exc(limit=-3)}"
        results.append((out.getvalue(), error))
    for made in names.values():
        if type(made).__name__ == "CandleFetcher":
            made.close()
    return results


def run_commands(code: str) -> None:
    """Run the lines that begin with candle-fetcher; the others are of other programs.

    `> FILE` is obeyed and `| COMMAND` left out. `# exit code N` says with what a command leaves other than 0.
    """
    from candle_fetcher.cli import main as run_command
    from candle_fetcher.cli.arguments import read_arguments

    for line in code.replace("\\\n", " ").splitlines():
        command, _, comment = line.partition("  # ")
        words = shlex.split(command)
        if words[:1] != ["candle-fetcher"]:
            continue
        expected = int(comment.removeprefix("exit code ")) if comment.startswith("exit code ") else 0
        words = words[1 : words.index("|") if "|" in words else None]
        target = words.index(">") if ">" in words else len(words)
        if words[0] in ("follow", "practice", "serve", "watch"):  # until Ctrl-C
            read_arguments(words)
            continue
        written = io.StringIO()
        with contextlib.redirect_stdout(written), warnings.catch_warnings():
            code_of = run_command(words[:target])
        if code_of != expected:
            raise AssertionError(f"{line}\nleaves with {code_of}, not {expected}")
        if target < len(words):
            Path(words[target + 1]).write_text(written.getvalue(), encoding="utf-8")
        elif "|" not in command:
            sys.stdout.write(written.getvalue())


if __name__ == "__main__":
    main()
