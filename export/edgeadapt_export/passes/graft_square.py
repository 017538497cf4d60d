"""HIMALAYA's square sites: y <- W x + g_l r (r^T x) at projections whose input and output have the model's width.

Rule    o_proj    y' = Add(y, RankOneUpdate(x, r, g_l r))
        q_proj    the same on its own MatMul; where q, k and v are one packed MatMul, its output is cut into the three
                  (an encoder's is), q is updated, and GroupQueryAttention gets them as three inputs (it takes either
                  form).
        One gain per layer serves all of that layer's sites.
Adds    inputs himalaya.r and himalaya.u.0, 1, ... (passes/direction_inputs.py).
Needs   Each target maps d to d (else EdgeAdaptError); the graph has no RankOneUpdate yet.
Leaves  One RankOneUpdate and one Add per layer and module. r = 0 or u = 0 change nothing, to the bit.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import DOMAIN
from edgeadapt_export.graph_map import Geometry, Slice, module_slice
from edgeadapt_export.passes.common import add_initializer, nodes
from edgeadapt_export.passes.direction_inputs import add_direction_inputs

OP = "RankOneUpdate"


class GraftSquare(ir.passes.InPlacePass):
    """See the module's docstring. `layers[i]` takes the i-th update."""

    def __init__(self, geometry: Geometry, layers: tuple[int, ...], modules: tuple[str, ...]) -> None:
        self.geometry = geometry
        self.layers = layers
        self.modules = modules

    def requires(self, model: ir.Model) -> None:
        for layer in self.layers:
            for module in self.modules:
                self._square(module_slice(model, self.geometry, layer, module), module)
        if any(nodes(model, OP)):
            raise ir.passes.PreconditionError("the graph carries rank-one updates already")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        r, updates = add_direction_inputs(model, self.geometry.hidden_size, len(self.layers))
        for layer, u in zip(self.layers, updates, strict=True):
            for module in self.modules:
                target = module_slice(model, self.geometry, layer, module)
                y = target.linear.y if target.linear.name == module else self._unpack(model, target, module)
                update = ir.node(OP, [target.linear.x, r, u], domain=DOMAIN, name=_name(layer, module))
                add = ir.node("Add", [y, update.outputs[0]], name=f"/himalaya/layers.{layer}/{module}/Add")
                for node, name in ((update, "z"), (add, "output_0")):
                    value = node.outputs[0]
                    value.name, value.type, value.shape = f"/himalaya/layers.{layer}/{module}/{name}", y.type, y.shape
                producer = y.producer()
                assert producer is not None
                y.replace_all_uses_with(add.outputs[0])
                add.replace_input_with(0, y)
                model.graph.insert_after(producer, [update, add])
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        expected = {_name(layer, module) for layer in self.layers for module in self.modules}
        found = [str(node.name) for node in nodes(model, OP)]
        if sorted(found) != sorted(expected):
            raise ir.passes.PostconditionError(f"expected {len(expected)} updates, found {len(found)}")

    def _square(self, target: Slice, module: str) -> None:
        width = self.geometry.hidden_size
        reads = width if module != "o_proj" else self.geometry.num_heads * self.geometry.head_dim
        if module not in ("q_proj", "o_proj") or target.width != width or reads != width:
            raise EdgeAdaptError(
                f"site=square: {module} is not a square projection of width {width}; use site=residual, "
                "or name q_proj or o_proj where they are square"
            )

    def _unpack(self, model: ir.Model, target: Slice, module: str) -> ir.Value:
        """Cut a packed q, k, v into three, unless it is cut already; returns the module's part."""
        packed = target.linear.y
        (attention, position), *others = packed.uses()
        part = list(self.geometry.packed_widths).index(module)
        if not others and attention.op_type == "Split":
            return attention.outputs[part]
        if others or attention.op_type != "GroupQueryAttention" or position != 0:
            raise EdgeAdaptError(
                f"{target.linear.node.name}: its packed output does not go straight into the attention"
            )
        layer, widths = target.linear.layer, list(self.geometry.packed_widths.values())
        sizes = add_initializer(model, f"himalaya.layers.{layer}.qkv.split", np.array(widths, np.int64))
        split = ir.node(
            "Split", [packed, sizes], {"axis": -1}, num_outputs=3, name=f"/himalaya/layers.{layer}/qkv/Split"
        )
        for name, width, value in zip("qkv", widths, split.outputs, strict=True):
            value.name = f"/himalaya/layers.{layer}/{name}"
            value.type, value.shape = packed.type, ir.Shape(["batch_size", "sequence_length", width])
        model.graph.insert_after(target.linear.node, split)
        for index, value in enumerate(split.outputs):
            attention.replace_input_with(index, value)
        return split.outputs[part]


def _name(layer: int, module: str) -> str:
    return f"/himalaya/layers.{layer}/{module}/{OP}"
