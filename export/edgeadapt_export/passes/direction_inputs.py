"""The graph inputs of a direction adapter and what every site takes of them, for the residual and the square grafts.

    r [B, d], gains [B, L]   ->   row = r [B, 1, d]        u_l = g_l r [B, 1, d], one per adapted layer

Four nodes that depend on the inputs alone; what a site then needs it takes as it is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeadapt_export.passes.common import add_initializer

R, GAINS = "himalaya.r", "himalaya.gains"


def add_direction_inputs(model: ir.Model, width: int, columns: int) -> tuple[ir.Value, list[ir.Value]]:
    """Add himalaya.r [B, width] and himalaya.gains [B, columns]; return r and the updates u_l, each [B, 1, width]."""
    floats = ir.TensorType(ir.DataType.FLOAT)
    r = ir.Value(name=R, type=floats, shape=ir.Shape(["batch_size", width]))
    gains = ir.Value(name=GAINS, type=floats, shape=ir.Shape(["batch_size", columns]))
    model.graph.inputs.extend([r, gains])
    one = add_initializer(model, "himalaya.axis_1", np.array([1], np.int64))
    two = add_initializer(model, "himalaya.axis_2", np.array([2], np.int64))
    sizes = add_initializer(model, "himalaya.split", np.ones(columns, np.int64))
    row = ir.node("Unsqueeze", [r, one], name="/himalaya/r/Unsqueeze")
    column = ir.node("Unsqueeze", [gains, two], name="/himalaya/gains/Unsqueeze")
    product = ir.node("Mul", [column.outputs[0], row.outputs[0]], name="/himalaya/u/Mul")
    split = ir.node("Split", [product.outputs[0], sizes], {"axis": 1}, num_outputs=columns, name="/himalaya/u/Split")
    row.outputs[0].name = "/himalaya/row"
    for index, value in enumerate(split.outputs):
        value.name = f"/himalaya/u/{index}"
    for value in (row.outputs[0], *split.outputs):
        value.type, value.shape = floats, ir.Shape(["batch_size", 1, width])
    first = next(iter(model.graph), None)
    assert first is not None
    model.graph.insert_before(first, [row, column, product, split])
    return row.outputs[0], list(split.outputs)
