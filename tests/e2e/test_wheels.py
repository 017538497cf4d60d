"""Both wheels where they are meant to run: this machine's in a fresh environment, a Raspberry Pi's in an emulator.

Every op's cases run on the kernels that the wheel brings, and are compared here with the reference. The emulated
processors are a Cortex-A72 (Raspberry Pi 4: a dot product would end the process with SIGILL) and one that has all.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import OPS, Case, Op
from edgeadapt_bench.emulation import sysroot
from tests.contract.views import assert_agrees, model_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
RUN_OPS = Path(__file__).with_name("run_ops.py")
LIBRARY = "edgeadapt/kernels/libedgeadapt_ops.so"


def build(target: str, out: Path) -> Path:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "build_wheel.py", out, "--target", target],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture
def cases(tmp_path: Path) -> list[tuple[Op, Case, Path]]:
    """Every case of every op as a model file with its inputs beside it."""
    folder = tmp_path / "models"
    folder.mkdir()
    found = []
    for op in OPS.values():
        for case in op.cases(np.random.default_rng(11)):
            path = folder / f"{len(found):03}.onnx"
            path.write_bytes(model_of(op, case, with_body=False))
            np.savez(path.with_suffix(".npz"), **case.inputs)  # type: ignore[arg-type]
            found.append((op, case, path))
    return found


def run_ops(python: list[str], cases: list[tuple[Op, Case, Path]], environment: Mapping[str, str]) -> Path:
    """Run and compare them; returns the library that was used."""
    folder = cases[0][2].parent
    done = subprocess.run(
        [*python, str(RUN_OPS), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "EDGEADAPT_OPS_ISA": "best", **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for op, case, path in cases:
        with np.load(path.with_suffix(".out.npz")) as outputs:
            assert_agrees(op, case, list(outputs.values()))
    return Path(done.stdout.strip())


def test_the_wheel_of_this_machine_in_a_fresh_environment(cases: list[tuple[Op, Case, Path]], tmp_path: Path) -> None:
    if shutil.which("c++") is None or not (ROOT / "build" / "ort-headers").is_dir():
        pytest.skip("no C++ compiler or no headers here: scripts/build-kernels says how to get them")
    wheel = build("native", tmp_path / "dist")
    assert wheel.name.endswith(f"_{platform.machine()}.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True)
    assert run_ops([python], cases, {}).is_relative_to(tmp_path / "venv")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel for 64-bit Arm, as pip would unpack it."""
    if shutil.which("aarch64-linux-gnu-g++") is None or not (ROOT / "build" / "ort-headers").is_dir():
        pytest.skip("no compiler for aarch64 or no headers here: scripts/build-deps --cross")
    folder = tmp_path_factory.mktemp("aarch64")
    wheel = build("aarch64", folder / "dist")
    assert wheel.name.endswith("_aarch64.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.parametrize("processor", ["cortex-a72", "max"])
def test_the_wheel_of_a_raspberry_pi_in_an_emulator(
    processor: str, cases: list[tuple[Op, Case, Path]], unpacked: Path
) -> None:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("no emulator here: scripts/build-deps --emulation")
    try:
        system = sysroot.prepare(lambda _: None)
    except EdgeAdaptError as error:
        pytest.skip(str(error))
    python = f"{system.root}/usr/bin/python{sysroot.PYTHON}"
    environment = {
        "HOME": str(unpacked),
        "PYTHONHOME": "/usr",
        "PYTHONPATH": f"{unpacked}{os.pathsep}{system.root / 'site'}",
        "OPENBLAS_NUM_THREADS": "1",
    }
    emulator = ["qemu-aarch64", "-cpu", processor, "-L", str(system.root), python]
    assert run_ops(emulator, cases, environment) == unpacked / LIBRARY
    if processor == "cortex-a72":
        with pytest.raises(AssertionError, match="names an instruction set that this processor or build lacks"):
            run_ops(emulator, cases, {**environment, "EDGEADAPT_OPS_ISA": "dotprod"})
