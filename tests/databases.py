"""Databases for vaults: files of SQLite and DuckDB, and a PostgreSQL server in a temporary folder."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

KINDS = ("sqlite", "duckdb", pytest.param("postgresql", marks=pytest.mark.slow))  # a server takes seconds to start


def find_postgres() -> Path | None:
    """Return the folder of PostgreSQL's programs, the newest where there are several; None without any."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: int(one.parent.name.partition(".")[0]))
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else folders
    return next((one for one in reversed(folders) if (one / "initdb").exists()), None)


def _prefix() -> list[str]:
    """What a command begins with that must not be run by root, as the server must not."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return []
    for user in ("postgres", "daemon"):
        words = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([*words, "true"], check=True, capture_output=True)
            return words
    pytest.skip("the server refuses to run as root, and no other user was found for it")


class Postgres:
    """A server on a Unix socket, in a folder of its own."""

    def __init__(self) -> None:
        programs = find_postgres()
        if programs is None:
            pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
        self._programs, self._prefix = programs, _prefix()
        self.folder = Path(tempfile.mkdtemp(prefix="pg"))
        self._names = (f"test{number}" for number in itertools.count())
        if self._prefix:
            self.folder.chmod(0o777)
        words = ["-D", self.folder / "data", "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C"]
        made = subprocess.run([*self._prefix, programs / "initdb", *words], capture_output=True, text=True, check=False)
        if made.returncode:
            shutil.rmtree(self.folder, ignore_errors=True)
            pytest.skip(f"initdb failed: {made.stderr[-300:]}")
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        words = ["-D", self.folder / "data", "-k", self.folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        log = (self.folder / "log").open("ab")
        self.server = subprocess.Popen([*self._prefix, self._programs / "postgres", *words], stdout=log, stderr=log)
        log.close()
        self.wait()

    def wait(self) -> None:
        """Wait until the server answers."""
        import psycopg

        until = time.monotonic() + 60
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if self.server.poll() is not None:
                    pytest.skip(f"the server did not start: {(self.folder / 'log').read_text()[-300:]}")
                assert time.monotonic() < until
                time.sleep(0.05)

    def connect(self, database: str = "postgres"):  # type: ignore[no-untyped-def]
        """Return a connection that commits each statement."""
        import psycopg

        return psycopg.connect(host=str(self.folder), user="postgres", dbname=database, autocommit=True)

    def url(self) -> str:
        """Return the URL of a new database."""
        name = next(self._names)
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres:hidden-word@/{name}?host={self.folder}"

    def stop(self) -> None:
        """Stop the server, and remove its folder."""
        self.server.send_signal(signal.SIGINT)
        self.server.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def serving() -> Iterator[Postgres]:
    """Give a server for a block."""
    server = Postgres()
    try:
        yield server
    finally:
        server.stop()
