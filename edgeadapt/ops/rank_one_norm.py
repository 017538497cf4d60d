"""RankOneNorm: a rank-one update of the residual stream inside the normalisation that follows it (HIMALAYA).

    h = a + b        h' = h + u (r^T h)        y = gamma h' / sqrt(1/d sum_k h'_k^2 + epsilon)

    a, b  float32 [B, T, d]     r : float32 [B, 1, d], read     u : float32 [B, 1, d], written     gamma : float32 [d]
    y     float32 [B, T, d]     s = h' : float32 [B, T, d], the residual stream

The pattern of a residual site (methods.md section 1) in the decoder graphs that onnxruntime-genai builds: the sum of
the residual stream b and a branch a is taken by the SkipSimplifiedLayerNormalization behind it, which this op replaces.
The update then costs two passes over h and no node; at decode it is the nodes that cost. See rank_one_update for r and
u; the body ends in SkipSimplifiedLayerNormalization(h, z), whose arithmetic (float32 throughout) this is.

u = 0 or r = 0 gives what the normalisation alone gives, to the bit of h' and to rounding in y. Every (batch, token) row
is on its own; a NaN or inf stays in its token.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeadapt.ops.registry import DOMAIN, OPSET, Case, Op, require

NAME = "RankOneNorm"
F32 = NDArray[np.float32]


def reference(a: F32, b: F32, r: F32, u: F32, gamma: F32, *, epsilon: float) -> tuple[F32, F32]:
    """The op in NumPy: sums in float64; h, z and h' are rounded as in the body. EdgeAdaptError for other shapes."""
    require(a.ndim == 3, NAME, f"a is {a.shape}; it must be [B, T, d]")
    require(b.shape == a.shape, NAME, f"b is {b.shape}; it must be {a.shape} like a")
    row = (a.shape[0], 1, a.shape[2])
    require(r.shape == row and u.shape == row, NAME, f"r is {r.shape}, u is {u.shape}; they must be {row}")
    require(gamma.shape == row[2:], NAME, f"gamma is {gamma.shape}; it must be [d] = {list(row[2:])}")
    require(epsilon > 0, NAME, f"epsilon is {epsilon}; it must be positive")
    with np.errstate(invalid="ignore", over="ignore"):
        h = a + b
        dot = np.einsum("btd,bd->bt", h.astype(np.float64), r[:, 0].astype(np.float64)).astype(np.float32)
        s = np.asarray(h + dot[:, :, None] * u, dtype=np.float32)
        mean = np.square(s.astype(np.float64)).mean(axis=2, keepdims=True)
        y = s.astype(np.float64) / np.sqrt(mean + epsilon) * gamma
        return np.asarray(y, dtype=np.float32), s


def body() -> str:
    """ONNX function in text syntax: four nodes in the place of one."""
    header = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}, "com.microsoft": 1]>'
    return f"""{header}
{NAME} <epsilon> (a, b, r, u, gamma) => (y, s)
{{
    h = Add (a, b)
    dot = com.microsoft.FusedMatMul <transB = 1> (h, r)
    z = Mul (dot, u)
    y, mean, deviation, s = com.microsoft.SkipSimplifiedLayerNormalization <epsilon: float = @epsilon> (h, z, gamma)
}}
"""


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """Random shapes and gains, then what must not go wrong."""

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    def unit(batch: int, width: int) -> F32:
        r = normal(batch, 1, width)
        return np.asarray(r / np.linalg.norm(r, axis=2, keepdims=True), dtype=np.float32)

    def case(name: str, a: F32, r: F32, u: F32) -> Case:
        inputs = {"a": a, "b": normal(*a.shape), "r": r, "u": u, "gamma": normal(a.shape[2])}
        return Case(name, inputs, attributes={"epsilon": 1e-5})

    for batch, tokens, width in ((1, 1, 576), (1, 64, 576), (3, 5, 384), (2, 1, 8), (4, 7, 1), (2, 3, 63)):
        r = unit(batch, width)
        gain = np.tanh(normal(batch, 1, 1))
        yield case(f"random B={batch} T={tokens} d={width}", normal(batch, tokens, width), r, gain * r)
    yield case("writes elsewhere than it reads", normal(2, 5, 96), unit(2, 96), normal(2, 1, 96))
    yield case("empty T", normal(2, 0, 16), unit(2, 16), normal(2, 1, 16))
    yield case("r = 0", normal(2, 3, 64), np.zeros((2, 1, 64), np.float32), normal(2, 1, 64))
    yield case("u = 0", normal(2, 3, 64), unit(2, 64), np.zeros((2, 1, 64), np.float32))
    r = unit(1, 576)
    yield case("u = -r removes r", normal(1, 6, 576), r, -r)
    mixed = unit(3, 32)
    mixed[1] = 0
    yield case("one zero row in the batch", normal(3, 2, 32), mixed, mixed)
    spoilt = normal(2, 4, 32)
    spoilt[0, 1, 3], spoilt[1, 2, 0] = np.nan, np.nan
    yield case("NaN stays in its token", spoilt, unit(2, 32), normal(2, 1, 32))


OP = Op(NAME, reference, body, ({},), cases, tolerance=4e-6, scaled_by=("a",), outputs=("y", "s"))
