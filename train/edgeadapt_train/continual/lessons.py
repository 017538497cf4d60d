"""How a stream is taught: its tasks in turn, or all of them mixed, as an upper bound.

in-turn    lesson i teaches task i           then every task so far is scored, and the next one (row i of the matrix)
joint      one lesson teaches them all       then all are scored (the last row; the others stay empty)

A joint lesson mixes the examples of all tasks into its batches and takes as many steps as the tasks would take in turn.
To the adapter it is one task, number 0, so that methods that look at the task's id have no joint form here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Adapter
from edgeadapt_train.backbone import Backbone, CausalBackbone
from edgeadapt_train.loop import LoopSettings

Strategy = Literal["in-turn", "joint"]


@dataclass(frozen=True)
class Lesson:
    """One training. `tasks`: the numbers of those that are taught; `scored`: of those that are scored after it, into
    row `row` of the matrix."""

    name: str
    index: int
    tasks: tuple[int, ...]
    row: int
    scored: tuple[int, ...]

    def asked(self, task: int) -> int:
        """The id that the adapter is told when it is asked task `task`."""
        return task if len(self.tasks) == 1 else self.index

    def loop(self, settings: LoopSettings) -> LoopSettings:
        """`steps` caps a task: the lesson has as many as its tasks."""
        return settings if settings.steps is None else replace(settings, steps=settings.steps * len(self.tasks))


def lessons(strategy: Strategy, names: Sequence[str]) -> list[Lesson]:
    """All lessons of a stream of tasks with these names."""
    count = len(names)
    if strategy == "joint" and count > 1:
        whole = tuple(range(count))
        return [Lesson("joint", 0, whole, count - 1, whole)]
    return [Lesson(name, i, (i,), i, tuple(range(min(i + 2, count)))) for i, name in enumerate(names)]


def check(strategy: Strategy, backbone: Backbone, adapter: Adapter) -> None:
    """Raise EdgeAdaptError for what cannot be taught jointly."""
    if strategy == "joint" and not isinstance(backbone, CausalBackbone):
        raise EdgeAdaptError("strategy=joint needs a language model: an encoder's tasks have a head each")
    if strategy == "joint" and adapter.reads_task:
        raise EdgeAdaptError(
            f"strategy=joint: {adapter.method} looks at the task's id; use a method without, such as adapter=lora8"
        )
