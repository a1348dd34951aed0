"""Final frames in memory, handed out for the same arguments without a thread, a lock or a look-up.

A call is known by its arguments as they were written. Its frame is remembered where it is the whole answer for good:
every candle settled, no gap, an end that was given and does not depend on now. Only plain dictionaries are read here,
so that a signal handler may interrupt it anywhere.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from candle_fetcher.core.events import Lookup, Observe, Operation
from candle_fetcher.core.frame import MANIFEST, hand_out
from candle_fetcher.core.plan import CHUNK_SLOTS

if TYPE_CHECKING:
    from candle_fetcher.fetcher.runtime import Runtime

_MOST = 256
_WORDS = frozenset({"symbol", "timeframe", "start", "end", "provider", "kind", "source", "columns"})
_WORDS |= {"partial", "output", "with_manifest"}
_DATE = re.compile(r"\d{4}-\d\d.*|\d{8}")


class _Known(NamedTuple):
    """The frame that the memory tier holds, and the epoch of the cache in which the call began."""

    frame: weakref.ref[pd.DataFrame]
    epoch: int


class ReadyFrames:
    """Finished frames by the arguments of the call. Shared by threads."""

    def __init__(self) -> None:
        self._known: dict[Any, _Known] = {}

    def find(self, key: Any, epoch: int) -> pd.DataFrame | None:
        """Return the frame of the call; None where there is none, or something was forgotten since."""
        known = self._known.get(key)
        return known.frame() if known is not None and known.epoch == epoch else None

    def keep(self, key: Any, frame: pd.DataFrame, epoch: int) -> None:
        """Remember the frame that this one was copied from, where it is final. `epoch` is that before the call."""
        kept = frame.attrs[MANIFEST].shared_with
        if kept is not None and kept.attrs[MANIFEST].is_final:
            if len(self._known) >= _MOST:
                self._known = {}
            self._known[key] = _Known(weakref.ref(kept), epoch)


def call_key(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any | None:
    """Return the key of the call; None where its answer may differ from one time to the next."""
    if not _WORDS.issuperset(kwargs):
        return None
    start, end = (args[at] if len(args) > at else kwargs.get(name) for at, name in ((2, "start"), (3, "end")))
    if not (_is_instant(start) and _is_instant(end)):
        return None
    key = (args, tuple(kwargs.items()))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _is_instant(value: object) -> bool:
    """Return whether the value is the same instant at any time: a date, a time, milliseconds; not `now` or `7d`."""
    if isinstance(value, str):
        return _DATE.fullmatch(value) is not None
    return isinstance(value, int | dt.date) and not isinstance(value, bool)


def find_ready(runtime: Runtime, key: Any) -> pd.DataFrame | None:
    """Return a copy of the final frame of a call that was made before with the same arguments, without a lock."""
    began = time.perf_counter()
    kept = runtime.ready_frames.find(key, runtime.epoch)
    if kept is None or runtime.is_closed or runtime.log.is_on(logging.INFO) or not runtime.monitor.has_room:
        return None
    frame = copy_frame(kept, runtime.observe)
    label = f"{frame.attrs[MANIFEST]['symbol']} {frame.attrs[MANIFEST]['timeframe']}"
    runtime.observe(Operation("fetch", time.perf_counter() - began, len(frame), 0, label))
    return frame


def copy_frame(kept: pd.DataFrame, observe: Observe) -> pd.DataFrame:
    """Return a copy of a frame in memory, which the caller may change, with a manifest that says where it was."""
    frame = hand_out(kept)
    observe(Lookup("memory", -(-len(frame) // CHUNK_SLOTS), 0))
    manifest = frame.attrs[MANIFEST]
    manifest["sources"] = {"memory": len(frame), "disk": 0, "archive": 0, "rest": 0}
    manifest["retries"] = 0
    dict.pop(manifest, "rejected", None)  # a warm fetch rejects nothing; the method would work out the fingerprint
    return frame
