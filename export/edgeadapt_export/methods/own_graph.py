"""A small graph of an adapter's own, written down node by node: stored tensors in, inputs of the base graph out.

Its initializers are the adapter's stored tensors and nothing else; axes and shapes are Constant nodes, so that what
`edgeadapt inspect` counts there are the adapter's bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.ops import OPSET
from edgeadapt_export.passes.common import add_initializer


class OwnGraph:
    """`model` grows with every call; every value returned is float32 unless a tensor was stored otherwise."""

    def __init__(self, name: str) -> None:
        graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name=name)
        self.model = ir.Model(graph, ir_version=10, producer_name="edgeadapt")
        self._count = 0

    def stored(self, name: str, array: NDArray[Any]) -> ir.Value:
        """A stored tensor as it is."""
        return add_initializer(self.model, name, np.ascontiguousarray(array))

    def add(self, op: str, *inputs: ir.Value, outputs: int = 1, **attributes: Any) -> ir.Value:
        """A node of the standard domain; its first output."""
        self._count += 1
        node = ir.node(op, inputs, attributes or None, num_outputs=outputs, name=f"{op}_{self._count}")
        self.model.graph.append(node)
        return node.outputs[0]

    def ints(self, values: Sequence[int]) -> ir.Value:
        return self.add("Constant", value_ints=list(values))

    def widened(self, name: str, array: NDArray[Any]) -> ir.Value:
        """A stored tensor as float32."""
        return self.add("Cast", self.stored(name, array), to=ir.DataType.FLOAT)

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        return self.add("Reshape", value, self.ints(shape))

    def unsqueeze(self, value: ir.Value, axis: int) -> ir.Value:
        return self.add("Unsqueeze", value, self.ints([axis]))

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        return values[0] if len(values) == 1 else self.add("Concat", *values, axis=axis)

    def split(self, value: ir.Value, names: Sequence[str], shape: Sequence[int | None]) -> None:
        """Cut the first axis into equal pieces, outputs of the graph by these names and of this shape (None: open)."""
        pieces = self.add("Split", value, outputs=len(names), axis=0, num_outputs=len(names)).producer()
        assert pieces is not None
        for name, piece in zip(names, pieces.outputs, strict=True):
            piece.name, piece.type, piece.shape = name, ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
        self.model.graph.outputs.extend(pieces.outputs)
