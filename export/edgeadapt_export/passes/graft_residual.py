"""HIMALAYA's residual sites: h_l <- h_l + g_l r (r^T h_l) at the output h_l of each adapted block.

Rule    A block ends in SkipSimplifiedLayerNormalization(b, a), which hides h = a + b (a the last branch's output, b the
        residual stream). One branch is changed so that the fusion stays:
            a' = RankOneUpdate(a, a, r, g_l, b) = a + g_l r (r^T (a + b))          a' + b = h + g_l r (r^T h)
        The last block's is the final normalisation, whose sum nothing else reads; it is treated like the others.
Adds    inputs himalaya.r [B, d] and himalaya.gains [B, L] float32, cut into L columns [B, 1] by one Split.
Needs   Every adapted block ends that way; the graph has no RankOneUpdate yet.
Leaves  Exactly one RankOneUpdate before each adapted block's end. r = 0 or gains = 0 change nothing, to the bit.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeadapt.ops import DOMAIN
from edgeadapt_export.decoder_map import Geometry, block_output
from edgeadapt_export.passes.common import nodes
from edgeadapt_export.passes.direction_inputs import add_direction_inputs

OP = "RankOneUpdate"


class GraftResidual(ir.passes.InPlacePass):
    """See the module's docstring. `layers[i]` uses column i of the gains."""

    def __init__(self, geometry: Geometry, layers: tuple[int, ...]) -> None:
        self.geometry = geometry
        self.layers = layers

    def requires(self, model: ir.Model) -> None:
        if any(nodes(model, OP)):
            raise ir.passes.PreconditionError("the graph carries rank-one updates already")
        for layer in self.layers:
            block_output(model, layer)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        r, gains = add_direction_inputs(model, self.geometry.hidden_size, len(self.layers))
        for layer, gain in zip(self.layers, gains, strict=True):
            end = block_output(model, layer)
            b, a = end.inputs[0], end.inputs[1]
            assert a is not None
            assert b is not None
            update = ir.node(OP, [a, a, r, gain, b], domain=DOMAIN, name=f"/himalaya/layers.{layer}/{OP}")
            update.outputs[0].name = f"/himalaya/layers.{layer}/output_0"
            update.outputs[0].type, update.outputs[0].shape = a.type, a.shape
            model.graph.insert_before(end, update)
            end.replace_input_with(1, update.outputs[0])
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        for layer in self.layers:
            down = [node for node in nodes(model, OP) if node.name == f"/himalaya/layers.{layer}/{OP}"]
            if len(down) != 1 or [node.op_type for node in down[0].outputs[0].consumers()] != [
                "SkipSimplifiedLayerNormalization"
            ]:
                raise ir.passes.PostconditionError(f"layer {layer} does not end in exactly one update")
