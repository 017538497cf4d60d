"""Synthetic backbones: the same graph as one that was exported in full, at any depth, and a bundle that runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeadapt.backbones import Backbone
from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.progress import silent
from edgeadapt.runtime.engine import Engine
from edgeadapt_export import synthetic
from edgeadapt_export.backbones import decoder
from edgeadapt_export.decoder_source import base_graph, geometry
from edgeadapt_export.grow import grow
from edgeadapt_export.synthetic import SHAPES, Shape

LAYERS, VOCABULARY = 4, 384
OPTIONS = {"rms_norm_eps": 1e-6}
LLAMA = Shape("llama", LAYERS, 64, 128, 4, 2, VOCABULARY, 256, options=OPTIONS)
QWEN = Shape("qwen3", LAYERS, 64, 128, 4, 2, VOCABULARY, 256, tied=True, options={**OPTIONS, "head_dim": 16})


def base(shape: Shape, folder: Path, layers: int, vocabulary: int) -> ir.Model:
    seed = synthetic.seed_model(shape, folder / f"{layers}", layers, vocabulary)
    graph = decoder.build(Backbone("tiny", f"{layers}", seed), cache=folder / "cache")
    return base_graph(graph, geometry(seed, graph), "int4")


def described(model: ir.Model) -> tuple[dict[Any, Any], ...]:
    """Nodes, ports and weights by name: what they are, and what they are wired to."""

    def ports(values: Any) -> dict[Any, Any]:
        return {value.name: (str(value.type), str(value.shape)) for value in values}

    attributes = {
        node.name: sorted((name, str(item.value)) for name, item in node.attributes.items()) for node in model.graph
    }
    wired = {
        node.name: (node.op_type, [value and value.name for value in node.inputs], [one.name for one in node.outputs])
        for node in model.graph
    }
    weights = {name: (value.dtype, tuple(value.shape or ())) for name, value in model.graph.initializers.items()}
    return wired, attributes, ports(model.graph.inputs), ports(model.graph.outputs), weights


@pytest.mark.parametrize("shape", [LLAMA, QWEN], ids=["llama", "qwen3"])
def test_a_grown_graph_is_the_one_that_the_exporter_makes(shape: Shape, tmp_path: Path) -> None:
    grown = described(grow(base(shape, tmp_path, 2, 251), LAYERS, VOCABULARY))
    whole = described(base(shape, tmp_path, LAYERS, VOCABULARY))
    for one, other in zip(grown, whole, strict=True):
        assert {final(str(key)): final(str(value)) for key, value in one.items()} == {
            str(key): str(value) for key, value in other.items()
        }


def final(text: str) -> str:
    """The last normalisation is named after the number of layers."""
    return re.sub(r"layers\.2([./])final_norm", rf"layers.{LAYERS}\1final_norm", text)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "bundle"
    out.mkdir()
    synthetic.write("synthetic:tiny", QWEN, out, "int4", silent)
    return out


def test_a_synthetic_bundle_runs_and_says_what_it_is(bundle: Path) -> None:
    engine = Engine.open(bundle, graph="bare")
    logits = engine.prefill([1, 2, 3], 2)
    assert logits.shape == (VOCABULARY,)
    assert np.isfinite(logits).all()
    assert np.ptp(logits) > 0
    assert np.isfinite(engine.step(int(logits.argmax()))).all()
    manifest = Bundle.open(bundle).manifest
    assert (manifest.backbone.id, manifest.backbone.num_layers) == ("synthetic:tiny", LAYERS)
    assert {"model", "bare", "lora8", "mixed"} <= set(manifest.graphs)


def test_no_weight_is_stored_twice_and_a_tied_table_once(bundle: Path) -> None:
    model = ir.load(bundle / "bare.onnx")
    places: dict[tuple[int, int], set[str]] = {}
    for name, value in model.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            tensor = value.const_value
            places.setdefault((tensor.offset or 0, tensor.length or 0), set()).add(str(name))
    shared = [names for names in places.values() if len(names) > 1]
    assert [len(names) for names in shared] == [2]
    assert all("embed_tokens" in name for names in shared for name in names)


def test_the_same_name_gives_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    synthetic.write("synthetic:tiny", QWEN, again, "int4", silent)
    for name in ("model.onnx.data", "bare.onnx"):
        assert (again / name).read_bytes() == (bundle / name).read_bytes()


def test_a_shape_that_nobody_published() -> None:
    with pytest.raises(EdgeAdaptError, match="synthetic:gpt-9: no such shape; there are synthetic:smollm2-135m"):
        synthetic.kept("synthetic:gpt-9")
    assert set(SHAPES) == {"smollm2-135m", "tinyllama-1.1b", "qwen3-0.6b", "llama-2-7b"}
