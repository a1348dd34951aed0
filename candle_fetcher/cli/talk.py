"""What the command line says on stderr: titles, facts, warnings, errors, and a summary of what was fetched."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

import numpy as np
import pandas as pd

from candle_fetcher.cli.aligned import room, wrap
from candle_fetcher.console import Palette, Role, is_on_terminal, printable
from candle_fetcher.core.frame import MANIFEST
from candle_fetcher.core.gap import iso
from candle_fetcher.core.missing import count_missing
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.sizes import size_text
from candle_fetcher.core.summary import summary
from candle_fetcher.core.timeframe import parse_timeframe

_SHOWN = 10
_MARGIN = 10
_CAUSES = {
    "no_candle": "provider has none",
    "not_listed": "not yet listed",
    "after_delisting": "no longer listed",
    "fetch_failed": "could not be fetched",
}
# What brings candles that could not be fetched, by the source that was given, and by the cause.
_REMEDIES = {
    "cache": "run without --source cache to fetch {}",
    "archive": "run without --source archive to fetch {}",
    "depth_limit": "candle-fetcher cache import adds {} from files",
}
_PLACES = {"memory": "memory", "disk": "disk", "archive": "the archive", "rest": "REST"}


class Talk:
    """Lines on stderr: titles, facts, warnings and errors. A closed stderr does not keep the command from its work.

    A `quiet` one says warnings, errors, what is missing, and questions alone.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._paint = Palette(sys.stderr).paint
        self._quiet = quiet

    def title(self, text: object) -> None:
        self.say(self._paint(printable(text), "title"))

    def fact(self, name: str, text: object, role: Role | None = None) -> None:
        """Show a line `  name      text`."""
        indent = " " * (2 + max(_MARGIN, len(name) + 1))
        lines = [line.removeprefix(indent) for line in _lines(text, indent)]
        shown = f"\n{indent}".join(lines if role is None else [self._paint(line, role) for line in lines])
        self.say(f"  {self._paint(name.ljust(len(indent) - 2), 'dim')}{shown}")

    def warn(self, text: object) -> None:
        _say(f"{self._paint('warning:', 'warn')} {_broken(in_command_words(text), 'warning: ')}")

    def fail(self, text: object) -> None:
        _say(f"{self._paint('error:', 'bad')} {_broken(in_command_words(text), 'error: ')}")

    def missing(self, text: object) -> None:
        _say(f"{self._paint('missing:', 'bad')} {_broken(text, 'missing: ')}")

    def notice(self, text: object) -> None:
        """Show what the command waits for, and that it goes on."""
        self.say(self._paint(_broken(text), "warn"))

    def ask(self, text: str) -> None:
        """Show a question; the answer follows on the same line."""
        _say(printable(text), end="")

    def say(self, text: str) -> None:
        """Show text of this package as it is, with its line ends."""
        if not self._quiet:
            _say(text)


def _broken(text: object, before: str = "") -> str:
    """Return the text printable, on a terminal broken between words; `before` is what stands on its first line."""
    return "\n".join(_lines(text, before, "  ")).removeprefix(before)


def _lines(text: object, indent: str, later_indent: str | None = None) -> list[str]:
    """Return the lines of the text, printable; without a terminal it is one line."""
    line = printable(text)
    return wrap(line, room(), indent, later_indent) if is_on_terminal(sys.stderr) else [f"{indent}{line}"]


def _say(text: str, end: str = "\n") -> None:
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence(sys.stderr)


