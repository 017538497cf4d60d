"""The programs that emulation needs, and the Debian packages that bring them. Nothing is installed from here."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from edgeadapt.errors import EdgeAdaptError

PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "apt-get": "apt",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-aarch64": "qemu-user",  # the dynamic build: the static one takes no plugins
    "cc": "gcc",
    "llvm-mc": "llvm",
    "llvm-mca": "llvm",
    "llvm-nm": "llvm",
    "llvm-dwarfdump": "llvm",
}
BUILD = ("mmdebstrap", "apt-get")
SYSTEM = ("qemu-system-aarch64",)
USER = ("qemu-aarch64", "cc", "llvm-nm", "llvm-dwarfdump")
STATIC = ("llvm-mc", "llvm-mca")


def require(programs: Sequence[str]) -> None:
    """Raises EdgeAdaptError with the one command that brings whatever is not there."""
    absent = [program for program in programs if shutil.which(program) is None]
    if absent:
        packages = " ".join(dict.fromkeys(PACKAGES[program] for program in absent))
        raise EdgeAdaptError(f"emulation needs {', '.join(absent)}: apt-get install {packages}")
