"""What is sent and what came back, as values. Providers build Calls, the transport turns a Call into a Reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Call(NamedTuple):
    """One GET below a provider's root URL. `cost` is its weight in the provider's budget."""

    path: str
    params: tuple[tuple[str, str], ...] = ()
    cost: int = 1
    headers: tuple[tuple[str, str], ...] = ()


class Reply(NamedTuple):
    """A whole reply: decoded body, header names in lower case, seconds from sending to the last byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


class Limit(NamedTuple):
    """`cost` units may be spent in each whole interval of the provider's clock."""

    cost: int
    interval_s: int
    kind: str = "weight"  # "weight" counts Call.cost, "requests" counts calls
