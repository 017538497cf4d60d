"""The user's cache directory, and hashes of big files remembered in it.

A remembered hash is keyed by device, inode, size and modification time in nanoseconds: any rewrite of the file changes
at least one of them. It is a convenience against bit rot and broken copies, not a defence against somebody who can
already write both the file and the cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from edgeadapt.files import sha256_of, write_json

_REMEMBER_FROM = 4 << 20
_KEEP = 512


def cache_directory() -> Path:
    """`$EDGEADAPT_CACHE`, else `edgeadapt` in the platform's cache directory. Not created here."""
    if chosen := os.environ.get("EDGEADAPT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edgeadapt"
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "edgeadapt"


def remembered_sha256(path: Path, cache: Path | None = None) -> str:
    """SHA-256 of `path`; for a file of 4 MiB or more, the answer of an earlier call if the file has not changed."""
    before = path.stat()
    if before.st_size < _REMEMBER_FROM:
        return sha256_of(path)
    store = (cache or cache_directory()) / "hashes.json"
    key = f"{before.st_dev}:{before.st_ino}:{before.st_size}:{before.st_mtime_ns}"
    known = _read(store)
    if key in known:
        return known[key]
    digest = sha256_of(path)
    after = path.stat()
    if (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
        known = _read(store)
        known[key] = digest
        with contextlib.suppress(OSError):  # a read-only or full cache costs time, not correctness
            write_json(store, dict(list(known.items())[-_KEEP:]))
    return digest


def _read(store: Path) -> dict[str, str]:
    try:
        value = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {key: digest for key, digest in value.items() if isinstance(digest, str) and len(digest) == 64}
