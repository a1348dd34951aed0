"""Every error and warning of the library. The tree:

    CandleFetcherError
      InputError (also ValueError)   the caller can fix it: setting, provider, timeframe, range
        UnknownSymbol                the provider refused the symbol; with the closest names
        UnknownArgument (also TypeError)   a call has no such keyword; with the one that it has
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
      BadFile                        a file of ours that is not whole
      CacheError                     the store cannot be opened or written
      MissingExtra                   .extra; the install line is the message
    CandleFetcherWarning: CacheWarning, ClockSkew, ArchiveMismatch

`.provider`, `.symbol`, `.timeframe` and `.span` say what an error is about that a call raised; None where it is about
none or several.

A message says what happened, shows the value and what was expected, and ends with what to do, which is also `.fix`.
The facts are attributes.
"""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

# Characters of a value in a message.
_MOST_SHOWN = 200
# A name is near to another where so much of both is alike: `biannce` to `binance`, but not `coinbase` to `coingecko`.
NEAR = 0.7
# Files whose lines are not the caller's: those of this package, and what stands between two of its functions.
_SKIPS_FILES = sys.version_info >= (3, 12)  # whether `warnings` leaves such lines out by itself
_INSIDE = (__file__.rpartition("core")[0], contextlib.__file__)


class _Prescribes:
    """`.fix` is a sentence on what to do, and always part of the message: that of the class, else what stands behind
    the semicolon of a message `what; what to do`, else `_otherwise`."""

    fix: str = ""
    _otherwise = "candle-fetcher doctor shows what is in the way"

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.fix = self.fix or str(arguments[0] if arguments else "").partition("; ")[2] or self._otherwise

    @property
    def reason(self) -> str:
        """The message without what to do: for another error that shows this one."""
        said, fix = super().__str__(), self.fix
        return said.removesuffix(fix).rstrip("; .") if fix and said.endswith(fix) else said

    def __str__(self) -> str:
        said = super().__str__()
        if self.fix in said:
            return said
        return f"{said} {self.fix}" if said.endswith((".", "?")) else f"{said}. {self.fix}"

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException would call the class with the message alone, which those made of facts do not take.
        return _restore, (type(self), getattr(self, "args", ()), self.__dict__)


def _restore(kind: type[Any], arguments: tuple[object, ...], facts: dict[str, Any]) -> Any:
    """The error as it was before it was copied, or sent to another process."""
    error: Any = kind.__new__(kind, *arguments)
    error.__dict__.update(facts)
    return error


class CandleFetcherError(_Prescribes, Exception):
    """Anything this library raises on purpose. `.fix` says what to do.

    `.provider` (its id), `.symbol`, `.timeframe` and `.span` (start and end of the range, as `2024-01-01T00:00:00Z`)
    say which call of a CandleFetcher it ended. None where the call has none or several of them; the span also where
    the error came before its start and end were known.
    """

    provider: str | None = None
    symbol: str | None = None
    timeframe: str | None = None
    span: tuple[str, str] | None = None


class InputError(CandleFetcherError, ValueError):
    """The caller can fix it: a setting, a name or a range. The message says what is allowed."""

    _otherwise = "Correct it and call again"


class UnknownSymbol(InputError):
    """The provider refused the symbol. `.symbol`, `.provider`, `.closest` (names it does list), `.fix`."""

    def __init__(self, symbol: str, provider: str, closest: Sequence[str] = ()) -> None:
        self.symbol = symbol
        self.provider = provider
        self.closest = tuple(closest)
        self.fix = f"did you mean {' or '.join(self.closest)}?" if closest else "symbols() lists those that it knows"
        super().__init__(f"{provider} does not know the symbol {symbol!r}; {self.fix}")


class UnknownArgument(InputError, TypeError):
    """A call has no argument of that name. `.name`, `.meant` (the one that it has for the
    purpose, if any), `.fix`."""

    def __init__(self, call: str, name: str, allowed: Iterable[str], meant: str | None = None) -> None:
        names = list(allowed)
        self.name = name
        self.meant = meant or nearest(name, names)
        known = f"expected some of {', '.join(names)}"
        self.fix = f"use {self.meant!r}; {known}" if self.meant else known
        super().__init__(f"{call} has no argument {name!r}; {self.fix}")


