"""RankOneUpdate: one rank-one term at one site (HIMALAYA, methods.md section 1).

    z = u (r^T x)

    x : float32 [B, T, d]     r : float32 [B, 1, d], read     u : float32 [B, 1, d], written     z : float32 [B, T, d]

HIMALAYA writes where it reads: u = g r with ||r|| = 1, so the update's spectral norm is |g|. The op gives the update
alone and the graph adds it, because a residual site has an addition waiting: with h = a + b, the normalisation that
used to sum (a, b) sums (h, z) instead, and its fusion stays. r and u are rows already, so no site has to reshape them.

Every (batch, token) row depends on its own row of x alone, so a NaN or inf stays in its token. r = 0 or u = 0 gives
z = 0 for finite x; otherwise IEEE rules apply (0 * inf is NaN). T = 0 gives an empty z. Other shapes, broadcasting ones
included, are refused by the reference and are outside the contract.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeadapt.ops.registry import Case, Op, function_text, require

NAME = "RankOneUpdate"
F32 = NDArray[np.float32]


def reference(x: F32, r: F32, u: F32) -> F32:
    """The op in NumPy. The dot product runs in float64 and is rounded once, so that it is the truth for every order of
    summation. Raises EdgeAdaptError for other shapes."""
    require(x.ndim == 3, NAME, f"x is {x.shape}; it must be [B, T, d]")
    row = (x.shape[0], 1, x.shape[2])
    require(r.shape == row, NAME, f"r is {r.shape}; it must be [B, 1, d] of x {x.shape}")
    require(u.shape == row, NAME, f"u is {u.shape}; it must be [B, 1, d] of x {x.shape}")
    with np.errstate(invalid="ignore", over="ignore"):
        dot = np.einsum("btd,bd->bt", x.astype(np.float64), r[:, 0].astype(np.float64)).astype(np.float32)
        return np.asarray(dot[:, :, None] * u, dtype=np.float32)


def body() -> str:
    """ONNX function in text syntax: three nodes a site.

    At decode a site costs its nodes, not its arithmetic. Stock onnxruntime 1.31.1, x86-64, one thread, SmolLM2-135M in
    int4, CPU time per token over the bare graph's, six openings of 16 rounds each on a machine with other work:
        y + g r (r^T (x + b)) in one op, seven nodes   1.043 [1.025, 1.069]
        this form and an Add, four nodes               1.029 [1.008, 1.055]
        MatMul for Mul and ReduceSum, three nodes      1.038 [1.009, 1.075]
    """
    lines = """
        last = Constant <value = int64[1] {-1}> ()
        products = Mul (x, r)
        dot = ReduceSum <keepdims = 1> (products, last)
        z = Mul (dot, u)
    """
    return function_text(NAME, "x, r, u", "z", lines)


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """Random shapes and gains, then what must not go wrong."""

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    def unit(batch: int, width: int) -> F32:
        r = normal(batch, 1, width)
        return np.asarray(r / np.linalg.norm(r, axis=2, keepdims=True), dtype=np.float32)

    def case(name: str, x: F32, r: F32, u: F32, exact: bool = False) -> Case:
        return Case(name, {"x": x, "r": r, "u": u}, exact=exact)

    for batch, tokens, width in (
        (1, 1, 576),
        (1, 64, 576),
        (3, 5, 384),
        (2, 1, 8),
        (1, 300, 24),
        (4, 7, 1),
        (2, 3, 63),
    ):
        r = unit(batch, width)
        gain = np.tanh(normal(batch, 1, 1))
        yield case(f"random B={batch} T={tokens} d={width}", normal(batch, tokens, width), r, gain * r)
    yield case("writes elsewhere than it reads", normal(2, 5, 96), unit(2, 96), normal(2, 1, 96))
    yield case("empty T", normal(2, 0, 16), unit(2, 16), normal(2, 1, 16))
    yield case("r = 0", normal(2, 3, 64), np.zeros((2, 1, 64), np.float32), normal(2, 1, 64), exact=True)
    yield case("u = 0", normal(2, 3, 64), unit(2, 64), np.zeros((2, 1, 64), np.float32), exact=True)
    r = unit(1, 576)
    yield case("u = -r removes r", normal(1, 6, 576), r, -r)
    mixed = unit(3, 32)
    mixed[1] = 0
    yield case("one zero row in the batch", normal(3, 2, 32), mixed, mixed)
    yield case("large activations", normal(1, 3, 576) * 3e4, unit(1, 576), normal(1, 1, 576))
    yield case("tiny activations", normal(1, 3, 96) * 1e-30, unit(1, 96), normal(1, 1, 96))
    spoilt = normal(2, 4, 32)
    spoilt[0, 1, 3], spoilt[1, 2, 0], spoilt[1, 3, 5] = np.nan, np.inf, -np.inf
    yield case("NaN and inf stay in their tokens", spoilt, unit(2, 32), normal(2, 1, 32))
    broken = unit(2, 32)
    broken[1, 0, 0] = np.nan
    yield case("NaN in r stays in its batch row", normal(2, 4, 32), broken, normal(2, 1, 32))


OP = Op(NAME, reference, body, ({},), cases, tolerance=2e-6, scaled_by=("x",))
