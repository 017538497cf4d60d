"""Where things are in an encoder's graph (backbones/encoder.py): what enters it, and its blocks' outputs.

A block of BERT's kind ends in a normalisation of the sum of the residual stream and its last linear layer, down_proj:
    h_l = LayerNorm(h'_l + down_proj(..))         SkipLayerNormalization or AddLayerNorm
and h_l is what the next block's linear layers and its first sum read.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_export.graph_map import linears

NORMS = ("SkipLayerNormalization", "AddLayerNorm")
_TABLES = ("Gather", "GatherBlockQuantized")


def block_output(model: ir.Model, layer: int) -> ir.Value:
    """h_l [B, S, d]. Raises EdgeAdaptError if the block is wired in any other way."""
    down = linears(model).get((layer, "down_proj"))
    users = [] if down is None else [node for node, _ in down.y.uses()]
    if len(users) == 1 and users[0].op_type in NORMS:
        return users[0].outputs[0]
    raise EdgeAdaptError(
        f"layer {layer} of the graph does not end in down_proj and a normalisation, so there is no residual site"
    )


def word_rows(model: ir.Model) -> ir.Value:
    """The rows of the word embedding [B, S, d], before positions, types and their normalisation."""
    ids = next(value for value in model.graph.inputs if value.name == "input_ids")
    for node, place in ids.uses():
        if node.op_type in _TABLES and place == 1:
            return node.outputs[0]
    raise EdgeAdaptError("the graph looks no words up by its input_ids, so it is not an encoder of ours")
