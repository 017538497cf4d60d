"""The weights' file: several graphs and several initializers over one model.onnx.data, equal bytes stored once.

layout    tensors one after the other in the order they are first asked for, each at a multiple of ALIGNMENT bytes
          (a cache line, and what SIMD loads like; onnxruntime maps any offset, rounding down to the page by itself)
sharing   by content (SHA-256 of the bytes), whatever the shape and type: the tied embedding as [V, nb, blob] for
          MatMulNBits and [V, nb blob] for GatherBlockQuantized, and the same backbone in several graphs
inline    tensors below INLINE bytes stay in the graph: shapes and axes must be readable without the file
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

ALIGNMENT = 64
INLINE = 1024


class WeightStore:
    """Writes one external-data file; use as a context manager, then read `size`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file = path.open("wb")
        self._by_tensor: dict[int, tuple[Any, int]] = {}  # keeps the tensor alive, so that its id stays its own
        self._by_content: dict[bytes, int] = {}

    def __enter__(self) -> WeightStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, tensor: ir.TensorProtocol) -> int:
        """Write the tensor's bytes unless they are there already; returns their offset."""
        known = self._by_tensor.get(id(tensor))
        if known is not None:
            return known[1]
        data = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data
        key = hashlib.sha256(data).digest() + len(data).to_bytes(8, "little")
        if key not in self._by_content:
            offset = -(-self.size // ALIGNMENT) * ALIGNMENT
            self._file.write(bytes(offset - self.size))
            self._file.write(data)
            self._by_content[key] = offset
            self.size = offset + len(data)
        self._by_tensor[id(tensor)] = (tensor, self._by_content[key])
        return self._by_content[key]

    def save(self, model: ir.Model, path: Path) -> None:
        """Write `model` to `path` (in the folder of the data file), its large initializers to the data file."""
        for value in model.graph.initializers.values():
            tensor = value.const_value
            assert tensor is not None
            if tensor.nbytes < INLINE:
                value.const_value = ir.Tensor(np.array(tensor.numpy()), name=value.name)
            else:
                offset = self.add(tensor)
                value.const_value = ir.ExternalTensor(
                    self.path.name, offset, tensor.nbytes, tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()), name=str(value.name), base_dir=self.path.parent,
                )  # fmt: skip
        write_model(model, path)


def write_model(model: ir.Model, path: Path) -> None:
    """Serialise without touching external data; the same model gives the same bytes."""
    proto = ir.to_proto(model)
    assert isinstance(proto, onnx.ModelProto)
    path.write_bytes(proto.SerializeToString(deterministic=True))
