"""Every error and warning of the library. The tree:

    CandleFetcherError
      InputError (also ValueError)   the caller can fix it: setting, provider, timeframe, range
        UnknownSymbol                the provider refused the symbol; with the closest names
        UnknownArgument (also TypeError)   a call has no such keyword; with the one that was meant
        NotOffered                   this provider has no such feed
      SourceError                    a source was asked and could not answer
        TransportError               no whole reply in time         retried
        RateLimited                  .retry_after_s                 waited for, then retried
          Banned                     .until                         no request before
        AccessDenied                 key, firewall or region; .fix  not retried
        ProviderRefused              .status .code .message         not retried
        ReplyError                   cut, undecodable or wrong      retried, then the next source
      IncompleteData                 .frame .missing .refusals
      FetchManyError                 .frames .errors
        FetchManyOutOfMemory         of some, the reason is OutOfMemory, which it is, too
      WorkerError                    a worker of an executor ended early; .cause
      OutOfMemory (also MemoryError) .rows .bytes of the frame that was wanted
      BadFile                        a file is damaged, incomplete or cannot be read
      CacheError                     the store cannot be opened or written
      MissingExtra                   .extra; the install line is the message
    CandleFetcherWarning: CacheWarning, ClockSkew, ArchiveMismatch

`.provider`, `.symbol`, `.timeframe` and `.span` identify the series and the range of the call that failed; each is None
where the call has none or several.

`.cause` is the error that led to one. Public calls shorten tracebacks (core/tracebacks.py).

A message says what happened, shows the value that was found and what was expected, and ends with what to do, which is
also `.fix`. The facts are attributes.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import datetime as dt
import errno
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from candle_fetcher.core.gap import Gap
from candle_fetcher.core.sizes import ROW_BYTES, size_text

if TYPE_CHECKING:
    import pandas as pd

# The warnings of a block of `collecting_warnings`, by its thread.
_collected: contextvars.ContextVar[list[CandleFetcherWarning] | None] = contextvars.ContextVar("warnings", default=None)
# Characters of a value in a message.
_MOST_SHOWN = 120
# Characters of a list of names in a message that suggests one of them.
_MOST_LISTED = 200
# The least similarity (0 to 1) of a suggested name: `binance` for `biannce`, but not `coingecko` for `coinbase`.
NEAR = 0.7
# Files that are not the caller's: those of this package, and contextlib, which calls its functions.
_SKIPS_FILES = sys.version_info >= (3, 12)  # whether `warnings` can skip such lines
_INSIDE = (__file__.rpartition("core")[0], contextlib.__file__)


class _Prescribes:
    """Base of errors and warnings that say what to do. `.fix` is a sentence for that, and always part of the message.

    It is the class's own `fix`; else the text after the first semicolon of a message `what; what to do`; else
    `_otherwise`.
    """

    fix: str = ""
    _otherwise = "Run candle-fetcher doctor, which looks for the cause"

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.fix = self.fix or str(arguments[0] if arguments else "").partition("; ")[2] or self._otherwise

    @property
    def reason(self) -> str:
        """The message without `.fix`, for another error that quotes it."""
        said, fix = super().__str__(), self.fix
        return said.removesuffix(fix).rstrip("; .") if fix and said.endswith(fix) else said

    def __str__(self) -> str:
        said = super().__str__()
        if self.fix in said:
            return said
        return f"{said} {self.fix}" if said.endswith((".", "?")) else f"{said}. {self.fix}"

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException would call the class with the message alone; some classes take facts instead.
        facts = dict(self.__dict__)
        if not isinstance(facts.get("cause"), CandleFetcherError):
            facts.pop("cause", None)  # an error of another library may not be picklable
        return _restore, (type(self), getattr(self, "args", ()), facts)


def _restore(kind: type[Any], arguments: tuple[object, ...], facts: dict[str, Any]) -> Any:
    """Return the error as it was before it was copied or sent to another process."""
    error: Any = kind.__new__(kind, *arguments)
    error.__dict__.update(facts)
    return error


class CandleFetcherError(_Prescribes, Exception):
    """Base of all errors that this library raises on purpose. `.fix` says what to do.

    `.provider` (its id), `.symbol`, `.timeframe` and `.span` (start and end of the range, as `2024-01-01T00:00:00Z`)
    identify the call of a CandleFetcher that the error ended. They are None where a call has none or several of them;
    the span also where the error came before start and end were known.

    `.cause` is the error that led to this one, if any; its own `.cause` is the one before that. Neither has a
    traceback: the log has them at level DEBUG.
    """

    cause: BaseException | None = None
    provider: str | None = None
    symbol: str | None = None
    timeframe: str | None = None
    span: tuple[str, str] | None = None


class InputError(CandleFetcherError, ValueError):
    """A setting, name or range that the caller can correct. The message says what is allowed."""

    _otherwise = "Correct it and call again"


class UnknownSymbol(InputError):
    """The provider refused the symbol. `.symbol`, `.provider`, `.closest` (names that it lists), `.fix`."""

    def __init__(self, symbol: str, provider: str, closest: Sequence[str] = ()) -> None:
        self.symbol = symbol
        self.provider = provider
        self.closest = tuple(closest)
        self.fix = f"did you mean {' or '.join(self.closest)}?" if closest else "symbols() lists those of the provider"
        super().__init__(f"{provider} does not know the symbol {symbol!r}; {self.fix}")


class UnknownArgument(InputError, TypeError):
    """A call has no argument of that name. `.name`, `.meant` (the argument that serves the purpose), `.fix`."""

    def __init__(self, call: str, name: str, allowed: Iterable[str], meant: str | None = None) -> None:
        names = list(allowed)
        self.name = name
        self.meant = meant or nearest(name, names)
        self.fix = f"use {self.meant!r}" if self.meant else f"expected some of {', '.join(names)}"
        super().__init__(f"{call} has no argument {name!r}; {self.fix}")


class NotOffered(InputError):
    """The provider has no such feed, or not for this series."""

    fix = "Choose another kind, source or provider"


class SourceError(CandleFetcherError):
    """A source was asked and could not answer."""


class TransportError(SourceError):
    """No complete reply arrived in time.

    `.attempts`, `.status` (the last one, if any), `.reached` (False where no connection could be made).
    """

    fix = "Check the network with candle-fetcher doctor, or try again later"

    def __init__(self, message: str, *, attempts: int = 1, status: int | None = None, reached: bool = True) -> None:
        self.attempts = attempts
        self.status = status
        self.reached = reached
        super().__init__(message)


class RateLimited(SourceError):
    """The provider asked for a pause.

    `.retry_after_s` is its length, None where the provider did not say; `.status` is that of the reply.
    """

    status: int | None = None

    fix = "Wait that long, and check whether other programs send requests from this address"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Banned(RateLimited):
    """The address is banned. `.until` (UTC); nothing is sent before that time."""

    fix = "Wait until then, and check which programs at this address send too many requests"

    def __init__(self, message: str, *, until: dt.datetime, retry_after_s: float | None = None) -> None:
        self.until = until
        super().__init__(message, retry_after_s=retry_after_s)


class AccessDenied(SourceError):
    """A key, a firewall or a region prevents access. `.status`; `.fix` says what helps."""

    def __init__(self, message: str, *, fix: str, status: int | None = None) -> None:
        self.fix = fix
        self.status = status
        super().__init__(f"{message}. {fix}")


class ProviderRefused(SourceError):
    """The provider understood the request and refused it. `.status`, `.code`, `.message` as sent."""

    fix = "Change the call as the provider says; the same call would be refused again"
    head: Any = None  # the times of the reply, set by the client

    def __init__(self, message: str, *, status: int, code: int | str | None = None, said: str = "") -> None:
        self.status = status
        self.code = code
        self.message = said
        super().__init__(message)


class ReplyError(SourceError):
    """The reply was cut, cannot be decoded or is wrong. The message shows the wrong value, or how the reply begins."""

    fix = "Try again later, and check whether a proxy changes the replies"


class IncompleteData(CandleFetcherError):
    """Part of the range could not be fetched. A partial result is never returned as a complete one.

    `.frame` holds what arrived, `.missing` the spans without an answer (each with `first`, `last`,
    `count`, `cause`), `.refusals` the errors of the sources, the last of them also as `.cause`; `.fix` says
    what helps.
    """

    def __init__(
        self,
        message: str,
        *,
        frame: pd.DataFrame | None = None,
        missing: Sequence[Gap] = (),
        refusals: Sequence[SourceError] = (),
        fix: str = "Call again, or allow more sources; .frame holds what arrived",
    ) -> None:
        self.fix = fix
        self.frame = frame
        self.missing = tuple(missing)
        self.refusals = tuple(refusals)
        super().__init__(message)


class FetchManyError(CandleFetcherError):
    """Some symbols failed. `.frames` has the others; `.errors` has the errors by symbol.

    Of an update of a vault, `.report` is the table of all series, and there are no frames.
    """

    fix = ".frames holds the other frames, and .errors the error of each symbol"

    def __init__(
        self,
        frames: Mapping[str, pd.DataFrame],
        errors: Mapping[str, Exception],
        report: pd.DataFrame | None = None,
    ) -> None:
        self.frames = dict(frames)
        self.errors = dict(errors)
        self.report = report
        count, what = len(self.frames) + len(self.errors), "symbols"
        if report is not None:
            vars(self)["fix"] = ".report has a row for each series, and .errors the error of each that failed"
            count, what = len(report), "series"
        CandleFetcherError.__init__(self, f"{len(self.errors)} of {count} {what} failed: {self._why()}")

    def _why(self) -> str:
        """Return the first symbols that failed and why, each class of errors once."""
        if len(self.errors) == 1:
            return "".join(f"{symbol}: {error}" for symbol, error in self.errors.items())
        groups: dict[type[Exception], list[str]] = {}
        for symbol, error in self.errors.items():
            groups.setdefault(type(error), []).append(symbol)
        shown = []
        for kind, symbols in groups.items():
            first = self.errors[symbols[0]]
            names = ", ".join(symbols[:3]) + (f" and {len(symbols) - 3} more" if len(symbols) > 3 else "")
            shown.append(f"{names}: {kind.__name__} ({getattr(first, 'reason', first)})")
        return "; ".join(shown)


class WorkerError(CandleFetcherError):
    """A worker of an executor ended before its series was done, or could not begin it.

    `.cause` is the executor's error. Where one process of a ProcessPoolExecutor is killed, all its other jobs fail too.
    """

    fix = (
        "Make the call again, with a new executor if this one is broken: what has arrived is in the cache or the vault "
        "and is not fetched again"
    )


class OutOfMemory(CandleFetcherError, MemoryError):
    """The memory of this machine does not hold an answer.

    `.rows` is how many rows the frame that was wanted has at most, and `.bytes` what they take while it is made. Both
    are None where the range was not known yet. `.fix` says what to do.
    """

    fix = (
        "iter_frames gives the same candles in parts, and export writes them to a file: both need little memory, "
        "however many rows there are"
    )

    def __new__(cls, *arguments: object, **_: object) -> OutOfMemory:
        return Exception.__new__(cls, *arguments)  # that of MemoryError is not for a class with two bases

    def __init__(self, what: str, rows: int | None = None, fix: str | None = None) -> None:
        self.fix = fix or self.fix
        self.rows = rows
        self.bytes = None if rows is None else rows * ROW_BYTES
        wanted = "" if self.bytes is None else f": {rows:,} rows, about {size_text(self.bytes)} while the frame is made"
        super().__init__(f"there is not enough memory for {what}{wanted}; {self.fix}")


class FetchManyOutOfMemory(FetchManyError, OutOfMemory):
    """A FetchManyError in which the memory did not hold at least one of the frames: it is an OutOfMemory, too.

    `.rows` and `.bytes` are those of the first one that was too large. `.frames` holds the others.
    """

    fix = (
        ".frames holds the other frames; iter_frames gives the same candles in parts, and export writes them to a file"
    )

    def __init__(
        self,
        frames: Mapping[str, pd.DataFrame],
        errors: Mapping[str, Exception],
        report: pd.DataFrame | None = None,
    ) -> None:
        FetchManyError.__init__(self, frames, errors, report)
        first = next((one for one in errors.values() if isinstance(one, OutOfMemory)), None)
        self.rows = None if first is None else first.rows
        self.bytes = None if first is None else first.bytes


class BadFile(CandleFetcherError):
    """A file is damaged or incomplete, or cannot be read. `.fix` says what to do in this case."""

    fix = "Create it again, or use a complete copy"

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.fix = fix or self.fix


class CacheError(CandleFetcherError):
    """The cache cannot be opened or written."""

    fix = "Choose another cache_dir"


class MissingExtra(CandleFetcherError):
    """An optional package is not installed.

    `.extra` names the extra of this package that brings it, or the package itself; `.fix` is the install command.
    """

    def __init__(self, extra: str, purpose: str, *, is_package: bool = False) -> None:
        self.extra = extra
        self.fix = f"pip install {extra}" if is_package else f'pip install "candle-fetcher[{extra}]"'
        super().__init__(f"{purpose} needs an optional package: {self.fix}")


class CandleFetcherWarning(_Prescribes, UserWarning):
    """Base of all warnings of this library. `.fix` says what to do."""


class CacheWarning(CandleFetcherWarning):
    """The cache works less well than it should; results are not affected."""

    fix = "Run candle-fetcher doctor, which checks the cache"


class ClockSkew(CandleFetcherWarning):
    """This machine's clock differs from the provider's, which decides."""

    fix = "set this machine's clock"


class ArchiveMismatch(CandleFetcherWarning):
    """A file of a provider's archive does not match its checksum or its name, or is malformed, and was not used."""

    fix = "No action is needed: REST serves these candles where it may, and the manifest lists the file in `rejected`"


