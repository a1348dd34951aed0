from __future__ import annotations

import io
import os
import sys
import threading
import time
import types
from contextlib import suppress
from typing import Any

import pytest

from candle_fetcher.console import Palette, ProgressBar, Role, in_jupyter, make_progress, printable
from candle_fetcher.core.errors import InputError
from candle_fetcher.core.events import Event, Operation, Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal where colour is welcome."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def start(label: str, done: int, total: int) -> Progress:
    return Progress("start", label, done, total)


def advance(label: str, done: int) -> Progress:
    return Progress("advance", label, done, 0)


def end(label: str) -> Progress:
    return Progress("end", label, 0, 0)


def test_the_bar_counts_the_candles_of_a_call() -> None:
    stream = io.StringIO()
    bar = ProgressBar(file=stream)
    for event in (start("BTC/USDT 1h", 500, 2500), advance("BTC/USDT 1h", 2000), end("BTC/USDT 1h")):
        bar(event)
    last = stream.getvalue().split("\r")[-1]
    assert last.startswith("BTC/USDT 1h: 100%")
    assert "2.50k/2.50k" in last
    assert "candle/s" in last
    assert last.endswith("\n")


def test_calls_at_the_same_time_add_up_in_one_bar() -> None:
    stream = io.StringIO()
    bar = ProgressBar(file=stream)
    for event in (
        start("BTC/USDT 1h", 0, 100),
        start("ETH/USDT 1h", 0, 300),
        advance("ETH/USDT 1h", 300),
        end("ETH/USDT 1h"),
        advance("BTC/USDT 1h", 100),
        end("BTC/USDT 1h"),
    ):
        bar(event)
    assert stream.getvalue().count("\n") == 1
    last = stream.getvalue().split("\r")[-1]
    assert last.startswith("2 series: 100%")
    assert "400/400" in last


def test_a_call_after_the_last_one_ended_opens_a_new_bar() -> None:
    stream = io.StringIO()
    bar = ProgressBar(file=stream)
    for total in (10, 20):
        for event in (start("a", 0, total), advance("a", total), end("a")):
            bar(event)
    finished = [line.split("\r")[-1] for line in stream.getvalue().splitlines(keepends=True) if line.endswith("\n")]
    assert ["10.0/10.0" in finished[0], "20.0/20.0" in finished[1]] == [True, True]


def test_the_bar_begins_at_zero_where_the_last_chunk_is_a_part() -> None:
    stream = io.StringIO()
    bar = ProgressBar(file=stream)
    bar(start("a", 168 - 1000, 168))
    assert "0.00/168" in stream.getvalue()
    bar(advance("a", 1000))
    bar(end("a"))
    assert "168/168" in stream.getvalue().split("\r")[-1]


def test_a_call_that_failed_leaves_the_bar_where_it_was() -> None:
    stream = io.StringIO()
    bar = ProgressBar(file=stream)
    for event in (start("a", 0, 100), advance("a", 50), end("a")):
        bar(event)
    assert "50.0/100" in stream.getvalue().split("\r")[-1]


def test_events_of_calls_that_never_started_and_other_events_are_ignored() -> None:
    stream = io.StringIO()
    bar = ProgressBar(file=stream)
    for event in (advance("a", 5), end("a"), Operation("fetch", 1.0)):
        bar(event)
    assert stream.getvalue() == ""


def test_a_call_that_ends_within_the_delay_draws_nothing() -> None:
    stream = io.StringIO()
    bar = ProgressBar(file=stream, delay_s=3600)
    for event in (start("a", 0, 10), start("b", 0, 10), advance("a", 20), end("a"), end("b")):
        bar(event)
    assert stream.getvalue() == ""


def test_closing_in_the_middle_ends_the_line_and_can_be_repeated() -> None:
    stream = io.StringIO()
    bar = ProgressBar(file=stream)
    bar(start("a", 0, 10))
    bar.close()
    bar.close()
    assert stream.getvalue().endswith("\n")
    assert stream.getvalue().count("\n") == 1


def test_a_label_cannot_command_the_terminal() -> None:
    stream = io.StringIO()
    bar = ProgressBar(file=stream)
    bar(start("BTC\x1b[2J\n", 0, 10))
    bar(end("BTC\x1b[2J\n"))
    assert "\x1b[2J" not in stream.getvalue()
    assert "BTC\\x1b[2J\\n: " in stream.getvalue()


def test_the_bar_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    bar = ProgressBar(file=io.StringIO())
    bar(start("a", 0, 10))
    assert threading.active_count() == before
    bar.close()


