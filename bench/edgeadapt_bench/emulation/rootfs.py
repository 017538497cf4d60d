"""The root file system of a Raspberry Pi without one: a small arm64 Debian with Python, and Python packages in /site.

    python -m edgeadapt_bench.emulation.rootfs FOLDER REQUIREMENT...       requirements as pip takes them

Debian bookworm has the C library and the Python of Raspberry Pi OS 12. Nothing in it is ever run here: mmdebstrap's
variant "extract" unpacks in seconds what an emulated installation takes ten minutes for, and the Python packages are
wheels. The emulated device boots what is made here (sysroot.py), and docker/rpi is made of it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.emulation import tools

SUITE = "bookworm"
PYTHON = "3.11"  # of that suite
PACKAGES = ("python3", "libpython3-stdlib", "libstdc++6", "zlib1g", "libgomp1")
PLATFORMS = (*(f"manylinux_2_{minor}_aarch64" for minor in range(36, 16, -1)), "manylinux2014_aarch64")
# What no program here reads: documentation, kernel modules, and onnxruntime's tools for making models.
LEFT_OUT = (
    "boot", "lib/modules", "proc", "sys", "var", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info",
    "usr/share/perl", "usr/lib/aarch64-linux-gnu/perl-base", "site/bin", "site/onnxruntime/tools",
    "site/onnxruntime/transformers", "site/onnxruntime/quantization",
)  # fmt: skip
_KERNEL = "linux-image-cloud-arm64"

Tell = Callable[[str], None]


def build(root: Path, requirements: Sequence[str], tell: Tell, *, kernel: Path | None = None) -> str:
    """Make the file system in `root`, which must not exist yet.

    Args:
        requirements: what pip is told to install for the guest, wheels only.
        kernel: where to put Debian's kernel for virtual machines; none is brought if not given.

    Returns:
        The kernel's version, "" without one.

    Raises:
        EdgeAdaptError: a program or a package that cannot be had.
    """
    tools.require(tools.BUILD)
    tell(f"unpacking Debian {SUITE} for arm64")
    packages = [*PACKAGES, *([] if kernel is None else [_KERNEL])]
    extract = ("--arch=arm64", "--variant=extract", f"--include={','.join(packages)}", SUITE, str(root), mirror())
    _run(["mmdebstrap", "--quiet", *extract], "the arm64 system")
    version = "" if kernel is None else _take_kernel(root, kernel)
    tell("unpacking Python packages for arm64")
    where = ["--target", str(root / "site"), "--python-version", PYTHON, "--only-binary=:all:", "--no-compile"]
    tags = [word for platform in PLATFORMS for word in ("--platform", platform)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-conflicts"]
    _run([*pip, *where, *tags, *requirements], "the Python packages for arm64")
    for name in LEFT_OUT:
        shutil.rmtree(root / name, ignore_errors=True)
    for name in ("proc", "sys", "tmp"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    tell("compiling Python modules")
    for folder in (f"usr/lib/python{PYTHON}", "site"):
        compile_modules(root / folder)
    return version


def compile_modules(folder: Path) -> None:
    """Byte code for the guest's Python, so that importing costs what it costs an installed program. Left to the guest
    where the host runs another Python."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == PYTHON:
        command = ["-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash", str(folder)]
        subprocess.run([sys.executable, *command], check=False, capture_output=True)


def mirror() -> str:
    """The first Debian archive that this machine's apt is set to use; Debian's own where it names none."""
    ask = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    answer = subprocess.run(ask, capture_output=True, text=True, check=False)
    for line in answer.stdout.splitlines():
        if re.search(r"/debian/?$", line.strip()):
            return line.strip()
    return "http://deb.debian.org/debian"


def _take_kernel(root: Path, target: Path) -> str:
    found = next((root / "boot").glob("vmlinuz-*"), None)
    if found is None:
        raise EdgeAdaptError(f"Debian {SUITE}: {_KERNEL} brought no kernel")
    found.rename(target)
    return found.name.removeprefix("vmlinuz-")


def _run(command: Sequence[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        reason = next(
            (line for line in lines if line.startswith(("E:", "ERROR:"))), lines[-1] if lines else "no reason"
        )
        raise EdgeAdaptError(f"{what} cannot be had: {reason}")


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    try:
        build(Path(sys.argv[1]), sys.argv[2:], lambda line: print(f"rootfs: {line}", file=sys.stderr))
    except EdgeAdaptError as error:
        print(f"rootfs: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
