"""Task heads: what they compute, how they are stored, and how an encoder's text becomes tokens."""

from __future__ import annotations

import numpy as np
import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.heads import Heads, probabilities
from edgeadapt.tasks import TaskSpec, encode_sequence, encode_words

TASKS = (TaskSpec("topics", "{text}", ("a", "b", "c")), TaskSpec("names", "{text}", ("O", "B-X"), kind="tokens"))
FRAME = (1, 2)


def stored(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {f"heads.{t}.weight": (len(task.choices), 4) for t, task in enumerate(TASKS)}
    shapes |= {f"heads.{t}.bias": (len(task.choices),) for t, task in enumerate(TASKS)}
    return {name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}


def encode(text: str) -> list[int]:
    return [100 + ord(letter) for letter in text if letter != "\u200b"]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_head_is_one_linear_map_of_what_is_pooled(pooling: str) -> None:
    tensors = stored()
    heads = Heads.of(tensors, TASKS, pooling, 4)  # type: ignore[arg-type]
    hidden = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    expected = hidden.mean(axis=0) if pooling == "mean" else hidden[0]
    np.testing.assert_allclose(heads.pooled(hidden), expected, rtol=1e-6)
    weight, bias = (tensors[f"heads.0.{part}"].astype(np.float64) for part in ("weight", "bias"))
    np.testing.assert_allclose(heads.logits(0, expected), weight @ expected + bias, rtol=1e-5)
    assert heads.logits(1, hidden).shape == (5, 2)


def test_probabilities_sum_to_one_however_large_the_logits_are() -> None:
    found = probabilities(np.array([[1e4, 0.0, -1e4], [1.0, 1.0, 1.0]], np.float32))
    np.testing.assert_allclose(found, [[1, 0, 0], [1 / 3] * 3], atol=1e-12)


def test_a_head_that_is_missing_or_of_another_shape_is_refused() -> None:
    missing = {name: value for name, value in stored().items() if name != "heads.1.bias"}
    with pytest.raises(EdgeAdaptError, match=r"task names: its head.s heads\.1\.bias is missing"):
        Heads.of(missing, TASKS, "mean", 4)
    with pytest.raises(EdgeAdaptError, match=r"heads.0.weight is of shape \[3, 4\], not \[3, 8\]"):
        Heads.of(stored(), TASKS, "mean", 8)


def test_a_text_is_framed_and_cut_between_its_frame() -> None:
    task = TaskSpec("t", "never asked {text} never", ("a", "b"), max_prompt_tokens=8)
    assert encode_sequence(task, "abc", encode, FRAME) == [1, *encode("abc"), 2]
    assert encode_sequence(task, "x" * 50, encode, FRAME) == [1, *encode("x" * 6), 2]


def test_words_begin_where_it_is_said_and_only_whole_ones_are_kept() -> None:
    task = TaskSpec("t", "{text}", ("O", "B-X"), kind="tokens", max_prompt_tokens=10)
    ids, starts = encode_words(task, ["ab", "\u200b", "cde", "f"], encode, FRAME, 7)
    assert ids == [1, *encode("ab"), 132, *encode(" cde"), 2]
    assert starts == [1, 3, 4]
    assert encode_words(task, ["\u200b"], encode, FRAME, 7) == ([1, 7, 2], [1])
    assert encode_words(task, ["x" * 9, "y"], encode, FRAME, 7) == ([1, 2], [])


def test_labels_of_words_need_one_for_no_entity() -> None:
    with pytest.raises(EdgeAdaptError, match="no entity, 'O'"):
        TaskSpec("t", "{text}", ("B-X", "I-X"), kind="tokens")
