"""LowRankUpdate: a low-rank term beside a linear layer (LoRA, Hu et al. 2021; LILAC, COLTAS and GloDiS of methods.md).

    z = y + (x A) B                        body()
    z = y + (x A[i]) B[i]                  body(indexed=True), i = index[batch row]: one batch may mix adapters
    z = y + ((x A) * s) B                  body(scaled=True): int8 factors, one scale per rank component
    z = y + ((x A[i]) * s[i]) B[i]         body(indexed=True, scaled=True)

    y      : float32 [Bt, T, m]            x     : float32 [Bt, T, d]
    A      : [d, r] or [n, d, r]           B     : [r, m] or [n, r, m]; both float32, both float16 or both int8
    index  : int64 [Bt], 0 <= index < n    z     : float32 [Bt, T, m]
    scales : float32 [r] or [n, r], with int8 factors and only with them

The scale alpha / rank is folded into B when the adapter is written. float16 and int8 factors are widened to float32
exactly; sums run in float32. A component's scale s_k is the product of the one of A's column k and the one of B's row k
(codecs/factors.py), so that no product of d or m numbers is scaled. B = 0 gives z = y exactly for finite x. Each
(batch, token) row depends on its own rows alone: a NaN or inf in one token of x stays there. T = 0 gives an empty z. An
index outside 0..n-1 is an error of the caller (the reference and ONNX Runtime refuse index >= n; the Gather in the body
counts a negative one from the end).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from edgeadapt.codecs.factors import int8_factors
from edgeadapt.ops.registry import Array, Case, Op, function_text, require

NAME = "LowRankUpdate"
INDEX_INPUT = "adapter_index"  # what a graph calls the index where it is one of its inputs
F32 = NDArray[np.float32]
Factor = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.int8]


def reference(  # noqa: PLR0917 - the op's inputs, in the op's order
    y: F32, x: F32, A: Factor, B: Factor, index: NDArray[np.int64] | None = None, scales: F32 | None = None
) -> F32:
    """The op in NumPy, sums in float64. Raises EdgeAdaptError for other shapes, dtypes or an index out of range."""
    require(
        x.ndim == 3 and y.ndim == 3 and y.shape[:2] == x.shape[:2],
        NAME,
        f"y {y.shape} and x {x.shape} must be [Bt, T, m] and [Bt, T, d]",
    )
    require(
        A.dtype == B.dtype and A.dtype in (np.float32, np.float16, np.int8),
        NAME,
        f"A and B are {A.dtype} and {B.dtype}; both must be float32, both float16 or both int8",
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
    require((A.dtype == np.int8) == (scales is not None), NAME, "scales are for int8 factors, which need them")
    down, up = A.astype(np.float64), B.astype(np.float64)
    if scales is not None:
        wanted = (*A.shape[:-2], A.shape[-1])
        require(
            scales.dtype == np.float32 and scales.shape == wanted,
            NAME,
            f"scales are {scales.dtype} {scales.shape}; they must be float32 {wanted}",
        )
        down = down * scales.astype(np.float64)[..., None, :]
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


def body(*, indexed: bool = False, scaled: bool = False) -> str:
    """ONNX function in text syntax. A Cast of factors that are float32 already is removed by ONNX Runtime."""
    pick = """
        A_row = Gather <axis = 0> (A, index)
        B_row = Gather <axis = 0> (B, index)
    """
    pick_scales = """
        axis = Constant <value_ints = [1]> ()
        scales_row = Gather <axis = 0> (scales, index)
        factor = Unsqueeze (scales_row, axis)
    """
    lines = f"""
        {pick if indexed else ""}
        {pick_scales if indexed and scaled else ""}
        down = Cast <to = 1> ({"A_row" if indexed else "A"})
        up = Cast <to = 1> ({"B_row" if indexed else "B"})
        inner = MatMul (x, down)
        {f"scaled = Mul (inner, {'factor' if indexed else 'scales'})" if scaled else ""}
        step = MatMul ({"scaled" if scaled else "inner"}, up)
        z = Add (y, step)
    """
    inputs = "y, x, A, B, index, scales" if scaled else "y, x, A, B, index" if indexed else "y, x, A, B"
    return function_text(NAME, inputs, "z", lines)


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """Random shapes, every dtype, every form, then what must not go wrong."""

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
    yield from _int8_cases(rng, normal)


def _int8_cases(rng: np.random.Generator, normal: Callable[..., Array]) -> Iterator[Case]:
    plain, indexed = {"indexed": False, "scaled": True}, {"indexed": True, "scaled": True}
    for batch, tokens, d, m, r in ((1, 1, 576, 960, 16), (1, 33, 576, 192, 8), (3, 4, 25, 43, 1), (2, 1, 19, 75, 13)):
        y, x = normal(batch, tokens, m), normal(batch, tokens, d)
        adapters = [int8_factors(normal(d, r) / np.float32(d**0.5), normal(r, m)) for _ in range(3)]
        table: list[Array] = [np.stack(arrays) for arrays in zip(*adapters, strict=True)]
        stacked = dict(zip(("A", "B", "scales"), table, strict=True))
        one = {key: value[0] for key, value in stacked.items()}
        name = f"int8 B={batch} T={tokens} {d}x{r}x{m}"
        yield Case(f"random {name}", {"y": y, "x": x, **one}, plain)
        yield Case(f"mixed adapters {name}", {"y": y, "x": x, **stacked, "index": rng.integers(0, 3, batch)}, indexed)
    y, x = normal(2, 3, 40), normal(2, 3, 32)
    codes = {"A": rng.integers(-128, 128, (32, 8), np.int8), "B": rng.integers(-128, 128, (8, 40), np.int8)}
    scales = np.full(8, 1e-4, np.float32)
    yield Case("int8, every code", {"y": y, "x": x, **codes, "scales": scales}, plain)
    lowest = {name: np.full_like(value, -128) for name, value in codes.items()}
    yield Case("int8, -128 alone", {"y": y, "x": x, **lowest, "scales": scales}, plain)
    none = {**codes, "B": np.zeros((8, 40), np.int8), "scales": scales}
    yield Case("int8, B = 0", {"y": y, "x": x, **none}, plain, exact=True)
    yield Case("int8, scales of zero", {"y": y, "x": x, **codes, "scales": 0 * scales}, plain, exact=True)
    yield Case("int8, empty T", {"y": y[:, :0], "x": x[:, :0], **codes, "scales": scales}, plain)
    spoilt = x.copy()
    spoilt[0, 1, 3], spoilt[1, 2, 0] = np.nan, np.inf
    used = {"A": np.abs(codes["A"].astype(np.int16)).clip(1, 127).astype(np.int8), "B": lowest["B"], "scales": scales}
    yield Case("int8, NaN and inf stay in their tokens", {"y": y, "x": spoilt, **used}, plain)


FORMS = ({"indexed": False}, {"indexed": True}, {"indexed": False, "scaled": True}, {"indexed": True, "scaled": True})
OP = Op(NAME, reference, body, FORMS, cases, tolerance=5e-6, scaled_by=("y", "x"))
