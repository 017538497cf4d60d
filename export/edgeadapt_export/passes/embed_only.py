"""The embedding alone: from token ids to the mean of the prompt's embedding outputs, HIMALAYA's `pool`.

Rule    Keep what leads from input_ids to the embedding output e (a decoder's: what enters the first block, the lookup
        and what scales it; an encoder's: the words' rows), and add
            m = Cast(attention_mask)                              [B, T]
            pool = sum_t m_t e_t / max(sum_t m_t, 1)              [B, d]
        Padding may stand anywhere: here the mask's zeros count where they are.
Needs   input_ids and attention_mask are inputs of the graph.
Leaves  Inputs input_ids [B, T] and attention_mask [B, T], output pool [B, d], and no other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgeadapt_export.decoder_map import residual_start
from edgeadapt_export.passes.common import add_initializer, drop_dead_nodes, drop_unused_initializers

POOL = "pool"


class KeepEmbedding(ir.passes.InPlacePass):
    """See the module's docstring."""

    def __init__(self, width: int, embedded: Callable[[ir.Model], ir.Value] = residual_start) -> None:
        """`embedded` finds e [B, T, width]."""
        self.width = width
        self.embedded = embedded

    def requires(self, model: ir.Model) -> None:
        names = {value.name for value in model.graph.inputs}
        if not {"input_ids", "attention_mask"} <= names:
            raise ir.passes.PreconditionError(f"expected input_ids and attention_mask among the inputs, found {names}")
        self.embedded(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        embedded = self.embedded(model)
        inputs = {value.name: value for value in graph.inputs}
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        time = add_initializer(model, "embed.axis.1", np.array([1], np.int64))
        last = add_initializer(model, "embed.axis.2", np.array([2], np.int64))
        one = add_initializer(model, "embed.one", np.array(1, np.float32))
        m = ir.node("Cast", [mask], {"to": ir.DataType.FLOAT}, name="/embed/Cast")
        column = ir.node("Unsqueeze", [m.outputs[0], last], name="/embed/Unsqueeze")
        masked = ir.node("Mul", [embedded, column.outputs[0]], name="/embed/Mul")
        total = ir.node("ReduceSum", [masked.outputs[0], time], {"keepdims": 0}, name="/embed/ReduceSum")
        count = ir.node("ReduceSum", [m.outputs[0], time], {"keepdims": 1}, name="/embed/count/ReduceSum")
        least = ir.node("Max", [count.outputs[0], one], name="/embed/count/Max")
        mean = ir.node("Div", [total.outputs[0], least.outputs[0]], name="/embed/Div")
        pool = mean.outputs[0]
        pool.name, pool.type = POOL, ir.TensorType(ir.DataType.FLOAT)
        pool.shape = ir.Shape(["batch_size", self.width])
        graph.outputs[:] = [pool]
        graph.extend([m, column, masked, total, count, least, mean])
        drop_dead_nodes(model)
        graph.inputs[:] = [ids, mask]
        mask.shape = ir.Shape(["batch_size", "sequence_length"])
        drop_unused_initializers(model)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        if len(model.graph) > 12 or [value.name for value in model.graph.outputs] != [POOL]:
            raise ir.passes.PostconditionError(f"{len(model.graph)} nodes are left; the embedding alone has fewer")
