"""What a language model answers: choices by length-normalised log-likelihood, generation by greedy decoding.

    score(c) = 1/|c| sum_i log p(c_i | prompt, c_<i)          the answer is the arg max over the choices
The prompt runs once for all its choices: the first token of every choice is read off the prompt's last position, and
only choices of several tokens run on, over the prompt's own key/value cache. Prompts of a batch may have choices of
their own, in any number.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeadapt.tasks import TaskSpec, encode_prompt, encode_target
from edgeadapt.text import TextCodec
from edgeadapt_train.adapters.base import Adapter, Prompt
from edgeadapt_train.backbone import CausalBackbone
from edgeadapt_train.batches import Example, padded

_POSITIONS = 1 << 13  # prompt and choice together, in one forward over the cache: bounds the copies of the cache


class Choices:
    """Examples that a language model answers by the likeliest of their own choices, or of the task's."""

    def __init__(
        self,
        backbone: CausalBackbone,
        adapter: Adapter | None,
        task: TaskSpec,
        *,
        index: int,
        text: TextCodec,
        examples: Sequence[Example],
    ) -> None:
        self._backbone, self._adapter, self._index = backbone, adapter, index
        self._prompts = [encode_prompt(task, item.text, text.encode) for item in examples]
        self._choices = [item.choices or task.choices for item in examples]
        known = {choice for choices in self._choices for choice in choices}
        self._ids = {choice: encode_target(choice, text.encode) for choice in known}
        self.lengths = [len(ids) for ids in self._prompts]

    def answers(self, rows: Sequence[int]) -> list[str]:
        prompts = [self._prompts[row] for row in rows]
        choices = [[self._ids[choice] for choice in self._choices[row]] for row in rows]
        found = choice_scores(self._backbone, self._adapter, self._index, prompts, choices)
        return [self._choices[row][int(scores.argmax())] for row, scores in zip(rows, found, strict=True)]


class Generated:
    """Examples that a language model answers in its own words, greedily."""

    def __init__(
        self,
        backbone: CausalBackbone,
        adapter: Adapter | None,
        task: TaskSpec,
        *,
        index: int,
        text: TextCodec,
        examples: Sequence[Example],
        max_new_tokens: int,
    ) -> None:
        self._backbone, self._adapter, self._index = backbone, adapter, index
        self._text, self._max_new_tokens = text, max_new_tokens
        self._prompts = [encode_prompt(task, item.text, text.encode) for item in examples]
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
def choice_scores(
    backbone: CausalBackbone,
    adapter: Adapter | None,
    index: int,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[Sequence[int]]],
) -> list[np.ndarray]:
    """Length-normalised log-likelihoods, per prompt float64 [its choices]; choices given as token ids, per prompt."""
    from transformers import DynamicCache

    prompt, lengths = _prompt(backbone, index, prompts)
    flat = [choice for several in choices for choice in several]
    counts = torch.tensor([len(several) for several in choices], device=lengths.device)
    owners = torch.arange(len(prompts), device=lengths.device).repeat_interleave(counts)  # prompt of each choice
    cache: Any = DynamicCache() if max(map(len, flat)) > 1 else None
    with _conditioned(adapter, prompt):
        output = backbone.hidden(prompt.embeddings, prompt.mask, cache)
    last = output.last_hidden_state[torch.arange(len(lengths)), lengths - 1]
    first = torch.tensor([choice[0] for choice in flat], device=lengths.device)
    sums = backbone.log_probs(last)[owners, first].double()
    long = [at for at, choice in enumerate(flat) if len(choice) > 1]
    size = max(1, _POSITIONS // (int(lengths.max()) + max(map(len, flat))))
    for start in range(0, len(long), size):
        part = torch.tensor(long[start : start + size], device=lengths.device)
        rest = [flat[at] for at in part.tolist()]
        sums[part] += _continued(backbone, adapter, prompt, cache, owners=owners[part], choices=rest)
    scores = sums / torch.tensor([len(choice) for choice in flat], device=lengths.device)
    return np.split(scores.cpu().numpy(), np.cumsum(counts.cpu().numpy())[:-1])


def _continued(
    backbone: CausalBackbone,
    adapter: Adapter | None,
    prompt: Prompt,
    cache: Any,
    *,
    owners: Tensor,
    choices: Sequence[Sequence[int]],
) -> Tensor:
    """Sums of the log-probabilities of all tokens but the first, float64 [choices]; choice i follows prompt owners[i].

    `cache` holds the prompts and is left as it is.
    """
    from transformers import DynamicCache

    copied = DynamicCache()
    for depth, layer in enumerate(cache.layers):
        copied.update(layer.keys[owners], layer.values[owners], depth)
    ids, mask = (value.to(owners.device) for value in padded([choice[:-1] for choice in choices]))
    # The prompt's conditions hold for each of its choices: the adapter sees every prompt once for each of them.
    again = Prompt(prompt.embeddings[owners], prompt.mask[owners], prompt.task[owners])
    positions = again.mask.sum(dim=1)[:, None] + torch.arange(ids.shape[1], device=owners.device)
    with _conditioned(adapter, again):
        output = backbone.hidden(backbone.embed(ids), torch.cat((again.mask, mask), dim=1), copied, positions)
    real = mask.bool()
    following = torch.tensor([token for choice in choices for token in choice[1:]], device=owners.device)
    logs = backbone.log_probs(output.last_hidden_state[real]).gather(1, following[:, None])[:, 0]
    whose = torch.arange(len(choices), device=owners.device)[:, None].expand_as(mask)[real]
    return torch.zeros(len(choices), dtype=torch.float64, device=owners.device).index_add(0, whose, logs.double())


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
