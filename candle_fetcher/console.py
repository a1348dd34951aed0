"""A progress bar and colours for terminals and Jupyter; text of other origin made harmless.

The only tqdm, colorama and IPython, each imported when it is first needed. Nothing here writes to stdout.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal, TextIO

from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.events import Event, Observe, Progress

Role = Literal["title", "good", "warn", "bad", "dim", "number"]

# A read that ends sooner shows no bar, unless one is forced.
_DELAY_S = 0.2
_CELL_FORMAT = "{desc}: {percentage:3.0f}% |{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
_COLOURS: dict[Role, tuple[str, str]] = {
    "title": ("Style", "BRIGHT"),
    "good": ("Fore", "GREEN"),
    "warn": ("Fore", "YELLOW"),
    "bad": ("Fore", "RED"),
    "dim": ("Style", "DIM"),
    "number": ("Fore", "CYAN"),
}


def make_progress(progress: bool | Callable[[Progress], object] | None, unit: str = "candle") -> Observe | None:
    """Return what shows the progress of public calls; None where nothing shows it. A bar counts in that unit.

    None shows a bar on a terminal and in Jupyter, True always, False never; a callable receives the Progress events.
    Raises InputError for anything else.
    """
    if progress is None:
        return ProgressBar(delay_s=_DELAY_S, unit=unit) if is_on_terminal(sys.stderr) or in_jupyter() else None
    if progress is False:
        return None
    if progress is True:
        return ProgressBar(unit=unit)
    if not callable(progress):
        raise InputError(f"progress is {shown(progress)}; expected None, True, False or a callable")
    receive = progress

    def observe(event: Event) -> None:
        if isinstance(event, Progress):
            receive(event)

    return observe


_open_bars: set[Any] = set()
_drawing = threading.RLock()  # held while a bar is drawn, opened or closed


class _NoLock:
    """The lock of tqdm's bars here, which is never taken: tqdm does not release one where an interruption ends a
    drawing. `_drawing` is held instead."""

    def acquire(self, *_: object, **__: object) -> bool:
        return True

    def release(self) -> None: ...

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_: object) -> None: ...


class ProgressBar:
    """One bar on stderr that counts the candles of all calls under way; an Observe, safe to share between threads.

    The bar opens with the first call, grows with every call that starts meanwhile, and closes with the last one.
    `done` of an event is what is there in addition to the events before; `total` is read from the start of a call.
    `file` replaces stderr; before `delay_s` seconds nothing is drawn. `unit` is what it counts.
    """

    def __init__(self, *, delay_s: float = 0.0, file: TextIO | None = None, unit: str = "candle") -> None:
        self._delay_s, self._file, self._unit = delay_s, file, unit
        self._bar: Any = None
        self._labels: list[str] = []
        self._running = self._done = self._total = 0

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Progress):
            return
        with _drawing:
            if event.phase == "start":
                self._running += 1
                self._total += event.total
                self._labels.append(event.label)
            elif not self._running:
                return
            self._done += event.done
            try:
                self._draw()
            finally:  # an interruption in the middle of a drawing leaves no bar open
                if event.phase == "end":
                    self._running -= 1
                    if not self._running:
                        self._close()

    def close(self) -> None:
        """Close the bar, also while calls are under way."""
        with _drawing:
            self._close()

    def _draw(self) -> None:
        # A call counts its last chunk as a whole one, so that it can begin below zero.
        done = max(0, self._done)
        label = printable(self._labels[0]) if len(self._labels) == 1 else f"{len(self._labels)} series"
        if self._bar is None:
            self._bar = _open_bar(self._file, self._delay_s, label, self._unit, done, self._total)
            _open_bars.add(self._bar)
        bar = self._bar
        bar.set_description_str(label, refresh=False)
        bar.grow(self._total)
        bar.update(done - bar.n)

    def _close(self) -> None:
        bar, self._bar = self._bar, None
        self._labels = []
        self._running = self._done = self._total = 0
        if bar is not None:
            _open_bars.discard(bar)
            bar.close()


def _open_bar(file: TextIO | None, delay_s: float, label: str, unit: str, done: int, total: int) -> Any:
    """Return a tqdm bar on the stream, or on stderr, that can `grow`; silent where there is no stream. In Jupyter it is
    shown below its cell."""
    in_cell = file is None and in_jupyter()
    bar_class = _cell_bar() if in_cell else _text_bar()
    bar_class.set_lock(_NoLock())
    stream = io.StringIO() if in_cell else sys.stderr if file is None else file
    # A terminal without a size (in a container, under expect) has no columns: tqdm would draw nothing.
    unsized = is_on_terminal(stream) and not _columns(stream)
    return bar_class(
        desc=label,
        initial=done,
        total=total,
        unit=unit,
        unit_scale=True,
        miniters=0,
        file=stream,
        disable=stream is None,
        delay=delay_s,
        ncols=80 if unsized or in_cell else None,
        nrows=24 if unsized else None,
        dynamic_ncols=not (unsized or in_cell),
        ascii=False if in_cell else None,
        leave=True if in_cell else None,  # None: stays, unless it is nested in a bar of the caller's
    )


def _text_bar() -> Any:
    """Return the class of bars on streams."""
    from tqdm.std import tqdm

    class CandleBar(tqdm):  # type: ignore[type-arg]
        monitor_interval = 0  # no thread of tqdm's outlives the bar

        def grow(self, total: int) -> None:
            self.total = total

    return CandleBar


def _cell_bar() -> Any:
    """Return the class of bars in Jupyter: HTML that is shown once and then replaced in its place.

    JupyterLab, VS Code and Colab show it alike, without ipywidgets; a stored notebook keeps its last state.
    """
    from html import escape

    import IPython.display

    screen: Any = IPython.display

    class CellBar(_text_bar()):  # type: ignore[misc]
        handle: Any = None

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            before, has_total, after = self.format_meter(**{**self.format_dict, "bar_format": _CELL_FORMAT}).partition(
                "|"
            )
            size = f"value='{min(self.n, self.total)}' max='{self.total}'"
            bar = f"<progress {size} style='vertical-align:middle;width:16em'></progress> " if has_total else ""
            line = f"<div style='font-family:monospace'>{escape(before)}{bar}{escape(after)}</div>"
            said = {"text/plain": str(self), "text/html": line}
            if self.handle is None:
                self.handle = screen.display(said, raw=True, display_id=True)
            else:
                self.handle.update(said, raw=True)
            return True

        def clear(self, nolock: bool = False) -> None: ...

    return CellBar


@contextlib.contextmanager
def above_bars() -> Iterator[None]:
    """Clear the bars that are drawn for as long as lines are written above them."""
    with _drawing:
        # A bar that is still within its delay has drawn nothing.
        bars = [bar for bar in tuple(_open_bars) if not bar.disable and bar._time() - bar.start_t >= bar.delay]
        for bar in bars:
            bar.clear(nolock=True)
        yield
        for bar in bars:
            bar.refresh(nolock=True)


class Palette:
    """Paints text for one stream (stdout where none is given); leaves it plain where colour would be noise.

    Colour needs a terminal, no NO_COLOR in the environment, and a TERM other than dumb.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.colourful = _takes_colour(sys.stdout if stream is None else stream)
        if self.colourful:
            from colorama import just_fix_windows_console

            just_fix_windows_console()

    def paint(self, text: object, role: Role) -> str:
        """Return the text in the colour of its role."""
        if not self.colourful:
            return str(text)
        import colorama

        group, name = _COLOURS[role]
        return f"{getattr(getattr(colorama, group), name)}{text}{colorama.Style.RESET_ALL}"


def printable(text: object) -> str:
    """Return the text on one line, with all characters escaped that a terminal could take for a command.

    These are control characters, line ends, characters that change the direction of writing, and lone surrogates.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in str(text))


def in_jupyter() -> bool:
    """Return whether this runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


def is_on_terminal(stream: TextIO | None) -> bool:
    """Return whether the stream is a terminal; programs without a console have no stream."""
    return stream is not None and not getattr(stream, "closed", False) and stream.isatty()


def _columns(stream: TextIO) -> int:
    """Return the width that the terminal reports; 0 where it reports none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


def _takes_colour(stream: TextIO | None) -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and is_on_terminal(stream)
