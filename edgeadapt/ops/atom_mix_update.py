"""AtomMixUpdate: the k atoms that a token mixes, beside a linear layer (UniHyperLoRA, SAT-LoRA; methods.md section 2).

    z[b,t,c] = y[b,t,c] + sum_j weight[b,t,j] g[row,i,s] (V[i,s] . x[b,t]) U[i,c]    i = index[b,t,j],  c in segment s

    y       : float32 [B, T, m]                x : float32 [B, T, d]
    atoms   : float32 [M, m + reads d + R S], a row per atom: U[i] | V[i,s] of each reading | g[r,i,s] of each block r
    U       : [M, m], written                  V : [M, reads, d], read: by each segment, or once for all of them
    g       : [R, M, S], gains of R blocks; this one's are g[row]
    columns : int64 [S, 2], segment s is columns[s,0] <= c < columns[s,1]
    index   : int64 [B, T, k], 0 <= index < M  weight : float32 [B, T, k]          z : float32 [B, T, m]
    row     : attribute, 0 <= row < R          reads : attribute, S or 1

A linear layer that computes one matrix has S = 1 and columns = [[0, m]]; packed projections (q, k, v) are segments of
one output, each with its own gains and, if they differ, its own V. Columns of no segment stay as they are, exactly;
where segments overlap their sums add. index and weight come from AtomRoute, one for all sites of a block. The work per
token is k (S d + m) products at most, whatever M is: k atoms are gathered, never all of them. An atom is one row of one
input, and that input is the same in all blocks: an input more costs an A72 about 1,500 instructions (U, V and g apart:
53.48 M per int4 token of SmolLM2-135M, together 53.03 M; 150 nodes).

Sums run in float32. weight = 0, g = 0, U = 0 or V = 0 give z = y for finite inputs. Each (batch, token) row depends on
its own rows alone: a NaN in one token of x stays there. T = 0 gives an empty z; k is 1 at least. Numbers of a row of
`atoms` that no block's gains reach are not looked at. An index outside 0..M-1, and a column outside 0..m, are errors of
the caller: the reference and the kernel refuse them; in the body Gather refuses index >= M and counts a negative one
from the end. A segment that ends before it begins is empty.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeadapt.ops.registry import Array, Case, Op, function_text, require

NAME = "AtomMixUpdate"
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


def table(U: F32, V: F32, g: F32) -> F32:
    """`atoms` of U [M, m], V [M, reads, d] and g [R, M, S]."""
    return np.concatenate((U, V.reshape(len(V), -1), g.transpose(1, 0, 2).reshape(len(U), -1)), axis=1)


def reference(  # noqa: PLR0917 - the op's inputs, in the op's order
    y: F32, x: F32, atoms: F32, columns: I64, index: I64, weight: F32, *, row: int, reads: int
) -> F32:
    """The op in NumPy, sums in float64. Raises EdgeAdaptError for shapes, dtypes, indices or ranges that do not fit."""
    require(
        x.ndim == 3 and y.ndim == 3 and y.shape[:2] == x.shape[:2],
        NAME,
        f"y {y.shape} and x {x.shape} must be [B, T, m] and [B, T, d]",
    )
    d, m, S = x.shape[2], y.shape[2], len(columns)
    require(
        columns.dtype == np.int64 and columns.shape == (S, 2),
        NAME,
        f"columns are {columns.dtype} {columns.shape}; they must be int64 [S, 2]",
    )
    require(bool(((columns >= 0) & (columns <= m)).all()), NAME, f"columns must lie in 0..{m}")
    require(reads in (1, S), NAME, f"reads is {reads}; it must be 1, or one for each of {S} segments")
    own = m + reads * d + row * S
    require(
        atoms.ndim == 2 and row >= 0 and own + S <= atoms.shape[1],
        NAME,
        f"atoms {atoms.shape} must hold, in a row, {m} and {reads} times {d} numbers and {S} gains of each block, row "
        f"{row} among them",
    )
    require(
        index.ndim == 3 and index.shape == weight.shape and index.shape[:2] == x.shape[:2] and index.dtype == np.int64,
        NAME,
        f"index {index.dtype} {index.shape} and weight {weight.shape} must be int64 and float32 [B, T, k]",
    )
    require(index.shape[2] > 0, NAME, "index holds no atom; k must be 1 at least")
    require(bool(((index >= 0) & (index < len(atoms))).all()), NAME, f"index must lie in 0..{len(atoms) - 1}")
    with np.errstate(invalid="ignore", over="ignore"):
        mixed = atoms[index].astype(np.float64)
        V = mixed[..., m : m + reads * d].reshape(*index.shape, reads, d)
        inner = np.einsum("btksd,btd->btks", V, x.astype(np.float64))
        c = weight.astype(np.float64)[..., None] * mixed[..., own : own + S] * inner
        z = y.astype(np.float64)
        for s, (first, end) in enumerate(columns.tolist()):
            z[..., first:end] += np.einsum("btk,btkc->btc", c[..., s], mixed[..., first:end])
        return np.asarray(z, dtype=np.float32)


def body() -> str:
    """ONNX function in text syntax. What depends on widths and `columns` alone is folded when a graph is loaded."""
    lines = """
        zero = Constant <value_int = 0> ()
        one = Constant <value_int = 1> ()
        at_0 = Constant <value_ints = [0]> ()
        at_2 = Constant <value_ints = [2]> ()
        at_3 = Constant <value_ints = [3]> ()
        at_4 = Constant <value_ints = [4]> ()
        at_2_4 = Constant <value_ints = [2, 4]> ()
        block = Constant <value_int: int = @row> ()
        reading = Constant <value_int: int = @reads> ()
        readings = Unsqueeze (reading, at_0)
        m = Shape <start = 2, end = 3> (y)
        d = Shape <start = 2, end = 3> (x)
        S = Shape <start = 0, end = 1> (columns)
        all_read = Mul (readings, d)
        after_V = Add (m, all_read)
        before_own = Mul (block, S)
        own_from = Add (after_V, before_own)
        own_to = Add (own_from, S)
        width = Squeeze (m)
        c = Range (zero, width, one)
        first, end = Split <axis = 1, num_outputs = 2> (columns)
        from = GreaterOrEqual (c, first)
        before = Less (c, end)
        within = And (from, before)
        segment = Cast <to = 1> (within)
        chosen = Gather <axis = 0> (atoms, index)
        u = Slice (chosen, at_0, m, at_3)
        v_flat = Slice (chosen, m, after_V, at_3)
        gain = Slice (chosen, own_from, own_to, at_3)
        each = Shape (index)
        v_shape = Concat <axis = 0> (each, readings, d)
        v = Reshape (v_flat, v_shape)
        column = Unsqueeze (x, at_2_4)
        inner = MatMul (v, column)
        dot = Squeeze (inner, at_4)
        share = Unsqueeze (weight, at_3)
        scaled = Mul (dot, gain)
        mixed = Mul (scaled, share)
        spread = MatMul (mixed, segment)
        terms = Mul (u, spread)
        delta = ReduceSum <keepdims = 0> (terms, at_2)
        z = Add (y, delta)
    """
    text = function_text(NAME, "y, x, atoms, columns, index, weight", "z", lines)
    return text.replace(f"{NAME} (", f"{NAME} <row, reads> (", 1)


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """Random shapes, one segment and several, then what must not go wrong."""

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    def tables(shape: tuple[int, ...], segments: int) -> dict[str, F32]:
        _, _, d, m, count, _ = shape
        read = normal(count, segments, d) / np.float32(d**0.5)
        return {"U": normal(count, m), "V": read, "g": normal(3, count, segments)}

    def given(shape: tuple[int, ...], columns: list[list[int]], **parts: F32) -> dict[str, Array]:
        batch, tokens, d, m, count, k = shape
        raw = np.exp(normal(batch, tokens, k))
        return {
            "y": normal(batch, tokens, m),
            "x": normal(batch, tokens, d),
            "atoms": table(**(parts or tables(shape, len(columns)))),
            "columns": np.array(columns, np.int64),
            "index": rng.integers(0, count, (batch, tokens, k)),
            "weight": raw / raw.sum(axis=2, keepdims=True),
        }

    packed = [[0, 576], [576, 768], [768, 960]]
    shapes: tuple[tuple[tuple[int, ...], list[list[int]]], ...] = (
        ((1, 1, 576, 960, 128, 2), packed),
        ((1, 1, 1536, 576, 128, 2), [[0, 576]]),
        ((1, 17, 576, 960, 16, 2), packed),
        ((2, 3, 33, 45, 9, 3), [[0, 20], [20, 45]]),
        ((3, 4, 8, 8, 1, 1), [[0, 8]]),
        ((2, 2, 1, 1, 2, 2), [[0, 1]]),
    )
    for number, (shape, columns) in enumerate(shapes):
        name = "random B={} T={} d={} m={} M={} k={}".format(*shape)
        attributes = {"row": number % 3, "reads": len(columns)}
        yield Case(f"{name} S={len(columns)}", given(shape, columns), attributes=attributes)
    sizes = (1, 2, 576, 960, 16, 2)
    parts = tables(sizes, 3)
    parts["V"] = parts["V"][:, :1]
    yield Case("one V for all segments", given(sizes, packed, **parts), attributes={"row": 2, "reads": 1})

    last_row = {"row": 2, "reads": 2}
    yield Case("columns of no segment stay", given((2, 3, 16, 40, 8, 2), [[0, 10], [25, 33]]), attributes=last_row)
    yield Case("overlapping segments add", given((1, 3, 16, 40, 8, 2), [[0, 30], [10, 40]]), attributes=last_row)
    empty = given((1, 3, 16, 40, 8, 2), [[0, 0], [0, 40], [30, 10]])
    yield Case("empty segments", empty, attributes={"row": 2, "reads": 3})
    sizes, two = (2, 3, 32, 40, 8, 2), [[0, 24], [24, 40]]
    parts = tables(sizes, 2)
    several = given(sizes, two, **parts)
    yield Case("weight = 0", {**several, "weight": 0 * several["weight"]}, exact=True, attributes=last_row)
    for name in ("g", "U", "V"):
        none = given(sizes, two, **{**parts, name: 0 * parts[name]})
        yield Case(f"{name} = 0", none, exact=True, attributes=last_row)
    twice = {**several, "index": np.zeros((2, 3, 2), np.int64)}
    yield Case("the same atom twice", twice, attributes=last_row)
    last = {**several, "index": np.full((2, 3, 2), 7)}
    yield Case("the last atom", last, attributes=last_row)
    yield Case(
        "empty T",
        {**several, **{name: several[name][:, :0] for name in ("y", "x", "index", "weight")}},
        attributes=last_row,
    )
    large = {**several, "x": several["x"] * np.float32(1e4)}
    yield Case("large activations", large, attributes=last_row)
    spoilt = several["x"].copy()
    spoilt[0, 1, 3] = spoilt[1, 2, 0] = np.nan
    yield Case("NaN stays in its tokens", {**several, "x": spoilt}, attributes=last_row)


OP = Op(NAME, reference, body, ({},), cases, tolerance=5e-6, scaled_by=("y", "x"))
