"""Logits of the wanted positions only: the LM head is a fifth of a small model's products, and a prompt needs one row.

Rule    The LM head reads Slice(h, starts = logits_from, ends = all, axes = [1]) instead of h [B, T, d], so that
        logits [B, T', V] are those of this run's positions logits_from, ..., T - 1.
Adds    input logits_from [1] int64 with the default 0: every position, as the builder made it. Negative numbers count
        from the end: -1 is the last position whatever T is. An input with a default is an initializer that is listed
        among the inputs, too (onnxruntime: "overridable"); who does not know of it feeds nothing.
Needs   `logits` follows from one product with h as its first operand; the graph has no such input yet.
Leaves  One Slice, before the LM head. With the default the same numbers, bit for bit.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeadapt.runtime.decoder import LOGITS_FROM
from edgeadapt_export.decoder_map import lm_head
from edgeadapt_export.passes.common import add_initializer, nodes

NAME = "/lm_head/Slice"


class ChooseLogits(ir.passes.InPlacePass):
    """See the module's docstring."""

    def requires(self, model: ir.Model) -> None:
        lm_head(model)
        if LOGITS_FROM in {value.name for value in model.graph.inputs}:
            raise ir.passes.PreconditionError(f"the graph has an input {LOGITS_FROM} already")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        head, after = lm_head(model)
        h = head.inputs[0]
        assert h is not None
        start = add_initializer(model, LOGITS_FROM, np.array([0], np.int64))
        model.graph.inputs.append(start)
        end = add_initializer(model, f"{NAME}.end", np.array([np.iinfo(np.int64).max], np.int64))
        axis = add_initializer(model, f"{NAME}.axis", np.array([1], np.int64))
        cut = ir.node("Slice", [h, start, end, axis], name=NAME)
        rows = cut.outputs[0]
        rows.name, rows.type, rows.shape = f"{NAME}/output_0", h.type, h.shape
        model.graph.insert_before(head, cut)
        head.replace_input_with(0, rows)
        for value in (rows, head.outputs[0], *after):
            if value.shape is not None:
                value.shape = ir.Shape([value.shape[0], "logits_length", value.shape[2]])
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        cuts = [node for node in nodes(model, "Slice") if node.name == NAME]
        users = [user.name for node in cuts for user in node.outputs[0].consumers()]
        if users != [lm_head(model)[0].name]:
            raise ir.passes.PostconditionError(f"the rows chosen go to {users}, not to the LM head alone")
