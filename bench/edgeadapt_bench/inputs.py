"""Values for a graph's inputs where only their cost matters."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

from edgeadapt.errors import EdgeAdaptError

NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def noise(item: ort.NodeArg) -> ort.OrtValue:
    """A small random value for an adapter input; sizes that the graph leaves open are 1."""
    if item.type not in NUMPY_TYPES:
        raise EdgeAdaptError(f"input {item.name} is {item.type}; known are {', '.join(NUMPY_TYPES)}")
    shape = [size if isinstance(size, int) else 1 for size in item.shape]
    values = np.random.default_rng(len(item.name)).normal(0.0, 0.01, shape)
    return ort.OrtValue.ortvalue_from_numpy(values.astype(NUMPY_TYPES[item.type]))
