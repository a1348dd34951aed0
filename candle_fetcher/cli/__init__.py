"""Floor 6: the command line. It parses, calls one public method, prints; errors become exit codes.

arguments -> commands -> CandleFetcher -> show
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator, Sequence

from candle_fetcher.cli.arguments import read_arguments
from candle_fetcher.cli.commands import COMMANDS
from candle_fetcher.cli.environment import dotenv
from candle_fetcher.cli.notices import logging_to
from candle_fetcher.cli.talk import Talk, show_gaps, silence
from candle_fetcher.core.errors import (
    CandleFetcherError,
    CandleFetcherWarning,
    FetchManyError,
    IncompleteData,
    InputError,
    TransportError,
)
from candle_fetcher.core.tracebacks import format_error, whole_tracebacks

OK, ERROR, WRONG_INPUT, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 is ok, 1 an error, 2 wrong input, 3 incomplete or partly failed, 130 interrupted."""
    words = sys.argv[1:] if argv is None else argv
    debug = "--debug" in words
    try:
        _set_up_streams()
        arguments = read_arguments(words)
        talk = Talk(quiet=arguments.quiet)
        whole = whole_tracebacks() if debug else contextlib.nullcontext()
        with whole, _warnings_to(talk), dotenv(arguments, talk), logging_to(talk, arguments.log_level):
            return COMMANDS[arguments.command](arguments, talk)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else OK
    except KeyboardInterrupt as error:
        _explain(error, debug)
        Talk().say(f"\ninterrupted; {str(error) or 'what arrived is stored, and the same line asks for the rest'}")
        return INTERRUPTED
    except BrokenPipeError:  # of stdout: the reader of the data has closed the pipe
        silence(sys.stdout)
        return OK
    except Exception as error:  # noqa: BLE001 - the last place that can show an error as a line
        _explain(error, debug)
        _report(Talk(), error, is_practice="--practice" in words)
        return _exit_code(error)


def _exit_code(error: Exception) -> int:
    if isinstance(error, InputError):
        return WRONG_INPUT
    if isinstance(error, FetchManyError):
        wrong = not error.frames and all(isinstance(one, InputError) for one in error.errors.values())
        return WRONG_INPUT if wrong else INCOMPLETE
    return INCOMPLETE if isinstance(error, IncompleteData) else ERROR


def _report(talk: Talk, error: Exception, *, is_practice: bool) -> None:
    """Print what went wrong, a line for each fact."""
    if isinstance(error, FetchManyError):
        talk.fail(f"{len(error.errors)} of {len(error.frames) + len(error.errors)} symbols failed")
        for symbol, one in error.errors.items():
            talk.fail(f"{symbol}: {one}")
    elif isinstance(error, CandleFetcherError):
        talk.fail(error)
    elif isinstance(error, OSError):
        talk.fail(_os_message(error))
    else:
        talk.fail(f"{type(error).__name__}: {error}; this is a fault of candle_fetcher, --debug shows where")
    if isinstance(error, IncompleteData) and error.missing:
        names = ("first", "last", "count", "cause")
        missing = ({name: getattr(gap, name) for name in names} for gap in error.missing)
        show_gaps(talk, missing, len(error.missing))
    if not is_practice and _is_unreached(error):
        talk.say("No host could be reached. Is there a network? With --practice none is needed.")


def _os_message(error: OSError) -> str:
    """Return the message of the system, without its number, and the name of the file once."""
    if error.strerror is None or error.filename is None or str(error.filename) in error.strerror:
        return error.strerror or str(error)
    return f"{error.filename}: {error.strerror}"


def _is_unreached(error: BaseException) -> bool:
    """Return whether the cause is that no host answered."""
    if isinstance(error, FetchManyError):
        return any(map(_is_unreached, error.errors.values()))
    reason = error if isinstance(error, TransportError) else getattr(error, "cause", None)
    return isinstance(reason, TransportError) and not reason.reached


def _explain(error: BaseException, debug: bool) -> None:
    if debug:
        Talk().say(format_error(error))


@contextlib.contextmanager
def _warnings_to(talk: Talk) -> Iterator[None]:
    """Show each warning as a line, without the place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", CandleFetcherWarning)
        warnings.showwarning = lambda message, *_, **__: talk.warn(message)
        yield


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


def _set_up_streams() -> None:
    """Replace a closed stream by one that discards its text, and print UTF-8 with LF on every system.

    Without a stderr, print() would write messages to stdout. A path is written with the bytes that the system has.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, _Nowhere())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")
