"""What is measured: phases, their sizes, and how long each may take.

load            base graph from its file to a session ready to run                       s
prefill         the prompt, from its token ids to the first logits (time to first token) s
decode          one further token, greedy choice included                                s per token
task_switch     another task id, and its inputs bound for a prompt                       s
adapter_switch  the adapter's file read anew, and its inputs bound for a prompt          s
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from edgeadapt.errors import EdgeAdaptError

Phase = Literal["load", "prefill", "decode", "task_switch", "adapter_switch"]
PHASES: tuple[Phase, ...] = get_args(Phase)
UNITS: dict[Phase, str] = {
    "load": "s",
    "prefill": "s",
    "decode": "s/token",
    "task_switch": "s",
    "adapter_switch": "s",
}


@dataclass(frozen=True)
class Workload:
    """Generation behind a prompt: sizes in tokens; `decode_tokens` are decoded per sample."""

    name: str = "generation"
    prompt_tokens: int = 64
    decode_tokens: int = 8

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.decode_tokens < 1:
            raise EdgeAdaptError(f"workload {self.name}: prompt and decoded tokens must be at least 1")

    def prompt(self, vocabulary_size: int) -> list[int]:
        """Token ids, the same for every variant: latency depends on how many there are, not on which."""
        rng = np.random.default_rng(self.prompt_tokens)
        return [int(token) for token in rng.integers(0, vocabulary_size, self.prompt_tokens)]


@dataclass(frozen=True)
class Effort:
    """How much to measure. A phase ends after `samples` rounds (`load_samples` for loading) and `seconds`, at the
    latest after `most` rounds, or, where the whole run has `total_seconds`, at its share of them (`ENDS`)."""

    samples: int = 30
    load_samples: int = 10
    seconds: float = 10.0
    most: int = 300
    window: int = 5
    agreement: float = 0.05
    warm_up_rounds: int = 40
    total_seconds: float | None = None

    def __post_init__(self) -> None:
        if (
            min(self.samples, self.load_samples, self.most) < 1
            or self.seconds < 0
            or self.window < 1
            or self.warm_up_rounds < 1
        ):
            raise EdgeAdaptError("samples, window and warm-up rounds must be at least 1, seconds at least 0")
        if not 0 < self.agreement < 1:
            raise EdgeAdaptError(f"agreement is {self.agreement}; give a share between 0 and 1")


THOROUGH = Effort()
QUICK = Effort(samples=30, load_samples=3, seconds=1.0, window=3, warm_up_rounds=6, total_seconds=33.0)
# With a total: where each phase has to be over, as shares of it. Loading again comes last and takes what is left.
ENDS: dict[Phase, float] = {"decode": 0.60, "prefill": 0.85, "task_switch": 0.88, "adapter_switch": 0.91, "load": 1.0}
ORDER: tuple[Phase, ...] = ("decode", "prefill", "task_switch", "adapter_switch", "load")
