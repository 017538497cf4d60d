"""An adapter's own graph is asked as often as what it asks for changes: per prompt, per task, or once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.runtime.adapters import GraphAdapter
from edgeadapt.tasks import TaskSpec
from tests.core.bundles import manifest

ENTRY = manifest().adapters[0]
TWO = (*ENTRY.tasks, TaskSpec("other", "{text}", ("a", "b")))


def session(*inputs: str) -> ort.InferenceSession:
    """out [1] float32 = 10 pool + task, of those that are inputs; 5 if none is."""
    from onnx import parser

    lines = {
        (): "out = Constant <value = float[1] {5.0}> ()",
        ("task",): "out = Cast <to = 1> (task)",
        ("pool",): "out = ReduceSum (pool)",
        ("pool", "task"): "t = Cast <to = 1> (task)\n s = ReduceSum (pool)\n out = Add (t, s)",
        ("ids",): "out = Cast <to = 1> (ids)",
    }[inputs]
    kinds = {"pool": "float[1, d] pool", "task": "int64[1] task", "ids": "int64[1] ids"}
    ports = ", ".join(kinds[name] for name in inputs)
    text = f'<ir_version: 8, opset_import: ["": 17]> g ({ports}) => (float[n] out) {{ {lines} }}'
    return ort.InferenceSession(parser.parse_model(text).SerializeToString(), providers=["CPUExecutionProvider"])


class Pool:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, ids: Sequence[int]) -> np.ndarray:
        self.asked += 1
        return np.full((1, 4), float(sum(ids)), np.float32)


def value(adapter: GraphAdapter, ids: Sequence[int], task: int | None) -> float:
    return float(adapter.feeds(ids, task)["out"].numpy().ravel()[0])


def test_a_graph_without_inputs_is_asked_once_and_never_for_the_prompt() -> None:
    pool = Pool()
    adapter = GraphAdapter(replace(ENTRY, tasks=TWO), session(), pool)
    first = adapter.feeds([1, 2], None)
    assert adapter.feeds([3], 1) is first
    assert pool.asked == 0


def test_a_graph_of_the_task_is_asked_again_when_the_task_changes() -> None:
    pool = Pool()
    adapter = GraphAdapter(replace(ENTRY, tasks=TWO), session("task"), pool)
    assert [value(adapter, [9], task) for task in (0, 1, 0)] == [0.0, 1.0, 0.0]
    assert adapter.feeds([1], 0) is adapter.feeds([2], 0)
    assert pool.asked == 0


def test_a_graph_of_the_prompt_is_asked_for_every_prompt() -> None:
    pool = Pool()
    adapter = GraphAdapter(ENTRY, session("pool", "task"), pool)
    assert [value(adapter, ids, None) for ids in ([1], [2])] == [4.0, 8.0]
    assert pool.asked == 2


def test_several_tasks_and_none_chosen_is_an_error_that_names_them() -> None:
    adapter = GraphAdapter(replace(ENTRY, tasks=TWO), session("task"), Pool())
    with pytest.raises(EdgeAdaptError, match=rf"choose one with --task: {TWO[0].name}, other"):
        adapter.feeds([1], None)


def test_a_graph_that_asks_for_something_else_is_refused() -> None:
    with pytest.raises(EdgeAdaptError, match="asks for 'ids'; known are pool and task"):
        GraphAdapter(ENTRY, session("ids"), Pool())
