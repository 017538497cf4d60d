"""HIMALAYA's residual sites: h_l <- h_l + g_l r (r^T h_l) at the output h_l of each adapted block.

Rule    A block ends in SkipSimplifiedLayerNormalization(b, a, gamma), which hides h = a + b (a the last branch's
        output, b the residual stream). RankOneNorm(a, b, r, g_l r, gamma) does sum, update and norm in its place.
        The last block's is the final normalisation, whose sum nothing else reads; it is treated like the others.
Adds    inputs himalaya.r and himalaya.u.0, 1, ... (passes/direction_inputs.py).
Needs   Every adapted block ends that way; the graph has no RankOneNorm yet.
Leaves  Exactly one RankOneNorm at each adapted block's end. r = 0 or u = 0 change nothing, to the bit.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeadapt.ops import DOMAIN
from edgeadapt_export.decoder_map import block_output
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.passes.common import nodes
from edgeadapt_export.passes.direction_inputs import add_direction_inputs

OP = "RankOneNorm"
_SUM = 3  # which output of SkipSimplifiedLayerNormalization the sum is


class GraftResidual(ir.passes.InPlacePass):
    """See the module's docstring. `layers[i]` takes the i-th update."""

    def __init__(self, geometry: Geometry, layers: tuple[int, ...]) -> None:
        self.geometry = geometry
        self.layers = layers

    def requires(self, model: ir.Model) -> None:
        if any(nodes(model, OP)):
            raise ir.passes.PreconditionError("the graph carries rank-one updates already")
        for layer in self.layers:
            end = block_output(model, layer)
            if len(end.inputs) != 3 or any(value.uses() for value in end.outputs[1:_SUM]):
                raise ir.passes.PreconditionError(f"{end.name} does more than add and normalise")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        r, updates = add_direction_inputs(model, self.geometry.hidden_size, len(self.layers))
        for layer, u in zip(self.layers, updates, strict=True):
            end = block_output(model, layer)
            b, a, gamma = end.inputs
            epsilon = {"epsilon": end.attributes.get_float("epsilon", 1e-5)}
            node = ir.node(OP, [a, b, r, u, gamma], epsilon, num_outputs=2, domain=DOMAIN, name=_name(layer))
            olds = [end.outputs[0], *end.outputs[_SUM:]]
            for old, new in zip(olds, node.outputs, strict=False):
                new.name, new.type, new.shape = old.name, old.type, old.shape
            if len(olds) == 1:
                node.outputs[1].name = f"{node.name}/sum"
            ir.convenience.replace_nodes_and_values(
                model.graph, end, [end], [node], olds, list(node.outputs[: len(olds)])
            )
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        if sorted(str(node.name) for node in nodes(model, OP)) != sorted(map(_name, self.layers)):
            raise ir.passes.PostconditionError("not every adapted block ends in exactly one update")


def _name(layer: int) -> str:
    return f"/himalaya/layers.{layer}/{OP}"
