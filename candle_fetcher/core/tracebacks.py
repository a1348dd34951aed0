"""Shortens the traceback of an error that leaves a public call to the caller's line and one frame of this package.

Threads of this package do the work, so that Python's own traceback for a misspelt symbol has 80 lines that do not help
the caller. `short_errors` is the only place that removes them. The causes of the error stay as `.cause`, without
tracebacks. The function given to `report_errors_by` (the DEBUG log) gets the error with all tracebacks.

Errors of this package (its warnings too, where the caller makes them errors), an OSError about a file, and
KeyboardInterrupt are shortened. Any other exception is a fault of the program, and keeps its traceback.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from candle_fetcher.core.errors import CandleFetcherError, CandleFetcherWarning, FetchManyError, IncompleteData

F = TypeVar("F", bound=Callable[..., Any])
E = TypeVar("E", bound=BaseException)

_SHORTENED = (CandleFetcherError, CandleFetcherWarning, OSError, KeyboardInterrupt)
_HAS_QUALNAME = sys.version_info >= (3, 11)


def short_errors(function: F) -> F:
    """Decorate a public function: an error that leaves it shows the caller's line and one frame of this package."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True  # pytest leaves the frame out
        try:
            return function(*args, **kwargs)
        except _SHORTENED as error:
            caught = error
        # Out of the handler above, so that what the caller itself was handling becomes the context.
        try:
            raise shorten(caught)
        finally:
            del caught  # else its traceback leads to this frame, and this frame to it

    return _named(called, function)


def short_errors_of_items(function: F) -> F:
    """Decorate a public generator function as `short_errors` does: its errors come where an item is asked for."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Iterator[Any]:
        __tracebackhide__ = True
        try:
            yield from function(*args, **kwargs)
            return
        except _SHORTENED as error:
            caught = error
        try:
            raise shorten(caught)
        finally:
            del caught

    return _named(called, function)


def _named(called: Any, function: F) -> F:
    """Return the wrapper; a traceback shows its frame by the name of the function."""
    name = function.__name__
    called.__code__ = called.__code__.replace(co_name=name, **({"co_qualname": name} if _HAS_QUALNAME else {}))
    return cast(F, called)


def shorten(error: E) -> E:
    """Report the error, then remove its traceback and its chain; `.cause` keeps the error that led to it.

    A fault of the program, such as an OSError that names no file, stays as it is.
    """
    if isinstance(error, OSError) and error.filename is None:
        return error
    if isinstance(error, CandleFetcherError):
        _report(error)
    each: tuple[BaseException, ...] = (error, *_behind(error))
    for one in each:
        if isinstance(one, CandleFetcherError) and one.__cause__ is not None:
            one.cause = one.__cause__
        if not _keeps_all:
            one.__traceback__ = one.__context__ = None
            if one is error or isinstance(one, CandleFetcherError):
                one.__cause__ = None
                one.__suppress_context__ = False
    return error


def _carried(error: BaseException) -> Mapping[str, BaseException]:
    """Return the errors that this one has as attributes, by the names under which they are found there."""
    if isinstance(error, FetchManyError):
        return error.errors
    if isinstance(error, IncompleteData):
        return {f"refusals[{at}]": one for at, one in enumerate(error.refusals)}
    return {}


def _behind(error: BaseException) -> tuple[BaseException, ...]:
    """Return all errors that led to this one or are its attributes, each once."""
    found: dict[int, BaseException] = {id(error): error}
    waiting = [error]
    while waiting:
        one = waiting.pop()
        causes = [one.__cause__, getattr(one, "cause", None), *_carried(one).values()]
        new = {id(cause): cause for cause in causes if isinstance(cause, BaseException) and id(cause) not in found}
        found.update(new)
        waiting += new.values()
    return tuple(found.values())[1:]


def format_error(error: BaseException) -> str:
    """Return the error as Python prints it, with all tracebacks, and each error that it carries."""
    parts = ["".join(traceback.format_exception(type(error), error, error.__traceback__))]
    chain = _chain(error)
    for name, one in _carried(error).items():
        if not any(one is link for link in chain):
            parts.append(f"{name}: {format_error(one)}")
    return "\n".join(part.rstrip() for part in parts)


def _chain(error: BaseException) -> list[BaseException]:
    chain, one = [error], error.__cause__ or error.__context__
    while one is not None and not any(one is link for link in chain):
        chain.append(one)
        one = one.__cause__ or one.__context__
    return chain


@contextmanager
def whole_tracebacks() -> Iterator[None]:
    """Leave tracebacks and chains as they are while the block runs, in all threads."""
    global _keeps_all  # noqa: PLW0603 (of the process, as the command line is)
    before, _keeps_all = _keeps_all, True
    try:
        yield
    finally:
        _keeps_all = before


def report_errors_by(report: Callable[[CandleFetcherError], object]) -> None:
    """Call `report` with each error of this package, still with its tracebacks, before the caller gets the error."""
    global _report  # noqa: PLW0603 (the log is on a higher floor)
    _report = report


def _report_nothing(error: CandleFetcherError) -> None:
    pass


_keeps_all = False
_report: Callable[[CandleFetcherError], object] = _report_nothing
