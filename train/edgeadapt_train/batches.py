"""Examples to tensors: deterministic batches of similar lengths.

row      = prompt ids + target ids + [eos]      a language model      labels [B, T]: what each position has to predict
           first + text + last                  an encoder            labels [B]: the text's choice
           first + words + last                 an encoder            labels [B, T]: at a word's first token its choice
           padded on the right; -100 is no label
order    = a permutation from (seed, task, epoch), cut into pools of 16 batches; each pool is sorted by length and
           cut into batches; the batches are shuffled. So lengths agree within a batch, and the order is random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeadapt import tasks
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.tasks import Encode, TaskSpec, encode_prompt, encode_sequence, encode_target
from edgeadapt.text import TextCodec

POOL = 16
IGNORED = -100


@dataclass(frozen=True)
class Example:
    """One labelled text. `target` is what the model should answer; for classification it is one of the choices, for
    tokens one choice per word, with spaces between.

    choices      multiple-choice: the example's own
    references   generation: other answers that are as right; for the metric pass@1 the one program that tests answers
    """

    text: str
    target: str
    choices: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example; `target` without the end of sequence. For an encoder `target` is the number of the
    choice, or one label per token."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.target) + 1


@dataclass(frozen=True)
class Batch:
    """ids, mask and prompt_mask [B, T]; `labels` [B, T], or [B] where whole sequences have one; -100 is none."""

    ids: Tensor
    mask: Tensor
    prompt_mask: Tensor
    labels: Tensor

    @property
    def targets(self) -> int:
        return int((self.labels != IGNORED).sum())

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())


def encode_examples(task: TaskSpec, examples: Sequence[Example], encode: Encode) -> list[Encoded]:
    """Token ids of every example, prompt cut as `encode_prompt` does."""
    return [
        Encoded(tuple(encode_prompt(task, item.text, encode)), tuple(encode_target(item.target, encode)))
        for item in examples
    ]


def encode_sequences(task: TaskSpec, examples: Sequence[Example], text: TextCodec) -> list[Encoded]:
    """As an encoder reads them; the target is the number of the choice."""
    return [
        Encoded(tuple(encode_sequence(task, item.text, text.encode, text.frame)), (task.choices.index(item.target),))
        for item in examples
    ]


def encode_words(task: TaskSpec, examples: Sequence[Example], text: TextCodec) -> list[Encoded]:
    """As an encoder reads them; the target is a label per token, -100 but at the first token of every word."""
    found = []
    for item in examples:
        words, labels = item.text.split(), item.target.split()
        if len(words) != len(labels):
            raise EdgeAdaptError(
                f"task {task.name}: {len(labels)} labels for the {len(words)} words of {item.text[:40]!r}"
            )
        ids, starts = tasks.encode_words(task, words, text.encode, text.frame, text.unknown)
        target = [IGNORED] * len(ids)
        for place, label in zip(starts, labels, strict=False):  # words that do not fit have no place
            target[place] = task.choices.index(label)
        found.append(Encoded(tuple(ids), tuple(target)))
    return found


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
    labels = np.full_like(ids, IGNORED)
    for row, item in enumerate(examples):
        tokens = (*item.prompt, *item.target)
        first = len(item.prompt) - 1
        ids[row, : len(tokens)], mask[row, : len(tokens)], prompt[row, : len(item.prompt)] = tokens, 1, 1
        labels[row, first : len(tokens)] = (*item.target, eos)
    return Batch(*(torch.from_numpy(value).to(device) for value in (ids, mask, prompt, labels)))


def collate_sequences(examples: Sequence[Encoded], device: torch.device) -> Batch:
    """Pad a batch on the right; one label per sequence."""
    ids, mask = padded([item.prompt for item in examples])
    labels = torch.tensor([item.target[0] for item in examples])
    return Batch(*(value.to(device) for value in (ids, mask, mask, labels)))


def collate_words(examples: Sequence[Encoded], device: torch.device) -> Batch:
    """Pad a batch on the right; labels as long as the ids."""
    ids, mask = padded([item.prompt for item in examples])
    labels = torch.full_like(ids, IGNORED)
    for row, item in enumerate(examples):
        labels[row, : len(item.target)] = torch.tensor(item.target)
    return Batch(*(value.to(device) for value in (ids, mask, mask, labels)))


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and their mask [B, T] int64, padded on the right with zeros."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids, mask
