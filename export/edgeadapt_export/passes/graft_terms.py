"""HIMALAYA's terms at residual sites: h_l <- h_l + (h_l A) u_l at the output h_l of each adapted block, rank three.

Rule    A block ends in SkipSimplifiedLayerNormalization(b, a, gamma), which hides h = b + a (a the last branch's
        output, b the residual stream). It becomes
            h = Add(b, a)    a' = LowRankUpdate(a, h, A, u_l, index)    SkipSimplifiedLayerNormalization(b, a', gamma)
Adds    inputs himalaya.A, himalaya.u.0, 1, ... and himalaya.index (passes/direction_inputs.py).
Needs   Every adapted block ends that way; the graph has no LowRankUpdate yet.
Leaves  One LowRankUpdate at each adapted block's end. u = 0 changes nothing, to the bit.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import DOMAIN
from edgeadapt_export.decoder_map import block_output
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.passes.common import nodes
from edgeadapt_export.passes.direction_inputs import add_term_inputs

OP = "LowRankUpdate"


class GraftTerms(ir.passes.InPlacePass):
    """See the module's docstring. `layers[i]` takes the i-th update."""

    def __init__(self, geometry: Geometry, layers: tuple[int, ...]) -> None:
        self.geometry = geometry
        self.layers = layers

    def requires(self, model: ir.Model) -> None:
        if self.geometry.kind == "encoder":
            raise EdgeAdaptError("update=terms is deployed on decoders only; train with update=direction")
        if any(nodes(model, OP)):
            raise ir.passes.PreconditionError("the graph carries low-rank updates already")
        for layer in self.layers:
            end = block_output(model, layer)
            if len(end.inputs) != 3:
                raise ir.passes.PreconditionError(f"{end.name} does more than add and normalise")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        A, updates, index = add_term_inputs(model, self.geometry.hidden_size, len(self.layers))
        for layer, u in zip(self.layers, updates, strict=True):
            end = block_output(model, layer)
            b, a, _ = end.inputs
            assert a is not None
            total = ir.node("Add", [b, a], name=f"/himalaya/layers.{layer}/Add")
            update = ir.node(OP, [a, total.outputs[0], A, u, index], domain=DOMAIN, name=_name(layer))
            for node in (total, update):
                node.outputs[0].name = f"{node.name}/output_0"
                node.outputs[0].type, node.outputs[0].shape = a.type, a.shape
            model.graph.insert_before(end, [total, update])
            end.replace_input_with(1, update.outputs[0])
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        if sorted(str(node.name) for node in nodes(model, OP)) != sorted(map(_name, self.layers)):
            raise ir.passes.PostconditionError("not every adapted block ends in exactly one update")


def _name(layer: int) -> str:
    return f"/himalaya/layers.{layer}/{OP}"
