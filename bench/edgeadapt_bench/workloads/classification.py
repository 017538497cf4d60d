"""A label for a text: the prompt, and the scores of all choices behind it (edgeadapt.runtime.classify).

The sizes are those that the cost depends on; which tokens they are does not matter. A choice's last token is never run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from edgeadapt_bench.inputs import prompt_ids
from edgeadapt_bench.times import Times
from edgeadapt_bench.workloads.contract import CannotTakePartError, Workload


@dataclass(frozen=True)
class Classification(Workload):
    """Tokens of the prompt, choices, and tokens of each choice."""

    name: ClassVar[str] = "classification"
    says: ClassVar[str] = "a text, and the scores of all its labels"
    phases: ClassVar[tuple[str, ...]] = ("classify",)

    prompt: int = 64
    choices: int = 4
    length: int = 2

    def start(self, subject: Any) -> _Classifying:
        if not hasattr(subject, "classify"):
            raise CannotTakePartError("only edgeadapt's own decoders score labels here")
        size = subject.vocabulary_size
        choices = [prompt_ids(self.length, size, seed=number) for number in range(1, self.choices + 1)]
        return _Classifying(subject, prompt_ids(self.prompt, size), choices)


class _Classifying:
    def __init__(self, subject: Any, ids: list[int], choices: list[list[int]]) -> None:
        self._subject = subject
        self._ids = ids
        self._choices = choices

    def turn(self, phase: str) -> Times:
        times = Times()
        with times.one():
            self._subject.classify(self._ids, self._choices)
        return times
