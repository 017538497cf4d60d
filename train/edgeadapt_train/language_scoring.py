"""What a language model answers: choices by length-normalised log-likelihood, generation by greedy decoding.

    score(c) = 1/|c| sum_i log p(c_i | prompt, c_<i)          the answer is the arg max over the choices
The prompt runs once for all its choices: the first token of every choice is read off the prompt's last position, and
only choices of several tokens run on, over the prompt's own key/value cache repeated for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeadapt.tasks import TaskSpec, choice_scores, encode_prompt, encode_target
from edgeadapt.text import TextCodec
from edgeadapt_train.adapters.base import Adapter, Prompt
from edgeadapt_train.backbone import CausalBackbone
from edgeadapt_train.batches import padded


class Choices:
    """Texts that a language model answers by the likeliest of the task's choices."""

    def __init__(
        self,
        backbone: CausalBackbone,
        adapter: Adapter | None,
        task: TaskSpec,
        *,
        index: int,
        text: TextCodec,
        texts: Sequence[str],
    ) -> None:
        self._backbone, self._adapter, self._task, self._index = backbone, adapter, task, index
        self._prompts = [encode_prompt(task, item, text.encode) for item in texts]
        self._choices = [encode_target(choice, text.encode) for choice in task.choices]
        self.lengths = [len(ids) for ids in self._prompts]

    def answers(self, rows: Sequence[int]) -> list[str]:
        prompts = [self._prompts[row] for row in rows]
        scores = choice_score_matrix(self._backbone, self._adapter, self._index, prompts, self._choices)
        return [self._task.choices[int(place)] for place in scores.argmax(axis=1)]


class Generated:
    """Texts that a language model answers in its own words, greedily."""

    def __init__(
        self,
        backbone: CausalBackbone,
        adapter: Adapter | None,
        task: TaskSpec,
        *,
        index: int,
        text: TextCodec,
        texts: Sequence[str],
        max_new_tokens: int,
    ) -> None:
        self._backbone, self._adapter, self._index = backbone, adapter, index
        self._text, self._max_new_tokens = text, max_new_tokens
        self._prompts = [encode_prompt(task, item, text.encode) for item in texts]
        self.lengths = [len(ids) for ids in self._prompts]

    def answers(self, rows: Sequence[int]) -> list[str]:
        found = greedy(
            self._backbone,
            self._adapter,
            [self._prompts[row] for row in rows],
            index=self._index,
            eos=self._text.eos_ids,
            max_new_tokens=self._max_new_tokens,
        )
        return [self._text.decode(ids) for ids in found]


def _prompt(backbone: CausalBackbone, index: int, prompts: Sequence[Sequence[int]]) -> tuple[Prompt, Tensor]:
    ids, mask = padded(prompts)
    ids, mask = ids.to(backbone.device), mask.to(backbone.device)
    task = torch.full((len(prompts),), index, device=backbone.device)
    return Prompt(backbone.embed(ids), mask, task), mask.sum(dim=1)


@torch.no_grad()
def choice_score_matrix(
    backbone: CausalBackbone,
    adapter: Adapter | None,
    index: int,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[int]],
) -> np.ndarray:
    """Length-normalised log-likelihood [prompts, choices] of choices given as token ids."""
    from transformers import DynamicCache

    prompt, lengths = _prompt(backbone, index, prompts)
    longest = max(len(choice) for choice in choices)
    cache: Any = DynamicCache() if longest > 1 else None
    with _conditioned(adapter, prompt):
        output = backbone.hidden(prompt.embeddings, prompt.mask, cache)
    last = output.last_hidden_state[torch.arange(len(lengths)), lengths - 1]
    first = backbone.log_probs(last)[:, [choice[0] for choice in choices]]
    pieces = [[[float(first[row, c])] for c in range(len(choices))] for row in range(len(prompts))]
    long = [c for c, choice in enumerate(choices) if len(choice) > 1]
    if long:
        cache.batch_repeat_interleave(len(long))
        width = longest - 1
        ids = torch.zeros(len(long), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for at, c in enumerate(long):
            ids[at, : len(choices[c]) - 1] = torch.tensor(choices[c][:-1])
            mask[at, : len(choices[c]) - 1] = 1
        many, repeats = len(prompts), len(long)
        ids, mask = ids.repeat(many, 1).to(lengths.device), mask.repeat(many, 1).to(lengths.device)
        # The prompt's conditions hold for each of its choices: the adapter sees every prompt `repeats` times.
        again = Prompt(
            *(item.repeat_interleave(repeats, dim=0) for item in (prompt.embeddings, prompt.mask, prompt.task))
        )
        positions = lengths.repeat_interleave(repeats)[:, None] + torch.arange(width, device=lengths.device)
        with _conditioned(adapter, again):
            output = backbone.hidden(backbone.embed(ids), torch.cat((again.mask, mask), dim=1), cache, positions)
        logs = backbone.log_probs(output.last_hidden_state.flatten(0, 1)).view(many, repeats, width, -1)
        for row in range(many):
            for at, c in enumerate(long):
                pieces[row][c] += [float(logs[row, at, i, token]) for i, token in enumerate(choices[c][1:])]
    return np.stack([choice_scores([np.array(piece) for piece in row]) for row in pieces])


@torch.no_grad()
def greedy(
    backbone: CausalBackbone,
    adapter: Adapter | None,
    prompts: Sequence[Sequence[int]],
    *,
    index: int,
    eos: Sequence[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """Greedy continuation of every prompt, to the first end of sequence (left out) or `max_new_tokens`."""
    from transformers import DynamicCache

    prompt, lengths = _prompt(backbone, index, prompts)
    cache = DynamicCache()
    embeddings, mask, positions = prompt.embeddings, prompt.mask, None
    at = lengths - 1
    rows = torch.arange(len(lengths), device=lengths.device)
    found: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    with _conditioned(adapter, prompt):
        for step in range(max_new_tokens):
            output = backbone.hidden(embeddings, mask, cache, positions)
            token = backbone.head(output.last_hidden_state[rows, at]).argmax(dim=-1)
            for row, value in enumerate(token.tolist()):
                ended[row] = ended[row] or value in eos
                if not ended[row]:
                    found[row].append(value)
            if all(ended):
                break
            embeddings = backbone.embed(token[:, None])
            mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
            positions, at = (lengths + step)[:, None], torch.zeros_like(lengths)
    return found


def _conditioned(adapter: Adapter | None, prompt: Prompt) -> AbstractContextManager[None]:
    return nullcontext() if adapter is None else adapter.conditioned(prompt)
