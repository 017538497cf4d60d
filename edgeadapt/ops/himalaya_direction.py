"""HimalayaDirection: one unit direction per sequence, out of three atoms at most (HIMALAYA, methods.md section 1).

    z       = [LN(pool); tasks[task] / 32; 1]                LN without affine, eps 1e-5; the 1 meets the bias columns
    h       = SiLU(W1 z)                                     W1 = w1 * w1_scales per row; its last column is b1
    [a; c]  = W2 [h; 1] + rows[task] * row_scales[task]      40 gate logits, 40 coefficients; W2's last column is b2
    gate_j  = 1 iff a_j > 0, atom_gains_j > 0 and j is among the 3 largest a (equal logits: smaller index first)
    k       = gate * c
    r~      = D^T k                                          D = levels[atoms] * atom_scales * atom_gains, 40 x d
    r       = r~ / ||r~||, or 0 if ||r~|| = 0                (||r~||^2 = k^T D D^T k)

    pool        float32 [B, d]      mean of the prompt's embedding outputs; d a multiple of 8, B >= 1
    task        int64 [B]           0 <= task < n_rows <= 32; it picks from `tasks` and from `rows`
    the tables  as in himalaya_tables.py: atoms, atom_scales, atom_gains, w1, w1_scales, w2, w2_scales, tasks, rows,
                row_scales
    r           float32 [B, d]

What the definition leaves open, decided here for every view
- The top 3 are taken over all 40 logits, inactive atoms included: an inactive atom among them leaves its place empty.
- No open gate gives r = 0, exactly. So does a pool row with NaN or inf: all its logits are NaN, and NaN > 0 is false.
  Other rows of the batch are not touched.
- Atoms that cancel exactly (equal rows, opposite coefficients) give r = 0. If they cancel only to rounding (||r~||
  below about 1e-6 sum |k_j|), r is still unit, but its direction is rounding noise and views need not agree. The norm
  is taken of r~ itself, not from the Gram matrix: the same number, without the digits that the quadratic form would
  lose there.
- A constant pool has LN = 0: the task alone decides. |pool| must stay below 1e18 (squares in float32).
- int8 codes and finite fp16 scales keep a, c and k finite; scales and gains must be finite, gains >= 0 (a negative gain
  counts as 0).
- r jumps where a logit crosses 0 or two logits change places: within rounding of such a point (about 1e-5 of the
  logits' scale) views may open different gates. Exact ties do not depend on rounding and are settled as above.
- task outside 0..n_rows-1 is an error of the caller: the reference and ONNX Runtime refuse task >= n_rows; the body's
  Gather counts a negative one from the end.

Run once per prompt, in a graph of its own; ONNX Runtime folds everything that depends on the tables alone (D, W1, W2)
into float32 constants when it loads that graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.codecs import int8, three_bit
from edgeadapt.ops.himalaya_tables import ATOMS, Tables, fixed_logits, random_tables
from edgeadapt.ops.registry import Case, Op, function_text, require

NAME = "HimalayaDirection"
OPEN = 3
EPSILON = 1e-5
ROUNDING = 5e-6
INPUTS = ", ".join(("pool", "task", *(item.name for item in fields(Tables))))
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def dictionary(tables: Tables) -> F32:
    """D [40, d]: the dequantised atoms times their gains; an inactive atom's row is zero."""
    gains = np.maximum(tables.atom_gains.astype(np.float32), 0)
    return three_bit.dequantise(three_bit.ThreeBit(tables.atoms, tables.atom_scales)) * gains[:, None]


def route(pool: F32, task: NDArray[np.int64], tables: Tables) -> tuple[F64, F64]:
    """Gate logits a and coefficients c, each [B, 40], in float64. A row of pool with NaN or inf gives NaN in both."""
    x = pool.astype(np.float64)
    w1, w2 = (
        int8.dequantise(int8.Int8Rows(codes, scales)).astype(np.float64)
        for codes, scales in ((tables.w1, tables.w1_scales), (tables.w2, tables.w2_scales))
    )
    row = int8.dequantise(int8.Int8Rows(tables.rows, tables.row_scales)).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        centred = x - x.mean(axis=1, keepdims=True)
        normed = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + EPSILON)
        z = np.concatenate((normed, tables.tasks[task] / 32.0, np.ones((len(x), 1))), axis=1)
        u = z @ w1.T
        h = u / (1 + np.exp(-u))
        both = np.concatenate((h, np.ones((len(x), 1))), axis=1) @ w2.T + row[task]
    return both[:, :ATOMS], both[:, ATOMS:]


