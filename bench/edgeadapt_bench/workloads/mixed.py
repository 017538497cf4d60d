"""One batch whose rows use different adapters: LowRankUpdate with an adapter index per row.

bare               the backbone without any adapter          what the ratio is taken against
lora8-unmerged     every row uses the same LoRA-8
lora8-mixed        `adapters` of them are in memory, and row b uses number b mod `adapters`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from edgeadapt_bench.workloads.batch import InStep, rows_of
from edgeadapt_bench.workloads.contract import Workload


@dataclass(frozen=True)
class Mixed(Workload):
    """Adapters that the rows share out among themselves; otherwise as a batch."""

    name: ClassVar[str] = "mixed"
    says: ClassVar[str] = "a batch whose rows use different adapters"
    phases: ClassVar[tuple[str, ...]] = ("prefill", "decode")

    adapters: int = 4
    rows: int = 4
    prompt: int = 64
    output: int = 8

    def start(self, subject: Any) -> InStep:
        return InStep(rows_of(subject, self.rows, self.adapters), self.rows, self.prompt, self.output)
