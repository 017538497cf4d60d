"""Quantised linears by our own op, for devices on which the stock one is slow.

Rule    MatMulNBits(x, data, scales[, zero_points[, , bias]])  -> QuantMatMul(x, data, scales[, zero_points[, bias]])
        The op's body is that very MatMulNBits, so a runtime without our kernels computes what it did before.
Needs   No group indices (g_idx), blocks that the op takes, accuracy level 4: what passes/quantise.py writes.
Leaves  No MatMulNBits.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeadapt.ops import DOMAIN
from edgeadapt_export.graph_map import MICROSOFT
from edgeadapt_export.passes.common import nodes, replace
from edgeadapt_export.passes.quantise import ACCURACY_LEVEL

STOCK, OWN = "MatMulNBits", "QuantMatMul"
_ATTRIBUTES = ("K", "N", "bits", "block_size")
_GROUPS, _BIAS = 4, 5  # places among the inputs of the stock op


class UseQuantMatMul(ir.passes.InPlacePass):
    """See the module's docstring."""

    def requires(self, model: ir.Model) -> None:
        for node in nodes(model, STOCK):
            level = node.attributes.get_int("accuracy_level", 0)
            if (
                node.domain != MICROSOFT
                or level != ACCURACY_LEVEL
                or (len(node.inputs) > _GROUPS and node.inputs[_GROUPS])
            ):
                raise ir.passes.PreconditionError(f"{node.name} is not what our quantisation writes")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = list(nodes(model, STOCK))
        for node in found:
            inputs = [*node.inputs[:_GROUPS], *node.inputs[_BIAS:]]
            attributes = {name: node.attributes.get_int(name) for name in _ATTRIBUTES}
            replace(model, node, ir.node(OWN, inputs, attributes, domain=DOMAIN, name=node.name))
        return ir.passes.PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        if any(nodes(model, STOCK)):
            raise ir.passes.PostconditionError(f"{STOCK} is left")
