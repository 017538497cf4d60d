"""Tasks: the same prompt in training and on the device, cut only where the example's own text is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.records import decode
from edgeadapt.tasks import TaskSpec, choice_probabilities, choice_scores, encode_prompt, encode_target

TASK = TaskSpec("topics", "Text: {text}\nTopic:", ("sport", "business"), max_prompt_tokens=40)


def by_bytes(text: str) -> list[int]:
    """One token a byte."""
    return list(text.encode())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": ""}, "give a name"),
        ({"name": "a/b"}, "without '/'"),
        ({"prompt": "no field"}, "exactly once"),
        ({"prompt": "{text}{text}"}, "exactly once"),
        ({"choices": ("same", "same")}, "at least two different"),
        ({"choices": ()}, "at least two different"),
        ({"kind": "regression"}, "is none of classification, multiple-choice, tokens, generation"),
        ({"kind": "multiple-choice"}, "at each example"),
        ({"metric": "rougeL"}, "metric 'rougeL' is none of accuracy"),
        ({"kind": "generation", "metric": "entity_f1"}, "is none of exact_match"),
        ({"max_prompt_tokens": 7}, "8 is the least"),
    ],
)
def test_a_task_that_cannot_be_asked_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(EdgeAdaptError, match=reason):
        TaskSpec.from_json({**TASK.to_json(), **change})


def test_a_task_is_written_and_read_back() -> None:
    assert TaskSpec.from_json(TASK.to_json()) == TASK
    assert decode(TaskSpec, TASK.to_json(), "file") == TASK
    with pytest.raises(EdgeAdaptError, match="unknown fields"):
        TaskSpec.from_json({**TASK.to_json(), "colour": "red"})


def test_a_generation_task_needs_no_choices() -> None:
    assert TaskSpec("tell", "{text}", kind="generation").choices == ()


@pytest.mark.parametrize("said", [{}, {"metric": "accuracy"}])
def test_a_metric_that_is_not_said_is_the_kinds_own(said: dict[str, str]) -> None:
    kinds = {"classification": "accuracy", "tokens": "entity_f1", "generation": "exact_match"}
    for kind, metric in kinds.items():
        value = {"name": "t", "prompt": "{text}", "choices": ["O", "X"], "kind": kind, **said}
        assert TaskSpec.from_json(value).metric == metric


def test_a_short_text_is_asked_whole() -> None:
    assert bytes(encode_prompt(TASK, "goal!", by_bytes)) == b"Text: goal!\nTopic:"


@given(st.text(max_size=80))
def test_a_long_text_is_cut_and_the_instruction_never(text: str) -> None:
    ids = encode_prompt(TASK, text, by_bytes)
    assert len(ids) <= TASK.max_prompt_tokens
    assert bytes(ids).startswith(b"Text: ")
    assert bytes(ids).endswith(b"\nTopic:")
    inner = bytes(ids)[6:-7]
    assert text.encode().startswith(inner)
    assert len(inner) == min(len(text.encode()), 40 - 13)


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    tight = TaskSpec("t", "Text: {text}\nTopic:", ("a", "b"), max_prompt_tokens=13)
    with pytest.raises(EdgeAdaptError, match="alone fills max_prompt_tokens=13"):
        encode_prompt(tight, "x", by_bytes)


def test_a_target_follows_the_prompt_after_a_space() -> None:
    assert bytes(encode_target("sport", by_bytes)) == b" sport"


def test_choices_are_scored_by_the_mean_log_probability_of_their_tokens() -> None:
    scores = choice_scores([np.array([-1.0, -3.0], np.float32), np.array([-1.5], np.float32)])
    np.testing.assert_array_equal(scores, [-2.0, -1.5])
    assert scores.dtype == np.float64


@given(st.lists(st.floats(-1e4, 0), min_size=2, max_size=8))
def test_probabilities_sum_to_one_and_keep_the_order(values: list[float]) -> None:
    scores = np.array(values)
    found = choice_probabilities(scores)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    assert found[scores.argmax()] == found.max()
    np.testing.assert_allclose(choice_probabilities(scores - 123), found, atol=1e-9)
