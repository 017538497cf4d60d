"""Values for a graph's inputs where only their cost matters.

Importing this imports no engine: workers of other engines want prompts, too, and onnxruntime would count as theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops.low_rank_update import INDEX_INPUT

if TYPE_CHECKING:
    import onnxruntime as ort

NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def noise(item: ort.NodeArg, sizes: Mapping[str, int] = MappingProxyType({})) -> ort.OrtValue:
    """A small random value for an adapter input; of the dimensions that the graph leaves open, `sizes` says how large
    those are that have a name there, and the others are 1. An adapter index goes through all adapters in turn."""
    import onnxruntime as ort

    if item.type not in NUMPY_TYPES:
        raise EdgeAdaptError(f"input {item.name} is {item.type}; known are {', '.join(NUMPY_TYPES)}")
    shape = [size if isinstance(size, int) else sizes.get(size, 1) for size in item.shape]
    if item.name == INDEX_INPUT:
        return ort.OrtValue.ortvalue_from_numpy(np.arange(shape[0], dtype=np.int64) % sizes.get("adapters", 1))
    values = np.random.default_rng(len(item.name)).normal(0.0, 0.01, shape)
    return ort.OrtValue.ortvalue_from_numpy(values.astype(NUMPY_TYPES[item.type]))


def per_row(item: ort.NodeArg, value: ort.OrtValue, rows: int) -> ort.OrtValue:
    """An adapter input's value for one row, for `rows` of them: repeated where the graph leaves the first dimension
    open, and as it is where it does not."""
    import onnxruntime as ort

    if rows == 1 or isinstance(item.shape[0], int):
        return value
    return ort.OrtValue.ortvalue_from_numpy(np.repeat(value.numpy(), rows, axis=0))


def prompt_ids(length: int, vocabulary_size: int, seed: int = 0) -> list[int]:
    """Token ids of a prompt, the same for every variant: latency depends on how many there are, not on which."""
    rng = np.random.default_rng((length, seed) if seed else length)
    return [int(token) for token in rng.integers(0, vocabulary_size, length)]
