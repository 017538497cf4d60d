"""What several passes need: initializers by array, and looking for nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def add_initializer(model: ir.Model, name: str, array: NDArray[Any]) -> ir.Value:
    """Register `array` under `name`. The array is kept, not copied; views of one buffer share it."""
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind an initializer, or None."""
    return value.const_value if value is not None and value.is_initializer() else None


def float_matrix(value: ir.Value | None) -> NDArray[np.float32] | None:
    """The float32 matrix behind an initializer, or None if it is anything else."""
    tensor = constant(value)
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
        return None
    return np.asarray(tensor.numpy(), dtype=np.float32)


def nodes(model: ir.Model, *op_types: str) -> Iterator[ir.Node]:
    """A snapshot of the graph's nodes of these types, so that the graph may change while it is walked."""
    return iter([node for node in model.graph if node.op_type in op_types])


def drop_dead_nodes(model: ir.Model) -> None:
    """Remove nodes that no output of the graph depends on."""
    outputs = set(model.graph.outputs)
    for node in reversed(list(model.graph)):
        if not any(value in outputs or value.uses() for value in node.outputs):
            model.graph.remove(node, safe=True)


def drop_unused_initializers(model: ir.Model) -> None:
    """Remove initializers that nothing uses."""
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        del model.graph.initializers[name]


def replace(model: ir.Model, old: ir.Node, new: ir.Node) -> None:
    """Put `new` in the place of `old`: same position, name and outputs' names; every use is rewired."""
    names = [value.name for value in old.outputs]
    ir.convenience.replace_nodes_and_values(model.graph, old, [old], [new], list(old.outputs), list(new.outputs))
    for value, name in zip(new.outputs, names, strict=True):
        value.name = name
