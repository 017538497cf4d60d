"""int4 codes that keep a layer's outputs: better than plain ones where inputs are correlated, sound for any input."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.codecs import BlockQuantised, blockwise, calibrated, int4
from edgeadapt.errors import EdgeAdaptError

quick = settings(max_examples=25, deadline=None)


def correlated(columns: int, samples: int = 512, seed: int = 0) -> np.ndarray:
    """Second moments of inputs of which a few directions and a few columns carry most: what layers read."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((8, columns)) * np.exp(rng.standard_normal(columns))
    x = rng.standard_normal((samples, 8)) @ directions + 0.3 * rng.standard_normal((samples, columns))
    return np.asarray(x.T @ x / samples)


def weight(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def loss(w: np.ndarray, quantised: BlockQuantised, moments: np.ndarray) -> float:
    """The damped L of the module, by its definition, in float64."""
    m = moments + calibrated.DAMPING * np.diag(moments).mean() * np.eye(len(moments))
    difference = w.astype(np.float64) - blockwise.dequantise(quantised)
    return float(np.einsum("nk,kl,nl->", difference, m, difference))


@pytest.mark.parametrize("columns", [64, 100, 576])
def test_outputs_are_kept_at_the_same_bytes(columns: int) -> None:
    w, m = weight(48, columns), correlated(columns)
    plain, found = int4.quantise(w), calibrated.quantise(w, m)
    assert found.nbytes == plain.nbytes
    assert loss(w, found, m) < 0.5 * loss(w, plain, m)


def test_what_nobody_knows_about_is_left_to_the_weights() -> None:
    """Inputs alike and independent: no better than the plain codes can be, and hardly worse."""
    w = weight(64, 576)
    for moments in (np.eye(576), np.zeros((576, 576))):
        assert loss(w, calibrated.quantise(w, moments), np.eye(576)) < 1.02 * loss(w, int4.quantise(w), np.eye(576))


@quick
@given(
    seed=st.integers(0, 1000),
    columns=st.integers(1, 130),
    rows=st.integers(0, 9),
    size=st.sampled_from((1e-30, 1, 1e30)),
)
def test_sweeps_never_make_it_worse(seed: int, columns: int, rows: int, size: float) -> None:
    w, m = weight(rows, columns, seed) * np.float32(size), correlated(columns, 16, seed)
    losses = [loss(w, calibrated.quantise(w, m, sweeps=sweeps), m) for sweeps in (0, 1, 2, 4)]
    rounding = 1e-12 * float(np.einsum("nk,nk->", w, w, dtype=np.float64)) * float(np.diag(m).sum())
    for before, after in pairwise(losses):
        assert after <= before * (1 + 1e-4) + rounding


@quick
@given(seed=st.integers(0, 1000), kind=st.sampled_from(("zeros", "constant", "sparse", "one column")))
def test_odd_weights_decode_to_finite_values(seed: int, kind: str) -> None:
    w = weight(5, 96, seed)
    if kind == "zeros":
        w[:] = 0
    elif kind == "constant":
        w[:] = 3
    elif kind == "sparse":
        w[:, np.random.default_rng(seed).permutation(96)[:90]] = 0
    else:
        w[:, 1:] = 0
    decoded = blockwise.dequantise(calibrated.quantise(w, correlated(96, 4, seed)))
    assert np.isfinite(decoded).all()
    if kind == "zeros":
        assert not decoded.any()


def test_only_the_shape_of_the_moments_counts() -> None:
    w, m = weight(20, 128), correlated(128)
    one, other = calibrated.quantise(w, m), calibrated.quantise(w, m * 1024)
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(one.scales, other.scales)


def test_slices_of_rows_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    w, m = weight(70, 96), correlated(96)
    whole = calibrated.quantise(w, m)
    monkeypatch.setattr(calibrated, "_ROWS", 32)
    assert loss(w, calibrated.quantise(w, m), m) == pytest.approx(loss(w, whole, m), rel=1e-2)


def test_what_cannot_be_is_refused() -> None:
    w = weight(3, 32)
    not_symmetric, negative = np.eye(32), np.eye(32)
    not_symmetric[0, 1] = 1
    negative[0, 1] = negative[1, 0] = 5
    for moments, said in (
        (np.eye(31), r"\(31, 31\); a weight of 32 columns needs \(32, 32\)"),
        (np.full((32, 32), np.nan), "finite and symmetric"),
        (not_symmetric, "finite and symmetric"),
        (-np.eye(32), "finite and symmetric"),
        (negative, "negative eigenvalue"),
    ):
        with pytest.raises(EdgeAdaptError, match=said):
            calibrated.quantise(w, moments)
    with pytest.raises(EdgeAdaptError, match="no columns"):
        calibrated.quantise(np.zeros((3, 0)), np.zeros((0, 0)))
    with pytest.raises(EdgeAdaptError, match="NaN or inf"):
        calibrated.quantise(np.full((3, 32), np.nan), np.eye(32))
