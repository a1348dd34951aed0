"""Hosts that keep failing, and for how long no request is sent to them."""

from __future__ import annotations

import threading


class HostGate:
    """Closes a host for `cool_s` seconds after `failures` failed calls in a row; then one failure closes it again."""

    def __init__(self, *, failures: int = 3, cool_s: float = 30.0) -> None:
        self._failures = failures
        self._cool_s = cool_s
        self._lock = threading.Lock()
        self._hosts: dict[str, tuple[int, float]] = {}  # failures in a row, closed until

    def is_open(self, host: str, now_s: float) -> bool:
        """Return whether requests may be sent to the host."""
        return self.wait_s(host, now_s) <= 0

    def wait_s(self, host: str, now_s: float) -> float:
        """Return the seconds until requests may be sent to the host; 0.0 where they may now."""
        until_s = self._hosts.get(host, (0, 0.0))[1]
        return min(max(0.0, until_s - now_s), self._cool_s)

    def failed(self, host: str, now_s: float) -> None:
        """Note that a call to the host failed."""
        with self._lock:
            failures = self._hosts.get(host, (0, 0.0))[0] + 1
            self._hosts[host] = (failures, now_s + self._cool_s if failures >= self._failures else 0.0)

    def ok(self, host: str) -> None:
        """Note that the host answered."""
        if host not in self._hosts:
            return
        with self._lock:
            self._hosts.pop(host, None)
