"""Task heads of an encoder: one linear map per task, from hidden states to its choices. They belong to an adapter.

    classification   f = mean over the tokens of h_i, or h_0 (pooling cls)    logits   = W_t f + b_t      [C]
    tokens           h_i at the first sub-word i of every word                logits_i = W_t h_i + b_t    [C]
    probabilities    softmax over the C choices

    stored           heads.{t}.weight float16 [C_t, d]    heads.{t}.bias float16 [C_t]        t: number of the task
    bytes            sum_t 2 C_t (d + 1)

The device computes them in float32 on what the graph gives, so that another task is another small matrix and nothing
else. Training has the same lines in PyTorch (edgeadapt_train/adapters/headed.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.tasks import TaskSpec, choice_probabilities

Pooling = Literal["mean", "cls"]
TERM = "heads"  # of the byte formula
F32 = NDArray[np.float32]
Tensors = Mapping[str, NDArray[np.floating]]


def weight_name(task: int) -> str:
    return f"heads.{task}.weight"


def bias_name(task: int) -> str:
    return f"heads.{task}.bias"


def is_head(tensor: str) -> bool:
    """Whether a tensor of an adapter's file is a head's."""
    return tensor.startswith("heads.")


@dataclass(frozen=True)
class Heads:
    """The heads of an adapter's tasks, float32: weights[t] [C_t, d], biases[t] [C_t]."""

    pooling: Pooling
    weights: tuple[F32, ...]
    biases: tuple[F32, ...]

    @classmethod
    def of(cls, tensors: Tensors, tasks: Sequence[TaskSpec], pooling: Pooling, width: int) -> Heads:
        """From stored tensors. Raises EdgeAdaptError for one that is missing or does not fit its task."""
        found: dict[str, F32] = {}
        for number, task in enumerate(tasks):
            count = len(task.choices)
            for name, shape in ((weight_name(number), (count, width)), (bias_name(number), (count,))):
                if name not in tensors or tensors[name].shape != shape:
                    has = "missing" if name not in tensors else f"of shape {list(tensors[name].shape)}"
                    raise EdgeAdaptError(f"task {task.name}: its head's {name} is {has}, not {list(shape)}")
                found[name] = tensors[name].astype(np.float32)
        numbers = range(len(tasks))
        return cls(pooling, tuple(found[weight_name(t)] for t in numbers), tuple(found[bias_name(t)] for t in numbers))

    def pooled(self, hidden: F32) -> F32:
        """h [S, d] of one sequence without padding -> f [d]."""
        return np.asarray(hidden[0] if self.pooling == "cls" else hidden.mean(axis=0), dtype=np.float32)

    def logits(self, task: int, features: F32) -> F32:
        """features [..., d] -> [..., C]."""
        return np.asarray(features @ self.weights[task].T + self.biases[task], dtype=np.float32)


def probabilities(logits: F32) -> NDArray[np.float64]:
    """[n, C] -> [n, C], every row summing to one."""
    return np.array([choice_probabilities(row.astype(np.float64)) for row in logits])
