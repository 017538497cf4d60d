"""One matrix for embedding and LM head, stored as the embedding's rows.

Rule    The builder stores a tied embedding once, as the LM head's weight [d, V], and embeds through a Transpose of it:
            Gather(Transpose(W), ids)      MatMul(h, W)
        A runtime that folds the Transpose holds it twice, and a graph that only embeds must transpose it first. Here:
            Gather(E, ids)                 FusedMatMul(h, E, transB=1)          E = W^T [V, d]
        An untied embedding is a Gather from its own initializer already, and stays.
Needs   Every Transpose of an initializer feeds Gathers only, and that initializer feeds MatMuls besides.
Leaves  No Transpose of an initializer; every Gather of a float matrix reads an initializer directly. Same numbers.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeadapt_export.graph_map import MICROSOFT
from edgeadapt_export.passes.common import (
    add_initializer,
    constant,
    drop_unused_initializers,
    float_matrix,
    nodes,
    replace,
)

EMBEDDING = "model.embed_tokens.weight"


class ShareEmbedding(ir.passes.InPlacePass):
    """See the module's docstring."""

    def requires(self, model: ir.Model) -> None:
        for transpose in _transposes(model):
            users = {node.op_type for node in transpose.outputs[0].consumers()}
            if users != {"Gather"}:
                raise ir.passes.PreconditionError(
                    f"{transpose.name}: expected Gathers to use it, found {sorted(users)}"
                )
            weight = transpose.inputs[0]
            assert weight is not None
            others = {node.op_type for node in weight.consumers()} - {"Transpose"}
            if others - {"MatMul"}:
                raise ir.passes.PreconditionError(f"{weight.name}: expected MatMuls to use it, found {sorted(others)}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = _transposes(model)
        for transpose in found:
            weight = transpose.inputs[0]
            matrix = float_matrix(weight)
            assert weight is not None
            assert matrix is not None
            rows = add_initializer(model, EMBEDDING, np.ascontiguousarray(matrix.T))
            transpose.outputs[0].replace_all_uses_with(rows)
            model.graph.remove(transpose, safe=True)
            for head in list(weight.consumers()):
                fused = ir.node("FusedMatMul", [head.inputs[0], rows], {"transB": 1}, domain=MICROSOFT, name=head.name)
                replace(model, head, fused)
        drop_unused_initializers(model)
        return ir.passes.PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        if _transposes(model):
            raise ir.passes.PostconditionError("a Transpose of an initializer is left")
        for gather in nodes(model, "Gather"):
            table = gather.inputs[0]
            if table is not None and table.dtype == ir.DataType.FLOAT and constant(table) is None:
                raise ir.passes.PostconditionError(f"{gather.name} does not read an initializer")


def _transposes(model: ir.Model) -> list[ir.Node]:
    return [node for node in nodes(model, "Transpose") if float_matrix(node.inputs[0]) is not None]
