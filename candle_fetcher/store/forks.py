"""Forks while threads use the cache.

A child has no thread but the one that forked: what another thread was holding, in Python, in its imports or deep inside
SQLite, would be held for ever there. And the file locks of a process are not its child's, although the child's copy of
SQLite would believe so. Hence a fork waits for what is under way, and no connection lives through it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Protocol

FORK_S = 30.0  # how long a fork waits for what is under way


class _Rests(Protocol):
    def rest(self) -> None:
        """Lets go of what must not live through a fork."""


class _Gate:
    """Whoever uses a database is inside; a fork waits until nobody is. `resting` are told before."""

    def __init__(self) -> None:
        self.resting: weakref.WeakSet[_Rests] = weakref.WeakSet()
        self._depth = threading.local()
        self._turn = threading.Condition(threading.Lock())
        self._inside = self._forks = 0

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """No fork meanwhile, but by the same thread."""
        depth: int = getattr(self._depth, "value", 0)
        if not depth:
            with self._turn:
                self._turn.wait_for(lambda: not self._forks)
                self._inside += 1
        self._depth.value = depth + 1
        try:
            yield
        finally:
            self._depth.value = depth
            if not depth:
                with self._turn:
                    self._inside -= 1
                    if self._forks:
                        self._turn.notify_all()

    def before_fork(self) -> None:
        """Holds the turn from here on, so that the child finds everything in order."""
        own = min(1, getattr(self._depth, "value", 0))
        self._turn.acquire()
        self._forks += 1
        self._turn.wait_for(lambda: self._inside <= own, timeout=FORK_S)
        for one in list(self.resting):
            one.rest()

    def after_in_parent(self) -> None:
        self._forks -= 1
        self._turn.notify_all()
        self._turn.release()

    def after_in_child(self) -> None:
        self._turn = threading.Condition(threading.Lock())
        self._inside = min(1, getattr(self._depth, "value", 0))
        self._forks = 0


gate = _Gate()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=gate.before_fork, after_in_parent=gate.after_in_parent, after_in_child=gate.after_in_child
    )
