"""Every registered op: reference = function body on stock ONNX Runtime = native kernel, on its own cases and at random."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import DOMAIN, OPS, OPSET, VERSION, Case, Op
from edgeadapt.ops.registry import Array

SEEDS = (0, 1, 2)
CASES = [(op, case.name, index) for op in OPS.values() for index, case in enumerate(op.cases(np.random.default_rng(0)))]


def model_of(op: Op, case: Case, *, with_body: bool, constants: frozenset[str] = frozenset()) -> bytes:
    """A model of one node: the case's arrays as graph inputs, but for the names in `constants`."""
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
        for name, value in case.inputs.items()
        if name not in constants
    ]
    rank = op.reference(*case.inputs.values()).ndim
    node = helper.make_node(op.name, list(case.inputs), ["result"], domain=DOMAIN)
    graph = helper.make_graph(
        [node],
        "one_op",
        values,
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(case.inputs[name], name) for name in constants],
    )
    functions = [onnx.parser.parse_function(op.body(**case.form))] if with_body else []
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)
    if with_body:
        onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def run(model: bytes, inputs: dict[str, Array], library: Path | None = None) -> Array:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}
    return np.asarray(session.run(None, {name: value for name, value in inputs.items() if name in wanted})[0])


def by_body(op: Op, case: Case) -> Array:
    return run(model_of(op, case, with_body=True), dict(case.inputs))


def kernel_library() -> Path | None:
    """The native library, if this installation has one. Its module is optional; an error inside it is not hidden."""
    if importlib.util.find_spec("edgeadapt.ops.library") is None:
        return None
    found = importlib.import_module("edgeadapt.ops.library").library_path()
    return None if found is None else Path(found)


def by_kernel(op: Op, case: Case) -> Array:
    library = kernel_library()
    if library is None:
        pytest.skip("this installation has no native library")
    return run(model_of(op, case, with_body=False), dict(case.inputs), library)


VIEWS: dict[str, Callable[[Op, Case], Array]] = {"body": by_body, "kernel": by_kernel}


def assert_agrees(op: Op, case: Case, actual: Array) -> None:
    expected = op.reference(*case.inputs.values())
    assert actual.dtype == expected.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=op.allowance(case, expected), equal_nan=True)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("op", "name", "index"), CASES, ids=[f"{op.name}: {name}" for op, name, _ in CASES])
def test_view_equals_reference(op: Op, name: str, index: int, view: str) -> None:
    for seed in SEEDS:
        case = list(op.cases(np.random.default_rng(seed)))[index]
        assert_agrees(op, case, VIEWS[view](op, case))
