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

from edgeadapt.ops import DOMAIN
from edgeadapt_export.decoder_map import block_output
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.passes.common import nodes

OP = "LowRankUpdate"


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
        if any(nodes(model, OP)):
            raise ir.passes.PreconditionError("the graph carries low-rank updates already")
        for layer in self.layers:
            end = block_output(model, layer)
            if len(end.inputs) != 3:
                raise ir.passes.PreconditionError(f"{end.name} does more than add and normalise")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        d, floats = self.geometry.hidden_size, ir.TensorType(ir.DataType.FLOAT)
        for layer in self.layers:
            end = block_output(model, layer)
            b, a, _ = end.inputs
            assert a is not None
            shapes = ([d, self.rank], [self.rank, d], [d])
            down, up, bias = (
                ir.Value(name=name, type=floats, shape=ir.Shape(shape))
                for name, shape in zip(input_names(layer), shapes, strict=True)
            )
            model.graph.inputs.extend([down, up, bias])
            total = ir.node("Add", [b, a], name=f"/loreft/layers.{layer}/Add")
            update = ir.node(OP, [a, total.outputs[0], down, up], domain=DOMAIN, name=_name(layer))
            for node in (total, update):
                node.outputs[0].name = f"{node.name}/output_0"
                node.outputs[0].type, node.outputs[0].shape = a.type, a.shape
            model.graph.insert_before(end, [total, update])
            end.replace_input_with(1, update.outputs[0])
            end.resize_inputs(4)
            end.replace_input_with(3, bias)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        if sorted(str(node.name) for node in nodes(model, OP)) != sorted(map(_name, self.layers)):
            raise ir.passes.PostconditionError("not every adapted block ends in exactly one update")


def _name(layer: int) -> str:
    return f"/loreft/layers.{layer}/{OP}"
