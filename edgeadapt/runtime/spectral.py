"""HEST on the device: directions that stay, and for every token a plan of which of them run, made before layer 1 runs.

    prompt      the tokens' embeddings (embed.onnx) -> one plan for all of them, under the prompt's share
    new tokens  each from its own embedding, under e_token: what a token gets depends on its id alone, and is kept
The equations and budgets are edgeadapt.energy.planner's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from safetensors.numpy import load_file

from edgeadapt.bundle import AdapterEntry
from edgeadapt.energy.envelope import constants, planner_of, states_of
from edgeadapt.errors import EdgeAdaptError

Embeddings = Callable[[Sequence[int]], np.ndarray]
Feeds = Mapping[str, ort.OrtValue]
KEPT = 1024  # tokens whose states are kept, a byte per direction: a megabyte for SmolLM2-135M


class SpectralAdapter:
    """`embeddings`: token ids -> their embedding rows [T, d] float32."""

    def __init__(self, entry: AdapterEntry, weights: Path, embeddings: Embeddings) -> None:
        if entry.envelope is None:
            raise EdgeAdaptError(
                f"adapter {entry.name}: has no energy envelope, so it cannot be planned; export it again"
            )
        self.name = entry.name
        self.tasks = entry.tasks
        self.envelope = entry.envelope
        tensors = load_file(str(weights))
        self.planner = planner_of(self.envelope, tensors)
        self._embeddings = embeddings
        made = {name: value for group in self.envelope.groups for name, value in constants(group, tensors).items()}
        self._constants = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in made.items()}
        self._alone = lru_cache(maxsize=KEPT)(self._planned_alone)

    def feeds(self, ids: Sequence[int], task: int | None) -> Feeds:
        return self.feeds_of([ids], task)

    def feeds_of(self, rows: Sequence[Sequence[int]], task: int | None) -> Feeds:
        """Of one prompt alone: a plan belongs to one sequence."""
        if len(rows) != 1:
            raise EdgeAdaptError(f"adapter {self.name}: plans one sequence at a time, not {len(rows)}")
        states = self.planner.plan(self._embeddings(rows[0])).states
        planned = states_of(self.envelope, states, self.planner.layers)
        return {**self._constants, **{name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in planned.items()}}

    def appended(self, tokens: Sequence[int]) -> dict[str, np.ndarray]:
        """States of new tokens, [1, T, N] by input."""
        found = [self._alone(token) for token in tokens]
        if len(found) == 1:
            return found[0]
        return {name: np.concatenate([states[name] for states in found], axis=1) for name in found[0]}

    def _planned_alone(self, token: int) -> dict[str, np.ndarray]:
        """States of a token under e_token, [1, 1, N] by input."""
        return {**states_of(self.envelope, self.planner.plan(self._embeddings([token])).states, self.planner.layers)}
