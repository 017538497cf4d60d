"""The graph inputs of a direction adapter, for the residual and the square grafts.

    himalaya.r    r [B, 1, d], read        himalaya.u.i    u_i = g_i r [B, 1, d], written by the i-th adapted layer

The products g_i r are formed once per prompt, in the adapter's own graph, and bound: a site takes its inputs as they
are, and a decoding step computes nothing of them. One input that a Split cuts into rows was tried and costs more: 0.39 M
instructions a token on an emulated Cortex-A72 instead of 0.21 M, all sites included (SmolLM2-135M, int4, our kernels).
"""

from __future__ import annotations

import onnx_ir as ir

R = "himalaya.r"


def update_input(index: int) -> str:
    """The input that holds the i-th adapted layer's u."""
    return f"himalaya.u.{index}"


def input_names(layers: int) -> tuple[str, ...]:
    """The inputs of a graph with so many adapted layers."""
    return (R, *map(update_input, range(layers)))


def add_direction_inputs(model: ir.Model, width: int, layers: int) -> tuple[ir.Value, list[ir.Value]]:
    """Add the inputs; return r and the updates u_i, each float32 [B, 1, width]."""
    made = [
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch_size", 1, width]))
        for name in input_names(layers)
    ]
    model.graph.inputs.extend(made)
    return made[0], made[1:]
