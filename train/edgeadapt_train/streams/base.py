"""A stream: tasks in an order, each with disjoint splits."""

from __future__ import annotations

from dataclasses import dataclass

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.tasks import TaskSpec
from edgeadapt_train.batches import Example


@dataclass(frozen=True)
class Task:
    """One task and its examples. `validation` is for choosing settings, `evaluation` for reporting."""

    spec: TaskSpec
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    evaluation: tuple[Example, ...]

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


def misfit(spec: TaskSpec, example: Example) -> str | None:
    """Why an example is none of the task's, in a few words; None if it is one."""
    if spec.kind == "generation":
        return None
    given = [example.target] if spec.kind == "classification" else example.target.split()
    words = len(example.text.split())
    if spec.kind == "tokens" and len(given) != words:
        return f"there are {len(given)} labels for {words} words"
    other = next((label for label in given if label not in spec.choices), None)
    return None if other is None else f"target {other!r} is none of the task's choices"