class NotOffered(InputError):
    """The provider has no such feed, or none here."""

    fix = "Choose another kind, source or provider"


class SourceError(CandleFetcherError):
    """A source was asked and could not answer."""


class TransportError(SourceError):
    """No whole reply arrived in time. `.attempts`, `.status` (the last one, if any), `.reached` (False where no
    connection could be made at all)."""

    fix = "Look at the network (candle-fetcher doctor does), or try again later"

    def __init__(self, message: str, *, attempts: int = 1, status: int | None = None, reached: bool = True) -> None:
        self.attempts = attempts
        self.status = status
        self.reached = reached
        super().__init__(message)


class RateLimited(SourceError):
    """The provider asked for a pause. `.retry_after_s` seconds, None where it did not say; `.status` of the reply."""

    status: int | None = None

    fix = "Wait for that long, and see whether other programs use this address"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Banned(RateLimited):
    """The address is banned. `.until` (UTC); nothing is sent before."""

    fix = "Wait until then, and see which programs on this address send too much"

    def __init__(self, message: str, *, until: dt.datetime, retry_after_s: float | None = None) -> None:
        self.until = until
        super().__init__(message, retry_after_s=retry_after_s)


class AccessDenied(SourceError):
    """A key, a firewall or a region is in the way. `.status`, `.fix` says what helps."""

    def __init__(self, message: str, *, fix: str, status: int | None = None) -> None:
        self.fix = fix
        self.status = status
        super().__init__(f"{message}. {fix}")


class ProviderRefused(SourceError):
    """The provider understood and said no. `.status`, `.code`, `.message` as it sent them."""

    fix = "Change the call as the provider's words say; the same one would be refused again"

    def __init__(self, message: str, *, status: int, code: int | str | None = None, said: str = "") -> None:
        self.status = status
        self.code = code
        self.message = said
        super().__init__(message)


class ReplyError(SourceError):
    """The reply was cut, undecodable or wrong; the message shows what came."""

    fix = "Try again later; look for a proxy on the way"


class IncompleteData(CandleFetcherError):
    """Part of the range could not be had. Nothing partial is ever returned as whole.

    `.frame` holds what there is, `.missing` the spans without an answer (each with `first`, `last`,
    `count`, `cause`), `.refusals` the errors of the sources, the last of them also as `__cause__`; `.fix` says
    what helps.
    """

    def __init__(
        self,
        message: str,
        *,
        frame: Any = None,
        missing: Sequence[Any] = (),
        refusals: Sequence[SourceError] = (),
        fix: str = "Call it again, or let more sources be asked; .frame holds what there is",
    ) -> None:
        self.fix = fix
        self.frame = frame
        self.missing = tuple(missing)
        self.refusals = tuple(refusals)
        super().__init__(message)


class FetchManyError(CandleFetcherError):
    """Some symbols failed. `.frames` has the others, `.errors` says why, by symbol."""

    fix = "Use .frames, and do for each failed symbol what .errors says"

    def __init__(self, frames: Mapping[str, Any], errors: Mapping[str, Exception]) -> None:
        self.frames = dict(frames)
        self.errors = dict(errors)
        shown = "; ".join(f"{symbol}: {error}" for symbol, error in list(self.errors.items())[:3])
        more = f"; and {len(self.errors) - 3} more" if len(self.errors) > 3 else ""
        super().__init__(f"{len(self.errors)} of {len(self.frames) + len(self.errors)} symbols failed: {shown}{more}")


class BadFile(CandleFetcherError):
    """A file of ours is not whole."""

    fix = "Make it anew, or take a copy that is whole"


class CacheError(CandleFetcherError):
    """The store cannot be opened or written."""

    fix = "Choose another cache_dir"


class MissingExtra(CandleFetcherError):
    """An optional package is not installed. `.extra` names the extra that brings it, `.fix` is the line that does."""

    def __init__(self, extra: str, purpose: str) -> None:
        self.extra = extra
        self.fix = f'pip install "candle-fetcher[{extra}]"'
        super().__init__(f"{purpose} needs an optional package: {self.fix}")


