"""Examples to tensors: deterministic batches of similar lengths.

row      = prompt ids + target ids + [eos], padded on the right
order    = a permutation from (seed, task, epoch), cut into pools of 16 batches; each pool is sorted by length and
           cut into batches; the batches are shuffled. So lengths agree within a batch, and the order is random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeadapt.tasks import Encode, TaskSpec, encode_prompt, encode_target

POOL = 16


@dataclass(frozen=True)
class Example:
    """One labelled text. `target` is what the model should answer; for classification it is one of the choices."""

    text: str
    target: str


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example; `target` without the end of sequence."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.target) + 1


@dataclass(frozen=True)
class Batch:
    """ids, mask and prompt_mask [B, T]; `labels` [B, T]: the id that each position has to predict, -100 for none."""

    ids: Tensor
    mask: Tensor
    prompt_mask: Tensor
    labels: Tensor

    @property
    def targets(self) -> int:
        return int((self.labels != -100).sum())

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())


def encode_examples(task: TaskSpec, examples: Sequence[Example], encode: Encode) -> list[Encoded]:
    """Token ids of every example, prompt cut as `encode_prompt` does."""
    return [
        Encoded(tuple(encode_prompt(task, item.text, encode)), tuple(encode_target(item.target, encode)))
        for item in examples
    ]


def epoch_batches(examples: Sequence[Encoded], size: int, key: Sequence[int]) -> list[list[int]]:
    """Indices of one epoch's batches, the same for the same key. An epoch's last, smaller batch is kept."""
    rng = np.random.default_rng(list(key))
    order = rng.permutation(len(examples))
    batches: list[list[int]] = []
    for start in range(0, len(order), POOL * size):
        pool = sorted(order[start : start + POOL * size].tolist(), key=lambda index: examples[index].length)
        batches += [pool[at : at + size] for at in range(0, len(pool), size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def collate(examples: Sequence[Encoded], eos: int, device: torch.device) -> Batch:
    """Pad a batch on the right. Position i predicts token i + 1; only the target and the eos are predicted."""
    width = max(item.length for item in examples) - 1  # the eos is predicted, never read
    ids = np.zeros((len(examples), width), dtype=np.int64)
    mask, prompt = np.zeros_like(ids), np.zeros_like(ids)
    labels = np.full_like(ids, -100)
    for row, item in enumerate(examples):
        tokens = (*item.prompt, *item.target)
        first = len(item.prompt) - 1
        ids[row, : len(tokens)], mask[row, : len(tokens)], prompt[row, : len(item.prompt)] = tokens, 1, 1
        labels[row, first : len(tokens)] = (*item.target, eos)
    return Batch(*(torch.from_numpy(value).to(device) for value in (ids, mask, prompt, labels)))
