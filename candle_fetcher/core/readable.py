"""What the values of a manifest have to be: manifests in frames and files may have been edited by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from candle_fetcher.core.errors import InputError
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.timeframe import parse_timeframe


def is_readable(manifest: Mapping[str, Any]) -> bool:
    """Return whether each value of the manifest that calls of this package read is one that they can read.

    Keys that are not there, and keys of others, do not matter.
    """
    try:
        if not all(is_right(manifest[name]) for name, is_right in _CHECKS.items() if name in manifest):
            return False
        if ("start" in manifest) != ("end" in manifest):
            return False
        if "start" in manifest and instant_ms(manifest["start"], "start") > instant_ms(manifest["end"], "end"):
            return False
        if "timeframe" in manifest:
            parse_timeframe(manifest["timeframe"])
    except (InputError, TypeError, ValueError, OverflowError):
        return False
    return True


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 0


def _is_count_or_none(value: object) -> bool:
    return value is None or _is_count(value)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_mapping_or_none(value: object) -> bool:
    return value is None or isinstance(value, Mapping)


def _are_instants(value: object) -> bool:
    return _is_list_of(value, lambda time: isinstance(time, str) and instant_ms(time, "partial") is not None)


def _are_gaps(value: object) -> bool:
    return _is_list_of(value, _is_gap)


def _is_gap(gap: Any) -> bool:
    if not isinstance(gap, Mapping) or not _is_text_or_none(gap.get("cause", 0)) or not _is_count(gap.get("count")):
        return False
    return instant_ms(gap.get("first", ""), "first") <= instant_ms(gap.get("last", ""), "last")


def _is_list_of(value: object, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) and all(map(is_right, value))


_CHECKS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("provider", "symbol", "timeframe", "kind", "start", "end"), _is_text),
    "origin": _is_text_or_none,  # a fingerprint is compared, which works for any value, and is slow to make
    **dict.fromkeys(("rows", "retries"), _is_count),
    **dict.fromkeys(("expected", "gap_count"), _is_count_or_none),
    **dict.fromkeys(("gaps", "missing"), _are_gaps),
    **dict.fromkeys(("partial", "left_out"), _are_instants),
    **dict.fromkeys(("sources", "part_of", "resampled", "aligned"), _is_mapping),
    **dict.fromkeys(("adjusted", "settings", "csv"), _is_mapping_or_none),
}
