"""Names of the files that `export` writes: made from a series and a range, and read back.

`[PROVIDER_]BASE_QUOTE[_KIND][_SETTING…]_TIMEFRAME_START_END` and the ending of the format: the provider unless it is
`binance`, the kind unless it is `candles`, each setting of the series by its value unless that is the provider's
default, and `1mo` for 1M, because some file systems ignore case. The origin is never in the name; the manifest beside
the file has it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import Timeframe

PARTIAL = "_partial"  # ends the name of a file that lacks what could not be fetched
DEFAULT_PROVIDER, DEFAULT_KIND = "binance", "candles"

# Names that Windows reserves for devices, with any extension.
_DEVICES = re.compile(r"(?i)^(con|prn|aux|nul|com\d|lpt\d)$")
_TIME = r"\d{8}(?:T\d{4}(?:\d{2}(?:\d{3})?)?)?"
_LENGTH = r"\d+(?:s|m|h|d|w|mo)"


class Label(NamedTuple):
    """The facts in the name of a file: the symbol as written there, and the settings that differ from the default."""

    symbol: str
    timeframe: str
    kind: str = DEFAULT_KIND
    settings: tuple[tuple[str, str], ...] = ()


def csv_name(
    provider: str, symbol: str, kind: str, timeframe: Timeframe, span: Span, settings: Iterable[str] = ()
) -> str:
    """Return the name of the CSV file of those candles.

    `settings` are the values of the series' settings that are not the default.
    """
    base = text_of(symbol)
    parts = [
        *([] if provider == DEFAULT_PROVIDER else [provider]),
        f"{base}_" if _DEVICES.match(base) else base,
        *([] if kind == DEFAULT_KIND else [text_of(kind)]),
        *map(text_of, settings),
        f"{timeframe.count}mo" if timeframe.unit == "M" else timeframe.name,
        stamp(span.start_ms),
        stamp(span.end_ms),
    ]
    return "_".join(parts) + ".csv"


def text_of(text: str) -> str:
    """Return the text as file names contain it: letters, digits, `-` and `_`."""
    return re.sub(r"[^\w-]", "_", text)


def stamp(ms: int) -> str:
    """Return the instant as 20240101, 20240101T0630, 20240101T063015 or 20240101T063015250: the shortest exact one."""
    text = re.sub(r"[-:.]", "", str(np.datetime64(ms, "ms")))
    for zeros, end in (("T000000000", 8), ("00000", 13), ("000", 15)):
        if text.endswith(zeros):
            return text[:end]
    return text


def read_end_ms(stem: str) -> int | None:
    """Return where the range ends that a name without its ending says (Unix ms); None where it says none."""
    found = re.search(rf"_{_TIME}_({_TIME})(?:{PARTIAL})?$", stem)
    if found is None:
        return None
    date, _, clock = found[1].partition("T")
    clock = clock.ljust(9, "0")
    try:
        text = f"{date[:4]}-{date[4:6]}-{date[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:6]}.{clock[6:]}"
        return int(np.datetime64(text, "ms").astype(np.int64))
    except ValueError:
        return None


def read_csv_name(name: str, kinds: Collection[str], settings: Sequence[tuple[str, Collection[str]]]) -> Label | None:
    """Return what a name made by `csv_name` says, given without its provider; None for another name.

    `kinds` are those that the provider has; `settings` are its settings, in order, each with the values that are not
    the default.
    """
    texts = {text_of(kind): kind for kind in kinds if kind != DEFAULT_KIND}
    options = [(f"setting{at}", {text_of(value): value for value in values}) for at, (_, values) in enumerate(settings)]
    middle = "".join(
        rf"(?:_(?P<{group}>{'|'.join(map(re.escape, sorted(among, key=len, reverse=True)))}))?"
        for group, among in [("kind", texts), *options]
        if among
    )
    found = re.fullmatch(rf"(?P<symbol>.+?){middle}_(?P<length>{_LENGTH})_{_TIME}_{_TIME}(?:{PARTIAL})?\.csv", name)
    if found is None:
        return None
    groups = found.groupdict()
    chosen = [
        (setting, among[groups[group]])
        for (setting, _), (group, among) in zip(settings, options, strict=True)
        if groups.get(group)
    ]
    kind = texts[groups["kind"]] if groups.get("kind") else DEFAULT_KIND
    return Label(groups["symbol"], groups["length"].replace("mo", "M"), kind, tuple(chosen))
