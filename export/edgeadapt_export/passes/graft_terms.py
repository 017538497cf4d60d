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
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.passes.block_end import ensure_updates, require_plain_ends, update_end
from edgeadapt_export.passes.direction_inputs import add_term_inputs

FAMILY = "himalaya"


class GraftTerms(ir.passes.InPlacePass):
    """See the module's docstring. `layers[i]` takes the i-th update."""

    def __init__(self, geometry: Geometry, layers: tuple[int, ...]) -> None:
        self.geometry = geometry
        self.layers = layers

    def requires(self, model: ir.Model) -> None:
        if self.geometry.kind == "encoder":
            raise EdgeAdaptError("update=terms is deployed on decoders only; train with update=direction")
        require_plain_ends(model, self.layers)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        A, updates, index = add_term_inputs(model, self.geometry.hidden_size, len(self.layers))
        for layer, u in zip(self.layers, updates, strict=True):
            update_end(model, layer, FAMILY, [A, u, index])
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        ensure_updates(model, self.layers, FAMILY)
