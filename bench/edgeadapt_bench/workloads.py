"""What is measured: phases, their sizes, and how long each may take.

load            base graph from its file to a session ready to run                       s
prefill         the prompt, from its token ids to the first logits (time to first token) s
decode          one further token, greedy choice included                                s per token
task_switch     another task id, and its inputs bound for a prompt                       s
adapter_switch  the adapter's file read anew, and its inputs bound for a prompt          s
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    """How much to measure. The numbers are totals over all openings.

    The models are opened `openings` times, each time in new processes and in another order (drawn from `seed`), since
    where a process's memory happens to lie moves its speed by some percent for as long as it lives: measured once,
    that would pass for a property of the variant. A phase ends after `samples` rounds and `seconds`, at the latest
    after `most` rounds; or, where the whole run has `total_seconds`, at its share of them (`SHARES`). Warm-up, in every
    opening: until two windows agree, or a cap.
    """

    samples: int = 200
    openings: int = 20
    seconds: float = 10.0
    most: int = 300
    window: int = 3
    agreement: float = 0.05
    warm_up_rounds: int = 20
    total_seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.samples, self.openings, self.most, self.window, self.warm_up_rounds) < 1 or self.seconds < 0:
            raise EdgeAdaptError("samples, openings, most, window and warm-up rounds must be at least 1, seconds 0")
        if not 0 < self.agreement < 1:
            raise EdgeAdaptError(f"agreement is {self.agreement}; give a share between 0 and 1")

    def per_opening(self) -> Effort:
        """The same, for one of the openings."""
        return replace(
            self,
            samples=-(-self.samples // self.openings),
            seconds=self.seconds / self.openings,
            most=-(-self.most // self.openings),
            openings=1,
            total_seconds=None if self.total_seconds is None else self.total_seconds / self.openings,
        )


THOROUGH = Effort()
QUICK = Effort(samples=30, openings=4, seconds=1.0, window=2, warm_up_rounds=4, total_seconds=33.0)
# Of an opening's time, where there is a bound: by when each phase has to be over. Switches do not depend on where
# weights lie; they are measured in the first opening.
SHARES: dict[Phase, float] = {"decode": 0.60, "prefill": 0.90, "task_switch": 0.95, "adapter_switch": 1.0}
SWITCHES: tuple[Phase, ...] = ("task_switch", "adapter_switch")
