"""Another task of an adapter, and an adapter read anew: what a change costs before the next prompt runs.

task_switch         another task id, and its inputs bound for a prompt
adapter_switch      the adapter's file read anew, and its inputs bound for a prompt
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from edgeadapt_bench.inputs import prompt_ids
from edgeadapt_bench.times import Times
from edgeadapt_bench.workloads.contract import CannotTakePartError, Workload


@dataclass(frozen=True)
class Switch(Workload):
    """Tokens of the prompt that the inputs are bound for."""

    name: ClassVar[str] = "switch"
    says: ClassVar[str] = "another task, and an adapter's file read anew"
    phases: ClassVar[tuple[str, ...]] = ("task_switch", "adapter_switch")

    prompt: int = 64

    def start(self, subject: Any) -> _Switching:
        if not hasattr(subject, "adapter_switch"):
            raise CannotTakePartError("it has no adapters to switch")
        return _Switching(subject, prompt_ids(self.prompt, subject.vocabulary_size))


class _Switching:
    def __init__(self, subject: Any, ids: list[int]) -> None:
        self._subject = subject
        self._ids = ids

    def turn(self, phase: str) -> Times | None:
        found: Times | None = getattr(self._subject, phase)(self._ids)
        return found
