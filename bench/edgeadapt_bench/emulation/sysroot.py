"""The guest's system: a small arm64 Debian with Python, the packages that edgeadapt needs, and a kernel. Built once.

    root/                 its root file system (rootfs.py), with a Raspberry Pi 4's /proc/cpuinfo for user mode
    base.cpio             the same as an initramfs
    vmlinuz               Debian's kernel for virtual machines; nothing of it is a module that is needed

Python packages have the versions of this installation, so that host and guest run the same ONNX Runtime. Everything
lies under the user's cache, named by a hash of what it was made from.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeadapt.cache import cache_directory
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import locked, sha256_of, storage_errors
from edgeadapt_bench.emulation import cpio, rootfs

PYTHON = rootfs.PYTHON
Tell = rootfs.Tell
_SOURCES = (Path(__file__), Path(rootfs.__file__), Path(cpio.__file__), Path(__file__).with_name("cpuinfo"))


@dataclass(frozen=True)
class Sysroot:
    """A built system."""

    path: Path

    @property
    def root(self) -> Path:
        return self.path / "root"

    @property
    def archive(self) -> Path:
        return self.path / "base.cpio"

    @property
    def kernel(self) -> Path:
        return self.path / "vmlinuz"

    def versions(self) -> dict[str, str]:
        """Of what the figures depend on."""
        found: dict[str, str] = json.loads((self.path / "versions.json").read_text(encoding="utf-8"))
        return found


def requirements() -> list[str]:
    """edgeadapt's own requirements without extras, pinned to what is installed here."""
    try:
        wanted = importlib.metadata.requires("edgeadapt") or []
    except importlib.metadata.PackageNotFoundError:
        raise EdgeAdaptError(
            "edgeadapt is not installed here, so its requirements are unknown: pip install ."
        ) from None
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in wanted if "extra ==" not in line]
    return [f"{name}=={importlib.metadata.version(name)}" for name in sorted(names)]


def prepare(tell: Tell) -> Sysroot:
    """The system, built if it is not there yet (about a minute). Raises EdgeAdaptError naming a missing package."""
    pinned = requirements()
    recipe = json.dumps([[sha256_of(path) for path in _SOURCES], pinned])
    store = cache_directory() / "emulation"
    target = store / f"root-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with storage_errors(store), locked(target):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=store, prefix=".building-") as building:
                made = Path(building) / "made"
                made.mkdir()
                _build(made, pinned, tell)
                made.rename(target)
    return Sysroot(target)


def _build(place: Path, pinned: Sequence[str], tell: Tell) -> None:
    root = place / "root"
    kernel = rootfs.build(root, pinned, tell, kernel=place / "vmlinuz")
    shutil.copy(Path(__file__).with_name("cpuinfo"), root / "proc" / "cpuinfo")  # user mode shows the host's otherwise
    versions = {**dict(line.split("==", 1) for line in pinned), "kernel": kernel}
    (place / "versions.json").write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
    tell("writing the initramfs")
    with (place / "base.cpio").open("wb") as sink, cpio.Archive(sink) as archive:
        archive.console()
        archive.tree(root)
