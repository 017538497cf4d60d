"""LoReFT's sites: h_l <- h_l + (h_l A_l) B_l + c_l at the output h_l of each adapted block.

Rule    A block ends in SkipSimplifiedLayerNormalization(b, a, gamma), which hides h = b + a (a the last branch's
        output, b the residual stream). It becomes
            h = Add(b, a)        a' = LowRankUpdate(a, h, A, B)        SkipSimplifiedLayerNormalization(b, a', gamma, c)
        whose optional fourth input is added to the sum: c costs no node.
Adds    inputs loreft.{l}.A [d, r], loreft.{l}.B [r, d] and loreft.{l}.bias [d], float32.
Needs   Every adapted block ends that way and has no bias there; the graph has no LowRankUpdate yet.
Leaves  One LowRankUpdate at each adapted block's end. A or B = 0 with c = 0 changes nothing, to the bit.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.passes.block_end import ensure_updates, require_plain_ends, update_end

FAMILY = "loreft"


def input_names(layer: int) -> tuple[str, str, str]:
    """The inputs of one site: A, B and c."""
    return f"loreft.{layer}.A", f"loreft.{layer}.B", f"loreft.{layer}.bias"


class GraftAffine(ir.passes.InPlacePass):
    """See the module's docstring."""

    def __init__(self, geometry: Geometry, layers: tuple[int, ...], rank: int) -> None:
        self.geometry = geometry
        self.layers = layers
        self.rank = rank

    def requires(self, model: ir.Model) -> None:
        require_plain_ends(model, self.layers)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        d, floats = self.geometry.hidden_size, ir.TensorType(ir.DataType.FLOAT)
        shapes = ([d, self.rank], [self.rank, d], [d])
        for layer in self.layers:
            down, up, bias = (
                ir.Value(name=name, type=floats, shape=ir.Shape(shape))
                for name, shape in zip(input_names(layer), shapes, strict=True)
            )
            model.graph.inputs.extend([down, up, bias])
            end = update_end(model, layer, FAMILY, [down, up])
            end.resize_inputs(4)
            end.replace_input_with(3, bias)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        ensure_updates(model, self.layers, FAMILY)