def test_threads_may_share_a_bar() -> None:
    stream, calls, each = io.StringIO(), 16, 200
    bar = ProgressBar(file=stream)
    bar(start("first", 0, 0))

    def work(label: str) -> None:
        bar(start(label, 0, each))
        for _ in range(each):
            bar(advance(label, 1))
        bar(end(label))

    threads = [threading.Thread(target=work, args=(f"call {number}",)) for number in range(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bar(end("first"))
    assert "3.20k/3.20k" in stream.getvalue().split("\r")[-1]


@pytest.mark.fault("E03", "E10")
@pytest.mark.parametrize("broken_write", range(1, 6))
def test_an_interrupted_drawing_keeps_no_other_thread_from_the_bar(broken_write: int) -> None:
    class Interrupted(Terminal):
        """Interrupts one write, as Ctrl-C does in the middle of a drawing."""

        writes = 0

        def write(self, text: str, /) -> int:
            self.writes += 1
            if self.writes == broken_write:
                raise KeyboardInterrupt
            return super().write(text)

    stream = Interrupted()
    bar = ProgressBar(file=stream)
    ended_in_time = []

    def draw(event: Event) -> None:
        with suppress(KeyboardInterrupt):
            bar(event)

    draw(start("a", 0, 2000))
    time.sleep(0.11)  # tqdm draws ten times a second at most
    draw(advance("a", 1000))
    # The call goes on for a moment in a thread of the library; then another call begins.
    for event in (end("a"), start("b", 0, 1000), end("b")):
        thread = threading.Thread(target=draw, args=(event,), daemon=True)
        thread.start()
        thread.join(30)
        ended_in_time.append(not thread.is_alive())
    assert ended_in_time == [True, True, True]
    assert stream.writes > broken_write, "nothing was interrupted"


@pytest.mark.fault("E10")
def test_a_program_without_stderr_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    bar = ProgressBar()
    for event in (start("a", 0, 10), start("b", 0, 10), advance("a", 10), end("a"), end("b")):
        bar(event)
    assert make_progress(None) is None


@pytest.mark.fault("E10")
def test_nothing_is_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_progress(None) is None


def test_a_terminal_gets_a_bar_and_stdout_stays_untouched(
    capsys: pytest.CaptureFixture[str], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = make_progress(True)
    assert bar is not None
    assert isinstance(make_progress(None), ProgressBar)
    bar(start("a", 0, 10))
    bar(end("a"))
    assert "0.00/10.0" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_a_terminal_that_does_not_know_its_size_gets_a_bar_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    inside, outside = pty.openpty()  # 0 columns until somebody says otherwise
    with os.fdopen(inside, "rb", buffering=0) as shown, os.fdopen(outside, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        bar = ProgressBar()
        bar(start("BTC/USDT 1h", 0, 10))
        bar.close()
        assert b"BTC/USDT 1h:   0%" in shown.read(4096)


def test_false_shows_no_bar_even_on_a_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    assert make_progress(False) is None


def test_true_shows_the_bar_even_where_stderr_is_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    bar = make_progress(True)
    assert bar is not None
    bar(start("a", 0, 10))
    bar(end("a"))
    shown = capsys.readouterr()
    assert "0.00/10.0" in shown.err
    assert shown.out == ""


def test_a_callable_receives_the_progress_and_nothing_else() -> None:
    heard: list[Event] = []
    tell = make_progress(heard.append)
    assert tell is not None
    for event in (start("a", 0, 10), Operation("fetch", 1.0), end("a")):
        tell(event)
    assert heard == [start("a", 0, 10), end("a")]


@pytest.mark.parametrize("progress", ["yes", 1, 0, [], object()])
def test_anything_else_is_an_input_error_that_shows_it(progress: Any) -> None:
    with pytest.raises(InputError, match="expected None, True, False or a callable"):
        make_progress(progress)


class Shell:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config


@pytest.mark.parametrize(("config", "expected"), [({"IPKernelApp": {}}, True), ({"TerminalIPythonApp": {}}, False)])
def test_jupyter_is_an_ipython_with_a_kernel(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], expected: bool
) -> None:
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: Shell(config)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert in_jupyter() is expected


def test_plain_python_is_not_jupyter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_jupyter()


def test_jupyter_gets_a_bar_though_its_stderr_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: Shell({"IPKernelApp": {}})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert isinstance(make_progress(None), ProgressBar)


ROLES: tuple[Role, ...] = ("title", "good", "warn", "bad", "dim", "number")


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_its_colour_on_a_terminal(terminal: Terminal, role: Role) -> None:
    painted = Palette(terminal).paint("528", role)
    assert painted.startswith("\x1b[")
    assert painted.endswith("528\x1b[0m")
    assert len({Palette(terminal).paint("528", other) for other in ROLES}) == len(ROLES)


def test_what_is_piped_is_plain() -> None:
    assert Palette(io.StringIO()).paint(528, "good") == "528"


def test_a_closed_or_missing_stream_is_plain() -> None:
    stream = Terminal()
    stream.close()
    assert Palette(stream).paint("x", "bad") == "x"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("NO_COLOR", "0"), ("TERM", "dumb")])
def test_a_person_who_wants_no_colour_gets_none(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert Palette(terminal).paint("x", "bad") == "x"


def test_an_empty_no_color_means_nothing(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    assert Palette(terminal).paint("x", "bad") != "x"


@pytest.mark.fault("G03")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("BTC/USDT – naïve ₿", "BTC/USDT – naïve ₿"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("\u202eevil\u2028", "\\u202eevil\\u2028"),
        ("\ud800", "\\ud800"),
    ],
)
def test_foreign_text_is_shown_on_one_line_with_its_commands_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_any_object_is_printable() -> None:
    assert printable(ValueError("no\nway")) == "no\\nway"
