"""What follows from the wiring of a decoder graph of the model builder: its blocks' outputs, its ends.

Linear layers are found by their names (graph_map.py); which branch a block's output adds is read off the wiring.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_export.graph_map import LINEAR_OPS, linears


def block_output(model: ir.Model, layer: int) -> ir.Node:
    """The SkipSimplifiedLayerNormalization that ends block `layer`: inputs 0 the residual stream, 1 the last branch.

    Raises EdgeAdaptError if the block is wired in any other way (parallel branches, norms after the branch, experts).
    """
    down = linears(model).get((layer, "down_proj"))
    reached = None if down is None else _through_bias(down.y)
    if reached is not None:
        for node, position in reached.uses():
            if node.op_type == "SkipSimplifiedLayerNormalization" and position == 1:
                return node
    raise EdgeAdaptError(
        f"layer {layer} of the graph does not end in down_proj and a skip normalisation, so there is no residual site; "
        "adapt square projections (site=square) instead"
    )


def lm_head(model: ir.Model) -> tuple[ir.Node, list[ir.Value]]:
    """The product that makes the logits from the last hidden states, and the values between it and `logits`, included.

    What may stand between them (a bias, a cap) works on every position alone.
    """
    value = next((value for value in model.graph.outputs if value.name == "logits"), None)
    after: list[ir.Value] = []
    while value is not None and (node := value.producer()) is not None:
        if (node.domain, node.op_type) in LINEAR_OPS:
            return node, after
        after.append(value)
        value = node.inputs[0]
    raise EdgeAdaptError("the graph's logits do not come from a product with the LM head's weight")


def residual_start(model: ir.Model) -> ir.Value:
    """The embedding output [B, T, d]: what enters the first block."""
    for node in model.graph:
        if node.op_type in ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "LayerNormalization"):
            value = node.inputs[0]
            assert value is not None
            return value
    raise EdgeAdaptError("the graph has no normalisation, so it is not a decoder of the model builder")


def _through_bias(value: ir.Value) -> ir.Value:
    consumers = list(value.uses())
    if len(consumers) == 1 and consumers[0][0].op_type == "Add":
        other = consumers[0][0].inputs[1 - consumers[0][1]]
        if other is not None and other.is_initializer():
            return consumers[0][0].outputs[0]
    return value