def gates(a: F64, gains: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Open gates [B, 40]: at most three per row."""
    ranked = np.argsort(-np.where(a > 0, a, 0.0), axis=1, kind="stable")[:, :OPEN]
    chosen = np.zeros(a.shape, dtype=bool)
    np.put_along_axis(chosen, ranked, True, axis=1)
    return np.asarray(chosen & (a > 0) & (gains > 0))


def reference(  # noqa: PLR0917 - the op's inputs, in the op's order
    pool: F32,
    task: NDArray[np.int64],
    atoms: NDArray[np.uint8],
    atom_scales: NDArray[np.float16],
    atom_gains: NDArray[np.float16],
    w1: NDArray[np.int8],
    w1_scales: NDArray[np.float16],
    w2: NDArray[np.int8],
    w2_scales: NDArray[np.float16],
    tasks: NDArray[np.int8],
    rows: NDArray[np.int8],
    row_scales: NDArray[np.float16],
) -> F32:
    """The op in NumPy, in float64 from the stored values on. Raises EdgeAdaptError for other shapes, dtypes, tasks."""
    tables = Tables(atoms, atom_scales, atom_gains, w1, w1_scales, w2, w2_scales, tasks, rows, row_scales)
    check_call(NAME, pool, task, tables)
    a, c = route(pool, task, tables)
    k = np.where(gates(a, atom_gains), c, 0.0)
    direction = k @ dictionary(tables).astype(np.float64)
    norm = np.linalg.norm(direction, axis=1, keepdims=True)
    return np.asarray(np.divide(direction, norm, out=np.zeros_like(direction), where=norm > 0), dtype=np.float32)


def bound(pool: F32, task: NDArray[np.int64], **stored: NDArray[Any]) -> F32:
    """What the numbers of a sequence's direction may differ by, [B, 1]: where atoms cancel, rounding of c weighs more.

    |dr| <= delta sum_j (max |D_j| + max |r| ||D_j||) / ||r~|| over the open atoms, and rounding of r itself
    """
    tables = Tables(**stored)
    a, c = route(pool, task, tables)
    D = dictionary(tables).astype(np.float64)
    k = np.where(gates(a, tables.atom_gains), c, 0.0)
    direction = k @ D
    norm = np.linalg.norm(direction, axis=1, keepdims=True)
    r = np.abs(np.divide(direction, norm, out=np.zeros_like(direction), where=norm > 0)).max(axis=1, keepdims=True)
    drift = (rounding_of_c(a, c, k) * (np.abs(D).max(axis=1) + r * np.linalg.norm(D, axis=1))).sum(
        axis=1, keepdims=True
    )
    allowed = np.divide(drift, norm, out=np.zeros_like(norm), where=norm > 0) + ROUNDING * r
    return np.asarray(allowed, dtype=np.float32)


def rounding_of_c(a: F64, c: F64, k: F64) -> F64:
    """delta [B, 40]: how far views' coefficients of the open atoms may lie apart, 5e-6 of the largest of a and c."""
    largest = np.abs(np.concatenate((a, c), axis=1)).max(axis=1, keepdims=True)
    return np.where(k != 0, ROUNDING * largest, 0.0)


def check_call(op: str, pool: F32, task: NDArray[np.int64], tables: Tables) -> None:
    """Raise EdgeAdaptError where pool and task do not fit the tables."""
    fits = pool.ndim == 2 and pool.shape[1] == tables.width
    require(fits, op, f"pool is {pool.shape}; it must be [B, {tables.width}]")
    require(task.dtype == np.int64 and task.shape == pool.shape[:1], op, f"task must be int64 [{len(pool)}]")
    require(bool(((task >= 0) & (task < len(tables.rows))).all()), op, f"task must lie in 0..{len(tables.rows) - 1}")


def body() -> str:
    """ONNX function in text syntax. D^T k is formed in two steps: where multiply-adds are fused, a MatMul leaves a
    remainder of atoms that cancel."""
    lines = f"""
        {open_atoms()}
        k_column = Unsqueeze (k, last)
        products = Mul (k_column, rows_of_D)
        direction = ReduceSum <keepdims = 0> (products, middle)
        norm = ReduceL2 <keepdims = 1> (direction, last)
        divisor = Max (norm, tiny)
        r = Div (direction, divisor)
    """
    return function_text(NAME, INPUTS, "r", lines)


def open_atoms() -> str:
    """The lines of a body up to `index`, k [B, 3] and rows_of_D [B, 3, d]: which atoms are open, by falling logit.

    SiLU is u / (1 + exp(-u)): ONNX Runtime's Sigmoid clamps for large -u.
    """
    levels = ", ".join(f"{level:.4f}" for level in three_bit.LEVELS)
    return f"""
        zero = Constant <value = float {{0}}> ()
        one = Constant <value = float {{1}}> ()
        last = Constant <value = int64[1] {{-1}}> ()
        middle = Constant <value = int64[1] {{1}}> ()

        triple_shape = Constant <value = int64[3] {{0, -1, 3}}> ()
        row_shape = Constant <value = int64[2] {{0, -1}}> ()
        byte_units = Constant <value = int32[3] {{1, 256, 65536}}> ()
        code_units = Constant <value = int32[8] {{1, 8, 64, 512, 4096, 32768, 262144, 2097152}}> ()
        eight = Constant <value = int32 {{8}}> ()
        levels = Constant <value = float[8] {{{levels}}}> ()
        bytes = Cast <to = 6> (atoms)
        triples = Reshape (bytes, triple_shape)
        parts = Mul (triples, byte_units)
        words = ReduceSum <keepdims = 1> (parts, last)
        shifted = Div (words, code_units)
        octets = Mod (shifted, eight)
        codes = Reshape (octets, row_shape)
        values = Gather <axis = 0> (levels, codes)

        start = Constant <value = int64 {{0}}> ()
        step = Constant <value = int64 {{1}}> ()
        group = Constant <value = int64 {{{three_bit.GROUP}}}> ()
        shape = Shape <start = 1, end = 2> (codes)
        width = Squeeze (shape)
        columns = Range (start, width, step)
        group_of = Div (columns, group)
        group_scales = Cast <to = 1> (atom_scales)
        scales = Gather <axis = 1> (group_scales, group_of)
        scaled = Mul (values, scales)
        gains = Cast <to = 1> (atom_gains)
        active = Max (gains, zero)
        active_column = Unsqueeze (active, middle)
        D = Mul (scaled, active_column)

        w1_codes = Cast <to = 1> (w1)
        w1_steps = Cast <to = 1> (w1_scales)
        w1_column = Unsqueeze (w1_steps, middle)
        W1 = Mul (w1_codes, w1_column)
        w2_codes = Cast <to = 1> (w2)
        w2_steps = Cast <to = 1> (w2_scales)
        w2_column = Unsqueeze (w2_steps, middle)
        W2 = Mul (w2_codes, w2_column)
        task_unit = Constant <value = float {{0.03125}}> ()
        task_codes = Cast <to = 1> (tasks)
        task_table = Mul (task_codes, task_unit)
        row_codes = Cast <to = 1> (rows)
        row_steps = Cast <to = 1> (row_scales)
        row_column = Unsqueeze (row_steps, middle)
        row_table = Mul (row_codes, row_column)

        epsilon = Constant <value = float {{1e-05}}> ()
        one_more = Constant <value = int64[4] {{0, 0, 0, 1}}> ()
        mean = ReduceMean <keepdims = 1> (pool, last)
        centred = Sub (pool, mean)
        squares = Mul (centred, centred)
        variance = ReduceMean <keepdims = 1> (squares, last)
        shifted_variance = Add (variance, epsilon)
        deviation = Sqrt (shifted_variance)
        normed = Div (centred, deviation)
        task_row = Gather <axis = 0> (task_table, task)
        known = Concat <axis = 1> (normed, task_row)
        z = Pad (known, one_more, one)
        u = Gemm <transB = 1> (z, W1)
        minus_u = Neg (u)
        decay = Exp (minus_u)
        below = Add (decay, one)
        h = Div (u, below)
        h_one = Pad (h, one_more, one)
        shared = Gemm <transB = 1> (h_one, W2)
        own = Gather <axis = 0> (row_table, task)
        both = Add (shared, own)
        a, c = Split <axis = 1, num_outputs = 2> (both)

        three = Constant <value = int64[1] {{{OPEN}}}> ()
        tiny = Constant <value = float {{1e-30}}> ()
        is_open = Greater (a, zero)
        ranked = Where (is_open, a, zero)
        top, index = TopK <axis = 1, largest = 1, sorted = 1> (ranked, three)
        top_open = Greater (top, zero)
        coefficient = GatherElements <axis = 1> (c, index)
        k = Where (top_open, coefficient, zero)
        rows_of_D = Gather <axis = 0> (D, index)
    """


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """Random routers, then ties, closed gates, inactive and cancelling atoms, broken pools, odd widths."""

    def make(name: str, tables: Tables, batch: int = 2, pool: F32 | None = None, exact: bool = False) -> Case:
        if pool is None:
            pool = rng.standard_normal((batch, tables.width)).astype(np.float32)
        task = rng.integers(0, len(tables.rows), len(pool))
        return Case(name, {"pool": pool, "task": task, **tables.as_dict()}, exact=exact)

    shapes = ((576, 66, 1, 1), (384, 93, 5, 4), (72, 5, 32, 3), (8, 3, 2, 2), (1000, 4, 3, 2))
    for width, router, n_rows, batch in shapes:
        yield make(f"random d={width} rows={n_rows} B={batch}", random_tables(rng, width, router, n_rows), batch)
    base = random_tables(rng, 136, 6, 3)
    c = rng.integers(1, 127, ATOMS)
    same = np.full(ATOMS, 32)
    yield make("all logits equal and positive: atoms 0, 1, 2", fixed_logits(base, same, c))
    yield make("all logits equal and negative: r = 0", fixed_logits(base, -same, c), exact=True)
    yield make("all logits zero: r = 0", fixed_logits(base, 0 * same, c), exact=True)
    tie = -same
    tie[[3, 30, 17, 9]] = [90, 50, 50, 50]
    yield make("three tied for two places: 9 and 17, not 30", fixed_logits(base, tie, c))
    one = -same
    one[11] = 1
    yield make("one gate just open", fixed_logits(base, one, -c))
    inactive = -same
    inactive[[35, 36, 2, 4]] = [100, 90, 80, 70]
    yield make("inactive atoms hold two of the three places", fixed_logits(base, inactive, c))
    inactive[[2, 4]] = -1
    yield make("only inactive atoms open: r = 0", fixed_logits(base, inactive, c), exact=True)
    yield make("open gates with zero coefficients: r = 0", fixed_logits(base, same, 0 * c), exact=True)
    order = [0, 0, *range(2, ATOMS)]
    twins = replace(
        base, atoms=base.atoms[order], atom_scales=base.atom_scales[order], atom_gains=base.atom_gains[order]
    )
    two = -same
    two[:2] = [9, 8]
    opposite = c.copy()
    opposite[:2] = [77, -77]
    yield make("equal atoms cancel: r = 0", fixed_logits(twins, two, opposite), exact=True)
    negative = replace(base, atom_gains=-base.atom_gains)
    yield make("negative gains count as inactive: r = 0", fixed_logits(negative, same, c), exact=True)
    steep = replace(base, w1_scales=np.full_like(base.w1_scales, 60000))
    yield make("saturated router", steep)
    loud = replace(base, w2_scales=np.full_like(base.w2_scales, 60000))
    yield make("extreme logits and coefficients", loud)
    faint = replace(fixed_logits(base, same, c), row_scales=np.full_like(base.row_scales, 6e-8))
    yield make("the smallest logits and coefficients that fp16 scales hold", faint)
    yield make("constant pool: the task alone", base, pool=np.full((2, 136), 0.5, np.float32))
    yield make("zero pool", base, pool=np.zeros((2, 136), np.float32))
    yield make("large pool", base, pool=(rng.standard_normal((2, 136)) * 1e12).astype(np.float32))
    spoilt = rng.standard_normal((4, 136)).astype(np.float32)
    spoilt[1, 5], spoilt[2, 0], spoilt[3, :2] = np.nan, np.inf, [np.inf, -np.inf]
    yield make("NaN and inf pools close their own rows only", base, pool=spoilt)


OP = Op(NAME, reference, body, ({},), cases, bound=bound)
