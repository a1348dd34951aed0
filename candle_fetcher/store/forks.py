"""Keeps a fork away while threads use the cache.

The child of a fork has no thread but the one that forked: a lock that another thread held, in Python, in its imports or
deep inside SQLite, would stay locked there. And the file locks of a process are not its child's, although the child's
copy of SQLite would believe so. Hence a fork waits for the work that is under way, and no connection lives through it.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

FORK_S = 30.0  # how long a fork waits for the work under way


class _Suspendable(Protocol):
    def suspend(self) -> None:
        """Close what must not live through a fork."""


class _ForkGuard:
    """Counts the threads that use a database. A fork waits until there is none, and suspends all `suspendable`."""

    def __init__(self) -> None:
        self.suspendable: weakref.WeakSet[_Suspendable] = weakref.WeakSet()
        self._local = threading.local()  # .depth of this thread's nested uses
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = self._forks = 0

    def enter(self) -> None:
        """Keep forks by other threads away until `leave`. Calls may be nested."""
        depth: int = getattr(self._local, "depth", 0)
        if not depth:
            with self._lock:
                if self._forks:
                    self._changed.wait_for(lambda: not self._forks)
                self._inside += 1
        self._local.depth = depth + 1

    def leave(self) -> None:
        """End what `enter` began."""
        depth = self._local.depth = self._local.depth - 1
        if not depth:
            with self._lock:
                self._inside -= 1
                if self._forks:
                    self._changed.notify_all()

    def before_fork(self) -> None:
        """Hold the lock from here on, so that the child finds everything in order."""
        own = min(1, getattr(self._local, "depth", 0))
        self._lock.acquire()
        self._forks += 1
        self._changed.wait_for(lambda: self._inside <= own, timeout=FORK_S)
        for one in list(self.suspendable):
            one.suspend()

    def after_in_parent(self) -> None:
        self._forks -= 1
        self._changed.notify_all()
        self._lock.release()

    def after_in_child(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = min(1, getattr(self._local, "depth", 0))
        self._forks = 0


fork_guard = _ForkGuard()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=fork_guard.before_fork,
        after_in_parent=fork_guard.after_in_parent,
        after_in_child=fork_guard.after_in_child,
    )
