"""TABS's gates: what a low-rank update reads is scaled, per token, by a gate of the same input.

Rule    LowRankUpdate(y, x, A, B) reads g x in the place of x, with one gate for a layer's updates:
        g = Clip(Sigmoid(x a + c) (zeta - gamma) + gamma, 0, 1)      [B, T, 1]
Adds    inputs tabs.{l}.a [d, 1] and tabs.{l}.c [1], float32.
Needs   The graph has low-rank updates, and a layer's read one and the same value, d wide.
Leaves  Every LowRankUpdate reads a product with its layer's gate.
"""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir

from edgeadapt_export.passes.common import add_initializer, nodes

OP = "LowRankUpdate"


def a_input(layer: int) -> str:
    return f"tabs.{layer}.a"


def c_input(layer: int) -> str:
    return f"tabs.{layer}.c"


class GraftGates(ir.passes.InPlacePass):
    """See the module's docstring. `width`: d."""

    def __init__(self, layers: int, width: int, gamma: float, zeta: float) -> None:
        self.layers, self.width, self.gamma, self.zeta = layers, width, gamma, zeta

    def requires(self, model: ir.Model) -> None:
        found = _by_layer(model)
        if sorted(found) != list(range(self.layers)):
            raise ir.passes.PreconditionError(f"low-rank updates in layers {sorted(found)} of {self.layers}")
        for layer, updates in found.items():
            if len({id(update.inputs[1]) for update in updates}) != 1:
                raise ir.passes.PreconditionError(f"the updates of layer {layer} do not read the same value")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        numbers = {"span": self.zeta - self.gamma, "gamma": self.gamma, "zero": 0.0, "one": 1.0}
        constants = {
            name: add_initializer(model, f"tabs.{name}", np.array(value, np.float32)) for name, value in numbers.items()
        }
        floats = ir.TensorType(ir.DataType.FLOAT)
        for layer, updates in sorted(_by_layer(model).items()):
            a = ir.Value(name=a_input(layer), type=floats, shape=ir.Shape([self.width, 1]))
            c = ir.Value(name=c_input(layer), type=floats, shape=ir.Shape([1]))
            model.graph.inputs.extend([a, c])
            x = updates[0].inputs[1]
            assert x is not None
            made: list[ir.Node] = []
            for op, inputs in (
                ("MatMul", [x, a]),
                ("Add", [None, c]),
                ("Sigmoid", [None]),
                ("Mul", [None, constants["span"]]),
                ("Add", [None, constants["gamma"]]),
                ("Clip", [None, constants["zero"], constants["one"]]),
                ("Mul", [None, x]),
            ):
                given = [made[-1].outputs[0] if value is None else value for value in inputs]
                node = ir.node(op, given, name=f"/tabs/layers.{layer}/{op}_{len(made)}")
                node.outputs[0].name, node.outputs[0].type = f"/tabs/layers.{layer}/{len(made)}", floats
                made.append(node)
            for update in updates:
                update.replace_input_with(1, made[-1].outputs[0])
            first = min(updates, key=list(model.graph).index)
            model.graph.insert_before(first, made)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        for node in nodes(model, OP):
            source = node.inputs[1].producer() if node.inputs[1] is not None else None
            if source is None or not str(source.name).startswith("/tabs/"):
                raise ir.passes.PostconditionError(f"{node.name} has no gate")


def _by_layer(model: ir.Model) -> dict[int, list[ir.Node]]:
    found: dict[int, list[ir.Node]] = {}
    for node in nodes(model, OP):
        match = re.search(r"layers\.(\d+)/", str(node.name))
        if match:
            found.setdefault(int(match[1]), []).append(node)
    return found
