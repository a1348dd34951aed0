"""A real kernel, as JupyterLab and VS Code start one: cells are run in it, and what they show comes back."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Message(NamedTuple):
    """A message of the kernel, such as `display_data`, and its content."""

    kind: str
    content: dict[str, Any]


class Kernel:
    """A kernel that runs cells."""

    def __init__(self, manager: Any, client: Any) -> None:
        self._manager, self._client = manager, client

    def run(self, code: str, interrupt_when: Callable[[], bool] | None = None) -> list[Message]:
        """What a cell sends to its page: outputs, updates of them, and comm messages; an error is an output, too.

        The kernel is interrupted as soon as `interrupt_when` says so.
        """
        asked = self._client.execute(code)
        if interrupt_when is not None:
            ends_s = time.monotonic() + 30
            while not interrupt_when():
                assert time.monotonic() < ends_s, "the cell never came so far"
                time.sleep(0.01)
            self._manager.interrupt_kernel()
        shown = []
        while True:
            message = self._client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return shown
            if kind not in ("status", "execute_input"):
                shown.append(Message(kind, content))

    def show(self, code: str) -> dict[str, str]:
        """The result of the cell's last line by MIME type."""
        messages = self.run(code)
        assert [message.kind for message in messages] == ["execute_result"], messages
        data: dict[str, str] = messages[0].content["data"]
        return data


@contextlib.contextmanager
def kernel(folder: Path, **environment: str) -> Iterator[Kernel]:
    """A kernel whose working folder is this one. Skips the test where ipykernel is not installed."""
    pytest.importorskip("ipykernel", reason="a real kernel needs ipykernel")
    manager = pytest.importorskip("jupyter_client.manager", reason="a real kernel needs jupyter_client")
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    started, client = manager.start_new_kernel(kernel_name="python3", env=settings, cwd=str(folder))
    try:
        yield Kernel(started, client)
    finally:
        client.stop_channels()
        started.shutdown_kernel(now=True)
