"""Task ids withheld: which task a text belongs to is guessed from the prompt alone, for methods that look at the id.

    p(x)  = LN(mean over the prompt's tokens of the embedding output) / sqrt(d)    [d], unit length, before any layer
    mu_t  = mean over training examples of task t of p(x)                          fp16: 2 d bytes a task
    t^(x) = arg min_{t learnt so far} ||p(x) - mu_t||                              nearest class mean

The question itself is not withheld: the prompt with its instruction, the choices, and an encoder's head are those of
the task. So the guess is easy where instructions differ, and hard between tasks that share one. A task that is not
learnt yet is answered as the nearest of those that are. Methods that do not look at the id answer the same either way,
and need no prototypes.

mu_t comes from at most EXAMPLES training texts, spread over the split, so it is the same whenever it is computed: a
checkpoint need not hold it. The prototypes are not part of the adapter: export does not write them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from edgeadapt_train.adapters.base import Adapter, Prompt
from edgeadapt_train.adapters.wrapped import Wrapped
from edgeadapt_train.backbone import Backbone
from edgeadapt_train.batches import Encoded, Example, padded

EXAMPLES = 512
_BATCH = 64


def spread(examples: Sequence[Example]) -> Sequence[Example]:
    """At most EXAMPLES of them, at equal distances."""
    return examples[:: -(-len(examples) // EXAMPLES)]


def points(embeddings: Tensor, mask: Tensor) -> Tensor:
    """p(x) [B, d] float32 of embeddings [B, T, d] and mask [B, T]."""
    weights = mask.float()[:, :, None]
    pool = (embeddings.detach().float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    d = pool.shape[-1]
    return layer_norm(pool, (d,), eps=1e-5) / d**0.5


class Prototypes:
    """mu_t of the tasks learnt so far."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._withheld = False

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        return sum(2 * row.numel() for row in self._rows)

    def learn(self, backbone: Backbone, examples: Sequence[Encoded]) -> None:
        """The next task is learnt, of which these are `spread`'s examples."""
        found = torch.cat([points(*prompts) for prompts in _prompts(backbone, examples)])
        self._rows.append(found.mean(dim=0).half().float())

    def nearest(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """t^ int64 [B]."""
        return torch.cdist(points(embeddings, mask), torch.stack(self._rows)).argmin(dim=1)

    def share_right(self, backbone: Backbone, examples: Sequence[Encoded], task: int) -> float:
        """Share of a task's examples whose guess is that task."""
        right = [self.nearest(*prompts) == task for prompts in _prompts(backbone, examples)]
        return float(torch.cat(right).float().mean())

    @contextmanager
    def guessing(self) -> Iterator[None]:
        """Inside: adapters in `Guessing` are told the guess in place of the id."""
        self._withheld = True
        try:
            yield
        finally:
            self._withheld = False

    def told(self, prompt: Prompt) -> Prompt:
        """The prompt with the id that the adapter is told."""
        if not self._withheld:
            return prompt
        return replace(prompt, task=self.nearest(prompt.embeddings, prompt.mask))


class Guessing(Wrapped):
    """`inner`, asked with the ids that `prototypes` tell."""

    def __init__(self, inner: Adapter, prototypes: Prototypes) -> None:
        super().__init__(inner)
        self._prototypes = prototypes

    @contextmanager
    def conditioned(self, prompt: Prompt) -> Iterator[None]:
        with super().conditioned(self._prototypes.told(prompt)):
            yield

    def own_state(self) -> dict[str, Tensor]:
        """The adapter's own: a checkpoint does not depend on who tells the ids."""
        return self.inner.own_state()

    def load_own_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.inner.load_own_state(tensors)


def _prompts(backbone: Backbone, examples: Sequence[Encoded]) -> Iterator[tuple[Tensor, Tensor]]:
    """Embedding outputs [B, T, d] and masks [B, T] of the prompts."""
    with torch.no_grad():
        for start in range(0, len(examples), _BATCH):
            ids, mask = padded([item.prompt for item in examples[start : start + _BATCH]])
            ids, mask = ids.to(backbone.device), mask.to(backbone.device)
            yield backbone.embed(ids), mask
