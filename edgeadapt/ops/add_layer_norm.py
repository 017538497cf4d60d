"""AddLayerNorm: the sum and the normalisation that end both halves of an encoder's layer.

    h = a + b        y = gamma (h - m) / sqrt(v + epsilon) + beta        m = mean_k h_k        v = mean_k (h_k - m)^2

    a, b, y : float32 [..., d]        gamma, beta : float32 [d]        epsilon > 0

a stands behind a linear layer that has added its bias. The body is com.microsoft::SkipLayerNormalization, which stock
ONNX Runtime computes a number at a time: 16 instructions each on a Cortex-A72, the kernel 6.

Every row is on its own; a NaN or inf makes its row NaN and no other. A row of equal numbers gives beta.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeadapt.ops.registry import DOMAIN, OPSET, Case, Op, require

NAME = "AddLayerNorm"
F32 = NDArray[np.float32]


def reference(a: F32, b: F32, gamma: F32, beta: F32, *, epsilon: float) -> F32:
    """The op in NumPy: h is rounded, everything behind it is in float64. EdgeAdaptError for other shapes."""
    require(a.ndim >= 1, NAME, "a is a scalar; it must be [..., d]")
    require(b.shape == a.shape, NAME, f"b is {b.shape}; it must be {a.shape} like a")
    row = a.shape[-1:]
    require(
        gamma.shape == row and beta.shape == row, NAME, f"gamma is {gamma.shape}, beta {beta.shape}; not [d] = {row}"
    )
    require(epsilon > 0, NAME, f"epsilon is {epsilon}; it must be positive")
    with np.errstate(invalid="ignore", over="ignore"):
        h = (a + b).astype(np.float64)
        centred = h - h.mean(axis=-1, keepdims=True)
        v = np.square(centred).mean(axis=-1, keepdims=True)
        return np.asarray(centred / np.sqrt(v + epsilon) * gamma + beta, dtype=np.float32)


def body() -> str:
    """ONNX function in text syntax: the single stock node."""
    header = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}, "com.microsoft": 1]>'
    node = "com.microsoft.SkipLayerNormalization <epsilon: float = @epsilon> (a, b, gamma, beta)"
    return f"{header}\n{NAME} <epsilon> (a, b, gamma, beta) => (y)\n{{\n    y = {node}\n}}\n"


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """Random shapes, then what must not go wrong. Three dimensions: the body takes no other number."""

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    def case(name: str, a: F32, b: F32, epsilon: float = 1e-12) -> Case:
        gamma, beta = normal(a.shape[-1]), normal(a.shape[-1])
        return Case(name, {"a": a, "b": b, "gamma": gamma, "beta": beta}, attributes={"epsilon": epsilon})

    for shape in ((1, 32, 384), (2, 5, 768), (3, 1, 64), (1, 7, 33), (2, 2, 3)):
        yield case(f"random {'x'.join(map(str, shape))}", normal(*shape), normal(*shape))
    yield case("no rows", normal(1, 0, 16), normal(1, 0, 16))
    yield case("a large epsilon", normal(1, 3, 64), normal(1, 3, 64), 0.5)
    yield case("far from zero", normal(1, 4, 384) + np.float32(3), normal(1, 4, 384))
    yield case("tiny", normal(1, 4, 64) * np.float32(1e-3), normal(1, 4, 64) * np.float32(1e-3))
    yield case("large", normal(1, 4, 64) * np.float32(1e4), normal(1, 4, 64) * np.float32(1e4))
    yield case("equal numbers", np.full((1, 2, 32), 2, np.float32), np.full((1, 2, 32), -1, np.float32), 1e-5)
    spoilt = normal(2, 4, 32)
    spoilt[0, 1, 3], spoilt[1, 2, 0] = np.nan, np.inf
    yield case("NaN and inf stay in their rows", spoilt, normal(2, 4, 32))


OP = Op(NAME, reference, body, ({},), cases, tolerance=4e-6)
