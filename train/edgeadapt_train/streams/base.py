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
            if self.spec.kind == "classification" and (
                other := {item.target for item in items} - set(self.spec.choices)
            ):
                raise EdgeAdaptError(f"task {self.spec.name}: {sorted(other)[0]!r} in {name} is none of its choices")
        texts = [{item.text for item in items} for items in splits.values()]
        if (texts[0] & texts[1]) or (texts[0] & texts[2]) or (texts[1] & texts[2]):
            raise EdgeAdaptError(f"task {self.spec.name}: the same text is in two of its splits")
