"""Adapters and tasks on one base session: what they compute, and what switching does not do."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from safetensors.numpy import load_file

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import OPS
from edgeadapt.runtime import adapters, session
from edgeadapt.runtime.decoder import log_softmax, zero_of
from edgeadapt.runtime.engine import Engine
from edgeadapt.tasks import encode_prompt, encode_target
from edgeadapt.tensors import shapes
from tests.brute_force import at_once
from tests.exported import Exported
from tests.support import TASKS

TEXT = "The shares of the airline fell by a tenth on Tuesday."


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_classification_equals_brute_force(exported: Exported, precision: str) -> None:
    """Every choice anew, whole sequence at once, r and gains from the reference by hand."""
    path = exported("himalaya", precision)
    engine = Engine.open(path, ops="off")
    graph = session.create(Bundle.open(path).graph("model"), threads=1, ops="off")
    for number, task in enumerate(TASKS):
        engine.task(task.name)
        found = engine.classify(TEXT)
        encode = engine.codec.encode
        prompt = encode_prompt(task, TEXT, encode)
        values = by_reference(path, engine.pool(prompt), number)
        scores = []
        for choice in task.choices:
            target = encode_target(choice, encode)
            rows = log_softmax(at_once(graph, prompt + target, values))
            scores.append(np.mean([rows[len(prompt) - 1 + i][token] for i, token in enumerate(target)]))
        shares = np.exp(scores) / np.exp(scores).sum()
        tolerance = 1e-4 if precision == "fp32" else 2e-2
        np.testing.assert_allclose(list(found.probabilities.values()), shares, atol=tolerance)
        assert list(found.probabilities) == list(task.choices)
        assert found.label == task.choices[int(np.argmax(list(found.probabilities.values())))]


def by_reference(path: Path, pool: np.ndarray, task: int) -> dict[str, np.ndarray]:
    """HIMALAYA's inputs from the NumPy reference and the run's own tensors."""
    from safetensors.numpy import load_file

    run = path.parent / "runs" / "himalaya"
    tensors = load_file(str(run / "adapter.safetensors"))
    names = ["atoms", "atom_scales", "atom_gains", "w1", "w1_scales", "w2", "w2_scales", "tasks", "rows", "row_scales"]
    r = OPS["HimalayaDirection"].reference(pool, np.array([task]), *(tensors[name] for name in names))
    gains = tensors["gains"][task].astype(np.float32)
    return {"himalaya.r": r[:, None], **{f"himalaya.u.{i}": g * r[:, None] for i, g in enumerate(gains)}}


def test_the_pool_is_the_mean_of_the_embedding_rows(exported: Exported) -> None:
    from safetensors.numpy import load_file

    path = exported()
    embedding = load_file(str(path.parent / "backbone" / "model.safetensors"))["model.embed_tokens.weight"]
    ids = [5, 80, 80, 200]
    np.testing.assert_allclose(Engine.open(path).pool(ids)[0], embedding[ids].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_lora_equals_weights_with_the_product_added(exported: Exported) -> None:
    """Unmerged, packed into one product, against the bundle with A B folded into the weights."""
    unmerged, merged = Engine.open(exported("lora")), Engine.open(exported("lora", merge=True))
    unmerged.task("topics")
    merged.task("topics")
    ids = unmerged.codec.encode(TEXT)
    np.testing.assert_allclose(unmerged.prefill(ids).copy(), merged.prefill(ids), rtol=0, atol=2e-4)


def test_without_an_adapter_the_graph_is_the_bare_one(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, as the bodies compute it (a kernel that also normalises sums in its own order)."""
    monkeypatch.setenv("EDGEADAPT_OPS", "off")
    for method in ("himalaya", "lora"):
        path = exported(method)
        engine, bare = Engine.open(path), Engine.open(path, graph="bare")
        ids = engine.codec.encode(TEXT)
        untouched = engine.prefill(ids).copy()
        np.testing.assert_array_equal(untouched, bare.prefill(ids))
        engine.task("mood")
        assert np.abs(engine.prefill(ids) - untouched).max() > 1e-3
        engine.use(None)
        np.testing.assert_array_equal(engine.prefill(ids), untouched)


def test_the_bare_graph_still_answers(exported: Exported) -> None:
    engine = Engine.open(exported(), graph="bare")
    ids = engine.codec.encode(TEXT)
    graph = session.create(Bundle.open(exported()).graph("bare"), threads=1)
    np.testing.assert_allclose(engine.prefill(ids), at_once(graph, ids)[-1], rtol=0, atol=1e-5)
    with pytest.raises(EdgeAdaptError, match="no place for adapter 'himalaya'"):
        engine.use("himalaya")


