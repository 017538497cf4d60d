"""Texts through an encoder: latency of one text of a length, or of one among `batch` of them, run at once.

embed       s/text: the time of a run divided by its texts
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from edgeadapt_bench.times import Times
from edgeadapt_bench.workloads.contract import CannotTakePartError, Workload


@dataclass(frozen=True)
class Embedding(Workload):
    """Tokens of each text, and texts of one run."""

    name: ClassVar[str] = "embedding"
    says: ClassVar[str] = "texts through an encoder"
    phases: ClassVar[tuple[str, ...]] = ("embed",)

    tokens: int = 64
    batch: int = 1

    def start(self, subject: Any) -> _Embedding:
        if not hasattr(subject, "embed"):
            raise CannotTakePartError("a decoder embeds no texts; its workload is generation")
        return _Embedding(subject, self.tokens, self.batch)


class _Embedding:
    def __init__(self, subject: Any, tokens: int, batch: int) -> None:
        self._subject = subject
        self._tokens = tokens
        self._batch = batch

    def turn(self, phase: str) -> Times:
        times = Times()
        with times.one(parts=self._batch):
            self._subject.embed(self._tokens, self._batch)
        return times