class About(NamedTuple):
    """The series and range of a call, as far as known, which become attributes of its errors."""

    provider: str | None = None
    symbol: str | None = None
    timeframe: str | None = None
    span: tuple[str, str] | None = None


@contextlib.contextmanager
def completing_errors(about: Callable[[], About]) -> Iterator[None]:
    """Add to an error that leaves the block the facts that it lacks."""
    try:
        yield
    except CandleFetcherError as error:
        complete_error(error, about())
        raise
    except (MemoryError, OSError) as error:
        if not lacks_memory(error):
            raise
        raise _out_of_memory(about()) from error


def lacks_memory(error: MemoryError | OSError) -> bool:
    """Return whether the system says by this error that there is not enough memory."""
    return isinstance(error, MemoryError) or error.errno == errno.ENOMEM


def _out_of_memory(about: About) -> OutOfMemory:
    from candle_fetcher.core.memory import out_of_memory  # which imports this module

    return out_of_memory(about)


@contextlib.contextmanager
def naming_errors(about: Callable[[], About]) -> Iterator[None]:
    """Add the facts of the call to an error that leaves the block, and to its causes.

    Calls that waited for the same reply fail with the same error object. The first of them adds its facts to it; the
    others raise copies with their own facts.
    """
    try:
        yield
    except CandleFetcherError as error:
        facts = about()
        cause = _named(error.__cause__, facts) if isinstance(error.__cause__, SourceError) else error.__cause__
        if isinstance(error, SourceError):
            own: CandleFetcherError = _named(error, facts)
        else:
            own = error
            complete_error(error, facts)
        if isinstance(error, IncompleteData):
            error.refusals = tuple(
                cause if one is error.__cause__ and isinstance(cause, SourceError) else _named(one, facts)
                for one in error.refusals
            )
        if own is error and cause is error.__cause__:
            raise
        raise own.with_traceback(error.__traceback__) from cause
    except (MemoryError, OSError) as error:
        if not lacks_memory(error):
            raise
        raise _out_of_memory(about()) from error


