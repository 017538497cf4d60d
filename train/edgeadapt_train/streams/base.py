"""A stream: tasks in an order, each with disjoint splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.tasks import TaskSpec
from edgeadapt_train.batches import Example


@dataclass(frozen=True)
class Sizes:
    """Most examples that a split may have: stream.train, stream.validation, stream.evaluation."""

    train: int
    validation: int
    evaluation: int

    def __post_init__(self) -> None:
        for name in ("train", "validation", "evaluation"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise EdgeAdaptError(f"stream.{name}={value}: give a whole number of at least 1")


@dataclass(frozen=True)
class Task:
    """One task and its examples. `validation` is for choosing settings, `evaluation` for reporting.

    `topic` is what sort of task it is, in a word or two, such as "sentiment".
    """

    spec: TaskSpec
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    evaluation: tuple[Example, ...]
    topic: str = ""

    def __post_init__(self) -> None:
        splits = {"train": self.train, "validation": self.validation, "evaluation": self.evaluation}
        for name, items in splits.items():
            if not items:
                raise EdgeAdaptError(f"task {self.spec.name}: its {name} split is empty")
            for item in items:
                if (reason := misfit(self.spec, item)) is not None:
                    raise EdgeAdaptError(f"task {self.spec.name}: in {name}, {reason}")
        texts = [{item.text for item in items} for items in splits.values()]
        if (texts[0] & texts[1]) or (texts[0] & texts[2]) or (texts[1] & texts[2]):
            raise EdgeAdaptError(f"task {self.spec.name}: the same text is in two of its splits")

    @property
    def language(self) -> str:
        return self.spec.language

    @property
    def majority(self) -> float:
        """Share of the evaluation examples that have the commonest answer: what knowing nothing else would score."""
        return Counter(item.target for item in self.evaluation).most_common(1)[0][1] / len(self.evaluation)


class Source(Protocol):
    """Reads one task of a stream when it is wanted, with at most so many examples per split."""

    def __call__(self, sizes: Sizes) -> Task: ...


def misfit(spec: TaskSpec, example: Example) -> str | None:
    """Why an example is none of the task's, in a few words; None if it is one."""
    if example.choices and spec.kind != "multiple-choice":
        return f"it has choices of its own; a {spec.kind} task has none at its examples"
    if example.references and spec.kind != "generation":
        return f"it has references; a {spec.kind} task has one right answer"
    if spec.kind == "generation":
        return "it needs one reference, the program that tests an answer" if _untested(spec, example) else None
    if spec.kind == "multiple-choice" and len(set(example.choices)) < max(2, len(example.choices)):
        return f"it needs at least two choices, all different; found {list(example.choices)}"
    given = example.target.split() if spec.kind == "tokens" else [example.target]
    words = len(example.text.split())
    if spec.kind == "tokens" and len(given) != words:
        return f"there are {len(given)} labels for {words} words"
    choices = example.choices or spec.choices
    other = next((label for label in given if label not in choices), None)
    return None if other is None else f"target {other!r} is none of the task's choices"


def capped(
    spec: TaskSpec,
    splits: tuple[Iterable[Example], Iterable[Example], Iterable[Example]],
    sizes: Sizes,
    topic: str = "",
) -> Task:
    """The task of the first examples of train, validation and evaluation whose text no later split has as well."""
    train, validation, evaluation = (list(items) for items in splits)
    held = {item.text for item in evaluation}
    validation = [item for item in validation if item.text not in held]
    held |= {item.text for item in validation}
    train = [item for item in train if item.text not in held]
    return Task(
        spec,
        tuple(train[: sizes.train]),
        tuple(validation[: sizes.validation]),
        tuple(evaluation[: sizes.evaluation]),
        topic,
    )


def _untested(spec: TaskSpec, example: Example) -> bool:
    return spec.metric == "pass@1" and len(example.references) != 1
