#!/usr/bin/env python3
"""Build the wheels into dist/ and give them honest platform tags.

    scripts/build_wheel.py [DIRECTORY] [--target native|aarch64]

Without --target: for this machine, and for 64-bit Arm (Raspberry Pi) if its cross compiler is here.

With the library inside, a wheel is py3-none-manylinux_2_N_<machine>, N being the newest glibc (2.N) whose symbols the
library really asks for (PEP 600); it needs no libraries but libc and libm. Without a compiler or ONNX Runtime's headers
the wheel for this machine is py3-none-any, and says so; for another machine there is none then.
"""

from __future__ import annotations

import argparse
import io
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

LIBRARY = "edgeadapt/kernels/libedgeadapt_ops.so"
MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
SYSTEM = re.compile(r"(libc|libm|ld-linux-[a-z0-9-]+)\.so\.[0-9]+")
CROSS_COMPILER = "aarch64-linux-gnu-g++"
OLDEST = 17  # the oldest glibc that pip knows a manylinux tag for is 2.17 (2.5 and 2.12 have other names)


def platform_tag(library: bytes) -> str:
    """manylinux_2_N_<machine> of an ELF shared library.

    Raises ValueError if it needs a library, or a versioned symbol, that not every glibc system has.
    """
    elf = ELFFile(io.BytesIO(library))
    dynamic, versions = elf.get_section_by_name(".dynamic"), elf.get_section_by_name(".gnu.version_r")
    if not isinstance(dynamic, DynamicSection) or not isinstance(versions, GNUVerNeedSection):
        raise ValueError(f"{LIBRARY} is no shared library that uses glibc")
    tags: Iterable[Any] = dynamic.iter_tags("DT_NEEDED")
    needed = [tag.needed for tag in tags]
    if foreign := [name for name in needed if not SYSTEM.fullmatch(name)]:
        raise ValueError(f"{LIBRARY} needs {', '.join(foreign)}; only libc and libm may be needed")
    newest = OLDEST
    for _, wanted in versions.iter_versions():
        for version in wanted:
            match = re.fullmatch(r"GLIBC_2\.(\d+)(\.\d+)?", version.name)
            if match is None:
                raise ValueError(f"{LIBRARY} needs {version.name}, which no glibc version promises")
            newest = max(newest, int(match.group(1)))
    return f"manylinux_2_{newest}_{MACHINES[elf['e_machine']]}"


def build(root: Path, out: Path, *settings: str) -> tuple[Path, bool]:
    """The wheel of `root` put into `out`, its tag corrected, and whether it holds the library."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"-C{setting}" for setting in (*settings, f"build-dir={folder}/build")]
        subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, *options, root], check=True)
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            library = archive.read(LIBRARY) if LIBRARY in archive.namelist() else None
        if library is not None:
            tag = platform_tag(library)
            command = [sys.executable, "-m", "wheel", "tags", "--remove", "--platform-tag", tag, str(wheel)]
            name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
            wheel = Path(folder) / Path(name).name
        elif settings:
            raise SystemExit("build_wheel: no wheel for another machine without its library, see above")
        out.mkdir(parents=True, exist_ok=True)
        (out / wheel.name).write_bytes(wheel.read_bytes())
    return out / wheel.name, library is not None


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the wheels.")
    parser.add_argument("directory", nargs="?", default="dist", type=Path)
    parser.add_argument("--target", choices=("native", "aarch64"))
    asked = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    subprocess.run([root / "scripts" / "ort-headers"], check=False)  # without them: a pure wheel, which says so itself
    if asked.target in (None, "native"):
        wheel, has_library = build(root, asked.directory.resolve())
        print(f"build_wheel: {wheel}{'' if has_library else ' (without native kernels)'}")
    if asked.target == "aarch64" or (asked.target is None and platform.machine() != "aarch64"):
        if shutil.which(CROSS_COMPILER) is None:
            print("build_wheel: no wheel for aarch64 (no compiler for it: apt-get install g++-aarch64-linux-gnu)")
            return 0 if asked.target is None else 1
        headers = root / "build" / "ort-headers"
        toolchain = f"cmake.define.CMAKE_TOOLCHAIN_FILE={root / 'cmake' / 'aarch64-linux-gnu.cmake'}"
        wheel, _ = build(root, asked.directory.resolve(), toolchain, f"cmake.define.EDGEADAPT_ORT_INCLUDE={headers}")
        print(f"build_wheel: {wheel}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
