"""RankOneUpdate: one signed rank-one term at one site (HIMALAYA, methods.md section 1).

    z = y + g r (r^T x)            body(addend=False)    square site:   y = W x
    z = y + g r (r^T (x + b))      body(addend=True)     residual site: y = x = a, the branch's output, and b the
                                                         residual stream: then z + b = h + g r (r^T h) with h = a + b,
                                                         and the skip-normalisation that sums them keeps its fusion

    y, x, b : float32 [B, T, d]     r : float32 [B, d]     g : float32 [B, 1], which already holds s / sqrt(d)
    z       : float32 [B, T, d]

With ||r|| = 1 the update's spectral norm is |g|. Every (batch, token) row depends on its own row of x, y, b alone, so a
NaN or inf stays in its token. r = 0 or g = 0 gives z = y exactly for finite x; otherwise IEEE rules apply (0 * inf is
NaN). T = 0 gives an empty z. Rank 2 or broadcasting inputs are refused by the reference and are outside the contract.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeadapt.ops.registry import Case, Op, function_text, require

NAME = "RankOneUpdate"
F32 = NDArray[np.float32]


def reference(y: F32, x: F32, r: F32, g: F32, b: F32 | None = None) -> F32:
    """The op in NumPy. The dot product runs in float64 and is rounded once, so that it is the truth for every order of
    summation. Raises EdgeAdaptError for other shapes."""
    require(x.ndim == 3 and y.shape == x.shape, NAME, f"y {y.shape} and x {x.shape} must both be [B, T, d]")
    require(r.shape == (x.shape[0], x.shape[2]), NAME, f"r is {r.shape}; it must be [B, d] of x {x.shape}")
    require(g.shape == (x.shape[0], 1), NAME, f"g is {g.shape}; it must be [B, 1] of x {x.shape}")
    require(b is None or b.shape == x.shape, NAME, f"b must have the shape of x {x.shape}")
    with np.errstate(invalid="ignore", over="ignore"):
        h = x if b is None else x + b
        dot = np.einsum("btd,bd->bt", h.astype(np.float64), r.astype(np.float64)).astype(np.float32)
        step = (dot * g)[:, :, None] * r[:, None, :]
        return np.asarray(y + step, dtype=np.float32)


def body(*, addend: bool = False) -> str:
    """ONNX function in text syntax: seven nodes a site, and one Unsqueeze of r that ONNX Runtime shares between sites.

    Measured on stock onnxruntime 1.31.1, x86-64, one thread, 30 sites, d = 576; microseconds for all sites of a step:
                                        warm, T = 1     cold, T = 1: four runs       warm, T = 64
        Mul and ReduceSum (this form)       103         200   340   520   310             820
        MatMul with Transpose(row)           88         330   150   840   480            1240
        MatMul with Unsqueeze(r, 2)         118         380   190   650   600             650
        Einsum                              181                                           880
    Cold: the extra over the same graph without sites, between int4 layers that stream their weights (a step of 10 to 15
    ms), interleaved, mean of the sessions' medians. All four runs shared their two cores with other work, the first
    the least, so they rank the forms (this one is lowest in three of four) and do not settle what a site costs.
    """
    lines = """
        one = Constant <value = int64[1] {1}> ()
        two = Constant <value = int64[1] {2}> ()
        last = Constant <value = int64[1] {-1}> ()
        row = Unsqueeze (r, one)
        gain = Unsqueeze (g, two)
    """
    if addend:
        lines += "    h = Add (x, b)\n"
    lines += f"""
        products = Mul ({"h" if addend else "x"}, row)
        dot = ReduceSum <keepdims = 1> (products, last)
        scaled = Mul (dot, gain)
        step = Mul (scaled, row)
        z = Add (y, step)
    """
    return function_text(NAME, "y, x, r, g, b" if addend else "y, x, r, g", "z", lines)


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """Random shapes and gains, then what must not go wrong."""

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    def unit(batch: int, width: int) -> F32:
        r = normal(batch, width)
        return np.asarray(r / np.linalg.norm(r, axis=1, keepdims=True), dtype=np.float32)

    for addend in (False, True):

        def case(  # noqa: PLR0917 - the op's inputs, in the op's order
            name: str, y: F32, x: F32, r: F32, g: F32, exact: bool = False, addend: bool = addend
        ) -> Case:
            inputs = {"y": y, "x": x, "r": r, "g": g}
            if addend:
                # In the units of x, so that neither addend drowns the other; finite where x is not.
                size = np.abs(x[np.isfinite(x)]).max(initial=0)
                inputs["b"] = normal(*x.shape) * np.float32(size)
            return Case(name + ", addend" * addend, inputs, {"addend": addend}, exact)

        shapes = ((1, 1, 576), (1, 64, 576), (3, 5, 384), (2, 1, 8), (1, 300, 24), (4, 7, 1), (2, 3, 63))
        for batch, tokens, width in shapes:
            g = np.tanh(normal(batch, 1))
            y, x = normal(batch, tokens, width), normal(batch, tokens, width)
            yield case(f"random B={batch} T={tokens} d={width}", y, x, unit(batch, width), g)
        a = normal(2, 4, 64)
        yield case("y and x are one tensor", a, a, unit(2, 64), normal(2, 1))
        yield case("empty T", normal(2, 0, 16), normal(2, 0, 16), unit(2, 16), normal(2, 1))
        yield case("r = 0", normal(2, 3, 64), normal(2, 3, 64), np.zeros((2, 64), np.float32), normal(2, 1), exact=True)
        yield case("g = 0", normal(2, 3, 64), normal(2, 3, 64), unit(2, 64), np.zeros((2, 1), np.float32), exact=True)
        yield case("g = -1 removes r", normal(1, 6, 576), normal(1, 6, 576), unit(1, 576), -np.ones((1, 1), np.float32))
        mixed = unit(3, 32)
        mixed[1] = 0
        yield case("one zero row in the batch", normal(3, 2, 32), normal(3, 2, 32), mixed, normal(3, 1))
        yield case("large activations", normal(1, 3, 576) * 3e4, normal(1, 3, 576) * 3e4, unit(1, 576), normal(1, 1))
        yield case("tiny activations", normal(1, 3, 96) * 1e-30, normal(1, 3, 96) * 1e-30, unit(1, 96), normal(1, 1))
        spoilt = normal(2, 4, 32)
        spoilt[0, 1, 3], spoilt[1, 2, 0], spoilt[1, 3, 5] = np.nan, np.inf, -np.inf
        yield case("NaN and inf stay in their tokens", normal(2, 4, 32), spoilt, unit(2, 32), normal(2, 1))
        broken = unit(2, 32)
        broken[1, 0] = np.nan
        yield case("NaN in r stays in its batch row", normal(2, 4, 32), normal(2, 4, 32), broken, normal(2, 1))


OP = Op(NAME, reference, body, ({"addend": False}, {"addend": True}), cases, tolerance=2e-6, scaled_by=("y", "x", "b"))
