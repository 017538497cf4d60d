"""The graph inputs of a HIMALAYA adapter, for its grafts.

    rank one    himalaya.r [B, 1, d], read     himalaya.u.i [B, 1, d]: g_i w, written by the i-th adapted layer
    terms       himalaya.A [B, d, 3], read     himalaya.u.i [B, 3, d]: rows g_ij w_j     himalaya.index [B]: 0 .. B-1

The products are formed once per prompt, in the adapter's own graph, and bound: a site takes its inputs as they are, and
a decoding step computes nothing of them.
"""

from __future__ import annotations

import onnx_ir as ir

_TERMS = 3


def direction_names(layers: int) -> tuple[str, ...]:
    """The inputs of a graph with so many adapted layers, rank one."""
    return ("himalaya.r", *(f"himalaya.u.{index}" for index in range(layers)))


def term_names(layers: int) -> tuple[str, ...]:
    """The same of terms."""
    return ("himalaya.A", *direction_names(layers)[1:], "himalaya.index")


def add_direction_inputs(model: ir.Model, width: int, layers: int) -> tuple[ir.Value, list[ir.Value]]:
    """Add the inputs; return r and the updates u_i, each float32 [B, 1, width]."""
    made = [_input(name, ir.DataType.FLOAT, 1, width) for name in direction_names(layers)]
    model.graph.inputs.extend(made)
    return made[0], made[1:]


def add_term_inputs(model: ir.Model, width: int, layers: int) -> tuple[ir.Value, list[ir.Value], ir.Value]:
    """Add the inputs; return A, the updates and the index."""
    first, *names, last = term_names(layers)
    A, index = _input(first, ir.DataType.FLOAT, width, _TERMS), _input(last, ir.DataType.INT64)
    updates = [_input(name, ir.DataType.FLOAT, _TERMS, width) for name in names]
    model.graph.inputs.extend([A, *updates, index])
    return A, updates, index


def _input(name: str, kind: ir.DataType, *shape: int) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(["batch_size", *shape]))
