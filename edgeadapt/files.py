"""Files that are either the old one or the new one, never half of either; and paths that stay where they belong."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from edgeadapt.errors import EdgeAdaptError

_CHUNK = 1 << 20
_STALE_SECONDS = 3600


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while piece := source.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: written beside it, flushed to the disk, then renamed over it.

    What a writer that was killed left beside it is swept away an hour later.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - stale.stat().st_mtime > _STALE_SECONDS:
                stale.unlink()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
        _sync(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of readable JSON; NaN and infinity are refused because JSON has no word for them."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path` (an flock on a hidden file beside it) against other processes and threads.

    The kernel drops it when its holder dies, so a killed process never leaves it locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def storage_errors(place: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into one line that says so."""
    try:
        yield
    except OSError as error:
        known = {
            errno.ENOSPC: "the disk is full; free some space there, or choose another place",
            errno.EDQUOT: "the disk quota is used up; free some space there, or choose another place",
            errno.EROFS: "the file system is read-only; choose another place",
            errno.EACCES: "no permission to write there; choose another place",
        }
        if error.errno in known:
            raise EdgeAdaptError(f"{error.filename or place}: {known[error.errno]}") from None
        raise


@contextlib.contextmanager
def published_directory(target: Path, marker: str | None = None) -> Iterator[Path]:
    """Build a directory in a temporary sibling and swap it in when the block ends well.

    A crash at any moment leaves `target` as it was, or as it is to be: the kernel exchanges the two names in one step
    (renameat2). Where it cannot, the older version is moved aside, the new one renamed into place, and
    `recover_directory` finishes a swap that was cut short. Several writers may build at once; the last one wins.

    `marker` names a file that every directory of this kind has: a target that is not empty and lacks it is somebody
    else's and is refused. Raises EdgeAdaptError also for a target that is a file.
    """
    target = target.resolve()
    _refuse_foreign(target, marker)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.parent):
        _recover(target)
        building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".building"))
        alive = os.open(building, os.O_RDONLY)  # its lock tells a sweeper that this writer lives
        _try_lock(alive)
    try:
        os.chmod(building, 0o755)
        yield building
        for path in (*building.rglob("*"), building):
            _sync(path)
        with _lock(target.parent):
            _refuse_foreign(target, marker)
            _swap(building, target)
            _sync(target.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)  # the older version, or what was built until an error
        os.close(alive)


def recover_directory(target: Path) -> None:
    """Undo or finish a swap of `target` that a crash cut short, and sweep away what killed writers left."""
    target = target.resolve()
    if target.parent.is_dir():
        with _lock(target.parent):
            _recover(target)


def _recover(target: Path) -> None:
    aside = target.with_name(f".{target.name}.old")
    if aside.exists():
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(aside, target)
    for stale in target.parent.glob(f".{glob.escape(target.name)}.*.building"):
        try:
            handle = os.open(stale, os.O_RDONLY)
        except OSError:
            continue
        if _try_lock(handle):
            shutil.rmtree(stale, ignore_errors=True)
        os.close(handle)


def _swap(building: Path, target: Path) -> None:
    if not target.exists():
        os.rename(building, target)
    elif not _exchange(building, target):
        aside = target.with_name(f".{target.name}.old")
        os.rename(target, aside)
        os.rename(building, target)
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step (Linux renameat2, RENAME_EXCHANGE = 2). False where that cannot be done."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here = -100  # AT_FDCWD
    return bool(rename(here, os.fsencode(first), here, os.fsencode(second), 2) == 0)


def _refuse_foreign(target: Path, marker: str | None) -> None:
    if target.exists() and not target.is_dir():
        raise EdgeAdaptError(f"{target}: is a file; give the name of a directory")
    if marker and target.is_dir() and not (target / marker).is_file() and any(target.iterdir()):
        raise EdgeAdaptError(f"{target}: holds other files and no {marker}, so it is not replaced; choose another name")


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """A short critical section among the writers below `directory`; leaves no lock file behind."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: as before there were any
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def inside(root: Path, relative: str) -> Path:
    """The file `relative` (POSIX, from an untrusted manifest) below `root`.

    Raises EdgeAdaptError for an absolute path, "..", a link anywhere on the way, or anything but a regular file.
    """
    pure = PurePosixPath(relative)
    plain = relative.isprintable() and "\\" not in relative and str(pure) == relative and relative != "."
    if not plain or pure.is_absolute() or ".." in pure.parts:
        raise EdgeAdaptError(f"{root}: the manifest names {relative!r}, which does not stay inside the directory")
    path = root
    for part in pure.parts:
        path = path / part
        if path.is_symlink():
            raise EdgeAdaptError(f"{path}: links are not allowed here; copy the file itself")
    if not path.is_file():
        raise EdgeAdaptError(f"{path}: named by the manifest, but there is no such file; fetch or export it again")
    return path


def _sync(path: Path) -> None:
    """Flush a file or a directory to the disk; links and special files are left alone."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
