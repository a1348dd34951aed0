"""The functions of the package: methods of one CandleFetcher, made at the first call and closed at exit."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.fetcher import CandleFetcher

P = ParamSpec("P")
Result = TypeVar("Result")

_shared: list[CandleFetcher] = []


def _of_package(method: Callable[Concatenate[CandleFetcher, P], Result]) -> Callable[P, Result]:
    """Return the method as a function of the package, with the signature that it has behind `self`."""

    checked: Callable[Concatenate[CandleFetcher, P], Result] = method.__wrapped__  # type: ignore[attr-defined]

    @short_errors
    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> Result:
        if not _shared:
            # Without a lock, for which a signal handler could wait; a second fetcher does no harm.
            _shared.append(CandleFetcher())
        return checked(_shared[0], *args, **kwargs)

    signature = inspect.signature(method)
    made: Any = call
    made.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
    made.__qualname__ = method.__name__
    return call


fetch = _of_package(CandleFetcher.fetch)
fetch_many = _of_package(CandleFetcher.fetch_many)
export = _of_package(CandleFetcher.export)
plan = _of_package(CandleFetcher.plan)
gaps = _of_package(CandleFetcher.gaps)
symbols = _of_package(CandleFetcher.symbols)
