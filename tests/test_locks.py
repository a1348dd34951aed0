"""KeyLocks: one holder among threads and processes, and none once the holder is dead."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import children
import pytest

from candle_fetcher.store import locks
from candle_fetcher.store.locks import KeyLocks

HOLDER = """
import sys
from pathlib import Path
from candle_fetcher.store.locks import KeyLocks
key_locks = KeyLocks(Path(sys.argv[1]))
print([key_locks.acquire(key) for key in sys.argv[2:]], flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holder(path: Path, *keys: str, program: str = HOLDER) -> Iterator[tuple[Any, str]]:
    """Another process that took the keys, and what it was told."""
    process = children.start(program, path, *keys)
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "claims.lock"


@pytest.fixture
def key_locks(path: Path) -> Iterator[KeyLocks]:
    made = KeyLocks(path)
    yield made
    made.close()


def test_a_claim_is_taken_once_until_it_is_freed(key_locks: KeyLocks) -> None:
    assert key_locks.acquire("a")
    assert not key_locks.acquire("a")
    assert key_locks.acquire("b")
    key_locks.release("a")
    assert key_locks.acquire("a")


def test_two_objects_of_one_process_exclude_each_other(key_locks: KeyLocks, path: Path) -> None:
    second = KeyLocks(path.parent / ".." / path.parent.name / path.name)
    assert key_locks.acquire("a")
    assert not second.acquire("a")
    second.release("a")  # not its own
    assert not second.acquire("a")
    key_locks.release("a")
    assert second.acquire("a")
    second.close()
    assert key_locks.acquire("a")


def test_another_process_is_excluded_and_excludes(key_locks: KeyLocks, path: Path) -> None:
    assert key_locks.acquire("ours")
    with holder(path, "ours", "theirs") as (_, told):
        assert told == "[False, True]"
        assert not key_locks.acquire("theirs")
        key_locks.release("ours")
        assert key_locks.acquire("ours")


def test_closing_one_object_keeps_what_another_one_holds(key_locks: KeyLocks, path: Path) -> None:
    second = KeyLocks(path)
    assert key_locks.acquire("a")
    assert second.acquire("b")
    second.close()
    second.close()
    with holder(path, "a", "b") as (_, told):
        assert told == "[False, True]"


@pytest.mark.fault("D23")
def test_what_a_killed_process_held_is_free_at_once(key_locks: KeyLocks, path: Path) -> None:
    with holder(path, "a") as (process, told):
        assert told == "[True]"
        assert not key_locks.acquire("a")
        process.kill()
        killed = time.monotonic()
        while not key_locks.acquire("a"):
            assert time.monotonic() < killed + 10
            time.sleep(0.005)


def test_close_frees_everything_and_leaves_no_descriptor(path: Path) -> None:
    before = descriptors()
    key_locks, second = KeyLocks(path), KeyLocks(path)
    assert key_locks.acquire("a")
    assert second.acquire("b")
    key_locks.close()
    second.close()
    assert descriptors() == before
    with holder(path, "a", "b") as (_, told):
        assert told == "[True, True]"
    assert key_locks.acquire("c")  # opens again
    key_locks.close()


def descriptors() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads, which is what is tested
def test_a_forked_child_has_no_claim_and_does_not_take_its_parents_along(key_locks: KeyLocks, path: Path) -> None:
    assert key_locks.acquire("a")
    with locks.find_lock_file(str(path)).turn:  # as if another thread were inside at that moment
        child = os.fork()
        if not child:
            answers = (key_locks.acquire("a"), key_locks.acquire("b"))
            key_locks.release("a")
            key_locks.close()
            os._exit(0 if answers == (False, True) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with holder(path, "a", "b") as (_, told):
        assert told == "[False, True]"


def test_of_many_threads_one_gets_each_claim(path: Path) -> None:
    objects = [KeyLocks(path) for _ in range(3)]
    start = threading.Barrier(24)

    def work(number: int) -> list[bool]:
        start.wait(timeout=10)
        return [objects[number % 3].acquire(f"key {at}") for at in range(50)]

    with ThreadPoolExecutor(24) as pool:
        won = list(pool.map(work, range(24)))
    assert [sum(column) for column in zip(*won, strict=True)] == [1] * 50
    for key_locks in objects:
        key_locks.close()


def test_a_lock_file_that_is_removed_is_made_again(key_locks: KeyLocks, path: Path) -> None:
    assert key_locks.acquire("a")
    path.unlink()
    assert key_locks.acquire("b")
    assert not key_locks.acquire("a")
    with holder(path, "b") as (_, told):
        assert told == "[False]"


@pytest.mark.parametrize("broken", ["a folder in its place", "a file as its folder", "a system without locks"])
def test_trouble_with_the_file_leaves_the_claims_of_this_process(
    path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken == "a folder in its place":
        path.mkdir(parents=True)
    elif broken == "a file as its folder":
        path.parent.touch()
    else:
        monkeypatch.setattr(locks, "fcntl", Unlockable())
    key_locks, second = KeyLocks(path), KeyLocks(path)
    assert key_locks.acquire("a")
    assert not second.acquire("a")
    key_locks.release("a")
    assert second.acquire("a")
    second.close()
    assert key_locks.acquire("a")
    key_locks.close()


class Unlockable:
    """A file system that knows no locks."""

    LOCK_EX = LOCK_NB = LOCK_UN = 0

    def lockf(self, *_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")


def test_keys_are_any_text(key_locks: KeyLocks) -> None:
    keys = ["", "a|b|c", "ключ", "\udc80", "x" * 10_000, "../../x"]
    assert all(key_locks.acquire(key) for key in keys)
    assert not any(key_locks.acquire(key) for key in keys)


class MsvcrtLike:
    """Windows' locks, as far as they are used here: at the position of the file, and refused with EACCES."""

    LK_NBLCK, LK_UNLCK = 2, 0

    def locking(self, fd: int, mode: int, count: int) -> None:
        import fcntl

        at = os.lseek(fd, 0, os.SEEK_CUR)
        assert at < 2**31
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB if mode == self.LK_NBLCK else fcntl.LOCK_UN, count, at)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None


@pytest.mark.skipif(locks.fcntl is None, reason="this system has the real ones")
def test_windows_locks_are_used_where_those_of_posix_are_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", MsvcrtLike())
    monkeypatch.setattr(locks, "OFFSET_BITS", 30)
    child = "import candle_fetcher.store.locks as l; l.OFFSET_BITS = 30\n" + HOLDER
    key_locks = KeyLocks(path)
    assert key_locks.acquire("ours")
    with holder(path, "ours", "theirs", program=child) as (_, told):
        assert told == "[False, True]"
        assert not key_locks.acquire("theirs")
        key_locks.release("ours")
        assert key_locks.acquire("ours")
    key_locks.close()
