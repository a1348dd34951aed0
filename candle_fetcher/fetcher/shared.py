"""The functions of the package: methods of one CandleFetcher, made at the first call and closed at exit."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.fetcher import CandleFetcher

if TYPE_CHECKING:
    from candle_fetcher.typed import FetchCall, FetchManyCall

P = ParamSpec("P")
Result = TypeVar("Result")


@functools.cache  # without a lock, for which a signal handler could wait; a second fetcher does no harm
def shared_fetcher() -> CandleFetcher:
    return CandleFetcher()


def _of_package(method: Callable[Concatenate[CandleFetcher, P], Result]) -> Callable[P, Result]:
    """Return the method as a function of the package, with the signature that it has behind `self`."""

    checked: Callable[Concatenate[CandleFetcher, P], Result] = method.__wrapped__  # type: ignore[attr-defined]

    @short_errors
    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> Result:
        return checked(shared_fetcher(), *args, **kwargs)

    signature = inspect.signature(method)
    made: Any = call
    made.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
    made.__qualname__ = method.__name__
    return call


_methods: Any = CandleFetcher
fetch = cast("FetchCall", _of_package(_methods.fetch))
fetch_many = cast("FetchManyCall", _of_package(_methods.fetch_many))
export = _of_package(CandleFetcher.export)
plan = _of_package(CandleFetcher.plan)
gaps = _of_package(CandleFetcher.gaps)
quotes = _of_package(CandleFetcher.quotes)
symbols = _of_package(CandleFetcher.symbols)
