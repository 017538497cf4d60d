"""Where a search's trials are kept: in a database that an RDB URL names, or in a journal, one JSON object a line.

The journal's lock is an flock, which the kernel drops when its holder dies. A line that a killed writer left without
its end is cut off when the journal is opened again.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeadapt.errors import EdgeAdaptError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

JOURNAL = "journal.log"


def storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage at `url`; None: the journal in `folder`. Raises EdgeAdaptError where a database does not open."""
    if url is None:
        return _journal(folder / JOURNAL)
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return RDBStorage(url)
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise EdgeAdaptError(f"search.storage={url}: does not open ({said}); look at the URL, or give null") from None


def _journal(path: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _Lock(path.with_name(f".{path.name}.lock"))
    lock.acquire()
    _cut(path)
    lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))  # type: ignore[arg-type]


class _Lock:
    """What a journal asks of a lock (optuna's BaseJournalFileLock). Opened anew each time: an flock belongs to an open
    file, and so keeps out this process's other users of the journal, too."""

    def __init__(self, path: Path) -> None:
        self._path, self._handle = path, -1

    def acquire(self) -> bool:
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        os.close(self._handle)


def _cut(path: Path) -> None:
    """Take away what follows the last line that has its end."""
    data = path.read_bytes() if path.is_file() else b""
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
