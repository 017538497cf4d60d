"""What a task asks of the hidden states: the seam between the one loop and the kinds of tasks.

                        examples become                       logits [n, C]                     one row per
language-model targets  prompt, answer, end of sequence       LM head(h_i)                      token to predict
sequence labels         first, text, last; a choice           W_t pool(h) + b_t                 sequence
token labels            first, words, last; a choice a word   W_t h_i + b_t                     word
loss = cross entropy over the rows, against `Batch.labels` where those are not -100
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.tasks import TaskSpec
from edgeadapt.text import TextCodec
from edgeadapt_train.adapters.base import Adapter
from edgeadapt_train.adapters.headed import Headed, Heads
from edgeadapt_train.backbone import Backbone, CausalBackbone
from edgeadapt_train.batches import (
    IGNORED,
    Batch,
    Encoded,
    Example,
    collate,
    collate_sequences,
    collate_words,
    encode_examples,
    encode_sequences,
    encode_words,
)


class Objective(Protocol):
    """How one task is taught."""

    def collate(self, examples: Sequence[Encoded], device: torch.device) -> Batch:
        """Tensors of a batch, its labels included."""
        ...

    def logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        """hidden [B, T, d] -> float32 [n, C], in the order of the batch's labels."""
        ...


@dataclass(frozen=True)
class LanguageTargets:
    """The answer's tokens and the end of sequence `eos`, by the language model's own `head`."""

    head: nn.Module
    eos: int

    def collate(self, examples: Sequence[Encoded], device: torch.device) -> Batch:
        return collate(examples, self.eos, device)

    def logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        found: Tensor = self.head(hidden[batch.labels != IGNORED]).float()
        return found


@dataclass(frozen=True)
class SequenceLabels:
    """One choice for a whole text, by the head of task `index`."""

    heads: Heads
    index: int

    def collate(self, examples: Sequence[Encoded], device: torch.device) -> Batch:
        return collate_sequences(examples, device)

    def logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        return self.heads.logits(self.index, self.heads.pooled(hidden, batch.mask))


@dataclass(frozen=True)
class TokenLabels:
    """One choice for every word, read at its first sub-word, by the head of task `index`."""

    heads: Heads
    index: int

    def collate(self, examples: Sequence[Encoded], device: torch.device) -> Batch:
        return collate_words(examples, device)

    def logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        return self.heads.logits(self.index, hidden[batch.labels != IGNORED])


def check_kind(backbone: Backbone, task: TaskSpec) -> None:
    """Raise EdgeAdaptError for a task that this family of backbone cannot be asked."""
    if isinstance(backbone, CausalBackbone) and task.kind == "tokens":
        raise EdgeAdaptError(f"task {task.name}: words are labelled by an encoder; choose one, such as model=minilm")
    if not isinstance(backbone, CausalBackbone) and task.kind in ("generation", "multiple-choice"):
        raise EdgeAdaptError(f"task {task.name}: an encoder writes and weighs no text; choose a language model for it")


def objective(backbone: Backbone, adapter: Adapter, task: TaskSpec, index: int, text: TextCodec) -> Objective:
    """The objective of task `index`. On an encoder the adapter brings the heads."""
    check_kind(backbone, task)
    if isinstance(backbone, CausalBackbone):
        return LanguageTargets(backbone.head, text.eos_ids[0])
    assert isinstance(adapter, Headed)
    kind = TokenLabels if task.kind == "tokens" else SequenceLabels
    return kind(adapter.heads, index)


def encoded(backbone: Backbone, task: TaskSpec, examples: Sequence[Example], text: TextCodec) -> list[Encoded]:
    """The examples as the task's objective takes them."""
    if isinstance(backbone, CausalBackbone):
        return encode_examples(task, examples, text.encode)
    return (encode_words if task.kind == "tokens" else encode_sequences)(task, examples, text)
