"""What stands between an encoder's linear layers by our own ops, for devices on which the stock ones are slow.

Rule    FastGelu(x)                                 ->   TanhGelu(x)
        SkipLayerNormalization(a, b, gamma, beta)   ->   AddLayerNorm(a, b, gamma, beta)
        where a comes from a linear layer and b from a normalisation (so that their shapes are equal), and only the
        first output is used. The ops' bodies are those very nodes. passes/linear_bias.py has brought the biases away.
Needs   Nothing: whatever is wired otherwise stays.
Leaves  The same numbers within the ops' tolerance.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeadapt.ops import DOMAIN
from edgeadapt_export.graph_map import LINEAR_OPS
from edgeadapt_export.passes.common import nodes, replace
from edgeadapt_export.passes.own_matmul import OWN

_LINEARS = {op for _, op in LINEAR_OPS} | {OWN}
_NORMS = {"SkipLayerNormalization", "LayerNormalization", "AddLayerNorm"}


class UseOwnActivations(ir.passes.InPlacePass):
    """See the module's docstring."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        gelus = [node for node in nodes(model, "FastGelu") if len(node.inputs) == 1]
        norms = [node for node in nodes(model, "SkipLayerNormalization") if _ends_a_half(node)]
        for node in gelus:
            replace(model, node, ir.node("TanhGelu", node.inputs, domain=DOMAIN, name=node.name))
        for node in norms:
            epsilon = {"epsilon": node.attributes.get_float("epsilon", 1e-12)}
            node.resize_outputs(1)
            replace(model, node, ir.node("AddLayerNorm", node.inputs, epsilon, domain=DOMAIN, name=node.name))
        return ir.passes.PassResult(model, bool(gelus or norms))


def _ends_a_half(node: ir.Node) -> bool:
    if [value is not None for value in node.inputs] != [True] * 4 or any(value.uses() for value in node.outputs[1:]):
        return False
    made_by = [value.producer() if value is not None else None for value in node.inputs[:2]]
    linear, norm = ("" if made is None else made.op_type for made in made_by)
    return linear in _LINEARS and norm in _NORMS
