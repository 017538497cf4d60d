"""HIMALAYA's own graph on stock onnxruntime: what training's stored form reads and writes, for a batch of tasks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.methods.himalaya_graph import direction_graph
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.graft_terms import GraftTerms
from tests.contract.subjects import NAMED, build, learn

FORMS = ("himalaya", "himalaya shared gain", "himalaya read-write", "himalaya terms", "himalaya read-write terms")


@pytest.mark.parametrize("name", FORMS)
def test_the_graph_gives_what_training_s_stored_form_reads_and_writes(name: str) -> None:
    bench = build(NAMED[name], "decoder")
    bench.adapter.attach()
    for task in range(2):
        learn(bench, task=task, lr=2e-2)
    bench.task = torch.tensor([0, 1, 1, 0])
    adapter, stored = bench.adapter, bench.adapter.deployed()
    terms = NAMED[name].options.get("update") == "terms"
    model = direction_graph(stored, 3, terms)
    session = ort.InferenceSession(ir.serde.serialize_model(model).SerializeToString())
    pool = adapter.pooled(bench.prompt)
    names = [item.name for item in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"pool": pool.numpy(), "task": bench.task.numpy()}), strict=True))
    with adapter.hardened():
        expected = adapter.stored_update(pool, bench.task)
    read = found["himalaya.A"].transpose(0, 2, 1) if terms else found["himalaya.r"]
    np.testing.assert_allclose(read, expected.read.numpy(), atol=2e-6)
    for layer in range(3):
        written = (expected.gains[:, layer, :, None] * expected.write).numpy()
        np.testing.assert_allclose(found[f"himalaya.u.{layer}"], written, atol=2e-6)
    if terms:
        np.testing.assert_array_equal(found["himalaya.index"], np.arange(4))
    # Its initializers are stored tensors, as they are; what it leaves out takes no part in a forward pass.
    held = {name for name, value in model.graph.initializers.items() if value.const_value is not None}
    assert set(stored) - held == {"statistics", "tree"}
    assert all(np.array_equal(model.graph.initializers[name].const_value.numpy(), stored[name]) for name in held)


def test_terms_are_not_deployed_on_an_encoder() -> None:
    empty = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 21}), ir_version=10)
    with pytest.raises(EdgeAdaptError, match="decoders only"):
        apply(empty, GraftTerms(Geometry(2, 64, 4, 4, 16, 96, 64, "encoder"), (0,)))
