"""LowRankUpdate: a low-rank term beside a linear layer (LoRA, Hu et al. 2021; LILAC, COLTAS and GloDiS of methods.md).

    z = y + (x A) B                body(indexed=False)
    z = y + (x A[i]) B[i]          body(indexed=True), i = index[batch row]: one batch may mix adapters

    y     : float32 [Bt, T, m]            x     : float32 [Bt, T, d]
    A     : [d, r] or [n, d, r]           B     : [r, m] or [n, r, m], float32 or float16, both alike
    index : int64 [Bt], 0 <= index < n    z     : float32 [Bt, T, m]

The scale alpha / rank is folded into B when the adapter is written. float16 factors are widened to float32 exactly;
sums run in float32. B = 0 gives z = y exactly for finite x. Each (batch, token) row depends on its own rows alone: a
NaN or inf in one token of x stays there. T = 0 gives an empty z. An index outside 0..n-1 is an error of the caller (the
reference and ONNX Runtime refuse index >= n; the Gather in the body counts a negative one from the end).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeadapt.ops.registry import Array, Case, Op, function_text, require

NAME = "LowRankUpdate"
F32 = NDArray[np.float32]
Factor = NDArray[np.float32] | NDArray[np.float16]


def reference(y: F32, x: F32, A: Factor, B: Factor, index: NDArray[np.int64] | None = None) -> F32:
    """The op in NumPy, sums in float64. Raises EdgeAdaptError for other shapes, dtypes or an index out of range."""
    require(
        x.ndim == 3 and y.ndim == 3 and y.shape[:2] == x.shape[:2],
        NAME,
        f"y {y.shape} and x {x.shape} must be [Bt, T, m] and [Bt, T, d]",
    )
    require(
        A.dtype == B.dtype and A.dtype in (np.float32, np.float16),
        NAME,
        f"A and B are {A.dtype} and {B.dtype}; both must be float32 or both float16",
    )
    rank = 2 if index is None else 3
    require(
        A.ndim == rank
        and B.ndim == rank
        and A.shape[-1] == B.shape[-2]
        and A.shape[:-2] == B.shape[:-2]
        and A.shape[-2] == x.shape[2]
        and B.shape[-1] == y.shape[2],
        NAME,
        f"A {A.shape} and B {B.shape} do not take x {x.shape} to y {y.shape}",
    )
    down, up = A.astype(np.float64), B.astype(np.float64)
    if index is not None:
        require(
            index.dtype == np.int64 and index.shape == x.shape[:1],
            NAME,
            f"index is {index.dtype} {index.shape}; it must be int64 [{x.shape[0]}]",
        )
        require(bool(((index >= 0) & (index < len(A))).all()), NAME, f"index must lie in 0..{len(A) - 1}")
        down, up = down[index], up[index]
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(y + (x.astype(np.float64) @ down) @ up, dtype=np.float32)


def body(*, indexed: bool = False) -> str:
    """ONNX function in text syntax. A Cast of factors that are float32 already is removed by ONNX Runtime."""
    pick = """
        A_row = Gather <axis = 0> (A, index)
        B_row = Gather <axis = 0> (B, index)
    """
    lines = f"""
        {pick if indexed else ""}
        down = Cast <to = 1> ({"A_row" if indexed else "A"})
        up = Cast <to = 1> ({"B_row" if indexed else "B"})
        inner = MatMul (x, down)
        step = MatMul (inner, up)
        z = Add (y, step)
    """
    return function_text(NAME, "y, x, A, B, index" if indexed else "y, x, A, B", "z", lines)


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """Random shapes, both dtypes, both forms, then what must not go wrong."""

    def normal(*shape: int, dtype: type = np.float32) -> Array:
        return np.asarray(rng.standard_normal(shape).astype(dtype))

    for dtype in (np.float32, np.float16):
        for batch, tokens, d, m, r in ((1, 1, 576, 960, 16), (1, 33, 576, 192, 8), (3, 4, 24, 40, 1), (2, 1, 8, 8, 8)):
            down, up = normal(d, r, dtype=dtype) / dtype(d**0.5), normal(r, m, dtype=dtype)
            inputs = {"y": normal(batch, tokens, m), "x": normal(batch, tokens, d), "A": down, "B": up}
            yield Case(f"random {dtype.__name__} B={batch} T={tokens} {d}x{r}x{m}", inputs, {"indexed": False})
            table_a, table_b = normal(5, d, r, dtype=dtype) / dtype(d**0.5), normal(5, r, m, dtype=dtype)
            index = rng.integers(0, 5, batch)
            mixed = {"y": normal(batch, tokens, m), "x": normal(batch, tokens, d), "A": table_a, "B": table_b}
            name = f"mixed adapters {dtype.__name__} B={batch} T={tokens}"
            yield Case(name, {**mixed, "index": index}, {"indexed": True})
        y, x, down = normal(2, 3, 16), normal(2, 3, 32), normal(32, 4, dtype=dtype)
        none = np.zeros((4, 16), dtype)
        yield Case(f"B = 0, {dtype.__name__}", {"y": y, "x": x, "A": down, "B": none}, {"indexed": False}, exact=True)
        shared = {"y": y, "x": x, "A": np.stack((down, down)), "B": np.stack((none, normal(4, 16, dtype=dtype)))}
        for name, index in (("one adapter of two is empty", np.array([0, 1])), ("one for all", np.array([1, 1]))):
            yield Case(f"{name}, {dtype.__name__}", {**shared, "index": index}, {"indexed": True})
    down, up = normal(16, 4), normal(4, 24)
    yield Case("empty T", {"y": normal(2, 0, 24), "x": normal(2, 0, 16), "A": down, "B": up}, {"indexed": False})
    large = {"y": normal(1, 2, 24), "x": normal(1, 2, 16) * np.float32(1e4), "A": down, "B": up}
    yield Case("large activations", large, {"indexed": False})
    limit = np.full((16, 4), 65504, np.float16)
    fp16 = {"y": normal(1, 2, 24), "x": normal(1, 2, 16), "A": limit, "B": np.full((4, 24), 6e-8, np.float16)}
    yield Case("fp16 at its limits, subnormal B", fp16, {"indexed": False})
    spoilt = normal(2, 4, 16)
    spoilt[0, 1, 3], spoilt[1, 2, 0] = np.nan, np.inf
    broken = {"y": normal(2, 4, 24), "x": spoilt, "A": down, "B": up}
    yield Case("NaN and inf stay in their tokens", broken, {"indexed": False})


OP = Op(NAME, reference, body, ({"indexed": False}, {"indexed": True}), cases, tolerance=5e-6, scaled_by=("y", "x"))
