"""The cache folder: its files and their names, its owner, damaged databases, and notes of warnings.

The folder is not trusted. A link, a pipe or a folder with the name of one of our files is left as it is: it is not
opened, followed, changed or removed. Only files that this package made are removed for their age.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from contextlib import suppress
from functools import lru_cache
from operator import attrgetter
from pathlib import Path

from candle_fetcher.core.errors import CacheError

DATABASE = "cache.db"
LOG = "cache.db-wal"
SHARED_MEMORY = "cache.db-shm"
MARKER = "candle_fetcher.cache"
ASIDE = f"{DATABASE}.bad-"
WARNED = "warned-"
_NAMES = frozenset({MARKER, DATABASE, LOG, SHARED_MEMORY})
_ASIDE_NAME = re.compile(rf"{re.escape(ASIDE)}\d{{8}}T\d{{6}}(-wal)?")
ASIDE_S = 30 * 86_400.0  # a damaged database is of no use after so long
WARN_AGAIN_S = 86_400.0

# SQLite's log needs memory that all its users share, which disks of other machines do not give. 9p is not among them:
# it is also what sandboxes on one machine are made of.
_REMOTE = frozenset(
    {"afs", "beegfs", "ceph", "cifs", "davfs", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "glusterfs"}
    | {"gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "smb3", "smbfs"}
)
MOUNTS = Path("/proc/self/mountinfo")  # of Linux; elsewhere a path tells, or nothing does

# Folders as they were when this process prepared them: device, inode, mode and owner by path.
_prepared: dict[str, tuple[int, ...]] = {}
_IDENTITY_OF = attrgetter("st_dev", "st_ino", "st_mode", "st_uid")


def prepare(folder: Path | str) -> str:
    """Make the folder where it is missing and mark it as ours. Return a warning, "" for none.

    Raises CacheError where the folder belongs to another user or program, OSError where it cannot be made.
    """
    folder, warning = str(folder), ""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - a Path for each is slower than all the rest
        is_made = False
    except FileNotFoundError:
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        names, is_made = [], True
    if DATABASE in names and MARKER not in names:  # the marker is written first
        raise CacheError(f"{within(folder, DATABASE)} was not written by candle_fetcher. Choose another cache_dir")
    check_names(folder, _NAMES.intersection(names))
    found = os.stat(folder)  # noqa: PTH116 - as above
    if os.name == "posix":
        if os.geteuid() not in (0, found.st_uid):
            raise CacheError(f"{folder} belongs to another user. Choose another cache_dir")
        if is_made or not names:
            os.chmod(folder, 0o700)  # noqa: PTH101 - as above
        elif found.st_mode & stat.S_IWOTH:
            warning = f"{folder} can be written by every user of this machine: chmod 700 it"
    if MARKER not in names:
        with suppress(FileExistsError):
            os.close(os.open(within(folder, MARKER), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    remote = find_remote(folder, found.st_dev)
    if remote:
        raise CacheError(f"{folder} lies on a disk of another machine ({remote}). Choose a cache_dir on this one")
    if any(map(_ASIDE_NAME.fullmatch, names)):
        tidy(Path(folder))
    _prepared[folder] = _IDENTITY_OF(os.stat(folder))  # noqa: PTH116 - as above
    return warning


def prepare_once(folder: str) -> None:
    """Do what `prepare` does, unless this process has prepared the folder and it is still the same."""
    try:
        os.lstat(f"{folder}{os.sep}{MARKER}")
        is_prepared = _prepared.get(folder) == _IDENTITY_OF(os.stat(folder))  # noqa: PTH116 - as above
    except OSError:
        is_prepared = False
    if not is_prepared:
        prepare(folder)


def within(folder: str, name: str) -> str:
    """Return the path of that name in the folder, as text: a Path takes ten calls to make."""
    return f"{folder}{os.sep}{name}"


def find_remote(folder: str, device: int) -> str:
    """Return the kind of the folder's file system where another machine has the disk; "" where not, or where unknown.

    Of proc(5): the third field of a line is the device, the one after the dash is the kind.
    """
    if os.name == "nt" and Path(folder).absolute().drive.startswith("\\\\"):
        return "a network share"
    return _find_remote(device, str(MOUNTS))


@lru_cache(maxsize=16)
def _find_remote(device: int, mounts: str) -> str:
    """Return the kind of the file system on the device by the list of mounts, "" where it lies on this machine."""
    try:
        for line in Path(mounts).read_text("utf-8", "replace").splitlines():
            about, _, mounted = line.partition(" - ")
            if about.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                kind = mounted.split()[0]
                return kind if kind in _REMOTE else ""
    except (OSError, IndexError, AttributeError):
        pass
    return ""


def check_names(folder: Path | str, names: frozenset[str] = _NAMES) -> None:
    """Raise CacheError where one of the database's names belongs to anything but a plain file."""
    for name in names:
        path = f"{folder}{os.sep}{name}"
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            continue
        if not stat.S_ISREG(mode):
            raise CacheError(f"{path} is not a plain file, and is not touched. Choose another cache_dir")