class Counted:
    """Counts the sessions that are made, by file name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        make = session.create

        def create(path: Path, **options: object) -> ort.InferenceSession:
            self.made.append(path.name)
            return make(path, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(session, "create", create)


def test_switching_makes_no_base_session(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Counted(monkeypatch)
    engine = Engine.open(exported())
    for task in ("topics", "mood", "topics"):
        engine.task(task)
        engine.classify(TEXT)
    engine.use(None)
    engine.prefill([5, 6])
    engine.use("himalaya")
    engine.load("himalaya")
    assert sorted(sessions.made) == ["direction.onnx", "direction.onnx", "embed.onnx", "model.onnx"]


def test_switching_is_quick(exported: Exported) -> None:
    """A task within 1 ms, an adapter within 20 ms; the best of ten, since the machine may be busy."""
    engine = Engine.open(exported())
    engine.task("topics")
    ids = engine.codec.encode(TEXT)
    engine.adapt(ids)

    def task() -> None:
        engine.task("mood")
        engine.adapt(ids)

    def adapter() -> None:
        engine.load("himalaya")
        engine.use("himalaya")
        engine.task("mood")
        engine.adapt(ids)

    def best(work: object) -> float:
        times = []
        for _ in range(10):
            began = time.perf_counter()
            work()  # type: ignore[operator]
            times.append(time.perf_counter() - began)
        return min(times)

    assert best(task) < 1e-3
    assert best(adapter) < 20e-3


def test_tasks_change_what_the_model_says(exported: Exported) -> None:
    engine = Engine.open(exported())
    ids = engine.codec.encode(TEXT)
    said = {}
    for task in ("topics", "mood"):
        engine.task(task)
        said[task] = engine.prefill(ids).copy()
    assert np.abs(said["topics"] - said["mood"]).max() > 1e-3


def test_names_that_nobody_knows_are_answered_with_those_that_are_known(exported: Exported) -> None:
    engine = Engine.open(exported())
    with pytest.raises(EdgeAdaptError, match="no task 'weather'; known are: topics, mood"):
        engine.task("weather")
    with pytest.raises(EdgeAdaptError, match="no adapter 'other'; it holds: himalaya"):
        engine.use("other")
    with pytest.raises(EdgeAdaptError, match="no graph 'small'"):
        Engine.open(exported(), graph="small")


def test_a_text_must_be_there_and_a_task_chosen(exported: Exported) -> None:
    engine = Engine.open(exported())
    with pytest.raises(EdgeAdaptError, match="choose a task"):
        engine.classify(TEXT)
    engine.task("topics")
    with pytest.raises(EdgeAdaptError, match="task topics: the text is empty"):
        engine.classify("  \n")
    with pytest.raises(EdgeAdaptError, match="the prompt is empty"):
        engine.prefill([])
    engine.use("himalaya")
    with pytest.raises(EdgeAdaptError, match="choose one with --task: topics, mood"):
        engine.prefill([5, 6])


def test_packing_puts_every_module_in_its_columns(exported: Exported) -> None:
    bundle = Bundle.open(exported("lora"))
    entry = bundle.manifest.adapters[0]
    part = entry.parts[0]
    sizes = shapes(bundle.path(str(entry.weights)))
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(size).astype(np.float16) for name, (_, size) in sizes.items()}
    packed = adapters.pack(part, tensors.__getitem__)
    x = rng.standard_normal((7, packed[part.a_input].shape[0])).astype(np.float32)
    expected = np.zeros((7, part.width), np.float32)
    for block in part.blocks:
        a, b = (tensors[name].astype(np.float32) for name in (block.a, block.b))
        expected[:, block.offset : block.offset + b.shape[1]] += x @ a @ b
    np.testing.assert_allclose(x @ packed[part.a_input] @ packed[part.b_input], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_factors_of_another_kind_than_the_graphs_are_refused(exported: Exported, precision: str) -> None:
    bundle = Bundle.open(exported("lora", factors=precision))
    entry = bundle.manifest.adapters[0]
    other = dict.fromkeys(entry.inputs, "tensor(int8)" if precision == "fp32" else "tensor(float)")
    with pytest.raises(EdgeAdaptError, match="the graph wants"):
        adapters.factors(entry.parts, bundle.path(str(entry.weights)), other)


def test_packing_keeps_every_modules_scales_in_order(exported: Exported) -> None:
    bundle = Bundle.open(exported("lora", factors="int8"))
    entry = bundle.manifest.adapters[0]
    tensors = load_file(bundle.path(str(entry.weights)))
    part = entry.parts[0]
    packed = adapters.pack(part, tensors.__getitem__)
    assert [packed[name].dtype for name in part.inputs] == [np.int8, np.int8, np.float32]
    whole = (packed[part.inputs[0]] * packed[part.inputs[2]]) @ packed[part.b_input].astype(np.float32)
    for block in part.blocks:
        a, b, scales = (tensors[str(name)].astype(np.float32) for name in (block.a, block.b, block.scales))
        np.testing.assert_allclose(whole[:, block.offset : block.offset + b.shape[1]], (a * scales) @ b, rtol=1e-5)


def test_zero_of_leaves_open_sizes_one(exported: Exported) -> None:
    graph = session.create(Bundle.open(exported()).graph("model"), threads=1)
    item = next(item for item in graph.get_inputs() if item.name == "himalaya.r")
    value = zero_of(item).numpy()
    assert value.shape == (1, 1, 64)
    assert not value.any()


def test_a_runtime_older_than_the_bundle_asks_for_is_named(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "__version__", "1.20.0")
    with pytest.raises(EdgeAdaptError, match=r"needs onnxruntime 1\.\d+.* or newer, this is 1\.20\.0"):
        Engine.open(exported("himalaya", "int4"), ops="off")


def test_a_prompt_is_pooled_as_its_adapter_was_trained() -> None:
    ids = [5, 6, 7]
    assert adapters.pooled_part({}, ids) == adapters.pooled_part({"pool": "mean"}, ids) == ids
    assert adapters.pooled_part({"pool": "first"}, ids) == [5]
    with pytest.raises(EdgeAdaptError, match="pools 'last'; known are mean and first"):
        adapters.pooled_part({"pool": "last"}, ids)
