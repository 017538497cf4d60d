"""The wheel that is sent to a board: built from this tree, once for each state of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import edgeadapt
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.devices.ssh.wheel import state, wheel_for


def tree(root: Path) -> Path:
    (root / "edgeadapt").mkdir(parents=True)
    (root / "edgeadapt" / "x.py").write_text("x = 1\n")
    (root / "pyproject.toml").write_text("[project]\n")
    return root


def test_a_change_of_a_source_is_another_state(tmp_path: Path) -> None:
    first = state(tree(tmp_path / "a"))
    assert state(tree(tmp_path / "b")) == first
    (tmp_path / "b" / "edgeadapt" / "x.py").write_text("x = 2\n")
    assert state(tmp_path / "b") != first


def test_what_is_built_is_no_source(tmp_path: Path) -> None:
    first = state(tree(tmp_path))
    (tmp_path / "edgeadapt" / "__pycache__").mkdir()
    (tmp_path / "edgeadapt" / "__pycache__" / "x.pyc").write_bytes(b"x")
    (tmp_path / "edgeadapt" / "libedgeadapt_ops.so").write_bytes(b"x")
    assert state(tmp_path) == first


def test_without_sources_a_wheel_has_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edgeadapt, "__file__", str(tmp_path / "site" / "edgeadapt" / "__init__.py"))
    with pytest.raises(
        EdgeAdaptError, match=r"no source tree .*build_wheel.py --target aarch64\) and name it \(\?wheel="
    ):
        wheel_for("aarch64", print)


def test_a_machine_that_no_wheel_is_built_for() -> None:
    with pytest.raises(EdgeAdaptError, match="no wheel can be built here for riscv64"):
        wheel_for("riscv64", print)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="not installed: aarch64-linux-gnu-g++")
def test_a_wheel_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEADAPT_CACHE", str(tmp_path))
    told: list[str] = []
    wheel = wheel_for("aarch64", told.append)
    assert wheel.name.endswith("_aarch64.whl")
    assert wheel_for("aarch64", told.append) == wheel
    assert told == ["building a wheel for aarch64"]