def look_at(path: Path | str) -> os.stat_result | None:
    """Return the status of that very name, through no link; None where nothing has it, or it cannot be read."""
    try:
        return os.lstat(path)
    except OSError:
        return None


def is_plain(path: Path) -> bool:
    """Return whether the path is a plain file, not a link to one."""
    found = look_at(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def open_plain(path: Path | str, flags: int) -> int:
    """Open a plain file with the flags, through no link and without waiting, and return the descriptor.

    Raises OSError where anything else has the name.
    """
    if not _HAS_FLAGS:  # elsewhere they decide, and the look at what was opened
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise OSError(errno.EPERM, "it is not a plain file", str(path))
    fd = os.open(path, flags | _PLAIN_FLAGS, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EPERM, "it is not a plain file", str(path))
    return fd


_HAS_FLAGS = hasattr(os, "O_NOFOLLOW") and hasattr(os, "O_NONBLOCK")
_PLAIN_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def make_folder(path: str) -> None:
    """Make a folder in the cache folder. Raises OSError where something else, or a link to one, has the name."""
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)  # noqa: PTH102 - as above
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise OSError(errno.ENOTDIR, "it is a link", path)


def tidy(folder: Path) -> None:
    """Remove damaged databases that were moved aside a month ago or earlier."""
    now_s = time.time()
    for old in _find_aside(folder):
        found = look_at(old)
        if found is not None and now_s - found.st_mtime > ASIDE_S:
            with suppress(OSError):
                old.unlink()


def _find_aside(folder: Path) -> list[Path]:
    """Return the damaged databases that `move_aside` put there."""
    try:
        return [one for one in folder.glob(f"{ASIDE}*") if _ASIDE_NAME.fullmatch(one.name) and is_plain(one)]
    except OSError:
        return []


def exists(path: Path) -> bool:
    """Return whether the path can be reached. Path.exists() raises where a folder above it is closed to this user."""
    return os.path.exists(path)  # noqa: PTH110


def is_warned_of(folder: Path, kind: str) -> bool:
    """Return whether a process has warned of this kind of trouble within the last day, and note that one does now.

    False too where the note cannot be written, or the folder is not ours.
    """
    if not exists(folder / MARKER):
        return False
    note = folder / f"{WARNED}{kind}"
    now_s = time.time()
    try:
        found = os.lstat(note)
        if not stat.S_ISREG(found.st_mode):
            return False
        if 0 <= now_s - found.st_mtime < WARN_AGAIN_S:
            return True
        os.utime(note)
    except FileNotFoundError:
        try:
            os.close(os.open(note, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:  # another process noted it at the same moment
            return True
        except OSError:
            pass
    except OSError:
        pass
    return False


def move_aside(folder: Path) -> str:
    """Rename the damaged database and return its new name; remove those that were moved aside before."""
    for old in _find_aside(folder):
        old.unlink(missing_ok=True)
    bad = f"{ASIDE}{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    with suppress(FileNotFoundError):
        (folder / DATABASE).replace(folder / bad)
    with suppress(FileNotFoundError):
        (folder / LOG).replace(folder / f"{bad}-wal")
    with suppress(FileNotFoundError):  # its age counts from now
        os.utime(folder / bad)
    (folder / SHARED_MEMORY).unlink(missing_ok=True)
    return bad


def identify(path: str) -> tuple[int, int] | None:
    """Return what distinguishes a file from another one of the same name; None where there is none."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def size_bytes(folder: Path) -> int:
    """Return the bytes of the database and its log."""
    total = 0
    for name in (DATABASE, LOG):
        found = look_at(folder / name)
        total += found.st_size if found is not None else 0
    return total
