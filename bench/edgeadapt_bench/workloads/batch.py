"""Several texts in lock-step: rows of one batch that share every weight that is read.

    prefill     prompts of equal length, all rows at once     s, of the whole batch
    decode      one further token of every row                s/token: the time of a step divided by the rows

More than one new token behind a past is open to a batch of one only (GroupQueryAttention on the CPU), so prompts run in
one piece, and memory grows with rows x prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgeadapt_bench.inputs import prompt_ids
from edgeadapt_bench.times import Times
from edgeadapt_bench.workloads.contract import CannotTakePartError, Workload

if TYPE_CHECKING:
    from edgeadapt_bench.rows import RowsDecoder


@dataclass(frozen=True)
class Batch(Workload):
    """Rows, tokens of each row's prompt, and tokens that are decoded behind it in every turn."""

    name: ClassVar[str] = "batch"
    says: ClassVar[str] = "several texts in lock-step"
    phases: ClassVar[tuple[str, ...]] = ("prefill", "decode")

    rows: int = 4
    prompt: int = 64
    output: int = 8

    def start(self, subject: Any) -> InStep:
        return InStep(rows_of(subject, self.rows), self.rows, self.prompt, self.output)


def rows_of(subject: Any, rows: int, adapters: int = 1) -> RowsDecoder:
    """A batch on the subject's graph. Raises CannotTakePartError where the engine is not ours, or an encoder."""
    if not hasattr(subject, "rows"):
        raise CannotTakePartError("only edgeadapt's own decoders run several rows here")
    found: RowsDecoder = subject.rows(rows, adapters)
    return found


class InStep:
    """Prefill and decode of a batch."""

    def __init__(self, decoder: RowsDecoder, rows: int, prompt: int, output: int) -> None:
        self._decoder = decoder
        self._ids = np.stack([prompt_ids(prompt, decoder.vocabulary_size, seed=row) for row in range(rows)])
        self._output = output
        self._tokens: np.ndarray | None = None

    def turn(self, phase: str) -> Times:
        times = Times()
        if phase == "prefill":
            with times.one():
                self._tokens = self._prefill()
            return times
        if self._tokens is None:
            self._tokens = self._prefill()
        self._decoder.rewind(self._ids.shape[1])
        tokens = self._decoder.step(self._tokens).argmax(axis=-1)  # another process had the caches in between
        for _ in range(self._output):
            with times.one(parts=len(self._ids)):
                tokens = self._decoder.step(tokens).argmax(axis=-1)
        return times

    def _prefill(self) -> np.ndarray:
        return np.asarray(self._decoder.prefill(self._ids, self._output + 1).argmax(axis=-1))
