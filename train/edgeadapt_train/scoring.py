"""Scores of a task in [0, 1], with the adapter's stored form: what ships.

classification   a language model    the choice of largest length-normalised log-likelihood      language_scoring.py
                 an encoder          the choice of largest logit of the task's head              label_scoring.py
                                     share of right answers
multiple-choice  a language model    the same over the example's own choices
generation       a language model    greedy decoding, scored as the task's metric says                answer_metrics.py
tokens           an encoder          a label per word; F1 over whole entities (seqeval, as CoNLL's own script has it)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.tasks import TaskSpec
from edgeadapt.text import TextCodec
from edgeadapt_train.adapters.base import Adapter
from edgeadapt_train.answer_metrics import judge
from edgeadapt_train.backbone import Backbone, CausalBackbone
from edgeadapt_train.batches import Example
from edgeadapt_train.label_scoring import Labels
from edgeadapt_train.language_scoring import Choices, Generated
from edgeadapt_train.objectives import check_kind


@dataclass(frozen=True)
class Scored:
    """`correct` bool [n] in the examples' order: the whole answer is right. `score` is the task's metric; `beside` are
    figures that belong to it, such as the exact match beside SQuAD's F1."""

    correct: np.ndarray
    answers: list[str]
    score: float
    beside: Mapping[str, float] = field(default_factory=dict)


class Asked(Protocol):
    """The examples of a task, ready to be answered: by the numbers of those that make up a batch."""

    @property
    def lengths(self) -> Sequence[int]: ...

    def answers(self, rows: Sequence[int]) -> list[str]: ...


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
    """Score task `index` with the adapter's stored form. Without one: the bare language model; on an encoder what heads
    that know nothing yet say, the first choice."""
    check_kind(backbone, task)
    given: Any = {"index": index, "text": text, "examples": examples}
    asked: Asked
    if not isinstance(backbone, CausalBackbone):
        asked = Labels(backbone, adapter, task, **given)
    elif task.kind == "generation":
        asked = Generated(backbone, adapter, task, max_new_tokens=max_new_tokens, **given)
    else:
        asked = Choices(backbone, adapter, task, **given)
    order = np.argsort(asked.lengths, kind="stable")
    answers = [""] * len(examples)
    with torch.no_grad(), nullcontext() if adapter is None else adapter.hardened():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size].tolist()
            for row, answer in zip(rows, asked.answers(rows), strict=True):
                answers[row] = answer
    if task.kind == "generation":
        judged = judge(task.metric, answers, [(item.target, *item.references) for item in examples])
        return Scored(judged.correct, answers, judged.score, judged.beside)
    targets = [item.target for item in examples]
    correct = np.array([answer == target for answer, target in zip(answers, targets, strict=True)])
    return Scored(correct, answers, entity_f1(answers, targets) if task.kind == "tokens" else float(correct.mean()))


def confusion(task: TaskSpec, answers: Sequence[str], targets: Sequence[str]) -> np.ndarray:
    """How often each target (row) got each answer (column), int64 [C, C] in the order of the task's choices; a task of
    words counts words."""
    if not task.choices:
        raise EdgeAdaptError(f"task {task.name}: has no choices of its own that could be confused")
    place = {choice: at for at, choice in enumerate(task.choices)}
    words = task.kind == "tokens"
    counts = np.zeros((len(place), len(place)), dtype=np.int64)
    for answer, target in zip(answers, targets, strict=True):
        pairs = zip(target.split(), answer.split(), strict=True) if words else ((target, answer),)
        for wanted, found in pairs:
            counts[place[wanted], place[found]] += 1
    return counts


def entity_f1(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Micro-averaged F1 over entities; labels with spaces between. 0 where there is no entity at all."""
    from seqeval.metrics import f1_score

    found, wanted = ([labels.split() for labels in side] for side in (answers, targets))
    return float(f1_score(wanted, found, zero_division=0))
