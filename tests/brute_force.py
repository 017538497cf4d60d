"""What the decoder loop must equal: the whole sequence in one run, without a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort


def at_once(
    graph: ort.InferenceSession, ids: Sequence[int], values: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    """Logits of every position [T, V] float32, from empty caches; `values` are the adapter's inputs."""
    feeds = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64), **(values or {})}
    for item in graph.get_inputs():
        if item.name.startswith("past_key_values."):
            feeds[item.name] = np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32)
    return np.asarray(graph.run(["logits"], feeds)[0][0])
