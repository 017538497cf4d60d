"""Inspect: every byte is accounted for, and the tables show what is there, without torch or onnx."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.inspect import describe, render
from edgeadapt.manifest import AdapterBytes
from edgeadapt.rundir import AdapterManifest, BackboneRef, Scores, write_adapter, write_scores
from edgeadapt.tasks import TaskSpec
from tests.core.bundles import make


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))


def shown(found: dict[str, Any]) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(found))
    return console.export_text()


def run(path: Path) -> Path:
    tensors = {"atoms": np.zeros((3, 4), np.uint8), "gains": np.ones((2, 5), np.float16)}
    manifest = AdapterManifest(
        1, "himalaya", "default", BackboneRef("owner/name", "abc", 64, 5), {"kind": "residual"},
        (TaskSpec("[bold]topics", "{text}", ("sport", "business")), TaskSpec("tell", "{text}", (), "generation")),
        AdapterBytes({"atoms": 12, "gains": 10, "protection": 10}, 32, 1000, 3000, 2_500_000),
    )  # fmt: skip
    write_adapter(path, manifest, tensors)
    write_scores(path, Scores(("a", "b"), (9, 9), np.array([0.2, 0.3]), np.array([[0.9, np.nan], [0.8, 0.7]])))
    return path


def test_a_bundle_is_described_byte_by_byte(tmp_path: Path) -> None:
    bundle = make(tmp_path / "bundle")
    (bundle / "notes.txt").write_text("mine")
    found = describe(bundle)
    assert json.loads(json.dumps(found)) == found
    assert found["kind"] == "bundle"
    assert found["bytes"] == sum(one["bytes"] for one in found["files"])
    assert found["unlisted"] == ["notes.txt"]
    model = found["graphs"]["model"]
    assert model["sites"] == {"edgeadapt::RankOneUpdate": 1}
    assert [port["name"] for port in model["adapter_inputs"]] == ["himalaya.r", "himalaya.gains"]
    assert [port["name"] for port in model["inputs"]] == ["x"]
    assert found["graphs"]["bare"]["adapter_inputs"] == []


def test_shared_weights_count_once_and_the_rest_is_named(tmp_path: Path) -> None:
    (weights,) = describe(make(tmp_path / "bundle"))["weights"]
    assert (weights["bytes"], weights["referenced"], weights["unreferenced"]) == (80, 64, 16)
    assert weights["largest"] == [{"offset": 0, "bytes": 64, "names": ["tied", "w"]}]


def test_a_run_is_described_byte_by_byte(tmp_path: Path) -> None:
    found = describe(run(tmp_path))
    assert json.loads(json.dumps(found)) == found
    assert found["kind"] == "run"
    assert found["bytes"] == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert sum(one["bytes"] for one in found["tensors"]) == found["adapter_bytes"]["deployed"] == 32
    assert found["adapter_bytes"]["method"] == 22
    assert found["scores"]["matrix"] == [[0.9, None], [0.8, 0.7]]


def test_the_tables_show_the_figures_and_no_markup_is_obeyed(tmp_path: Path) -> None:
    text = shown(describe(run(tmp_path / "run")))
    for part in ("the method's formula", "22", "32 of 2,500,000", "[bold]topics", "3 x 4", "0.900", "(untrained)"):
        assert part in text
    text = shown(describe(make(tmp_path / "bundle")))
    for part in (
        "1 x RankOneUpdate",
        "himalaya.r",
        "16 not referred to",
        "int4.argmax_agreement",
        "onnxruntime >= 1.20",
    ):
        assert part in text


def test_neither_bundle_nor_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match=r"has neither edgeadapt\.json nor adapter\.json"):
        describe(tmp_path)
    with pytest.raises(EdgeAdaptError, match="no such directory"):
        describe(tmp_path / "none")


def test_a_damaged_bundle_is_not_described(tmp_path: Path) -> None:
    bundle = make(tmp_path / "bundle")
    (bundle / "tokenizer.json").write_text("[]")
    with pytest.raises(EdgeAdaptError, match=r"tokenizer\.json: its SHA-256"):
        describe(bundle)


def test_torch_onnx_and_transformers_are_not_imported(tmp_path: Path) -> None:
    bundle = make(tmp_path / "bundle")
    program = (
        "import sys; from pathlib import Path; from edgeadapt.inspect import describe, render\n"
        f"render(describe(Path({str(bundle)!r})))\n"
        "bad = {'torch', 'onnx', 'onnx_ir', 'transformers', 'optimum'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
