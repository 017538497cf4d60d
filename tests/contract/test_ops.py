"""Every registered op: reference = function body on stock ONNX Runtime = native kernel (where there is one).

An op brings its own cases and tolerance; registering it in edgeadapt.ops is all that this suite needs. What is special
about one op is in test_ops_<name>.py.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections import Counter

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeadapt.ops
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import DOMAIN, OPS, OPSET, Case, Op
from tests.contract.views import VIEWS, assert_agrees, kernel_library, model_of, run

SEEDS = (0, 1, 2)
CASES = [(op, index, case.name) for op in OPS.values() for index, case in enumerate(op.cases(np.random.default_rng(0)))]
each_op = pytest.mark.parametrize("op", OPS.values(), ids=OPS)
each_view = pytest.mark.parametrize("view", VIEWS)


def skip_without(view: str) -> None:
    if view == "kernel" and kernel_library() is None:
        pytest.skip("this installation has no native library")


@each_view
@pytest.mark.parametrize(
    ("op", "index"), [case[:2] for case in CASES], ids=[f"{op.name}: {name}" for op, _, name in CASES]
)
def test_view_equals_reference(op: Op, index: int, view: str) -> None:
    skip_without(view)
    for seed in SEEDS:
        case = list(op.cases(np.random.default_rng(seed)))[index]
        assert_agrees(op, case, VIEWS[view](op, case))


@each_view
@each_op
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(3, 2**32 - 1))
def test_views_agree_for_any_seed(op: Op, view: str, seed: int) -> None:
    skip_without(view)
    for case in op.cases(np.random.default_rng(seed)):
        assert_agrees(op, case, VIEWS[view](op, case))


@each_view
@each_op
def test_constants_and_inputs_give_the_same(op: Op, view: str) -> None:
    """An exporter may hand over any input as an initializer: constant folding must not change what comes out."""
    skip_without(view)
    for case in list(op.cases(np.random.default_rng(7)))[:3]:
        model = model_of(op, case, with_body=view == "body", constants=frozenset(list(case.inputs)[1:]))
        assert_agrees(op, case, run(model, case.inputs, kernel_library() if view == "kernel" else None))


@each_view
@each_op
def test_rows_of_a_batch_are_independent(op: Op, view: str) -> None:
    """Every op's output is per batch row: a batch of copies gives copies."""
    skip_without(view)
    case = next(iter(op.cases(np.random.default_rng(5))))
    batched = {
        name: np.concatenate((value, value))
        if name in ("a", "b", "y", "x", "h", "r", "u", "pool", "task", "bias", "index", "weight", "states")
        else value
        for name, value in case.inputs.items()
    }
    once = VIEWS[view](op, case)
    twice = VIEWS[view](op, Case("doubled", batched, case.form, attributes=case.attributes))
    halves = zip(*(np.split(output, 2) for output in twice), strict=True)
    for half in halves:
        assert_agrees(op, case, half, once)


@each_op
def test_body_is_one_function_of_the_reference_s_inputs(op: Op) -> None:
    names = list(op.parameters)
    for form in op.forms:
        function = onnx.parser.parse_function(op.body(**form))
        assert (function.domain, function.name) == (DOMAIN, op.name)
        assert list(function.input) == names[: len(function.input)]
        assert set(function.attribute) == set(inspect.signature(op.reference).parameters) - set(names)
        assert op.outputs == ("result",) or tuple(function.output) == op.outputs
        assert len(function.output) == len(op.outputs)
        opsets = {item.domain: item.version for item in function.opset_import}
        assert opsets.pop("com.microsoft", 1) == 1
        assert opsets == {"": OPSET}


@each_op
def test_every_form_has_cases_and_no_case_another_form(op: Op) -> None:
    listed = {tuple(sorted(form.items())) for form in op.forms}
    assert {tuple(sorted(case.form.items())) for case in op.cases(np.random.default_rng(0))} == listed


@each_op
def test_cases_have_names_of_their_own_and_come_from_the_generator_alone(op: Op) -> None:
    first, second = (list(op.cases(np.random.default_rng(11))) for _ in range(2))
    assert not [name for name, count in Counter(case.name for case in first).items() if count > 1]
    for one, two in zip(first, second, strict=True):
        for name, value in one.inputs.items():
            np.testing.assert_array_equal(value, two.inputs[name])


@each_op
def test_tolerance_is_not_vacuous(op: Op) -> None:
    """On every case that is not exact, an output of zeros or one turned round would be noticed."""
    for case in op.cases(np.random.default_rng(0)):
        expected = op.expected(case)
        if case.exact or not any(np.nan_to_num(output).any() for output in expected):
            continue
        with pytest.raises(AssertionError):
            assert_agrees(op, case, tuple(np.zeros_like(output) for output in expected))


def test_every_op_module_is_registered() -> None:
    modules = [
        importlib.import_module(f"edgeadapt.ops.{item.name}") for item in pkgutil.iter_modules(edgeadapt.ops.__path__)
    ]
    defined = {module.OP.name for module in modules if isinstance(getattr(module, "OP", None), Op)}
    assert set(OPS) == defined
    assert all(name == op.name for name, op in OPS.items())


def test_a_malformed_op_is_refused() -> None:
    op = next(iter(OPS.values()))
    for name, forms, tolerance in (("two words", op.forms, 0.1), ("Good", (), 0.1), ("Good", op.forms, 0.0)):
        with pytest.raises(EdgeAdaptError, match="give an identifier"):
            Op(name, op.reference, op.body, forms, op.cases, tolerance)
