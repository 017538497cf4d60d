"""Scores of a task in [0, 1]: choices by length-normalised log-likelihood, generation by greedy decoding.

    score(c) = 1/|c| sum_i log p(c_i | prompt, c_<i)          the answer is the arg max over the choices
The prompt runs once for all its choices: the first token of every choice is read off the prompt's last position, and
only choices of several tokens run on, over the prompt's own key/value cache repeated for them.
Generated answers are compared after collapsing white space (exact match).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeadapt.tasks import TaskSpec, choice_scores, encode_prompt, encode_target
from edgeadapt.text import TextCodec
from edgeadapt_train.adapters.base import Adapter, Prompt
from edgeadapt_train.backbone import Backbone
from edgeadapt_train.batches import Example


@dataclass(frozen=True)
class Scored:
    """`correct` bool [n] in the examples' order; `score` is its mean."""

    correct: np.ndarray
    answers: list[str]

    @property
    def score(self) -> float:
        return float(self.correct.mean())


def evaluate(
    backbone: Backbone,
    adapter: Adapter | None,
    task: TaskSpec,
    examples: Sequence[Example],
    *,
    index: int,
    text: TextCodec,
    batch_size: int = 16,
    max_new_tokens: int = 16,
) -> Scored:
    """Score task `index` with the adapter's stored form (or the bare backbone when there is none)."""
    prompts = [encode_prompt(task, item.text, text.encode) for item in examples]
    order = np.argsort([len(ids) for ids in prompts], kind="stable")
    answers = [""] * len(examples)
    choices = [encode_target(choice, text.encode) for choice in task.choices]
    with torch.no_grad(), nullcontext() if adapter is None else adapter.hardened():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size].tolist()
            chosen = [prompts[row] for row in rows]
            if task.kind == "classification":
                best = choice_score_matrix(backbone, adapter, index, chosen, choices).argmax(axis=1)
                found = [task.choices[int(place)] for place in best]
            else:
                found = [
                    text.decode(ids)
                    for ids in greedy(
                        backbone, adapter, chosen, index=index, eos=text.eos_ids, max_new_tokens=max_new_tokens
                    )
                ]
            for row, answer in zip(rows, found, strict=True):
                answers[row] = answer
    correct = np.array([_same(answer, item.target) for answer, item in zip(answers, examples, strict=True)])
    return Scored(correct, answers)


def _same(answer: str, target: str) -> bool:
    return answer.split() == target.split()


def _prompt(backbone: Backbone, index: int, prompts: Sequence[Sequence[int]]) -> tuple[Prompt, Tensor]:
    width = max(len(ids) for ids in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(prompts):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    ids, mask = ids.to(backbone.device), mask.to(backbone.device)
    task = torch.full((len(prompts),), index, device=backbone.device)
    return Prompt(backbone.embed(ids), mask, task), mask.sum(dim=1)


@torch.no_grad()
def choice_score_matrix(
    backbone: Backbone,
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
    backbone: Backbone,
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
