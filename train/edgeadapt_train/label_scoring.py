"""What an encoder's task heads answer: a choice per text, or a choice per word."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeadapt.tasks import OUTSIDE, TaskSpec, encode_sequence, encode_words
from edgeadapt.text import TextCodec
from edgeadapt_train.adapters.base import Adapter, Prompt
from edgeadapt_train.adapters.headed import Headed
from edgeadapt_train.backbone import Backbone
from edgeadapt_train.batches import Example, padded


class Labels:
    """Examples that the head of task `index` labels; without an adapter, every answer is the first choice.

    A task of words: words that do not fit into `max_prompt_tokens` belong to no entity.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter | None,
        task: TaskSpec,
        *,
        index: int,
        text: TextCodec,
        examples: Sequence[Example],
    ) -> None:
        self._backbone, self._adapter, self._task, self._index = backbone, adapter, task, index
        self._words = [item.text.split() for item in examples]
        if task.kind == "tokens":
            made = [encode_words(task, words, text.encode, text.frame, text.unknown) for words in self._words]
            self._ids, self._starts = [ids for ids, _ in made], [starts for _, starts in made]
        else:
            self._ids = [encode_sequence(task, item.text, text.encode, text.frame) for item in examples]
        self.lengths = [len(ids) for ids in self._ids]

    def answers(self, rows: Sequence[int]) -> list[str]:
        if self._adapter is None:
            first = self._task.choices[0]
            return [" ".join([first] * len(self._words[row])) if self._task.kind == "tokens" else first for row in rows]
        assert isinstance(self._adapter, Headed)
        heads = self._adapter.heads
        hidden, mask = self._hidden(self._adapter, rows)
        if self._task.kind == "classification":
            best = heads.logits(self._index, heads.pooled(hidden, mask)).argmax(dim=1)
            return [self._task.choices[place] for place in best.tolist()]
        found = []
        for at, row in enumerate(rows):
            best = heads.logits(self._index, hidden[at, self._starts[row]]).argmax(dim=1)
            labels = [self._task.choices[place] for place in best.tolist()]
            found.append(" ".join([*labels, *[OUTSIDE] * (len(self._words[row]) - len(labels))]))
        return found

    def _hidden(self, adapter: Adapter, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """[B, T, d] and the mask [B, T]."""
        device = self._backbone.device
        ids, mask = (value.to(device) for value in padded([self._ids[row] for row in rows]))
        embeddings = self._backbone.embed(ids)
        task = torch.full((len(rows),), self._index, device=device)
        with adapter.conditioned(Prompt(embeddings, mask, task)):
            return self._backbone.hidden(embeddings, mask).last_hidden_state, mask
