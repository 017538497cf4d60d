"""Files that are either the old one or the new one, never half of either; and paths that stay where they belong."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from edgeadapt.errors import EdgeAdaptError

_CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while piece := source.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: written beside it, flushed to the disk, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
        _sync_directory(path.parent)
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
def published_directory(target: Path) -> Iterator[Path]:
    """Build a directory in a temporary sibling and swap it in when the block ends well.

    A crash at any moment leaves `target` as it was, or as it is to be: an older version is moved aside, the new one
    renamed into place, and only then is the older one removed. `recover_directory` finishes a swap that was cut short.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    recover_directory(target)
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".building"))
    os.chmod(building, 0o755)
    try:
        yield building
        for path in building.rglob("*"):
            if path.is_file():
                _sync_file(path)
        aside = target.with_name(f".{target.name}.old")
        if target.exists():
            os.rename(target, aside)
        os.rename(building, target)
        _sync_directory(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        recover_directory(target)
        raise


def recover_directory(target: Path) -> None:
    """Undo or finish a swap of `target` that a crash cut short, and sweep away what a killed writer left."""
    aside = target.with_name(f".{target.name}.old")
    if aside.exists():
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(aside, target)
    for stale in target.parent.glob(f".{target.name}.*.building"):
        shutil.rmtree(stale, ignore_errors=True)


def inside(root: Path, relative: str) -> Path:
    """The file `relative` (POSIX, from an untrusted manifest) below `root`.

    Raises EdgeAdaptError for an absolute path, "..", a link anywhere on the way, or anything but a regular file.
    """
    pure = PurePosixPath(relative)
    if not relative or pure.is_absolute() or ".." in pure.parts or "\\" in relative or "\0" in relative:
        raise EdgeAdaptError(f"{root}: the manifest names {relative!r}, which does not stay inside the directory")
    path = root
    for part in pure.parts:
        path = path / part
        if path.is_symlink():
            raise EdgeAdaptError(f"{path}: links are not allowed here; copy the file itself")
    if not path.is_file():
        raise EdgeAdaptError(f"{path}: named by the manifest, but there is no such file; fetch or export it again")
    return path


def _sync_file(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
