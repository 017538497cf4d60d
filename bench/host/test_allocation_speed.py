"""How fast an energy budget is turned into a plan: once per prompt, on the processor that then runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeadapt.energy.allocation import Allocator

LAYERS, DIRECTIONS = 30, 16


@pytest.mark.parametrize("tokens", [1, 64, 512])
@pytest.mark.parametrize("share", [0.4, 0.8], ids=lambda share: f"{share:.0%} of fp16")
def test_allocate(tokens: int, share: float, benchmark: Any) -> None:
    rng = np.random.default_rng(0)
    cheap = rng.integers(500, 1000, LAYERS * DIRECTIONS)
    costs = np.stack((cheap, cheap + rng.integers(500, 1500, LAYERS * DIRECTIONS)), axis=1).astype(np.int64)
    layer = np.repeat(np.arange(LAYERS), DIRECTIONS)
    allocator = Allocator(layer, rng.standard_normal((len(layer), 3)), costs, 1.0)
    scores = rng.standard_normal((tokens, LAYERS))
    budget = int(share * tokens * allocator.full_cost)
    benchmark.group = f"{share:.0%} of what fp16 costs"
    plan = benchmark(allocator.allocate, scores, budget)
    assert plan.cost <= budget
