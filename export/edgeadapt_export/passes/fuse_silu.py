"""SiLU as one node, which the runtime would otherwise have to find whenever it loads the graph.

Rule    Mul(x, Sigmoid(x))  ->  com.microsoft.QuickGelu(x; alpha = 1), which is x sigmoid(alpha x)
Needs   Nothing.
Leaves  No Sigmoid whose only use is that product.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeadapt_export.graph_map import MICROSOFT
from edgeadapt_export.passes.common import nodes, replace


class FuseSilu(ir.passes.InPlacePass):
    """See the module's docstring."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for sigmoid in nodes(model, "Sigmoid"):
            product = _product(sigmoid)
            if product is not None:
                silu = ir.node("QuickGelu", [sigmoid.inputs[0]], {"alpha": 1.0}, domain=MICROSOFT, name=product.name)
                replace(model, product, silu)
                model.graph.remove(sigmoid, safe=True)
                changed = True
        return ir.passes.PassResult(model, changed)

    def ensures(self, model: ir.Model) -> None:
        if any(_product(node) is not None for node in nodes(model, "Sigmoid")):
            raise ir.passes.PostconditionError("a SiLU is left in two nodes")


def _product(sigmoid: ir.Node) -> ir.Node | None:
    """The Mul(x, Sigmoid(x)) behind a Sigmoid(x) that nothing else reads."""
    users = sigmoid.outputs[0].consumers()
    if len(users) != 1 or users[0].op_type != "Mul" or sigmoid.inputs[0] not in users[0].inputs:
        return None
    return users[0]
