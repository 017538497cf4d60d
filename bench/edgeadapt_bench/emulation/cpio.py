"""Initramfs archives: cpio, "newc" format, the same bytes for the same contents.

Time stamps, owners and inode numbers carry no information: times and owners are 0, inodes count up, names are sorted.
The kernel unpacks several archives that follow one another, so one may be made once and others joined to it.
Format: Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

from edgeadapt.errors import EdgeAdaptError

_LIMIT = 1 << 32  # sizes have eight hexadecimal digits
_CONSOLE = (5, 1)  # /dev/console: init's standard streams, before anything is mounted


class Archive:
    """Appends one archive to an open binary file; a context, so that the trailer is not forgotten."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._inode = 0
        self._directories: set[str] = set()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._header("TRAILER!!!", 0, 0)
        self._align(512)

    def tree(self, root: Path, prefix: str = "") -> None:
        """Everything below `root`, at `prefix` in the guest; devices and sockets are left out."""
        for path in sorted(root.rglob("*")):
            name = f"{prefix}{path.relative_to(root)}"
            mode = path.lstat().st_mode
            self._parents(name)
            if stat.S_ISLNK(mode):
                self._entry(name, mode, os.readlink(path).encode())
            elif stat.S_ISDIR(mode):
                self._directory(name, mode)
            elif stat.S_ISREG(mode):
                self.file(name, path, mode)

    def file(self, name: str, source: Path, mode: int = 0o100644) -> None:
        """One file, streamed; its directories are made."""
        self._parents(name)
        size = source.stat().st_size
        if size >= _LIMIT:
            raise EdgeAdaptError(f"{source}: {size} bytes; an initramfs holds files below 4 GiB")
        self._header(name, mode, size)
        with source.open("rb") as data:
            shutil.copyfileobj(data, self._sink, 1 << 20)
        self._align(4)

    def data(self, name: str, value: bytes, mode: int = 0o100644) -> None:
        self._parents(name)
        self._entry(name, mode, value)

    def console(self) -> None:
        self._parents("dev/console")
        self._header("dev/console", stat.S_IFCHR | 0o600, 0, _CONSOLE)

    def _parents(self, name: str) -> None:
        for parent in reversed(Path(name).parents[:-1]):
            self._directory(str(parent), 0o040755)

    def _directory(self, name: str, mode: int) -> None:
        if name not in self._directories:
            self._directories.add(name)
            self._header(name, mode, 0)

    def _entry(self, name: str, mode: int, value: bytes) -> None:
        self._header(name, mode, len(value))
        self._sink.write(value)
        self._align(4)

    def _header(self, name: str, mode: int, size: int, device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        #         inode        mode  uid gid links mtime size  device major, minor; rdev; name's length; checksum
        fields = (self._inode, mode, 0, 0, 1, 0, size, 0, 0, *device, len(encoded), 0)
        self._sink.write(b"070701" + b"".join(b"%08x" % field for field in fields) + encoded)
        self._align(4)

    def _align(self, to: int) -> None:
        self._sink.write(b"\0" * (-self._sink.tell() % to))
