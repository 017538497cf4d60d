#!/usr/bin/env python3
"""Build the wheel into dist/ and give it an honest platform tag.

    scripts/build_wheel.py [DIRECTORY]

With the library inside, the wheel is py3-none-manylinux_2_N_<machine>, N being the newest glibc (2.N) whose symbols the
library really asks for (PEP 600); it needs no libraries but libc and libm. Without a compiler or ONNX Runtime's headers
it is py3-none-any, and says so.
"""

from __future__ import annotations

import io
import re
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


def main() -> int:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "dist").resolve()
    root = Path(__file__).resolve().parent.parent
    subprocess.run([root / "scripts" / "ort-headers"], check=False)  # without them: a pure wheel, which says so itself
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, root], check=True)
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            library = archive.read(LIBRARY) if LIBRARY in archive.namelist() else None
        if library is not None:
            tag = platform_tag(library)
            command = [sys.executable, "-m", "wheel", "tags", "--remove", "--platform-tag", tag, str(wheel)]
            name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
            wheel = Path(folder) / Path(name).name
        out.mkdir(parents=True, exist_ok=True)
        (out / wheel.name).write_bytes(wheel.read_bytes())
    print(f"build_wheel: {out / wheel.name}{'' if library is not None else ' (without native kernels)'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
