"""Running decoder graphs in tests, on stock onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgeadapt.runtime.session import create


def session(path: Path) -> ort.InferenceSession:
    return create(path, threads=1, ops="off")


def feeds(
    opened: ort.InferenceSession, ids: np.ndarray, mask: np.ndarray | None = None, **others: Any
) -> dict[str, Any]:
    """Inputs of a prompt; `others` by name with '__' for '.', and zeros for adapter inputs that are not given."""
    given = {name.replace("__", "."): value for name, value in others.items()}
    made: dict[str, Any] = {"input_ids": ids, "attention_mask": np.ones_like(ids) if mask is None else mask}
    made |= {item.name: given[item.name] for item in opened.get_overridable_initializers() if item.name in given}
    for item in opened.get_inputs():
        if item.name.startswith("past_key_values."):
            made[item.name] = np.zeros((len(ids), item.shape[1], 0, item.shape[3]), np.float32)
        elif item.name not in made:
            shape = [size if isinstance(size, int) else len(ids) for size in item.shape]
            made[item.name] = given.get(item.name, np.zeros(shape, np.float32))
    return made


def logits(path: Path, ids: np.ndarray, mask: np.ndarray | None = None, **others: Any) -> np.ndarray:
    opened = session(path)
    return np.asarray(opened.run(["logits"], feeds(opened, ids, mask, **others))[0])


def random_ids(rows: int, tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 259, (rows, tokens))
