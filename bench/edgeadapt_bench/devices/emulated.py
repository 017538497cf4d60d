"""A Raspberry Pi 4 where there is none: its processor in emulation. Counts and bytes, never a time.

--device emulated    always so
--device rpi4        natively on a Raspberry Pi 4; on any other machine emulated, and the report says so
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import edgeadapt
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops.library import NAME, SWITCH
from edgeadapt_bench.devices.base import UNKNOWN, Fingerprint

EMULATED = "emulated"
_AARCH64 = 183  # e_machine of an ELF file


@dataclass(frozen=True)
class EmulatedDevice:
    """The emulated machine; `name` is the word that it was asked for by. It is measured by emulation.bench."""

    name: str = EMULATED


def fingerprint(versions: Mapping[str, str]) -> Fingerprint:
    """The emulated machine; `versions` are those of the guest."""
    return Fingerprint(
        model="QEMU virt, -cpu cortex-a72 -icount shift=0 (no board)",
        cpu="Cortex-A72 (part 0xd08), emulated",
        architecture="aarch64",
        cores=1,
        features=("asimd", "cpuid", "crc32", "fp"),  # QEMU's own A72 has aes, pmull, sha1 and sha2, too: never used
        clock_range_mhz=UNKNOWN,
        governor=UNKNOWN,
        memory_bytes=0,  # as much as each model needs
        kernel=versions["kernel"],
        system="Debian bookworm",
        libc="glibc 2.36",
    )


def library() -> Path | None:
    """The aarch64 build of our ops: what EDGEADAPT_OPS names, else that of this source tree; None if there is none.

    Raises EdgeAdaptError if EDGEADAPT_OPS names a library for another processor.
    """
    asked = os.environ.get(SWITCH, "auto").strip()
    if asked.lower() == "off":
        return None
    if asked.lower() in ("", "auto"):
        root = Path(edgeadapt.__file__).resolve().parents[1]
        built = root / "build" / "aarch64" / NAME
        return built if built.is_file() else None
    named = Path(asked).absolute()
    if not named.is_file() or machine_of(named) != _AARCH64:
        raise EdgeAdaptError(
            f"{SWITCH}={asked}: not an aarch64 library; scripts/build-kernels --target aarch64 makes one"
        )
    return named


def machine_of(path: Path) -> int | None:
    """The processor that an ELF file is for (e_machine); None if it is no such file."""
    with path.open("rb") as source:
        head = source.read(20)
    return int.from_bytes(head[18:20], "little") if head[:4] == b"\x7fELF" else None
