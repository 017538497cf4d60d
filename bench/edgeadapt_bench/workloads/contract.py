"""What a workload is: sizes, phases, and the work itself, done in a worker's process.

    harness     sizes()  -> what a row says of it          phases -> what it asks for, in this order
    worker      start(subject) -> Work;  turn(phase) -> times of what one turn does

A workload is a file with one frozen dataclass, whose fields are its sizes: the command line sets them by their names,
`NAME[:FIELD=NUMBER[,NUMBER...]...]`, every combination of the numbers being a workload of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.times import Times


class CannotTakePartError(EdgeAdaptError):
    """What is open has no part in a workload; the message says why."""


class Work(Protocol):
    """A workload under way, with what it keeps between turns."""

    def turn(self, phase: str) -> Times | None:
        """Times of this turn's samples; None if this phase is none for what is open."""
        ...


@dataclass(frozen=True)
class Workload(ABC):
    """Sizes of something to measure. Fields are whole numbers of at least 1."""

    name: ClassVar[str]
    says: ClassVar[str]
    phases: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        for size, value in asdict(self).items():
            if value < 1:
                raise EdgeAdaptError(f"workload {self.name}: {size} is {value}; it must be at least 1")

    def sizes(self) -> dict[str, Any]:
        """What a row says of its workload."""
        return {"name": self.name, **asdict(self)}

    @abstractmethod
    def start(self, subject: Any) -> Work:
        """Begin it on what is open in this process. Raises CannotTakePartError with the reason."""
