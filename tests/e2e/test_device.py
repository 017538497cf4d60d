"""A device: a fresh environment that holds the wheel and the core's dependencies alone, and a bundle made elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import make_run, tiny_backbone

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
ABSENT = ("torch", "transformers", "onnx", "optimum", "onnx_ir", "onnxscript", "peft", "hydra", "gguf")
TEXT = "The match was won in the last minute."


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of an environment into which the project's wheel was installed without any extra."""
    folder = tmp_path_factory.mktemp("device")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"-Cbuild-dir={folder / 'build'}"]
    subprocess.run([*build, "--outdir", str(folder), str(ROOT)], check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    install = [str(folder / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), str(next(folder.glob("*.whl")))], check=True)
    return folder / "venv" / "bin"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HIMALAYA adapter on a tiny random backbone, exported in full precision by this (build) environment."""
    from edgeadapt_export import export

    folder = tmp_path_factory.mktemp("built")
    make_run(folder / "run", "himalaya", tiny_backbone(folder / "backbone"))
    export(folder / "run", folder / "bundle", precision="fp32")
    return folder / "bundle"


def on(device: Path, *words: str, cwd: Path, **environment: str) -> str:
    """Standard output of one command on the device. No path of the source tree is visible there."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "EDGEADAPT"))}
    done = subprocess.run(
        [str(device / words[0]), *words[1:]],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**clean, **environment},
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_core_brings_none_of_the_training_stack(device: Path, tmp_path: Path) -> None:
    code = f"import importlib.util; print([name for name in {ABSENT!r} if importlib.util.find_spec(name)])"
    assert on(device, "python", "-c", code, cwd=tmp_path).strip() == "[]"


def test_the_wheel_is_what_gets_imported_with_its_library_if_it_has_one(device: Path, tmp_path: Path) -> None:
    code = "import edgeadapt, edgeadapt.ops.library as l; print(edgeadapt.__file__); print(l.library_path())"
    module, library = on(device, "python", "-c", code, cwd=tmp_path).split()
    installed = device.parent.resolve()
    assert Path(module).resolve().is_relative_to(installed)
    if (ROOT / "build" / "ort-headers").is_dir():
        assert Path(library).resolve().is_relative_to(installed)


def test_every_command_shows_its_help_with_examples(device: Path, tmp_path: Path) -> None:
    assert "--version" in on(device, "edgeadapt", "--help", cwd=tmp_path)
    for command in ("train", "export", "run", "bench", "inspect", "verify"):
        assert "Examples:" in on(device, "edgeadapt", command, "--help", cwd=tmp_path)


def test_inspect_counts_the_bundle(device: Path, bundle: Path, tmp_path: Path) -> None:
    found = json.loads(on(device, "edgeadapt", "inspect", str(bundle), "--json", cwd=tmp_path))
    assert "himalaya" in json.dumps(found)


def test_verify_passes_with_and_without_the_library(device: Path, bundle: Path, tmp_path: Path) -> None:
    for switch in ("auto", "off"):
        json.loads(on(device, "edgeadapt", "verify", str(bundle), "--json", cwd=tmp_path, EDGEADAPT_OPS=switch))


def test_a_task_is_answered_alike_with_and_without_the_library(device: Path, bundle: Path, tmp_path: Path) -> None:
    command = ("edgeadapt", "run", str(bundle), "--task", "topics", TEXT, "--json")
    kernels, bodies = (json.loads(on(device, *command, cwd=tmp_path, EDGEADAPT_OPS=ops)) for ops in ("auto", "off"))
    assert kernels["label"] == bodies["label"]
    assert kernels["probabilities"] == pytest.approx(bodies["probabilities"], abs=1e-4)
    assert sum(kernels["probabilities"].values()) == pytest.approx(1)


def test_text_is_generated(device: Path, bundle: Path, tmp_path: Path) -> None:
    said = on(device, "edgeadapt", "run", str(bundle), TEXT, "--max-new-tokens", "4", "--json", cwd=tmp_path)
    assert json.loads(said)
