"""What is special about LowRankUpdate: mixed adapters in a batch, packed projections, and no cast left for float32."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.codecs.factors import int8_factors
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import Case, low_rank_update
from edgeadapt.ops.low_rank_update import reference
from tests.contract.views import VIEWS, assert_agrees, kernel_library, model_of

sizes = st.integers(1, 20)


def skip_without(view: str) -> None:
    if view == "kernel" and kernel_library() is None:
        pytest.skip("this installation has no native library")


def normal(rng: np.random.Generator, *shape: int, dtype: type = np.float32) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("view", VIEWS)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 3), st.integers(0, 5), sizes, sizes, st.integers(1, 9)),
    adapters=st.integers(0, 3),
    dtype=st.sampled_from([np.float32, np.float16, np.int8]),
)
def test_random_shapes(view: str, seed: int, shape: tuple[int, ...], adapters: int, dtype: type) -> None:
    batch, tokens, d, m, rank = shape
    skip_without(view)
    rng = np.random.default_rng(seed)
    several = (adapters,) if adapters else ()
    inputs = {"y": normal(rng, batch, tokens, m), "x": normal(rng, batch, tokens, d)}
    if dtype == np.int8:
        inputs["A"] = rng.integers(-128, 128, (*several, d, rank), np.int8)
        inputs["B"] = rng.integers(-128, 128, (*several, rank, m), np.int8)
        inputs["scales"] = normal(rng, *several, rank) / np.float32(128**2 * (d * rank) ** 0.5)
    else:
        inputs["A"] = normal(rng, *several, d, rank, dtype=dtype) / dtype((d * rank) ** 0.5)
        inputs["B"] = normal(rng, *several, rank, m, dtype=dtype)
    if adapters:
        inputs["index"] = rng.integers(0, adapters, batch)
    case = Case("drawn", inputs, {"indexed": bool(adapters), "scaled": dtype == np.int8})
    assert_agrees(low_rank_update.OP, case, VIEWS[view](low_rank_update.OP, case))


def test_a_mixed_batch_is_its_rows_one_by_one() -> None:
    rng = np.random.default_rng(0)
    y, x = normal(rng, 3, 4, 10), normal(rng, 3, 4, 6)
    down, up, index = normal(rng, 2, 6, 3), normal(rng, 2, 3, 10), np.array([1, 0, 1])
    mixed = reference(y, x, down, up, index)
    for row, which in enumerate(index):
        np.testing.assert_array_equal(
            mixed[row : row + 1], reference(y[row : row + 1], x[row : row + 1], down[which], up[which])
        )


def test_block_factors_address_slices_of_a_packed_projection() -> None:
    """q and v adapted, k untouched: one update with block factors = two updates of their own slices."""
    rng = np.random.default_rng(1)
    x, packed = normal(rng, 1, 3, 8), normal(rng, 1, 3, 6 + 2 + 2)
    q_down, q_up, v_down, v_up = normal(rng, 8, 2), normal(rng, 2, 6), normal(rng, 8, 2), normal(rng, 2, 2)
    up = np.zeros((4, 10), np.float32)
    up[:2, :6], up[2:, 8:] = q_up, v_up
    whole = reference(packed, x, np.concatenate((q_down, v_down), axis=1), up)
    np.testing.assert_array_equal(whole[..., 6:8], packed[..., 6:8])
    np.testing.assert_allclose(whole[..., :6], reference(packed[..., :6], x, q_down, q_up), atol=1e-6)
    np.testing.assert_allclose(whole[..., 8:], reference(packed[..., 8:], x, v_down, v_up), atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_int8_factors_cost_about_a_percent_of_the_update(scale: float) -> None:
    """Normal factors, also when B is as small as after a few steps of training: the error is relative."""
    rng = np.random.default_rng(3)
    y, x = np.zeros((1, 16, 192), np.float32), normal(rng, 1, 16, 576)
    down, up = normal(rng, 576, 8), np.float32(scale) * normal(rng, 8, 192)
    exact = reference(y, x, down, up)
    a, b, scales = int8_factors(down, up)
    found = reference(y, x, a, b, scales=scales)
    assert np.linalg.norm(found - exact) < 0.015 * np.linalg.norm(exact)


def test_float32_factors_leave_no_cast(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    inputs = {"y": normal(rng, 1, 2, 8), "x": normal(rng, 1, 2, 8), "A": normal(rng, 8, 2), "B": normal(rng, 2, 8)}
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    model = model_of(low_rank_update.OP, Case("plain", inputs, {"indexed": False}), with_body=True)
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    counted = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert counted == {"MatMul": 2, "Add": 1}


@pytest.mark.parametrize(
    ("changed", "value", "message"),
    [
        ("y", np.zeros((2, 3, 5), np.float32), "do not take"),
        ("x", np.zeros((2, 4, 8), np.float32), "must be"),
        ("A", np.zeros((8, 2), np.float16), "both must be float32"),
        ("scales", np.ones(2, np.float32), "scales are for int8 factors"),
        ("A", np.zeros((8, 2), np.float64), "both must be float32"),
        ("B", np.zeros((3, 6), np.float32), "do not take"),
        ("index", np.array([0, 1]), "do not take"),
    ],
)
def test_other_shapes_and_dtypes_are_refused(changed: str, value: np.ndarray, message: str) -> None:
    shapes = {"y": (2, 3, 6), "x": (2, 3, 8), "A": (8, 2), "B": (2, 6)}
    inputs = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(EdgeAdaptError, match=message):
        reference(**{**inputs, changed: value})


@pytest.mark.parametrize("scales", [None, np.ones(3, np.float32), np.ones(2, np.float16), np.ones((1, 2), np.float32)])
def test_int8_factors_without_fitting_scales_are_refused(scales: np.ndarray | None) -> None:
    y, x, down, up = np.zeros((1, 1, 6)), np.zeros((1, 1, 8)), np.zeros((8, 2), np.int8), np.zeros((2, 6), np.int8)
    with pytest.raises(EdgeAdaptError, match=r"scales are (for int8|float)"):
        reference(y, x, down, up, scales=scales)


@pytest.mark.parametrize("index", [np.array([0, 2]), np.array([0, -1])])
def test_an_index_out_of_range_is_refused(index: np.ndarray) -> None:
    y, x, down, up = (np.zeros(shape, np.float32) for shape in ((2, 3, 6), (2, 3, 8), (2, 8, 2), (2, 2, 6)))
    with pytest.raises(EdgeAdaptError, match=r"index must lie in 0\.\.1"):
        reference(y, x, down, up, index)
