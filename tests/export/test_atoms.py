"""UniHyperLoRA's own graph: its nodes against the same equations in NumPy, and that it holds the stored bytes alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import atom_mix_update
from edgeadapt_export.methods import atom_tables
from edgeadapt_export.methods.atom_mix import AtomMix, _AtomsGraph
from edgeadapt_export.methods.atom_tables import TYPE_OF, Stored
from edgeadapt_export.methods.contract import StoredAdapter
from edgeadapt_export.passes.graft_atoms import Kind, Layout
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Adapter, Host
from edgeadapt_train.backbone import blocks
from tests.contract.subjects import decoder

LAYERS, D, KV, INNER = 3, 64, 16, 112
UP = Kind("up_proj", ("up_proj",), (INNER,), D)
PLAN = Layout(
    LAYERS,
    {
        "qkv_proj": Kind("qkv_proj", ("q_proj", "k_proj", "v_proj"), (D, KV, KV), D),
        "o_proj": Kind("o_proj", ("o_proj",), (D,), D),
        "gate_proj": UP,
        "up_proj": UP,
        "down_proj": Kind("down_proj", ("down_proj",), (D,), INNER),
    },
)
OPTIONS: dict[str, dict[str, Any]] = {
    "unihyper": {"method": "unihyper"},
    "unihyper vocab": {"method": "unihyper", "basis": "vocab"},
    "sat-lora": {"method": "sat-lora"},
    "hf-sat-lora": {"method": "hf-sat-lora"},
}


def stored(name: str) -> Stored:
    """An adapter of random numbers, as it is stored."""
    model = decoder()
    adapter: Adapter = registry.build({**OPTIONS[name], "flop_cap": 1.0}, Host(model, blocks(model), D), 0)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    manifest: Any = SimpleNamespace(method=adapter.method, sites=adapter.sites())
    return Stored(StoredAdapter(manifest, adapter.deployed()))


def outputs(model: ir.Model, task: int) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(None, {"task": np.array([task])}), strict=True))


@pytest.mark.parametrize("name", OPTIONS)
def test_the_graph_computes_the_tables(name: str) -> None:
    adapter = stored(name)
    found = outputs(_AtomsGraph(adapter, D, PLAN).model, 5)
    assert tuple(found) == PLAN.inputs
    W, K, e = atom_tables.router(adapter, D)
    expected = {"atoms.W": W, "atoms.K": K, "atoms.bias": (e[5] @ K)[None, None]}
    g = atom_tables.gains(adapter, LAYERS)
    for kind in PLAN.tables:
        shapes = [(width, kind.depth) for width in kind.widths]
        U = np.concatenate([atom_tables.atoms(adapter, "U", shape, D) for shape in shapes], axis=1)
        reading = shapes[:1] if adapter.shared else shapes
        V = np.stack([atom_tables.atoms(adapter, "V", shape, D) for shape in reading], axis=1)
        own = np.stack([g[:, TYPE_OF[module]] for module in kind.modules], axis=2)
        expected[kind.input] = atom_mix_update.table(U, V, own)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, atol=2e-5 * max(1.0, float(np.abs(value).max())), err_msg=key)


@pytest.mark.parametrize("name", OPTIONS)
def test_its_initializers_are_the_stored_tensors(name: str) -> None:
    adapter = stored(name)
    held = _AtomsGraph(adapter, D, PLAN).model.graph.initializers
    assert held.keys() == adapter.adapter.tensors.keys()
    total = sum(array.nbytes for array in adapter.adapter.tensors.values())
    assert sum(value.const_value.nbytes for value in held.values() if value.const_value is not None) == total


def test_a_gate_takes_the_tables_of_up() -> None:
    assert len(PLAN.tables) == 4
    assert len(PLAN.inputs) == 3 + 4


def test_another_adapter_s_sites_are_refused() -> None:
    adapter = stored("unihyper").adapter
    wrong: Any = SimpleNamespace(method="unihyper", sites={"kind": "linear"})
    with pytest.raises(EdgeAdaptError, match="unihyper's sites are atoms, with modules and top_k"):
        AtomMix().graft(
            ir.Model(ir.Graph([], [], nodes=[]), ir_version=10), None, StoredAdapter(wrong, adapter.tensors)
        )  # type: ignore[arg-type]
    with pytest.raises(EdgeAdaptError, match=r"no tensor 'keys'"):
        Stored(StoredAdapter(wrong, {})).tensor("keys")
