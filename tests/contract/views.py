"""The views of an op that the contract suite compares with its NumPy reference: function body and native kernel.

Sessions are kept by (op, form, dtypes, view): all dimensions are free, so that one session serves every case.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
from onnx import helper, numpy_helper

from edgeadapt.ops import DOMAIN, OPSET, VERSION, Case, Op
from edgeadapt.ops.registry import Array

Outputs = tuple[Array, ...]


def model_of(op: Op, case: Case, *, with_body: bool, constants: frozenset[str] = frozenset()) -> bytes:
    """A model of one node: the case's arrays as graph inputs, but for the names in `constants`."""
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), case.dimensions[name])
        for name, value in case.inputs.items()
        if name not in constants
    ]
    outputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
        for name, value in zip(op.outputs, op.expected(case), strict=True)
    ]
    graph = helper.make_graph(
        [helper.make_node(op.name, op.arguments(case), op.outputs, domain=DOMAIN, **case.attributes)],
        "one_op",
        values,
        outputs,
        [numpy_helper.from_array(case.inputs[name], name) for name in sorted(constants)],
    )
    functions = [onnx.parser.parse_function(op.body(**case.form))] if with_body else []
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)
    if with_body:
        onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def session_of(model: bytes, library: Path | None = None) -> ort.InferenceSession:
    """One thread, so that a view gives the same bits each time; with a library, every kernel that it has."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    with mock.patch.dict(os.environ):
        if library is not None:
            os.environ.setdefault("EDGEADAPT_OPS_ISA", "best")
            options.register_custom_ops_library(str(library))
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: bytes, inputs: Mapping[str, Array], library: Path | None = None) -> Outputs:
    """The model's outputs; inputs that it does not ask for are left out."""
    session = session_of(model, library)
    wanted = {item.name for item in session.get_inputs()}
    return tuple(session.run(None, {name: value for name, value in inputs.items() if name in wanted}))


_sessions: dict[tuple[object, ...], ort.InferenceSession] = {}


def _run(op: Op, case: Case, *, view: str) -> Outputs:
    dtypes = tuple((name, value.dtype.str, value.ndim) for name, value in case.inputs.items())
    key = (op.name, tuple(sorted(case.form.items())), tuple(case.attributes.items()), dtypes, view)
    if key not in _sessions:
        model = model_of(op, case, with_body=view == "body")
        _sessions[key] = session_of(model, kernel_library() if view == "kernel" else None)
    return tuple(_sessions[key].run(None, dict(case.inputs)))


@functools.cache
def kernel_library() -> Path | None:
    """The native library, if this installation has one. Its module is optional; an error inside it is not hidden."""
    if importlib.util.find_spec("edgeadapt.ops.library") is None:
        return None
    found = importlib.import_module("edgeadapt.ops.library").library_path()
    return None if found is None else Path(found)


VIEWS: dict[str, Callable[[Op, Case], Outputs]] = {
    "body": functools.partial(_run, view="body"),
    "kernel": functools.partial(_run, view="kernel"),
}


def assert_agrees(op: Op, case: Case, actual: Outputs, expected: Outputs | None = None) -> None:
    """Same dtypes, shapes, NaN and inf as the reference (or `expected`), and within the op's own allowance."""
    for found, wanted in zip(actual, op.expected(case) if expected is None else expected, strict=True):
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        allowed = np.broadcast_to(op.allowance(case, wanted), wanted.shape).astype(np.float64)
        finite = np.isfinite(wanted)
        np.testing.assert_array_equal(np.isfinite(found), finite)
        np.testing.assert_array_equal(found[~finite], wanted[~finite])
        difference = np.abs(found[finite].astype(np.float64) - wanted[finite])
        assert (difference <= allowed[finite]).all(), f"off by {np.max(difference - allowed[finite])} more than allowed"
