"""The graph inputs of a direction adapter, shared by the residual and the square grafts."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeadapt_export.passes.common import add_initializer

R, GAINS = "himalaya.r", "himalaya.gains"


def add_direction_inputs(model: ir.Model, width: int, columns: int) -> tuple[ir.Value, list[ir.Value]]:
    """Add himalaya.r [B, width] and himalaya.gains [B, columns]; return r and the gains' columns, each [B, 1]."""
    floats = ir.TensorType(ir.DataType.FLOAT)
    r = ir.Value(name=R, type=floats, shape=ir.Shape(["batch_size", width]))
    gains = ir.Value(name=GAINS, type=floats, shape=ir.Shape(["batch_size", columns]))
    model.graph.inputs.extend([r, gains])
    sizes = add_initializer(model, "himalaya.gains.split", np.ones(columns, np.int64))
    split = ir.node("Split", [gains, sizes], {"axis": 1}, num_outputs=columns, name="/himalaya/gains/Split")
    for index, value in enumerate(split.outputs):
        value.name = f"/himalaya/gains/{index}"
        value.type, value.shape = floats, ir.Shape(["batch_size", 1])
    first = next(iter(model.graph), None)
    assert first is not None
    model.graph.insert_before(first, split)
    return r, list(split.outputs)
