"""An encoder's fused embedding taken apart, so that its large table can be quantised and its tables stay shared.

Rule    EmbedLayerNormalization(ids, types, E, P, T, gamma, beta)   ->
            SkipLayerNormalization(Gather(E, ids) + Gather(T, types), P[:S], gamma, beta)
        E [V, d], P [positions, d], T [types, d]; without types the sum has no T; with position ids P is gathered by
        them. Casts of ids and types to int32, which only the fused op wants, go.
        The fused op has no quantised form, and E is half of MiniLM's bytes. P and T stay float32 (0.8 MB of MiniLM's):
        P[:S] is a copy of consecutive rows, of which only those in use are ever paged in.
Needs   Only the first output of the fused op is used.
Leaves  No EmbedLayerNormalization. The same numbers up to the order of a float32 sum.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeadapt_export.graph_map import MICROSOFT
from edgeadapt_export.passes.common import add_initializer, drop_dead_nodes, nodes

_IDS, _TYPES, _WORDS, _POSITIONS, _TYPE_ROWS, _GAMMA, _BETA, _MASK, _POSITION_IDS = range(9)


class OpenEmbedding(ir.passes.InPlacePass):
    """See the module's docstring."""

    def requires(self, model: ir.Model) -> None:
        for fused in nodes(model, "EmbedLayerNormalization"):
            if any(value.uses() for value in fused.outputs[1:]):
                raise ir.passes.PreconditionError(f"{fused.name}: its mask index or its sum is used")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = list(nodes(model, "EmbedLayerNormalization"))
        for fused in found:
            _open(model, fused)
        drop_dead_nodes(model)
        return ir.passes.PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        if any(nodes(model, "EmbedLayerNormalization")):
            raise ir.passes.PostconditionError("an EmbedLayerNormalization is left")


def _open(model: ir.Model, fused: ir.Node) -> None:
    given = [*fused.inputs, *[None] * (9 - len(fused.inputs))]
    ids, types = _uncast(given[_IDS]), _uncast(given[_TYPES])
    made: list[ir.Node] = []

    def node(op: str, inputs: list[ir.Value | None], domain: str = "", **attributes: int | float) -> ir.Value:
        made.append(ir.node(op, inputs, attributes, domain=domain, name=f"/embeddings/{len(made)}/{op}"))
        made[-1].outputs[0].type = ir.TensorType(ir.DataType.INT64 if op == "Shape" else ir.DataType.FLOAT)
        return made[-1].outputs[0]

    total = node("Gather", [given[_WORDS], ids])
    if types is not None and given[_TYPE_ROWS] is not None:
        total = node("Add", [total, node("Gather", [given[_TYPE_ROWS], types])])
    if (position_ids := _uncast(given[_POSITION_IDS])) is not None:
        positions = node("Gather", [given[_POSITIONS], position_ids])
    else:
        start = add_initializer(model, "embeddings.start", np.zeros(1, np.int64))
        length = node("Shape", [ids], start=1, end=2)
        positions = node("Slice", [given[_POSITIONS], start, length, start])
    epsilon = fused.attributes["epsilon"].as_float() if "epsilon" in fused.attributes else 1e-12
    inputs = [total, positions, given[_GAMMA], given[_BETA]]
    result = node("SkipLayerNormalization", inputs, MICROSOFT, epsilon=epsilon)
    old = fused.outputs[0]
    result.name, result.shape = old.name, old.shape
    ir.convenience.replace_nodes_and_values(model.graph, fused, [fused], made, [old], [result])


def _uncast(value: ir.Value | None) -> ir.Value | None:
    """What was cast to int32, itself."""
    node = None if value is None else value.producer()
    return node.inputs[0] if node is not None and node.op_type == "Cast" else value
