"""The guest's system: a small arm64 Debian with Python, the packages that edgeadapt needs, and a kernel. Built once.

    root/                 Debian bookworm (the C library of Raspberry Pi OS 12), /site: the Python packages
    base.cpio             the same as an initramfs
    vmlinuz               Debian's kernel for virtual machines; nothing of it is a module that is needed

Packages are unpacked, never run: mmdebstrap's variant "extract" takes seconds where an emulated installation takes ten
minutes. Python packages have the versions of this installation, so that host and guest run the same ONNX Runtime.
Everything lies under the user's cache, named by a hash of what it was made from.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeadapt.cache import cache_directory
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import locked, storage_errors
from edgeadapt_bench.emulation import cpio, tools

RECIPE = 1  # raise it when the steps below change; older systems are then made anew
SUITE = "bookworm"
PYTHON = "3.11"  # of that suite
PACKAGES = ("python3", "libpython3-stdlib", "libstdc++6", "zlib1g", "libgomp1", "linux-image-cloud-arm64")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
# What no program here reads: documentation, kernel modules, and onnxruntime's tools for making models.
LEFT_OUT = (
    "boot", "lib/modules", "proc", "sys", "var", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info",
    "usr/share/perl", "usr/lib/aarch64-linux-gnu/perl-base", "site/bin", "site/onnxruntime/tools",
    "site/onnxruntime/transformers", "site/onnxruntime/quantization",
)  # fmt: skip

Tell = Callable[[str], None]


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
    recipe = json.dumps([RECIPE, SUITE, PACKAGES, PLATFORMS, LEFT_OUT, pinned])
    store = cache_directory() / "emulation"
    target = store / f"root-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with storage_errors(store), locked(target):
        if not target.is_dir():
            tools.require(tools.BUILD)
            with tempfile.TemporaryDirectory(dir=store, prefix=".building-") as building:
                made = Path(building) / "made"
                made.mkdir()
                _build(made, pinned, tell)
                made.rename(target)
    return Sysroot(target)


def _build(place: Path, pinned: Sequence[str], tell: Tell) -> None:
    root = place / "root"
    tell(f"unpacking Debian {SUITE} for arm64")
    extract = ("--arch=arm64", "--variant=extract", f"--include={','.join(PACKAGES)}", SUITE, str(root), mirror())
    _run(["mmdebstrap", "--quiet", *extract], "the arm64 system")
    kernel = next((root / "boot").glob("vmlinuz-*"), None)
    if kernel is None:
        raise EdgeAdaptError(f"Debian {SUITE}: {PACKAGES[-1]} brought no kernel")
    kernel.rename(place / "vmlinuz")
    tell(f"unpacking {', '.join(pinned)} for arm64")
    where = ["--target", str(root / "site"), "--python-version", PYTHON, "--only-binary=:all:", "--no-compile"]
    tags = [word for platform in PLATFORMS for word in ("--platform", platform)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-conflicts"]
    _run([*pip, *where, *tags, *pinned], "the Python packages for arm64")
    for name in LEFT_OUT:
        shutil.rmtree(root / name, ignore_errors=True)
    for name in ("proc", "sys", "tmp"):
        (root / name).mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("cpuinfo"), root / "proc" / "cpuinfo")  # user mode shows the host's otherwise
    tell("compiling Python modules")
    for folder in (f"usr/lib/python{PYTHON}", "site"):
        compile_modules(root / folder)
    versions = dict(line.split("==", 1) for line in pinned)
    versions["kernel"] = kernel.name.removeprefix("vmlinuz-")
    (place / "versions.json").write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
    tell("writing the initramfs")
    with (place / "base.cpio").open("wb") as sink, cpio.Archive(sink) as archive:
        archive.console()
        archive.tree(root)


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


def _run(command: Sequence[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        reason = next(
            (line for line in lines if line.startswith(("E:", "ERROR:"))), lines[-1] if lines else "no reason"
        )
        raise EdgeAdaptError(f"{what} cannot be had: {reason}")
