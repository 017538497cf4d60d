"""Choosing the next token, and the loop around it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.runtime.engine import Engine
from edgeadapt.runtime.generate import Sampling, candidates, choose, generate
from tests.exported import Exported

LOGITS = np.log(np.array([0.1, 0.5, 0.2, 0.15, 0.05], np.float32))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(EdgeAdaptError, match=said):
        Sampling(**options)


def test_temperature_zero_is_greedy_whatever_the_rest_says() -> None:
    assert choose(LOGITS, Sampling(temperature=0, top_k=1, top_p=0.1), np.random.default_rng(0)) == 1


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1), [1, 2, 3, 0, 4]),
        (Sampling(temperature=1, top_k=2), [1, 2]),
        (Sampling(temperature=1, top_k=99), [1, 2, 3, 0, 4]),
        (Sampling(temperature=1, top_p=0.5), [1]),
        (Sampling(temperature=1, top_p=0.51), [1, 2]),
        (Sampling(temperature=1, top_p=1e-9), [1]),
        (Sampling(temperature=1, top_k=3, top_p=0.6), [1, 2]),  # of 0.85: 0.59, 0.24, 0.18
    ],
)
def test_which_tokens_may_be_drawn(sampling: Sampling, kept: list[int]) -> None:
    tokens, probabilities = candidates(LOGITS, sampling)
    assert tokens.tolist() == kept
    assert probabilities.sum() == pytest.approx(1)
    assert (np.diff(probabilities) <= 0).all()


def test_draws_follow_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(choose(LOGITS, Sampling(temperature=2.0), rng) for _ in range(20_000))
    expected = np.exp(LOGITS / 2) / np.exp(LOGITS / 2).sum()
    np.testing.assert_allclose([drawn[token] / 20_000 for token in range(5)], expected, atol=0.015)


@pytest.fixture(scope="module")
def engine(exported: Exported) -> Engine:
    return Engine.open(exported())


def test_a_seed_fixes_the_answer(engine: Engine) -> None:
    def answer(seed: int) -> list[int]:
        return list(generate(engine, [70, 80, 90], Sampling(temperature=1.5, seed=seed, max_new_tokens=20), stop=()))

    assert answer(3) == answer(3)
    assert answer(3) != answer(4)


def test_the_answer_ends_at_the_limit_or_before_a_stop_token(engine: Engine) -> None:
    free = list(generate(engine, [70, 80, 90], Sampling(max_new_tokens=12), stop=()))
    assert len(free) == 12
    stop = free[5]
    stopped = list(generate(engine, [70, 80, 90], Sampling(max_new_tokens=12), stop=(stop,)))
    assert stopped == free[: free.index(stop)]


def test_the_answer_ends_with_the_context(engine: Engine) -> None:
    context = engine.decoder.context_length
    made = list(generate(engine, [70] * (context - 3), Sampling(max_new_tokens=50), stop=()))
    assert len(made) == 3
    with pytest.raises(EdgeAdaptError, match="the model takes 256 altogether"):
        next(generate(engine, [70] * context, Sampling(), stop=()))
