"""The pages in candle_fetcher/docs: what in them is generated from the code, and the blocks of code in them.

`python tests/pages.py --write` writes the generated parts again; without `--write` it names those out of date. A
generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from test_floors import APART, FLOORS

import candle_fetcher
from candle_fetcher import CandleCache, CandleFetcher, PerformanceMonitor, Vault, adapters, plot
from candle_fetcher.cli import main as run_command
from candle_fetcher.cli.commands import COMMANDS
from candle_fetcher.providers import all_providers

README = ROOT / "README.md"
DOCS = ROOT / "candle_fetcher" / "docs"
# The pages in the order in which `candle-fetcher help` lists them.
GROUPS = {
    "Start": ("installing", "recipes", "coming-from"),
    "Candles": (
        *(
            "ranges",
            "frames",
            "gaps",
            "export",
            "plot",
            "adapters",
            "vault",
            "import",
            "funding",
            "quotes",
            "live",
            "availability",
        ),
        "audit",
    ),
    "How it works": ("cache", "speed", "scale", "service", "jupyter", "monitor", "errors", "doctor"),
    "Reference": ("command-line", "settings", "api"),
    "Providers": ("providers", *sorted(all_providers())),
    "For developers": ("practice", "own-provider", "contributing"),
}
# What users call of the cache and of the monitor.
OF_CACHE = ("path", "problem", "stats", "list", "clear", "verify", "revisions", "import_file", "backup", "restore")
OF_MONITOR = ("report", "snapshot", "to_frame", "reset")
ARCHITECTURE = ROOT / "candle_fetcher" / "ARCHITECTURE.md"
_SENTENCE = 96  # characters of a line in the picture of the floors
_GENERATED = re.compile(r"(<!-- generated: ([\w -]+) -->\n)(.*?)(<!-- end -->)", re.S)
_BLOCK = re.compile(
    r"^```(?P<kind>python|sh)(?P<marks>[^\n]*)\n(?P<code>.*?)^```"
    r"(?P<said>\n\n```text(?P<varies> varies)?\n(?P<output>.*?)^```)?$",
    re.M | re.S,
)


class Block(NamedTuple):
    """A block of Python or of commands: what it prints (None: the page does not say), whether figures in it vary."""

    page: Path
    line: int
    kind: str
    marks: frozenset[str]
    code: str
    output: str | None
    varies: bool

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def all_pages() -> list[Path]:
    """Return the README and the pages."""
    return [README, *sorted(DOCS.rglob("*.md"))]


def find_blocks(page: Path) -> list[Block]:
    """Return the blocks of Python and of commands, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=text.count("\n", 0, match.start()) + 1,
            kind=match["kind"],
            marks=frozenset(match["marks"].split()),
            code=match["code"],
            output=match["output"],
            varies=match["varies"] is not None,
        )
        for match in _BLOCK.finditer(text)
    ]


def find_cells(page: Path) -> list[Block]:
    """Return the code of ours in the last cells of tables of two columns, as blocks that print nothing."""
    ours = re.compile(r"`((?:fetcher\.|CandleFetcher\(|summary\(|candle-fetcher )[^`]*)`")
    text = page.read_text(encoding="utf-8")
    blocks = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("| ") and line.count(" | ") == 1:
            for code in ours.findall(line.split(" | ")[1]):
                kind = "sh" if code.startswith("candle-fetcher ") else "python"
                marks = frozenset({"slow"} if "alpaca" in code else ())
                blocks.append(Block(page, number, kind, marks, code, None, varies=False))
    return blocks


def summary_of(page: Path) -> str:
    """Return the sentence below the title."""
    match = re.match(r"# [^\n]+\n\n([^\n]+)\n", page.read_text(encoding="utf-8"))
    if match is None:
        raise ValueError(f"{page.name} must begin with a title and one sentence on a line of its own")
    return match[1]


# -- generated parts ---------------------------------------------------------------------------------------------------


def write_generated(text: str) -> str:
    """Return the text of a page with its generated parts as the code says they are."""

    def part(match: re.Match[str]) -> str:
        name, _, words = match[2].partition(" ")
        return f"{match[1]}{GENERATORS[name](*filter(None, [words]))}\n{match[4]}"

    return _GENERATED.sub(part, text)


