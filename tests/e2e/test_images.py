"""What goes into the Raspberry Pi image, made for real, and run as the image would: by an emulated Cortex-A72."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeadapt import __version__
from edgeadapt_bench.emulation.rootfs import PYTHON
from tests.exported import Exported

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("mmdebstrap", "qemu-aarch64", "aarch64-linux-gnu-g++")
ABSENT = [name for name in NEEDED if shutil.which(name) is None]
CPUINFO = ROOT / "bench" / "edgeadapt_bench" / "emulation" / "cpuinfo"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image") / "root"
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run([ROOT / "scripts" / "rpi-root", folder], env=environment, check=True)
    if platform.machine() != "aarch64":
        shutil.copy(CPUINFO, folder / "proc" / "cpuinfo")  # the emulator shows the host's otherwise
    return folder


def edgeadapt(root: Path, *words: str | Path) -> str:
    """The image's entry point, with its environment."""
    emulator = ["qemu-aarch64", "-cpu", "cortex-a72", "-L", str(root)]
    python = [f"{root}/usr/bin/python{PYTHON}", "-m", "edgeadapt"]
    environment = {"PATH": "/usr/bin", "PYTHONHOME": "/usr", "PYTHONPATH": f"{root}/site", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([*emulator, *python, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_command_runs(root: Path) -> None:
    assert edgeadapt(root, "--version").strip() == f"edgeadapt {__version__}"


def test_it_verifies_a_bundle_with_its_own_kernels(root: Path, exported: Exported) -> None:
    assert (root / "site" / "edgeadapt" / "kernels" / "libedgeadapt_ops.so").is_file()
    assert "kernel" in edgeadapt(root, "verify", exported("himalaya", "int4"))


def test_it_holds_nothing_that_a_device_does_not_need(root: Path) -> None:
    packages = {path.name for path in (root / "site").iterdir()}
    assert not packages & {"torch", "transformers", "onnx", "optimum"}
    assert not list((root / "usr" / "bin").glob("*g++*"))
    assert not (root / "boot").exists()
    assert sum(path.lstat().st_size for path in root.rglob("*")) < 400e6