def _named(error: SourceError, about: About) -> SourceError:
    """Return the error with these facts; a copy if it already has the facts of another call."""
    complete_error(error, about)
    if (error.provider, error.symbol, error.timeframe, error.span) == about:
        return error
    own = copy.copy(error)
    vars(own).update(about._asdict())
    own.__cause__ = error.__cause__
    return own


def complete_error(error: CandleFetcherError, about: About) -> None:
    """Add the facts that the error lacks."""
    for name, value in about._asdict().items():
        if value is not None and getattr(error, name) is None:
            vars(error).setdefault(name, value)  # in one step, beside other threads


def shown(value: object) -> str:
    """Return the value for a message: on one line, and cut if it is long.

    Never raises, although `repr` may, as for integers with more digits than sys.set_int_max_str_digits allows.
    """
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a value that cannot be shown must not replace the error that shows it
        return f"(of type {type(value).__name__}, which cannot be shown)"
    return _cut(text if text.isprintable() else " ".join(text.split()))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def unknown(what: str, value: object, allowed: Iterable[str]) -> InputError:
    """Return the InputError for a name that is not among the allowed ones, with the closest match."""
    names = list(allowed)
    close = nearest(value, names) if isinstance(value, str) else None
    listed = ", ".join(names)
    if close and len(listed) > _MOST_LISTED:
        return InputError(f"unknown {what} {shown(value)}, which is none of {len(names)}; did you mean {close!r}?")
    hint = f" Did you mean {close!r}?" if close else ""
    return InputError(f"unknown {what} {shown(value)}; expected one of {listed}.{hint}")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that is most similar to the given one, in any case; None where none is similar."""
    import difflib  # needed for an error only, and not at every import

    lowered = {one.lower(): one for one in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=NEAR)
    return lowered[close[0]] if close else None


def warn(warning: CandleFetcherWarning) -> None:
    """Issue the warning at the line outside this package that made the call, in the thread that made it."""
    _deliver(_issue, warning)


def warn_once(warned: set[str], kind: str, warning: CandleFetcherWarning) -> None:
    """Issue the warning, unless one of its kind is in `warned`; then it is."""
    if kind not in warned:
        warned.add(kind)
        warn(warning)


@contextlib.contextmanager
def collecting_warnings() -> Iterator[list[CandleFetcherWarning]]:
    """Give a list of the warnings of calls that this thread makes in the block, which are not issued here."""
    collected: list[CandleFetcherWarning] = []
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)


def _issue(warning: CandleFetcherWarning) -> None:
    collected = _collected.get()
    if collected is not None:
        collected.append(warning)
        return
    if _SKIPS_FILES:
        warnings.warn(warning, skip_file_prefixes=_INSIDE)  # type: ignore[call-arg, unused-ignore]
        return
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    warnings.warn(warning, stacklevel=level)


def deliver_warnings_by(deliver: Callable[[Callable[[Any], None], Any], object]) -> None:
    """Pass each warning to `deliver(issue, warning)`, which calls `issue` in the thread that made the call."""
    global _deliver  # noqa: PLW0603 (the threads are those of a higher floor)
    _deliver = deliver


def _deliver_here(issue: Callable[[Any], None], warning: Any) -> None:
    issue(warning)


_deliver: Callable[[Callable[[Any], None], Any], object] = _deliver_here