def _table(head: str, rows: Iterator[tuple[str, ...]]) -> str:
    names = head.split(" | ")
    lines = [names, ["---"] * len(names), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def _page(name: str) -> Path:
    (found,) = DOCS.rglob(f"{name}.md")
    return found


def _index() -> str:
    listed = [name for names in GROUPS.values() for name in names]
    there = sorted(path.stem for path in DOCS.rglob("*.md") if path.stem != "index")
    if sorted(listed) != there:
        raise ValueError(f"GROUPS and the folder differ: {sorted(set(listed) ^ set(there))}")
    parts = []
    for title, names in GROUPS.items():
        rows = ((f"[{name}]({_page(name).relative_to(DOCS)})", summary_of(_page(name))) for name in names)
        parts.append(f"## {title}\n\n{_table('page | what it says', rows)}\n")
    return "\n" + "\n".join(parts)


def _offers() -> list[dict[str, str]]:
    return list(CandleFetcher.providers().to_dict("records"))


def _providers() -> str:
    def key(text: str) -> str:
        return "none" if text == "none" else "optional" if text.startswith("optional") else "needed"

    rows = (
        (
            f"[{one['provider']}](candle_fetcher/docs/providers/{one['provider']}.md)",
            summary_of(_page(one["provider"])).rstrip("."),
            one["history"],
            key(one["key"]),
        )
        for one in _offers()
    )
    return _table("id | what | history | key", rows)


def _offers_table() -> str:
    rows = (
        (
            f"[{one['provider']}](providers/{one['provider']}.md)",
            one["kinds"],
            one["history"],
            one["quiet_interval"],
            one["sessions"],
            one["symbols"],
        )
        for one in _offers()
    )
    return _table("id | kinds | history | quiet interval | sessions | symbols", rows)


def _facts(provider: str) -> str:
    (facts,) = [one for one in _offers() if one["provider"] == provider]
    rows = [(name.replace("_", " "), text) for name, text in facts.items() if text and name != "provider"]
    rows.append(("hosts", ", ".join(all_providers()[provider].hosts)))
    if all_providers()[provider].key_page:
        rows.append(("where to get a key", all_providers()[provider].key_page))
    return _table("fact | value", iter([("id", f"`{provider}`"), *rows]))


def _help(command: str = "") -> str:
    said = io.StringIO()
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ.update(COLUMNS="80", NO_COLOR="1")
    try:
        with contextlib.redirect_stdout(said):
            run_command([*command.split(), "--help"])
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    return f"```text\n{said.getvalue().rstrip()}\n```"


def _commands() -> str:
    parts = [f"## candle-fetcher\n\n{_help()}"]
    parts += [f"## {name}\n\n{_help(name)}" for name in COMMANDS]
    return "\n" + "\n\n".join(parts) + "\n"


def _api() -> str:
    parts = ["## CandleFetcher\n", _described("CandleFetcher", CandleFetcher)]
    parts += [_described(f"fetcher.{name}", made) for name, made in _members(CandleFetcher)]
    for title, kind, names in (("cache", CandleCache, OF_CACHE), ("monitor", PerformanceMonitor, OF_MONITOR)):
        parts += [f"## fetcher.{title}\n"]
        parts += [_described(f"fetcher.{title}.{name}", made) for name, made in _members(kind) if name in names]
    parts += ["## Vault\n", _described("Vault", Vault)]
    parts += [_described(f"vault.{name}", made) for name, made in _members(Vault)]
    parts.append("## Pictures\n\nThe page [plot](plot.md) has an example of each.\n")
    parts += [_described(f"plot.{name}", inspect.unwrap(getattr(plot, name))) for name in plot.__all__]
    parts.append("## Adapters\n\nThe page [adapters](adapters.md) has an example of each.\n")
    parts += [_described(f"adapters.{name}", inspect.unwrap(getattr(adapters, name))) for name in adapters.__all__]
    public = {name: getattr(candle_fetcher, name) for name in candle_fetcher.__all__}
    parts.append("## Functions\n")
    shared = [name for name, made in public.items() if inspect.isfunction(made) and hasattr(CandleFetcher, name)]
    names = ", ".join(f"`{name}`" for name in shared)
    parts.append(
        f"{names}: the methods of the same names, of one fetcher. Python makes it at the first call and closes it when "
        "the program ends.\n"
    )
    parts += [
        _described(name, made) for name, made in public.items() if inspect.isfunction(made) and name not in shared
    ]
    parts.append("## Values\n")
    kinds = (CandleFetcher, CandleCache, PerformanceMonitor, Vault)
    parts += [
        _described(name, made, fields=True)
        for name, made in public.items()
        if inspect.isclass(made) and not issubclass(made, Exception) and made not in kinds
    ]
    parts.append("The errors and warnings are on the page [errors](errors.md).\n")
    return "\n" + "\n".join(parts)


def _members(kind: type) -> list[tuple[str, Any]]:
    return [
        (name, inspect.unwrap(getattr(made, "__func__", made)))
        for name, made in vars(kind).items()
        if not name.startswith("_") and (callable(made) or isinstance(made, staticmethod | property))
    ]


def _described(name: str, made: Any, *, fields: bool = False) -> str:
    documented = made.fget if isinstance(made, property) else made
    head = f"### {name}\n\n"
    if not isinstance(made, property) and not fields:
        head += f"```text\n{_signature(name.rpartition('.')[2], made)}\n```\n\n"
    if fields and hasattr(made, "_fields"):
        head += f"Fields: {', '.join(f'`{field}`' for field in made._fields)}.\n\n"
    names = [] if isinstance(made, property) else list(inspect.signature(made).parameters)
    return f"{head}{_prose(inspect.getdoc(documented) or '', names)}\n"


def _signature(name: str, made: Any) -> str:
    parameters = [one for one in inspect.signature(made).parameters.values() if one.name != "self"]
    words: list[str] = []
    for one in parameters:
        if one.kind is one.KEYWORD_ONLY and "*" not in words and not any(word.startswith("*") for word in words):
            words.append("*")
        mark = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        if mark and inspect.isclass(made):
            continue
        words.append(f"{mark}{one.name}" + ("" if one.default is one.empty else f"={one.default!r}"))
    line = f"{name}({', '.join(words)})"
    if len(line) <= 76:
        return line
    lines, start = [f"{name}("], "    "
    row = start
    for word in words:
        if len(row) + len(word) + 2 > 76:
            lines.append(row.rstrip())
            row = start
        row += f"{word}, "
    return "\n".join([*lines, row.rstrip(", "), ")"])


def _prose(docstring: str, names: Collection[str] = ()) -> str:
    """Return the docstring as Markdown: lines that begin with some of the names and a colon become a list."""
    lines: list[str] = []
    for line in map(str.strip, docstring.splitlines()):
        match = re.match(r"([a-z_]+(?:, [a-z_]+)*): (.*)", line)
        before = lines[-1] if lines else ""
        if match and set(match[1].split(", ")) <= set(names):
            if before and not before.startswith(("- ", "  ")):
                lines.append("")
            quoted = ", ".join(f"`{name}`" for name in match[1].split(", "))
            lines.append(f"- {quoted}: {match[2]}")
        elif line.startswith(">>>") and not before:
            lines += ["```text", line]
        elif not line and "```text" in lines and "```" not in lines:
            lines += ["```", ""]
        else:
            lines.append(f"  {line}" if line and before.startswith(("- ", "  ")) else line)
    return "\n".join(lines)


def _floors() -> str:
    """Return every module of the package by floor and folder, each with the first sentence of its docstring."""
    package, lines = Path(candle_fetcher.__file__).parent, ["", "```text"]
    floors = {room: f"FLOOR {floor}" for room, floor in FLOORS.items()} | {APART: "APART"}
    for title in sorted(set(floors.values()), key=lambda title: (title == "APART", -ord(title[-1]))):
        rooms = [room for room in sorted(floors) if floors[room] == title and not room.startswith("__")]
        there = [path for room in rooms for path in (package / room, package / f"{room}.py") if path.exists()]
        lines += [title] if there else []
        for path in there:
            lines += _room(path, 2)
    return "\n".join([*lines, "```", ""])


def _room(path: Path, indent: int) -> Iterator[str]:
    """Yield the line of a module, or those of a folder and all in it."""
    module = path / "__init__.py" if path.is_dir() else path
    sentence = (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").partition("\n\n")[0]
    sentence = re.sub(r"^Floor \d: ", "", " ".join(sentence.split())).partition(". ")[0].rstrip(".")
    for sign in (": ", ", "):
        sentence = sentence.partition(sign)[0] if len(sentence) > _SENTENCE else sentence
    yield f"{' ' * indent + path.name + '/' * path.is_dir():<23} {sentence}"
    for inner in sorted(path.iterdir()) if path.is_dir() else ():
        if (inner.suffix == ".py" or (inner / "__init__.py").exists()) and not inner.name.startswith("__"):
            yield from _room(inner, indent + 2)


GENERATORS: dict[str, Callable[..., str]] = {
    "floors": _floors,
    "index": _index,
    "providers": _providers,
    "offers": _offers_table,
    "facts": _facts,
    "commands": _commands,
    "api": _api,
}


def main() -> int:
    """Write the generated parts, or name the pages in which they are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write them")
    writes = parser.parse_args().write
    is_current = True
    for page in [*all_pages(), ARCHITECTURE]:
        text = page.read_text(encoding="utf-8")
        made = write_generated(text)
        if made == text:
            continue
        print(f"{page.relative_to(ROOT)}: {'written' if writes else 'out of date'}")
        if writes:
            page.write_text(made, encoding="utf-8")
        is_current = False
    return 0 if is_current or writes else 1


if __name__ == "__main__":
    sys.exit(main())
