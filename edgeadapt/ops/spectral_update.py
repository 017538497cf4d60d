"""SpectralUpdate: the directions of a linear map that a plan has switched on (HEST, methods.md section 3).

    z = y + sum over the node's directions i of   s_i U_i (V_i . x)                          state 2, fp16
                                                  the same in integers, below                state 1, int8
                                                  nothing                                    state 0, off

    y      : float32 [B, T, m]                x      : float32 [B, T, d]
    states : uint8 [B, T, N], 0, 1 or 2       N directions, of which the node has `count` from `first` on, 1 to 1024
    wide   : float16 [N, d + m], V | U        V [N, d], U [N, m], zero outside of its direction's columns
    narrow : int8 [N, d + m], V8 | U8         the rows of V and U, each over a scale of its own (codecs/factors.py)
    scales : float32 [N, 2], s | s8           s8 = s times both scales
    span   : int64 [N, 2]                     first column and one past the last that the direction writes
    z      : float32 [B, T, m]                macs   : float32 [B, T, 2], multiply-adds in int8 and in fp16

int8, per token, in float32 as written and in integers in between:
    c = max(max |x|, 1e-30) / 127       q = round(x / c), half to even
    h_i = (V8_i . q) (s8_i c)           e = max(max over the token's int8 directions of |h_i|, 1e-30) / 127
    z_j += e (sum_i round(h_i / e) U8_ij)
fp16 is widened to float32 exactly and summed there: no processor that we run on has an advantage from fp16 sums.

macs counts d + (columns of the span) for every direction that is on: the kernel counts the lengths of the loops that it
ran, the body (which computes all directions and masks them) what the states say. They are integers below 2^24.

A token without a direction that is on keeps its y, whatever x holds; one with becomes NaN in all m columns if its x has
a NaN or inf. A state above 2 counts as off in the body and is an error in the kernel and the reference. T = 0 gives
empty outputs, but not in the body: stock ONNX Runtime gives MatMulInteger's empty product a wrong shape.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeadapt.codecs.factors import int8_factors
from edgeadapt.ops.registry import Array, Case, Op, function_text, require

NAME = "SpectralUpdate"
SMALLEST = np.float32(1e-30)
MOST = 1024  # directions of a node: sums of as many products of 8-bit integers are exact in float32
F32 = NDArray[np.float32]


def reference(  # noqa: PLR0917 - the op's inputs, in the op's order
    y: F32,
    x: F32,
    states: NDArray[np.uint8],
    wide: NDArray[np.float16],
    narrow: NDArray[np.int8],
    scales: F32,
    span: NDArray[np.int64],
    *,
    first: int,
    count: int,
) -> tuple[F32, F32]:
    """The op in NumPy: fp16 directions in float64. Raises EdgeAdaptError for other shapes, dtypes or values."""
    _check(y, x, states, wide, narrow, scales, span, first, count)
    rows, d = slice(first, first + count), x.shape[2]
    V, U = wide[rows, :d].astype(np.float64), wide[rows, d:].astype(np.float64)
    V8, U8 = narrow[rows, :d].astype(np.int64), narrow[rows, d:].astype(np.int64)
    s, s8 = scales[rows].T
    state = states[..., rows]
    lengths = d + (span[rows, 1] - span[rows, 0])
    macs = np.stack([((state == kind) * lengths).sum(axis=-1) for kind in (1, 2)], axis=-1).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        step = np.where(state == 2, (x.astype(np.float64) @ V.T) * s, 0) @ U
        c = np.maximum(np.abs(x).max(axis=-1, keepdims=True, initial=0), SMALLEST) / np.float32(127)
        finite = np.isfinite(x).all(axis=-1, keepdims=True)
        q = np.where(finite, np.rint(x / c), 0).astype(np.int64)
        a = (q @ V8.T).astype(np.float32)
        h = np.where(state == 1, a * (s8 * c), 0).astype(np.float32)
        e = np.maximum(np.abs(h).max(axis=-1, keepdims=True, initial=0), SMALLEST) / np.float32(127)
        p = np.where(finite, np.rint(h / e), 0).astype(np.int64)
        step = step + e.astype(np.float64) * (p @ U8)
        spoilt = ~finite & (state > 0).any(axis=-1, keepdims=True)
        on = (state > 0).any(axis=-1, keepdims=True)
        return np.where(on, np.where(spoilt, np.nan, y + step), y).astype(np.float32), macs


def _check(  # noqa: PLR0917
    y: Array, x: Array, states: Array, wide: Array, narrow: Array, scales: Array, span: Array, first: int, count: int
) -> None:
    require(
        x.ndim == 3 and y.ndim == 3 and y.shape[:2] == x.shape[:2],
        NAME,
        f"y {y.shape} and x {x.shape} must be [B, T, m] and [B, T, d]",
    )
    d, m, N = x.shape[2], y.shape[2], len(wide)
    wanted = {
        "states": (states, np.uint8, (*x.shape[:2], N)),
        "wide": (wide, np.float16, (N, d + m)),
        "narrow": (narrow, np.int8, (N, d + m)),
        "scales": (scales, np.float32, (N, 2)),
        "span": (span, np.int64, (N, 2)),
    }
    for name, (array, dtype, shape) in wanted.items():
        require(
            array.dtype == dtype and array.shape == shape,
            NAME,
            f"{name} is {array.dtype} {array.shape}; it must be {np.dtype(dtype)} {shape}",
        )
    require(first >= 0 and 1 <= count <= MOST and first + count <= N, NAME, f"directions {first} + {count} of {N}")
    require(bool((states <= 2).all()), NAME, "a state is above 2")
    require(bool(((span[:, 0] >= 0) & (span[:, 0] <= span[:, 1]) & (span[:, 1] <= m)).all()), NAME, "a span leaves y")
    columns = np.arange(m)
    outside = (columns < span[:, :1]) | (columns >= span[:, 1:])
    require(not (wide[:, d:][outside].any() or narrow[:, d:][outside].any()), NAME, "U is not zero outside of its span")


def body() -> str:
    """ONNX function in text syntax: all directions of the node in both widths, masked by the states."""
    lines = """
        first = Constant <value_int: int = @first> ()
        count = Constant <value_int: int = @count> ()
        zero = Constant <value_ints = [0]> ()
        last = Constant <value_ints = [-1]> ()
        start = Reshape (first, last)
        length = Reshape (count, last)
        end = Add (start, length)
        state = Slice (states, start, end, last)
        d = Shape <start = 2> (x)
        m = Shape <start = 2> (y)
        d_m = Add (d, m)
        wide_rows = Slice (wide, start, end, zero)
        V_rows = Slice (wide_rows, zero, d, last)
        U_rows = Slice (wide_rows, d, d_m, last)
        narrow_rows = Slice (narrow, start, end, zero)
        V8_rows = Slice (narrow_rows, zero, d, last)
        U8_rows = Slice (narrow_rows, d, d_m, last)
        scale_rows = Slice (scales, start, end, zero)
        s_column, s8_column = Split <axis = 1, num_outputs = 2> (scale_rows)
        s_rows = Reshape (s_column, last)
        s8_rows = Reshape (s8_column, last)
        span_rows = Slice (span, start, end, zero)
        one = Constant <value = uint8 {1}> ()
        two = Constant <value = uint8 {2}> ()
        none = Constant <value = float {0}> ()
        in_int8 = Equal (state, one)
        in_fp16 = Equal (state, two)
        narrow_float = Cast <to = 1> (in_int8)
        wide_float = Cast <to = 1> (in_fp16)
        V_float = Cast <to = 1> (V_rows)
        V_down = Transpose <perm = [1, 0]> (V_float)
        U_float = Cast <to = 1> (U_rows)
        inner = MatMul (x, V_down)
        scaled = Mul (inner, s_rows)
        masked = Where (in_fp16, scaled, none)
        step = MatMul (masked, U_float)
        smallest = Constant <value = float {1e-30}> ()
        levels = Constant <value = float {127}> ()
        x_size = Abs (x)
        x_largest = ReduceMax <keepdims = 1> (x_size, last)
        x_limit = Max (x_largest, smallest)
        c = Div (x_limit, levels)
        x_steps = Div (x, c)
        x_round = Round (x_steps)
        q = Cast <to = 3> (x_round)
        V8_down = Transpose <perm = [1, 0]> (V8_rows)
        a = MatMulInteger (q, V8_down)
        a_float = Cast <to = 1> (a)
        a_scale = Mul (s8_rows, c)
        a_masked = Where (in_int8, a_float, none)
        h = Mul (a_masked, a_scale)
        h_size = Abs (h)
        h_largest = ReduceMax <keepdims = 1> (h_size, last)
        h_limit = Max (h_largest, smallest)
        e = Div (h_limit, levels)
        h_steps = Div (h, e)
        h_round = Round (h_steps)
        U8_float = Cast <to = 1> (U8_rows)
        product = MatMul (h_round, U8_float)
        step8 = Mul (product, e)
        spoilt_by = Mul (x, none)
        spoilt = ReduceSum <keepdims = 1> (spoilt_by, last)
        either = Add (narrow_float, wide_float)
        on = ReduceMax <keepdims = 1> (either, last)
        is_on = Cast <to = 9> (on)
        both = Add (step, step8)
        change = Add (both, spoilt)
        changed = Add (y, change)
        z = Where (is_on, changed, y)
        begins, ends = Split <axis = 1, num_outputs = 2> (span_rows)
        written = Sub (ends, begins)
        each = Add (written, d)
        each_float = Cast <to = 1> (each)
        macs8 = MatMul (narrow_float, each_float)
        macs16 = MatMul (wide_float, each_float)
        macs = Concat <axis = -1> (macs8, macs16)
    """
    text = function_text(NAME, "y, x, states, wide, narrow, scales, span", "z, macs", lines)
    return text.replace(f"{NAME} (", f"{NAME} <first, count> (")


def stored(V: NDArray[np.float16], U: NDArray[np.float16], s: F32) -> tuple[NDArray[np.float16], NDArray[np.int8], F32]:
    """wide, narrow and scales of directions given as V [N, d], U [N, m] and s [N]."""
    down, up, scales = int8_factors(V.T, U)
    narrow = np.concatenate((down.T, up), axis=1)
    return np.concatenate((V, U), axis=1), narrow, np.stack((s, s * scales), axis=1).astype(np.float32)


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """Random shapes and plans, then what must not go wrong."""

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    def case(
        name: str,
        sizes: tuple[int, int, int, int],
        N: int,
        take: tuple[int, int],
        *,
        states: Array | None = None,
        x: F32 | None = None,
        cut: bool = True,
        exact: bool = False,
    ) -> Case:
        B, T, d, m = sizes
        V = (normal(N, d) / np.float32(max(d, 1) ** 0.5)).astype(np.float16)
        ends = np.sort(rng.integers(0, m + 1, (N, 2)), axis=1) if cut else np.tile([0, m], (N, 1))
        columns = np.arange(m)
        inside = (columns >= ends[:, :1]) & (columns < ends[:, 1:])
        U = np.where(inside, normal(N, m), 0).astype(np.float16)
        s = normal(N)
        wide, narrow, scales = stored(V, U, s)
        if states is None:
            states = rng.integers(0, 3, (B, T, N)).astype(np.uint8)
        inputs = {"y": normal(B, T, m), "x": normal(B, T, d) if x is None else x, "states": states}
        inputs |= {"wide": wide, "narrow": narrow, "scales": scales, "span": ends.astype(np.int64)}
        return Case(name, inputs, exact=exact, attributes={"first": take[0], "count": take[1]})

    for sizes, N, take in (
        ((1, 1, 576, 960), 96, (32, 32)),
        ((1, 33, 576, 192), 16, (0, 16)),
        ((3, 4, 25, 43), 21, (5, 11)),
        ((2, 1, 8, 8), 3, (2, 1)),
        ((2, 3, 70, 131), 32, (0, 32)),
    ):
        name = f"{'x'.join(map(str, sizes))}, {take[1]} of {N}"
        yield case(f"random {name}", sizes, N, take)
        for what, state in (("int8", 1), ("fp16", 2)):
            alike = np.full((sizes[0], sizes[1], N), state, np.uint8)
            yield case(f"all {what} {name}", sizes, N, take, states=alike, cut=False)
    off = np.zeros((2, 3, 8), np.uint8)
    yield case("everything off", (2, 3, 16, 24), 8, (2, 4), states=off, exact=True)
    beside = off.copy()
    beside[..., :2], beside[..., 6:] = 1, 2
    yield case("what is on belongs to other nodes", (2, 3, 16, 24), 8, (2, 4), states=beside, exact=True)
    yield case("one number", (1, 1, 1, 1), 1, (0, 1))
    yield case("x = 0", (1, 2, 16, 24), 4, (0, 4), x=np.zeros((1, 2, 16), np.float32))
    yield case("large activations", (1, 2, 16, 24), 4, (0, 4), x=normal(1, 2, 16) * np.float32(1e4))
    yield case("tiny activations", (1, 2, 16, 24), 4, (0, 4), x=normal(1, 2, 16) * np.float32(1e-20))
    outlier = normal(1, 3, 64)
    outlier[..., 5] = 1e3
    yield case("an outlier in every token", (1, 3, 64, 40), 8, (0, 8), x=outlier)
    spoilt = normal(2, 4, 16)
    spoilt[0, 1, 3], spoilt[1, 2, 0], spoilt[1, 3, 1] = np.nan, np.inf, -np.inf
    mixed = np.tile(np.array([0, 1, 2, 1], np.uint8), (2, 4, 1))
    mixed[1, 3] = 0  # its infinity is not looked at
    yield case("NaN and inf stay in their tokens", (2, 4, 16, 24), 4, (0, 4), states=mixed, x=spoilt)


OP = Op(NAME, reference, body, ({},), cases, tolerance=8e-6, scaled_by=("y", "x"), outputs=("z", "macs"))
