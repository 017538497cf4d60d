"""Query, key and value of an encoder's attention as one linear layer.

Rule    q = x W_q, k = x W_k, v = x W_v   ->   q, k, v = Split(x [W_q | W_k | W_v])        x [B, S, d], W_* [d, d_*]
        where the three feed one MultiHeadAttention and read the same x: x is then read, and quantised, once instead of
        three times. The packed node is named like the three, with qkv in the place where they differ.
        Emulated Cortex-A72, 32 tokens, d = 384: the Split costs 33 thousand instructions; two linear layers less save
        two nodes and two quantisations of x (about 40 thousand each).
Needs   Nothing: whatever is wired otherwise stays.
Leaves  The same numbers up to the order of a float32 sum.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeadapt_export.passes.common import add_initializer, drop_unused_initializers, float_matrix, nodes

PACKED = "qkv"


class PackProjections(ir.passes.InPlacePass):
    """See the module's docstring."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for attention in nodes(model, "MultiHeadAttention"):
            linears = [_linear(value) for value in attention.inputs[:3]]
            if None not in linears and len({node.inputs[0] for node in linears if node}) == 1:
                _pack(model, [node for node in linears if node])
                changed = True
        drop_unused_initializers(model)
        return ir.passes.PassResult(model, changed)


def _linear(value: ir.Value | None) -> ir.Node | None:
    """The MatMul by a constant that makes `value` for one use only."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "MatMul" or float_matrix(node.inputs[1]) is None:
        return None
    return node if len(list(node.outputs[0].uses())) == 1 else None


def _pack(model: ir.Model, linears: list[ir.Node]) -> None:
    name = packed_name([str(node.name) for node in linears])
    matrices = [matrix for node in linears if (matrix := float_matrix(node.inputs[1])) is not None]
    weight = add_initializer(model, f"{name}.weight", np.concatenate(matrices, axis=1))
    widths = add_initializer(model, f"{name}.widths", np.array([matrix.shape[1] for matrix in matrices], np.int64))
    linear = ir.node("MatMul", [linears[0].inputs[0], weight], name=name)
    split = ir.node("Split", [linear.outputs[0], widths], {"axis": -1}, num_outputs=3, name=f"{name}/Split")
    last = max(linears, key=list(model.graph).index)
    model.graph.insert_after(last, [linear, split])
    linear.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    for node, part in zip(linears, split.outputs, strict=True):
        part.type, part.shape = node.outputs[0].type, node.outputs[0].shape
        ir.convenience.replace_all_uses_with(node.outputs[0], part)
        model.graph.remove(node, safe=True)


def packed_name(names: list[str]) -> str:
    """["/a/query/MatMul", "/a/key/MatMul", "/a/value/MatMul"] -> "/a/qkv/MatMul"."""
    parts = [name.split("/") for name in names]
    same = {len(part) for part in parts} == {len(parts[0])}
    columns = zip(*parts, strict=True) if same else ()
    return "/".join(column[0] if len(set(column)) == 1 else PACKED for column in columns) or f"{names[0]}/{PACKED}"
