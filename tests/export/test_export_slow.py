"""The real backbone through the whole export: sizes, and parity of random adapters that do something at every site."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeadapt.backbones import resolve
from edgeadapt.rundir import RunDir, write_adapter
from edgeadapt_export import export
from tests.support import make_run

SMOLLM2 = "SmolLM2-135M-Instruct"
pytestmark = pytest.mark.slow


def real_run(folder: Path, method: str, **options: Any) -> RunDir:
    run = make_run(folder, method, resolve(SMOLLM2).path, **options)
    found = resolve(SMOLLM2)
    reference = replace(run.adapter.backbone, id=SMOLLM2, revision=found.revision)
    return write_adapter(run.path, replace(run.adapter, backbone=reference), run.tensors())


@pytest.mark.parametrize(("method", "options"), [
    ("himalaya", {"gain": 0.05}),
    ("himalaya", {"gain": 0.05, "site": "square"}),
    ("lora", {"gain": 0.1}),
])  # fmt: skip
def test_function_bodies_equal_pytorch_on_2000_positions(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    report = export(real_run(tmp_path / "run", method, **options).path, tmp_path / "bundle", precision="fp32")
    assert report.parity is not None
    assert report.parity.positions >= 2000
    assert report.parity.max_abs_logit_difference <= 1e-3
    assert report.parity.argmax_agreement >= 0.999


@pytest.mark.parametrize(("precision", "megabytes"), [("int4", 90), ("int8", 145)])
def test_quantised_bundles_keep_within_their_sizes(tmp_path: Path, precision: Any, megabytes: int) -> None:
    run = real_run(tmp_path / "run", "himalaya")
    report = export(run.path, tmp_path / "bundle", precision=precision, check=False)
    assert report.size <= megabytes * 1_000_000