def silence(stream: TextIO | None) -> None:
    """Discard what is buffered and all further text: the reader has closed the pipe. Python stays silent at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


def show_checks(talk: Talk, frame: pd.DataFrame, *, is_cached: bool) -> None:
    """Show the sources of the candles, that they are complete, and every gap with its cause."""
    manifest = frame.attrs[MANIFEST]
    talk.title(f"{manifest['symbol']} {manifest['timeframe']}")
    talk.fact("cache", *_lookup(manifest["sources"], is_cached=is_cached))
    found = f"{manifest['rows']:,} of {manifest['expected']:,} candles"
    held = "prices ok, volume unknown" if frame["volume"].isna().all() else "prices, volume ok"
    talk.fact("checks", f"{found}; order, duplicates, {held}" if manifest["rows"] else found)
    count = manifest["expected"] - manifest["rows"] - count_missing(manifest)
    if not manifest["gap_count"]:
        talk.fact("gaps", "none", "good")
    else:
        talk.fact("gaps", f"{number_of(manifest['gap_count'], 'gap')}, {number_of(count, 'candle')} missing", "warn")
        show_gaps(talk, manifest["gaps"], manifest["gap_count"])
    if manifest["partial"]:
        partial = manifest["partial"]
        shown = ", ".join(partial[:3]) + (", ..." if len(partial) > 3 else "")
        talk.fact("note", f"{number_of(len(partial), 'partial candle')}, made of what there is: {shown}", "warn")
    if "is_synthetic" in frame and (invented := int(frame["is_synthetic"].sum())):
        talk.fact("note", f"{number_of(invented, 'row')} invented, marked in is_synthetic", "warn")
    if "is_closed" in frame and not frame["is_closed"].all():
        talk.fact("note", "the last candle is still forming (is_closed is false)")


def show_missing(talk: Talk, manifest: Mapping[str, Any], source: str | None) -> bool:
    """Show a line for each span that could not be fetched, with what brings it; return whether there is one."""
    missing = manifest.get("missing", ())
    for gap in missing[:_SHOWN]:
        last_ms = instant_ms(gap["last"], "last")
        end = iso(parse_timeframe(manifest["timeframe"]).close_ms(last_ms))
        one = gap["count"] == 1
        what = _REMEDIES.get(str(source)) or _REMEDIES.get(gap["cause"], "run again to fetch {}")
        talk.missing(
            f"{_minute(gap['first'])} to {_minute(end)}, {gap['count']} candle{'' if one else 's'}, {gap['cause']}; "
            f"{what.format('it' if one else 'them')}"
        )
    if len(missing) > _SHOWN:
        talk.missing(f"and {len(missing) - _SHOWN:,} more spans, which `missing` in the manifest lists")
    return bool(missing)


def _minute(time: str) -> str:
    """Return the time without seconds, where they are 0."""
    return time.replace("T", " ").removesuffix("Z").removesuffix(":00")


def show_gaps(talk: Talk, gaps: Iterable[Mapping[str, Any]], count: int) -> None:
    """Show a line for each of the first gaps, of `count`."""
    shown = list(itertools.islice(gaps, _SHOWN))
    counts = [f"{gap['count']:,}  " if gap["count"] else "" for gap in shown]  # unknown of funding rates
    for gap, count_of in zip(shown, counts, strict=True):
        first, last = (_minute(str(gap[name])) for name in ("first", "last"))
        line = f"{first} to {last}  {count_of.rjust(max(map(len, counts)))}{gap['cause']}"
        meaning = f" ({_CAUSES[gap['cause']]})" if gap["cause"] in _CAUSES else ""
        lines = _lines(f"{line}{meaning}", "    ", "      ")
        talk.say("\n".join(lines if len(lines) == 1 else _lines(line, "    ", "      ")))
    if count > _SHOWN:
        talk.say(f"    and {count - _SHOWN:,} more; the command gaps lists them")


def show_statistics(talk: Talk, frame: pd.DataFrame) -> None:
    """Show number, first and last candle, highest, lowest, volume and average; of rows without prices, their number."""
    if "close" not in frame:
        talk.fact("rows", f"{len(frame):,}")
        return
    figures = summary(frame)["candles"]
    if not figures["count"]:
        talk.fact("candles", "0")
        return
    talk.fact("candles", f"{figures['count']:,}, {figures['start_time']} to {figures['end_time']}")
    prices = figures["statistics"]
    talk.fact("highest", _figure(prices["highest_price"]), "number")
    talk.fact("lowest", _figure(prices["lowest_price"]), "number")
    talk.fact("average", f"{_figure(prices['avg_price'], digits=8)} (mean close)", "number")
    talk.fact("volume", _figure(prices["total_volume"], digits=8), "number")


def show_cost(talk: Talk, figures: dict[str, Any], elapsed_s: float, frames: Iterable[pd.DataFrame] = ()) -> None:
    """Show time and memory out of a snapshot of the monitor, and the part of the candles that was in the cache."""
    talk.fact("time", f"{elapsed_s:,.2f} s, {number_of(figures['requests']['count'], 'request')}")
    sources = [frame.attrs[MANIFEST]["sources"] for frame in frames]
    fetched = sum(sum(counts.values()) for counts in sources)
    if fetched:
        kept = sum(counts["memory"] + counts["disk"] for counts in sources)
        talk.fact("hit ratio", f"{100 * kept / fetched:.0f} % of the candles")
    talk.fact("memory", size_text(figures["memory"]["peak_rss_bytes"]) + " at most")


def _lookup(sources: dict[str, int], *, is_cached: bool) -> tuple[str, Role | None]:
    """Return cache hit or miss in words, and its role."""
    sources_text = ", ".join(f"{count:,} from {_PLACES[place]}" for place, count in sources.items() if count)
    if not is_cached:
        return f"off: {sources_text or 'no candles'}", None
    if not sources_text:
        return "no candles", None
    asked = sources["archive"] + sources["rest"]
    if not asked:
        return f"hit: {sources_text}", "good"
    return f"{'miss' if not sources['memory'] + sources['disk'] else 'partly'}: {sources_text}", None


def number_of(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _figure(value: float | None, digits: int | None = None) -> str:
    """Return the number without exponent, its whole part in groups of three, to `digits` digits or exactly; "-" where
    it is not known."""
    if value is None or not np.isfinite(value):
        return "-"
    whole, dot, rest = np.format_float_positional(value, precision=digits, fractional=False, trim="-").partition(".")
    return f"{int(whole):,}{dot}{rest}" if whole != "-0" else f"-0{dot}{rest}"


# Words of messages about Python calls, and the words of the command line for them.
_WORDS = (
    (r"\.frame holds the rest, and what\b", "What"),
    (
        r"\.frame holds the settled candles, and include_open=False asks for these alone",
        "Without --include-open only the settled candles are fetched",
    ),
    (r"(, and |; |, or )?\.frame holds (the rest|what arrived|the settled candles)", ""),
    (r"\.frames holds the other frames, and \.errors the error of each symbol", "See the line of each symbol"),
    (
        r"iter_frames gives the same candles in parts, and export writes them to a file: both need little memory, ",
        "candle-fetcher export writes the same candles to a file and needs little memory, ",
    ),
    (r"(?:Call it|Call) again", "Run the same line again"),
    (r"the same call\b", "the same line"),
    (r"\bcache\.import_file\b", "candle-fetcher cache import"),
    (r"\buse_cache=False\b", "--no-cache"),
    (r"\bsymbols\(\)", "candle-fetcher symbols"),
    (r"\bfetch_funding, or funding on the command line", "candle-fetcher funding"),
    (r"\brefresh=True\b", "--refresh"),
    (
        r"\bas api_keys=\{'[\w-]+': \{[^}]*\}\}, or in the environment as\b",
        "in the environment, or in a file .env of this folder, as",
    ),
    (
        r"\bas api_keys=\{'[\w-]+': \{[^}]*\}\}",
        "in the environment or in a file .env of this folder, by the names that candle-fetcher providers shows",
    ),
    (r"\bprovider_settings=\{'([\w-]+)': \{'(\w+)': '(\w+)'\}\}", r"--set \1.\2=\3"),
    (r"\b(source|on_gap|provider|kind|limit|days|columns|start|end|against)=('?)([\w.:+-]+)\2", r"--\1 \3"),
)


def in_command_words(text: object) -> str:
    """Return a message of the library as it is said on the command line: flags and commands for arguments and calls."""
    said = str(text)
    for pattern, words in _WORDS:
        said = re.sub(pattern, words, said)
    return said.replace("--on_gap", "--on-gap")
