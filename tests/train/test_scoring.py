"""Scoring against the plain way: every prompt alone, every choice in full, no cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgeadapt.tasks import TaskSpec, encode_prompt, encode_target
from edgeadapt.text import TextCodec
from edgeadapt_train import language_scoring
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Prompt
from edgeadapt_train.backbone import CausalBackbone, load
from edgeadapt_train.batches import Example
from edgeadapt_train.language_scoring import choice_scores, greedy
from edgeadapt_train.scoring import evaluate
from tests.support import tiny_backbone

CHOICES = ("a", "no", "maybe")
TEXTS = ("short", "a rather longer text than that", "middle length", "x")
TASK = TaskSpec("t", "Q: {text}\nA:", CHOICES, max_prompt_tokens=40)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[CausalBackbone, TextCodec]:
    folder = tiny_backbone(tmp_path_factory.mktemp("tiny") / "backbone")
    backbone = load(folder, "tiny", "none", "fp32", "cpu")
    assert isinstance(backbone, CausalBackbone)
    return backbone, TextCodec.from_folder(folder)


def adapter_of(backbone: CausalBackbone, method: str) -> Any:
    adapter: Any = registry.build({"method": method}, backbone.host, 0)
    adapter.attach()
    adapter.begin_task(0)
    with torch.no_grad():
        if method == "himalaya":
            adapter.task_rows.rho[0] = torch.tensor([0.4, -0.3, 0.5])
        else:
            for value in adapter.factors.values():
                value.add_(0.2)
    return adapter


def log_probs(backbone: CausalBackbone, adapter: Any, prompt: list[int], after: list[int]) -> np.ndarray:
    """Log-probabilities of the tokens `after`, in one forward of one sequence."""
    ids = torch.tensor([[*prompt, *after]])
    mask = torch.zeros_like(ids)
    mask[0, : len(prompt)] = 1
    asked = Prompt(backbone.embed(ids), mask, torch.tensor([0]))
    with torch.no_grad(), adapter.hardened(), adapter.conditioned(asked):
        logits = backbone.host.model(input_ids=ids).logits[0].log_softmax(dim=-1)
    return np.array([float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(after)])


@pytest.mark.parametrize("positions", [8192, 90])
@pytest.mark.parametrize("method", ["himalaya", "lora"])
def test_choices_over_a_shared_cache_score_as_if_each_ran_alone(
    made: tuple[CausalBackbone, TextCodec], method: str, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, text = made
    monkeypatch.setattr(language_scoring, "_POSITIONS", positions)  # 90: two choices in one forward
    adapter = adapter_of(backbone, method)
    prompts = [encode_prompt(TASK, item, text.encode) for item in TEXTS]
    own = (CHOICES, ("perhaps", "b"), ("a", "c"), ("no", "never at all", "maybe", "yes"))
    choices = [[encode_target(choice, text.encode) for choice in several] for several in own]
    with adapter.hardened():
        found = choice_scores(backbone, adapter, 0, prompts, choices)
    expected = [
        [log_probs(backbone, adapter, p, c).mean() for c in several]
        for p, several in zip(prompts, choices, strict=True)
    ]
    adapter.detach()
    assert [len(row) for row in found] == [3, 2, 2, 4]
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=2e-4)


def test_an_example_is_answered_by_one_of_its_own_choices(made: tuple[CausalBackbone, TextCodec]) -> None:
    backbone, text = made
    task = TaskSpec("m", "Q: {text}\nA:", kind="multiple-choice", max_prompt_tokens=40)
    own = (("red", "blue"), ("one", "two", "three"), ("yes", "no"), ("up", "down"))
    asked = [Example(item, choices[0], choices) for item, choices in zip(TEXTS, own, strict=True)]
    scored = evaluate(backbone, None, task, asked, index=0, text=text, batch_size=3)
    assert all(answer in choices for answer, choices in zip(scored.answers, own, strict=True))
    assert scored.score == np.mean([answer == choices[0] for answer, choices in zip(scored.answers, own, strict=True)])


@pytest.mark.parametrize("method", ["himalaya", "lora"])
def test_greedy_generation_over_the_cache_equals_recomputing_every_step(
    made: tuple[CausalBackbone, TextCodec], method: str
) -> None:
    backbone, text = made
    adapter = adapter_of(backbone, method)
    prompts = [encode_prompt(TASK, item, text.encode) for item in TEXTS]
    with adapter.hardened():
        found = greedy(backbone, adapter, prompts, index=0, eos=(2,), max_new_tokens=6)
    for prompt, tokens in zip(prompts, found, strict=True):
        for count, token in enumerate(tokens):
            every = [
                log_probs(backbone, adapter, prompt, [*tokens[:count], other])[-1] for other in (token, 5, 77, 200, 2)
            ]
            assert every[0] == max(every)
        assert len(tokens) == 6 or 2 not in tokens
    adapter.detach()


def test_an_answer_is_right_when_it_is_the_best_choice_whatever_the_batch_size(
    made: tuple[CausalBackbone, TextCodec],
) -> None:
    backbone, text = made
    asked = [Example(item, "no") for item in TEXTS]
    results = [evaluate(backbone, None, TASK, asked, index=0, text=text, batch_size=size) for size in (1, 3, 16)]
    assert results[0].answers == results[1].answers == results[2].answers
    assert set(results[0].answers) <= set(CHOICES)
    assert results[0].score == np.mean([answer == "no" for answer in results[0].answers])


def test_generated_answers_are_compared_word_for_word(made: tuple[CausalBackbone, TextCodec]) -> None:
    backbone, text = made
    task = TaskSpec("g", "Q: {text}\nA:", kind="generation", metric="exact_match", max_prompt_tokens=40)
    first = evaluate(backbone, None, task, [Example(TEXTS[0], "?")], index=0, text=text, max_new_tokens=4)
    answer = first.answers[0]
    right = evaluate(backbone, None, task, [Example(TEXTS[0], f"  {answer} ")], index=0, text=text, max_new_tokens=4)
    assert right.score == 1.0
    assert first.score == float(answer.split() == ["?"])
