"""Which token comes next, and the loop around that question.

greedy (temperature 0)    argmax l
otherwise                 p = softmax(l / temperature) over the top_k likeliest tokens, of which the smallest set
                          with mass >= top_p is kept; a draw from it by the caller's own generator
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeadapt.errors import EdgeAdaptError

if TYPE_CHECKING:
    from edgeadapt.runtime.engine import Engine


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn. `top_k` 0 keeps every token; `temperature` 0 is greedy, whatever the rest says."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature >= 0):
            raise EdgeAdaptError(f"temperature is {self.temperature}; give 0 (greedy) or more")
        if self.top_k < 0:
            raise EdgeAdaptError(f"top_k is {self.top_k}; give 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise EdgeAdaptError(f"top_p is {self.top_p}; give a mass in (0, 1]")
        if self.seed < 0:
            raise EdgeAdaptError(f"seed is {self.seed}; give 0 or more")
        if self.max_new_tokens < 1:
            raise EdgeAdaptError(f"max_new_tokens is {self.max_new_tokens}; give 1 or more")


def choose(logits: np.ndarray, sampling: Sampling, rng: np.random.Generator) -> int:
    """The next token. logits: [V] float32."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    kept, probabilities = candidates(logits, sampling)
    return int(rng.choice(kept, p=probabilities))


def candidates(logits: np.ndarray, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that may be drawn, likeliest first, and their probabilities (float64, summing to one)."""
    size = len(logits) if sampling.top_k == 0 else min(sampling.top_k, len(logits))
    order = np.argsort(-logits, kind="stable")[:size]
    scaled = logits[order].astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled[0])
    weights /= weights.sum()
    if sampling.top_p < 1:
        count = int(np.searchsorted(np.cumsum(weights), sampling.top_p)) + 1
        order, weights = order[:count], weights[:count] / weights[:count].sum()
    return order, weights


def generate(engine: Engine, ids: Sequence[int], sampling: Sampling, stop: Sequence[int]) -> Iterator[int]:
    """Prefill the prompt and yield tokens until a stop token (not yielded), the limit, or the end of the context.

    Raises:
        EdgeAdaptError: the prompt is empty, or leaves no room in the context for a single token.
    """
    rng = np.random.default_rng(sampling.seed)
    room = min(sampling.max_new_tokens, max(engine.decoder.context_length - len(ids), 1))
    logits = engine.prefill(ids, room)
    for made in range(1, room + 1):
        token = choose(logits, sampling, rng)
        if token in stop:
            return
        yield token
        if made < room:
            logits = engine.step(token)
