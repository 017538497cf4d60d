"""Text behind a prompt, one token after the other.

prefill     the prompt, its adapter's inputs included      one sample a turn
decode      `output` tokens behind it                      so many samples a turn
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from edgeadapt_bench.inputs import prompt_ids
from edgeadapt_bench.times import Times
from edgeadapt_bench.workloads.contract import CannotTakePartError, Workload


class Generates(Protocol):
    """What any engine has to do for it (edgeadapt_bench.serving.Subject)."""

    vocabulary_size: int

    def prefill(self, ids: list[int], room: int) -> Times: ...

    def decode(self, prompt: list[int], count: int) -> Times: ...


@dataclass(frozen=True)
class Generation(Workload):
    """Tokens of the prompt, and tokens that are decoded behind it in every turn."""

    name: ClassVar[str] = "generation"
    says: ClassVar[str] = "text behind a prompt"
    phases: ClassVar[tuple[str, ...]] = ("prefill", "decode")

    prompt: int = 64
    output: int = 8

    def start(self, subject: Generates) -> _Generating:
        if not hasattr(subject, "decode"):
            raise CannotTakePartError("an encoder generates no text; its workload is embedding")
        return _Generating(subject, prompt_ids(self.prompt, subject.vocabulary_size), self.output)


class _Generating:
    def __init__(self, subject: Generates, ids: list[int], output: int) -> None:
        self._subject = subject
        self._ids = ids
        self._output = output
        self._prefilled = False

    def turn(self, phase: str) -> Times:
        """The prompt is run before the first token behind it: what another workload left does not count."""
        if phase == "decode" and self._prefilled:
            return self._subject.decode(self._ids, self._output)
        times = self._subject.prefill(self._ids, self._output + 1)
        self._prefilled = True
        return times if phase == "prefill" else self._subject.decode(self._ids, self._output)
