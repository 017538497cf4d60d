"""HEST's sites: y <- y + the directions that a plan has switched on, beside each adapted linear layer.

Rule    y' , macs = SpectralUpdate(y, x, states, wide, narrow, scales, span), one node per linear layer and depth. The
        inputs of a linear layer's name serve all depths: a node takes its own rows of them (first, count). Packed q, k
        and v are one linear layer, and each direction's span says which of its columns are meant.
Adds    inputs hest.{linear}.states uint8 [B, T, N], .wide, .narrow, .scales; a constant hest.{linear}.span; output
        hest.macs float32 [B, T, 2 per node]: what the nodes counted, in the graph's order.
Needs   Every linear layer is in the graph at every depth; the graph has no SpectralUpdate yet.
Leaves  One SpectralUpdate per linear layer and depth. States of zero change nothing, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.energy.envelope import MACS, PARTS, STATES, SpectralGroup
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import DOMAIN
from edgeadapt_export.graph_map import linears
from edgeadapt_export.passes.common import add_initializer, nodes

OP = "SpectralUpdate"
_TYPES = {"wide": ir.DataType.FLOAT16, "narrow": ir.DataType.INT8, "scales": ir.DataType.FLOAT}


class GraftSpectral(ir.passes.InPlacePass):
    """See the module's docstring. `shapes`: of the groups' inputs but the states, by input name; `spans` by group."""

    def __init__(
        self,
        groups: Sequence[SpectralGroup],
        layers: int,
        directions: int,
        shapes: Mapping[str, tuple[int, ...]],
        spans: Sequence[NDArray[np.int64]],
    ) -> None:
        self.groups, self.layers, self.directions = tuple(groups), layers, directions
        self.shapes, self.spans = shapes, tuple(spans)

    def requires(self, model: ir.Model) -> None:
        known = linears(model)
        for group in self.groups:
            if missing := [layer for layer in range(self.layers) if (layer, group.linear) not in known]:
                raise EdgeAdaptError(f"layer {missing[0]} of the graph has no {group.linear}")
        if any(nodes(model, OP)):
            raise ir.passes.PreconditionError("the graph carries spectral updates already")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        known = linears(model)
        counted: list[ir.Value] = []
        for group, span in zip(self.groups, self.spans, strict=True):
            given = [*self._add_inputs(model, group), add_initializer(model, group.input("span"), span)]
            count = len(group.modules) * self.directions
            for layer in range(self.layers):
                linear = known[layer, group.linear]
                y = linear.y
                rows = {"first": layer * count, "count": count}
                update = ir.node(
                    OP, [y, linear.x, *given], rows, domain=DOMAIN, num_outputs=2, name=_name(layer, group)
                )
                z, macs = update.outputs
                z.name, z.type, z.shape = f"/hest/layers.{layer}/{group.linear}/output_0", y.type, y.shape
                macs.name, macs.type = f"/hest/layers.{layer}/{group.linear}/macs", ir.TensorType(ir.DataType.FLOAT)
                macs.shape = ir.Shape(["batch_size", "sequence_length", 2])
                y.replace_all_uses_with(z)
                update.replace_input_with(0, y)
                model.graph.insert_after(linear.node, update)
                counted.append(macs)
        joined = ir.node("Concat", counted, {"axis": -1}, name="/hest/Concat")
        macs = joined.outputs[0]
        macs.name, macs.type = MACS, ir.TensorType(ir.DataType.FLOAT)
        macs.shape = ir.Shape(["batch_size", "sequence_length", 2 * len(counted)])
        model.graph.append(joined)
        model.graph.outputs.append(macs)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        expected = sorted(_name(layer, group) for group in self.groups for layer in range(self.layers))
        found = sorted(str(node.name) for node in nodes(model, OP))
        if found != expected:
            raise ir.passes.PostconditionError(f"expected {len(expected)} updates, found {len(found)}")

    def _add_inputs(self, model: ir.Model, group: SpectralGroup) -> list[ir.Value]:
        """The group's inputs of the graph, in the op's order."""
        rows = self.layers * len(group.modules) * self.directions
        states = ir.Value(
            name=group.input(STATES),
            type=ir.TensorType(ir.DataType.UINT8),
            shape=ir.Shape(["batch_size", "sequence_length", rows]),
        )
        values = [
            ir.Value(name=name, type=ir.TensorType(_TYPES[part]), shape=ir.Shape(self.shapes[name]))
            for part in PARTS
            for name in (group.input(part),)
        ]
        model.graph.inputs.extend([states, *values])
        return [states, *values]


def _name(layer: int, group: SpectralGroup) -> str:
    return f"/hest/layers.{layer}/{group.linear}/{OP}"
