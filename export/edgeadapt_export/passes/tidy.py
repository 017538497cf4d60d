"""What is in a graph and not needed in a file.

Rule    Drop doc strings, per-node metadata, the producer's own metadata, value annotations of dead values, nodes and
        initializers that nothing uses, imports of domains without a node, and empty inputs at a node's end (the
        builder writes 12 for GroupQueryAttention, which onnxruntime before 1.23 refuses). Names stay: they are its map.
Needs   Nothing.
Leaves  The same outputs from the same inputs, bit for bit.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from edgeadapt_export.passes.common import drop_dead_nodes, drop_unused_initializers


class Tidy(ir.passes.InPlacePass):
    """See the module's docstring."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self._interface = _interface(model)
        common.ClearMetadataAndDocStringPass()(model)
        drop_dead_nodes(model)
        for node in model.graph:
            given = [index for index, value in enumerate(node.inputs) if value is not None]
            node.resize_inputs(given[-1] + 1 if given else 0)
        drop_unused_initializers(model)
        model.metadata_props.clear()
        model.doc_string = None
        used = {node.domain for node in model.graph} | {domain for domain, _, _ in model.functions}
        for domain in [domain for domain in model.opset_imports if domain and domain not in used]:
            del model.opset_imports[domain]
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        if _interface(model) != self._interface:
            raise ir.passes.PostconditionError("the graph's inputs or outputs changed")


def _interface(model: ir.Model) -> tuple[list[str | None], list[str | None]]:
    return [value.name for value in model.graph.inputs], [value.name for value in model.graph.outputs]
