"""Many adapters in memory at once: what each of them holds, and what changing among them costs.

    resident_switch     the next of `adapters` adapters, its first task if it has some, bound for a prompt
    held                bytes of memory that they hold: VmRSS with them less VmRSS before the first was loaded

The adapters are copies of the variant's own, each loaded by itself as another adapter's file would be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from edgeadapt_bench.inputs import prompt_ids
from edgeadapt_bench.times import Times
from edgeadapt_bench.workloads.contract import CannotTakePartError, Workload


@dataclass(frozen=True)
class Residents(Workload):
    """Adapters in memory, and tokens of the prompt that they are bound for."""

    name: ClassVar[str] = "residents"
    says: ClassVar[str] = "many adapters in memory, and changing among them"
    phases: ClassVar[tuple[str, ...]] = ("resident_switch",)

    adapters: int = 8
    prompt: int = 64

    def start(self, subject: Any) -> _Resident:
        crowd = subject.crowd() if hasattr(subject, "crowd") else None
        if crowd is None:
            raise CannotTakePartError("it has no adapter of its own to load")
        ids = prompt_ids(self.prompt, subject.vocabulary_size)
        return _Resident(crowd, crowd.grow(self.adapters, ids), self.adapters, ids)


class _Resident:
    def __init__(self, crowd: Any, held: int, adapters: int, ids: list[int]) -> None:
        self.held = held
        self._crowd = crowd
        self._adapters = adapters
        self._ids = ids
        self._turns = 0

    def turn(self, phase: str) -> Times:
        self._turns += 1
        times = Times()
        with times.one():
            self._crowd.use(self._turns % self._adapters, self._ids)
        return times
