"""`edgeadapt verify` on good bundles, and on ones with something wrong that it must find."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeadapt.bundle import Bundle, seal
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops.library import library_path
from edgeadapt.verify import VerifyReport, verify
from tests.exported import Exported


def failed(report: VerifyReport) -> list[str]:
    return [row.name for row in report.rows if not row.passed]


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_a_good_bundle_passes(exported: Exported, precision: str) -> None:
    report = verify(exported("himalaya", precision))
    assert failed(report) == []
    assert report.passed
    names = [row.name for row in report.rows]
    for op in ("HimalayaDirection", "RankOneNorm", "LowRankUpdate"):
        assert f"op {op}: body = reference" in names
        assert (f"op {op}: kernel = reference" in names) == (library_path() is not None)
    assert "graph: zero inputs = bare" in names
    assert "graph: himalaya has an effect" in names


def test_lora_bundles_pass_too(exported: Exported) -> None:
    assert failed(verify(exported("lora"))) == []
    assert failed(verify(exported("lora", merge=True))) == []


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("factors", ["fp16", "int8"])
def test_lora_bundles_with_narrow_factors_pass_too(exported: Exported, factors: str, precision: str) -> None:
    report = verify(exported("lora", precision, factors=factors))
    assert failed(report) == []
    kind = {"fp16": "float16", "int8": "int8"}[factors]
    assert f"op LowRankUpdate {kind}: body = reference" in [row.name for row in report.rows]


def test_without_kernels_it_says_so(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEADAPT_OPS", "off")
    report = verify(exported())
    assert report.passed
    assert not any("kernel" in row.name for row in report.rows)
    assert report.notes == ("no op library on this machine: kernels were not checked",)


def test_what_is_no_bundle_is_unusable_input(tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="it is not a bundle") as caught:
        verify(tmp_path)
    assert caught.value.exit_code == 2


def test_a_flipped_byte_fails_integrity(exported: Exported, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported(), tmp_path / "bundle"))
    data = bytearray((copy / "model.onnx.data").read_bytes())
    data[1000] ^= 1
    (copy / "model.onnx.data").write_bytes(data)
    report = verify(copy)
    assert failed(report) == ["integrity"]
    assert report.failures == 1
    assert "SHA-256" in report.rows[0].measured


def changed(source: Path, target: Path, change: Callable[[Path], None]) -> Path:
    """A copy of a bundle with something else in it, and the hashes to match."""
    copy = Path(shutil.copytree(source, target))
    manifest = Bundle.open(copy).manifest
    change(copy)
    seal(copy, replace(manifest, files={}))
    return copy


def test_a_body_that_computes_something_else_is_found(exported: Exported, tmp_path: Path) -> None:
    def change(bundle: Path) -> None:
        path = bundle / "probes" / "RankOneNorm.0.onnx"
        model = onnx.load(str(path))
        next(node for node in model.functions[0].node if "h" in node.output).op_type = "Sub"
        onnx.save(model, str(path))

    names = failed(verify(changed(exported(), tmp_path / "bundle", change)))
    assert "op RankOneNorm: body = reference" in names
    assert not any("HimalayaDirection" in name for name in names)


def test_an_op_without_a_probe_is_found(exported: Exported, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported(), tmp_path / "bundle"))
    manifest = Bundle.open(copy).manifest
    (copy / "probes" / "RankOneNorm.0.onnx").unlink()
    graphs = {key: path for key, path in manifest.graphs.items() if "RankOneNorm" not in key}
    seal(copy, replace(manifest, graphs=graphs, files={}))
    assert failed(verify(copy)) == ["op RankOneNorm"]


def test_a_base_that_is_not_the_bare_one_is_found(exported: Exported, tmp_path: Path) -> None:
    """The grafted graph alone gets another final norm, as if the two had been exported from different weights."""

    def change(bundle: Path) -> None:
        model = onnx.load(str(bundle / "model.onnx"), load_external_data=False)
        node = next(node for node in reversed(model.graph.node) if "Skip" in node.op_type)
        old = next(item for item in model.graph.initializer if item.name == node.input[2])
        size = int(np.prod(old.dims))
        model.graph.initializer.append(numpy_helper.from_array(np.full(size, 1.01, np.float32), "another_norm"))
        node.input[2] = "another_norm"
        onnx.save(model, str(bundle / "model.onnx"))

    assert "graph: zero inputs = bare" in failed(verify(changed(exported(), tmp_path / "bundle", change)))


def test_an_adapter_that_silently_does_nothing_is_found(exported: Exported, tmp_path: Path) -> None:
    """Its inputs are there and are fed, but the graph does not use them: the bare graph with two idle inputs."""

    def change(bundle: Path) -> None:
        grafted = onnx.load(str(bundle / "model.onnx"), load_external_data=False)
        idle = onnx.load(str(bundle / "bare.onnx"), load_external_data=False)
        idle.graph.input.extend(item for item in grafted.graph.input if item.name.startswith("himalaya."))
        onnx.save(idle, str(bundle / "model.onnx"))

    assert failed(verify(changed(exported(), tmp_path / "bundle", change))) == ["graph: himalaya has an effect"]


def test_the_report_as_json_and_as_a_table(exported: Exported) -> None:
    report = verify(exported())
    value = json.loads(json.dumps(report.to_json()))
    assert value["passed"] is True
    assert [row["name"] for row in value["checks"]] == [row.name for row in report.rows]
    assert report.table().row_count == len(report.rows)
