"""The graph inputs of a direction adapter, for the residual and the square grafts.

    himalaya.r    r [B, 1, d], read        himalaya.u    u [B, L, d]: row i, u_i = g_i r, is written by the i-th adapted
                                                         layer

The products g_i r are formed once per prompt, in the adapter's own graph, and bound. They are one input, which one
Split cuts into rows: an input costs the runtime more at every step than copying a row does.
"""

from __future__ import annotations

import onnx_ir as ir

R, U = "himalaya.r", "himalaya.u"
SPLIT = "/himalaya/u/Split"


def add_direction_inputs(model: ir.Model, width: int, layers: int) -> tuple[ir.Value, list[ir.Value]]:
    """Add the inputs; return r and the updates u_i, each float32 [B, 1, width]."""
    floats = ir.TensorType(ir.DataType.FLOAT)
    r, u = (
        ir.Value(name=name, type=floats, shape=ir.Shape(["batch_size", rows, width]))
        for name, rows in ((R, 1), (U, layers))
    )
    model.graph.inputs.extend([r, u])
    split = ir.node("Split", [u], {"axis": 1, "num_outputs": layers}, num_outputs=layers, name=SPLIT)
    for index, row in enumerate(split.outputs):
        row.name, row.type, row.shape = f"/himalaya/u.{index}", floats, ir.Shape(["batch_size", 1, width])
    model.graph.insert_before(model.graph[0], split)
    return r, list(split.outputs)