class CandleFetcherWarning(_Prescribes, UserWarning):
    """Anything this library warns about. `.fix` says what to do."""


class CacheWarning(CandleFetcherWarning):
    """The cache works less well than it should; results are not affected."""

    fix = "candle-fetcher doctor looks into the cache"


class ClockSkew(CandleFetcherWarning):
    """This machine's clock and the provider's disagree; the provider's decides."""

    fix = "set this machine's clock"


class ArchiveMismatch(CandleFetcherWarning):
    """A file of a provider's archive contradicts its checksum, its name or itself, and was not used."""

    fix = "Nothing needs doing: REST is asked instead where it may be, and the manifest names the file in `rejected`"


class About(NamedTuple):
    """What a call is about, as far as that is known: the attributes of its errors."""

    provider: str | None = None
    symbol: str | None = None
    timeframe: str | None = None
    span: tuple[str, str] | None = None


@contextlib.contextmanager
def completing_errors(about: Callable[[], About]) -> Iterator[None]:
    """Give an error that leaves the block the facts that it does not have yet."""
    try:
        yield
    except CandleFetcherError as error:
        _complete(error, about())
        raise


@contextlib.contextmanager
def naming_errors(about: Callable[[], About]) -> Iterator[None]:
    """Give an error that leaves the block its facts, and those that it came of.

    Calls that waited for one reply fail with one and the same error: a later one raises a copy with its own facts.
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
            _complete(error, facts)
        if isinstance(error, IncompleteData):
            error.refusals = tuple(
                cause if one is error.__cause__ and isinstance(cause, SourceError) else _named(one, facts)
                for one in error.refusals
            )
        if own is error and cause is error.__cause__:
            raise
        raise own.with_traceback(error.__traceback__) from cause


def _named(error: SourceError, about: About) -> SourceError:
    """Return the error with these facts; a copy where it has those of another call."""
    _complete(error, about)
    if (error.provider, error.symbol, error.timeframe, error.span) == about:
        return error
    own = copy.copy(error)
    vars(own).update(about._asdict())
    own.__cause__ = error.__cause__
    return own


def _complete(error: CandleFetcherError, about: About) -> None:
    for name, value in about._asdict().items():
        if value is not None and getattr(error, name) is None:
            vars(error).setdefault(name, value)  # in one step, beside other threads


def shown(value: object) -> str:
    """The value as a message shows it: on a line, and not the whole of what is long.

    It never raises, as `repr` does of an integer with more digits than Python writes (sys.set_int_max_str_digits).
    """
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - whatever it is, it is wrong, and that is what is to be said
        return f"(of type {type(value).__name__}, which cannot be shown)"
    text = text if text.isprintable() else " ".join(text.split())
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def unknown(what: str, value: object, allowed: Iterable[str]) -> InputError:
    """The InputError for a name that is not among the allowed ones, with the closest match."""
    names = list(allowed)
    close = nearest(value, names) if isinstance(value, str) else None
    hint = f" Did you mean {close!r}?" if close else ""
    return InputError(f"unknown {what} {shown(value)}; expected one of {', '.join(names)}.{hint}")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that is most like the given one, whatever its case; None where none is near."""
    import difflib  # when something is wrong, and not at every import

    lowered = {one.lower(): one for one in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=NEAR)
    return lowered[close[0]] if close else None


def warn(warning: CandleFetcherWarning) -> None:
    """Issue the warning at the line outside of this package that made the call, in the thread that made it."""
    _deliver(_issue, warning)


def _issue(warning: CandleFetcherWarning) -> None:
    if _SKIPS_FILES:
        warnings.warn(warning, skip_file_prefixes=_INSIDE)  # type: ignore[call-arg, unused-ignore]
        return
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    warnings.warn(warning, stacklevel=level)


def deliver_warnings_by(deliver: Callable[[Callable[[Any], None], Any], object]) -> None:
    """Have each warning handed to `deliver(issue, warning)`, which calls `issue` in the thread that made the call."""
    global _deliver  # noqa: PLW0603 (the threads are those of a higher floor)
    _deliver = deliver


def _deliver_here(issue: Callable[[Any], None], warning: Any) -> None:
    issue(warning)


_deliver: Callable[[Callable[[Any], None], Any], object] = _deliver_here
