"""The decoder loop against one full run without a cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.runtime import session
from edgeadapt.runtime.decoder import Decoder, log_softmax, other_inputs
from edgeadapt.runtime.kv_cache import KvCache, KvLayout
from tests.brute_force import at_once
from tests.exported import Exported

CONTEXT = 256


def bare(path: Path) -> ort.InferenceSession:
    return session.create(Bundle.open(path).graph("bare"), threads=1)


@pytest.fixture(scope="module")
def graph(exported: Exported) -> ort.InferenceSession:
    return bare(exported())


@pytest.fixture
def ids() -> list[int]:
    return [int(token) for token in np.random.default_rng(1).integers(3, 259, 23)]


def decoder(graph: ort.InferenceSession, chunk: int = 64) -> Decoder:
    return Decoder(graph, adapter_inputs=(), context_length=CONTEXT, chunk=chunk)


@pytest.mark.parametrize("chunk", [1, 4, 22, 23, 64])
def test_generation_equals_running_everything_anew(graph: ort.InferenceSession, ids: list[int], chunk: int) -> None:
    loop = decoder(graph, chunk)
    sequence = list(ids)
    logits = loop.prefill(ids, room=30)
    for _ in range(30):
        expected = at_once(graph, sequence)[-1]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
        sequence.append(int(expected.argmax()))
        logits = loop.step(sequence[-1])
    assert loop.length == len(sequence)


def test_choices_equal_running_each_anew(graph: ort.InferenceSession, ids: list[int]) -> None:
    choices = [[5], [6, 7], [6, 8], [6], [9, 10, 11, 12, 13]]
    loop = decoder(graph)
    loop.prefill(ids, room=5)
    for choice, scored in zip(choices, loop.continuations(choices), strict=True):
        log_probabilities = log_softmax(at_once(graph, ids + choice))
        expected = [log_probabilities[len(ids) - 1 + i][token] for i, token in enumerate(choice)]
        np.testing.assert_allclose(scored, expected, rtol=0, atol=1e-5)


def test_choices_leave_the_prompt_as_it_was(graph: ort.InferenceSession, ids: list[int]) -> None:
    loop = decoder(graph)
    loop.prefill(ids, room=4)
    first = loop.continuations([[6, 7, 8], [9, 9]])
    again = loop.continuations([[9, 9], [6, 7, 8]])
    np.testing.assert_array_equal(first[0], again[1])
    np.testing.assert_allclose(loop.step(6), at_once(graph, [*ids, 6])[-1], rtol=0, atol=1e-5)


def test_going_back_is_as_if_it_had_not_happened(graph: ort.InferenceSession, ids: list[int]) -> None:
    loop = decoder(graph)
    loop.prefill(ids, room=8)
    expected = loop.step(40).copy()
    for token in (50, 60, 70):
        loop.step(token)
    loop.rewind(len(ids))
    np.testing.assert_array_equal(loop.step(40), expected)


def test_a_longer_prompt_after_a_shorter_one(graph: ort.InferenceSession, ids: list[int]) -> None:
    loop = decoder(graph)
    loop.prefill(ids[:3])
    long = ids * 6
    np.testing.assert_allclose(loop.prefill(long), at_once(graph, long)[-1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(loop.prefill(ids[:3]), at_once(graph, ids[:3])[-1], rtol=0, atol=1e-5)


def test_the_whole_context_can_be_used_and_not_a_token_more(graph: ort.InferenceSession) -> None:
    loop = decoder(graph)
    loop.prefill([7] * (CONTEXT - 2), room=2)
    loop.step(8)
    loop.step(9)
    with pytest.raises(EdgeAdaptError, match=r"256 \+ 1 tokens do not fit"):
        loop.step(10)
    with pytest.raises(
        EdgeAdaptError, match="the prompt has 250 tokens, and 7 more are asked for; the model takes 256"
    ):
        loop.prefill([7] * 250, room=7)


@pytest.mark.parametrize(("tokens", "said"), [([], "the text is empty"), ([3, 320], "token 320"), ([-1], "outside")])
def test_tokens_that_cannot_be(graph: ort.InferenceSession, tokens: list[int], said: str) -> None:
    with pytest.raises(EdgeAdaptError, match=said):
        decoder(graph).prefill(tokens)


def test_choices_need_a_fresh_prompt(graph: ort.InferenceSession, ids: list[int]) -> None:
    loop = decoder(graph)
    with pytest.raises(EdgeAdaptError, match="directly after prefill"):
        loop.continuations([[5]])
    loop.prefill(ids, room=1)
    loop.step(5)
    with pytest.raises(EdgeAdaptError, match="directly after prefill"):
        loop.continuations([[5]])


def test_inputs_that_nobody_declared_are_refused(exported: Exported) -> None:
    grafted = session.create(Bundle.open(exported()).graph("model"), threads=1)
    names = ["himalaya.r", *(f"himalaya.u.{layer}" for layer in range(3))]
    assert sorted(other_inputs(grafted)) == names
    with pytest.raises(EdgeAdaptError, match=r"unknown \['himalaya.r', 'himalaya.u.0', "):
        decoder(grafted)
    with pytest.raises(EdgeAdaptError, match=r"missing \['lora.x'\]"):
        Decoder(grafted, adapter_inputs=(*names, "lora.x"), context_length=CONTEXT)


def test_a_graph_that_gives_every_position_is_refused(tmp_path: Path, exported: Exported) -> None:
    import onnx

    model = onnx.load(Bundle.open(exported()).graph("bare"), load_external_data=True)
    (given,) = [item for item in model.graph.input if item.name == "logits_from"]
    model.graph.input.remove(given)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(EdgeAdaptError, match=r"missing \['logits_from'\]; export it again"):
        decoder(session.create(tmp_path / "model.onnx", threads=1))


def test_values_for_another_graph_are_refused(graph: ort.InferenceSession) -> None:
    value = ort.OrtValue.ortvalue_from_numpy(np.zeros((1, 64), np.float32))
    with pytest.raises(EdgeAdaptError, match=r"no input 'himalaya\.r'"):
        decoder(graph).feed({"himalaya.r": value})


def test_past_and_present_are_one_buffer(graph: ort.InferenceSession, ids: list[int]) -> None:
    """The graph writes where it was told to: the very buffers of the cache, and nowhere else."""
    layout = KvLayout.of(graph.get_inputs())
    cache = KvCache(layout, len(ids))
    binding = graph.io_binding()
    cache.bind(binding)
    binding.bind_cpu_input("input_ids", np.array([ids]))
    binding.bind_cpu_input("attention_mask", np.ones((1, len(ids)), np.int64))
    binding.bind_output("logits", "cpu")
    graph.run_with_iobinding(binding)
    values = cache._values["0.key"].numpy()
    assert values[:, :, : len(ids)].all()
    assert not values[:, :, len(ids) :].any()
    assert layout.bytes_per_token() == 3 * 2 * 2 * 16 * 4


def test_cache_bookkeeping() -> None:
    cache = KvCache(KvLayout(("0.key", "0.value"), heads=2, head_dim=4), capacity=65)
    assert cache.capacity == 128
    assert cache.advance(100) == 100
    with pytest.raises(EdgeAdaptError, match=r"100 \+ 29 tokens do not fit a cache of 128"):
        cache.advance(29)
    with pytest.raises(ValueError, match="cannot go back to 101"):
        cache.truncate(101)
    cache.truncate(0)
    assert cache.length == 0


def test_log_softmax_sums_to_one_even_for_large_logits() -> None:
    logits = np.array([[1e4, 1e4 - 1, -1e4], [0, 0, 0]], np.float32)
    np.testing.assert_allclose(np.exp(log_softmax(logits)).sum(axis=1), 1, rtol=1e-12)
