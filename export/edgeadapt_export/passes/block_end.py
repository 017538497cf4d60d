"""The end of a decoder block, SkipSimplifiedLayerNormalization(b, a, gamma), and a low-rank update of what it sums.

    h = Add(b, a)    a' = LowRankUpdate(a, h, *factors)    SkipSimplifiedLayerNormalization(b, a', gamma)

b is the residual stream and a the last branch's output, so that the block's output h becomes h + (h A) B.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeadapt.ops import DOMAIN
from edgeadapt_export.decoder_map import block_output
from edgeadapt_export.passes.common import nodes

OP = "LowRankUpdate"


def require_plain_ends(model: ir.Model, layers: Sequence[int]) -> None:
    """Raise PreconditionError where the graph has low-rank updates, or a block whose end does more than that."""
    if any(nodes(model, OP)):
        raise ir.passes.PreconditionError("the graph carries low-rank updates already")
    for layer in layers:
        end = block_output(model, layer)
        if len(end.inputs) != 3:
            raise ir.passes.PreconditionError(f"{end.name} does more than add and normalise")


def update_end(model: ir.Model, layer: int, family: str, factors: Sequence[ir.Value]) -> ir.Node:
    """Put the update in; `factors` are the op's inputs from A on. Returns the block's normalisation."""
    end = block_output(model, layer)
    b, a, _ = end.inputs
    assert a is not None
    total = ir.node("Add", [b, a], name=f"/{family}/layers.{layer}/Add")
    update = ir.node(OP, [a, total.outputs[0], *factors], domain=DOMAIN, name=_name(layer, family))
    for node in (total, update):
        node.outputs[0].name = f"{node.name}/output_0"
        node.outputs[0].type, node.outputs[0].shape = a.type, a.shape
    model.graph.insert_before(end, [total, update])
    end.replace_input_with(1, update.outputs[0])
    return end


def ensure_updates(model: ir.Model, layers: Sequence[int], family: str) -> None:
    """Raise PostconditionError unless every adapted block ends in exactly one update."""
    if sorted(str(node.name) for node in nodes(model, OP)) != sorted(_name(layer, family) for layer in layers):
        raise ir.passes.PostconditionError("not every adapted block ends in exactly one update")


def _name(layer: int, family: str) -> str:
    return f"/{family}/layers.{layer}/{OP}"
