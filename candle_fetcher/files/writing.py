"""Writes files: each is written beside its place, and moved there when it is complete.

Where a file's name does not identify its series, `NAME.json` with the manifest is written beside it, and before it:
after a crash between the two, an import refuses the file instead of taking it for another series.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from candle_fetcher.core.errors import InputError
from candle_fetcher.files.places import ENDINGS, manifest_path, read_manifest, refuse_device

fcntl: Any = None
with contextlib.suppress(ImportError):  # Windows, where no process can remove a file that another one has open
    import fcntl

# The name that `replacing` gives to a file while it is written. A writer that was killed leaves such a file.
_ENDS = "|".join(re.escape(ending) for ending in (*ENDINGS, ".json", ".tar", ".zip"))
_PART = re.compile(rf"\..+(?:{_ENDS})\.\w{{8}}\.part", re.IGNORECASE)
_MOST_NAME_BYTES = 220  # a name may have 255, of which `_begin` adds 15
ORPHAN_S = 3600.0
_PAUSES_S = (0.05, 0.1, 0.2, 0.4)  # for a virus scanner that looks at the file there


def write_file(target: Path, pieces: Iterable[bytes], manifest: Callable[[], Mapping[str, Any]] | None) -> None:
    """Write the pieces as they come; see `write_whole`."""

    def write(file: IO[bytes]) -> None:
        for piece in pieces:
            file.write(piece)
            del piece

    write_whole(target, write, manifest)


def write_whole(
    target: Path, write: Callable[[IO[bytes]], object], manifest: Callable[[], Mapping[str, Any]] | None
) -> None:
    """Call `write` for the file, and write what `manifest` returns beside it; without it, remove an older manifest.

    Raises OSError naming the file; then the file that was there before is untouched.
    """
    with replacing(target) as file:
        write(file)
        if manifest is not None:
            with replacing(manifest_path(target)) as beside:
                beside.write(json.dumps(dict(manifest()), indent=2, ensure_ascii=False, allow_nan=False).encode())
                beside.write(b"\n")
    if manifest is None:
        _drop_manifest(target)


def name_whole(written: Path, target: Path, *, has_manifest: bool) -> Path:
    """Rename a file that was written under another name, and the manifest beside it, to the target; return that."""
    beside = manifest_path(written)
    if has_manifest:
        _move(beside, manifest_path(target))
    elif written != target:
        _drop_manifest(target)
    if written != target:
        _move(written, Path(os.path.realpath(target)) if target.is_symlink() else target)
    if not has_manifest:
        beside.unlink()
    return target


def _drop_manifest(target: Path) -> None:
    """Remove the manifest beside the file, if there is one."""
    with contextlib.suppress(OSError, InputError):
        if read_manifest(target) is not None:
            manifest_path(target).unlink()


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """Open a file to write. It replaces the target when the block ends, and is removed when the block raises.

    A target that is a symbolic link stays one: the file that it points to is replaced.
    """
    name = None
    try:
        target = Path(os.path.realpath(target)) if target.is_symlink() else target
        refuse_device(target, str(target))
        with contextlib.suppress(FileExistsError):  # a file in the folder's place: the next line says so more clearly
            target.parent.mkdir(parents=True, exist_ok=True)
        _tidy(target.parent)
        handle, name = _begin(target)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(OSError):
                mask = os.umask(0)
                os.umask(mask)
                Path(name).chmod(0o666 & ~mask)  # mkstemp makes files that only their owner can read
            if fcntl is not None:  # while it is locked, so that no other export takes it for an orphan
                _move(Path(name), target)
        if fcntl is None:
            _move(Path(name), target)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; {target} was not written", str(target)) from error
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)


def _begin(target: Path) -> tuple[int, str]:
    """Make the file that is to take the target's place, and lock it. Returns its descriptor and its name."""
    name = target.name
    while len(os.fsencode(name)) > _MOST_NAME_BYTES:
        name = name[1:]
    while True:
        handle, made = tempfile.mkstemp(prefix=f".{name}.", suffix=".part", dir=target.parent)
        # Before it was locked, another export may have taken it for an orphan.
        if _lock(handle) is not False and (fcntl is None or os.fstat(handle).st_nlink):
            return handle, made
        os.close(handle)


def _move(path: Path, target: Path) -> None:
    """Move the file. Wait a moment where another program has the target open, which Windows refuses."""
    for pause_s in _PAUSES_S:
        try:
            path.replace(target)
            return
        except PermissionError:
            threading.Event().wait(pause_s)
    path.replace(target)


def _lock(handle: int) -> bool | None:
    """Lock the open file until it is closed or its process ends. Return False where another process has locked it, None
    where the disk has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _tidy(folder: Path) -> None:
    """Remove what killed exports left in the folder.

    A process that is still writing holds the lock, however long ago it wrote last. Where there are no locks, a file
    goes after an hour on Windows, which removes none that is open, and stays elsewhere.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for one in found:
            if _PART.fullmatch(one.name) and one.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _remove_orphan(one)


def _remove_orphan(found: os.DirEntry[str]) -> None:
    if fcntl is None:
        if time.time() - found.stat().st_mtime > ORPHAN_S:
            os.unlink(found.path)  # noqa: PTH108
        return
    handle = os.open(found.path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if _lock(handle):
            os.unlink(found.path)  # noqa: PTH108
    finally:
        os.close(handle)
