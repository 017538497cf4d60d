"""HIMALAYA's residual sites in an encoder: h_l <- h_l + g_l r (r^T h_l) at the output h_l of each adapted block.

Rule    A block of BERT's kind ends in a normalisation, so its output stands there as it is, and everything behind it
        reads  h_l' = Add(h_l, RankOneUpdate(h_l, r, g_l r))  in its place.
Adds    the inputs of passes/direction_inputs.py.
Needs   Every adapted block ends that way; the graph has no RankOneUpdate yet.
Leaves  Exactly one RankOneUpdate and one Add at each adapted block's end. r = 0 or u = 0 change nothing, to the bit.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeadapt.ops import DOMAIN
from edgeadapt_export.encoder_map import block_output
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.passes.common import nodes
from edgeadapt_export.passes.direction_inputs import add_direction_inputs

OP = "RankOneUpdate"


class GraftPostNorm(ir.passes.InPlacePass):
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
            h = block_output(model, layer)
            norm = h.producer()
            assert norm is not None
            update = ir.node(OP, [h, r, u], domain=DOMAIN, name=_name(layer))
            add = ir.node("Add", [h, update.outputs[0]], name=f"/himalaya/layers.{layer}/Add")
            for node, name in ((update, "z"), (add, "output_0")):
                value = node.outputs[0]
                value.name, value.type, value.shape = f"/himalaya/layers.{layer}/{name}", h.type, h.shape
            if h.is_graph_output():  # the last block: the output keeps its name
                index = list(model.graph.outputs).index(h)
                h.name, add.outputs[0].name = f"/himalaya/layers.{layer}/h", h.name
                model.graph.outputs[index] = add.outputs[0]
            for user, place in list(h.uses()):
                if user not in (update, add):
                    user.replace_input_with(place, add.outputs[0])
            model.graph.insert_after(norm, [update, add])
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        if sorted(str(node.name) for node in nodes(model, OP)) != sorted(map(_name, self.layers)):
            raise ir.passes.PostconditionError("not every adapted block ends in exactly one update")


def _name(layer: int) -> str:
    return f"/himalaya/layers.{layer}/{OP}"
