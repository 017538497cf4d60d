"""HIMALAYA's residual sites: h_l <- h_l + g_l r (r^T h_l) at the output h_l of each adapted block.

Rule    A block ends in SkipSimplifiedLayerNormalization(b, a), which hides h = a + b (a the last branch's output, b the
        residual stream). The sum is made before it, and it adds the update instead, so that the fusion stays:
            h = Add(b, a)      z = RankOneUpdate(h, r, g_l r) = g_l r (r^T h)     SkipSimplifiedLayerNormalization(h, z)
        The last block's is the final normalisation, whose sum nothing else reads; it is treated like the others.
Adds    inputs himalaya.r [B, d] and himalaya.gains [B, L] float32 (passes/direction_inputs.py).
Needs   Every adapted block ends that way; the graph has no RankOneUpdate yet.
Leaves  Exactly one Add and one RankOneUpdate before each adapted block's end. r = 0 or gains = 0 change nothing, to
        the bit.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeadapt.ops import DOMAIN
from edgeadapt_export.decoder_map import Geometry, block_output
from edgeadapt_export.passes.common import nodes
from edgeadapt_export.passes.direction_inputs import add_direction_inputs

OP = "RankOneUpdate"


class GraftResidual(ir.passes.InPlacePass):
    """See the module's docstring. `layers[i]` takes the i-th update."""

    def __init__(self, geometry: Geometry, layers: tuple[int, ...]) -> None:
        self.geometry = geometry
        self.layers = layers

    def requires(self, model: ir.Model) -> None:
        if any(nodes(model, OP)):
            raise ir.passes.PreconditionError("the graph carries rank-one updates already")
        for layer in self.layers:
            block_output(model, layer)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        r, updates = add_direction_inputs(model, self.geometry.hidden_size, len(self.layers))
        for layer, u in zip(self.layers, updates, strict=True):
            end = block_output(model, layer)
            b, a = end.inputs[0], end.inputs[1]
            assert a is not None
            assert b is not None
            add = ir.node("Add", [b, a], name=f"/himalaya/layers.{layer}/Add")
            update = ir.node(OP, [add.outputs[0], r, u], domain=DOMAIN, name=f"/himalaya/layers.{layer}/{OP}")
            for place, (node, name) in enumerate(((add, "h"), (update, "z"))):
                value = node.outputs[0]
                value.name, value.type, value.shape = f"/himalaya/layers.{layer}/{name}", a.type, a.shape
                model.graph.insert_before(end, node)
                end.replace_input_with(place, value)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        for layer in self.layers:
            down = [node for node in nodes(model, OP) if node.name == f"/himalaya/layers.{layer}/{OP}"]
            if len(down) != 1 or [node.op_type for node in down[0].outputs[0].consumers()] != [
                "SkipSimplifiedLayerNormalization"
            ]:
                raise ir.passes.PostconditionError(f"layer {layer} does not end in exactly one update")
