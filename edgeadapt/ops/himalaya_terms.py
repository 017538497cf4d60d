"""HimalayaTerms: the open atoms of a sequence, one by one, scaled to what each takes part (HIMALAYA, update=terms).

    k      = gate * c, gates and coefficients [40] as in himalaya_direction.py
    t_j    = sqrt(|k_i| / sum_n |k_n| ||D_n||^2) D_i      i the j-th atom with |k_i| ||D_i||^2 > 0, by ascending index

    the inputs are HimalayaDirection's: pool float32 [B, d], task int64 [B], the tables of himalaya_tables.py
    t0, t1, t2   float32 [B, d]; 0 where fewer than j + 1 atoms are open

||t_0||^2 + ||t_1||^2 + ||t_2||^2 is 1, or 0 where nothing is open, so that sum_j g_j t_j t_j^T has spectral norm at
most max |g_j|. The order is by index, not by logit: the j-th gain then meets the same atom for every sequence that
opens the same three. What himalaya_direction.py says of jumps, ties, broken pools and foreign tasks holds here too.

The root makes the numbers of a hardly open atom sensitive: views that round c by delta differ in t_j by
max |D_i| (sqrt((|c_i| + delta) / low) - sqrt((|c_i| - delta) / high)), low and high the sum less and plus what delta
makes of it. `bound` is the largest of these over j, with delta as rounding_of_c says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.ops.himalaya_direction import (
    F32,
    F64,
    INPUTS,
    OPEN,
    ROUNDING,
    check_call,
    dictionary,
    gates,
    open_atoms,
    rounding_of_c,
    route,
)
from edgeadapt.ops.himalaya_direction import cases as direction_cases
from edgeadapt.ops.himalaya_tables import ATOMS, Tables
from edgeadapt.ops.registry import Case, Op, function_text

NAME = "HimalayaTerms"


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
) -> tuple[F32, ...]:
    """The op in NumPy, in float64 from the stored values on. Raises EdgeAdaptError for other shapes, dtypes, tasks."""
    tables = Tables(atoms, atom_scales, atom_gains, w1, w1_scales, w2, w2_scales, tasks, rows, row_scales)
    check_call(NAME, pool, task, tables)
    a, c = route(pool, task, tables)
    D = dictionary(tables).astype(np.float64)
    mass = np.where(gates(a, tables.atom_gains), np.abs(c), 0.0) * np.square(D).sum(axis=1)
    terms: F64 = np.zeros((OPEN, *pool.shape), np.float64)
    for row, masses in enumerate(mass):
        for place, atom in enumerate(np.flatnonzero(masses > 0)):
            terms[place, row] = np.sqrt(np.abs(c[row, atom]) / masses.sum()) * D[atom]
    return tuple(np.asarray(term, dtype=np.float32) for term in terms)


def bound(pool: F32, task: NDArray[np.int64], **stored: NDArray[Any]) -> F32:
    """What the numbers of a sequence's three terms may differ by, [B, 1]: see the module's docstring."""
    tables = Tables(**stored)
    a, c = route(pool, task, tables)
    D = dictionary(tables).astype(np.float64)
    lengths = np.square(D).sum(axis=1)
    size = np.where(gates(a, tables.atom_gains), np.abs(c), 0.0)
    delta = rounding_of_c(a, c, size)
    total = (size * lengths).sum(axis=1, keepdims=True)
    drift = (delta * lengths).sum(axis=1, keepdims=True)
    whole = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)  # the share of an atom alone
    above = np.divide(size + delta, total - drift, out=np.ones_like(size), where=total > drift)
    below = np.divide(size - delta, total + drift, out=np.zeros_like(size), where=(size > delta) & (total > 0))
    roots = np.sqrt(np.minimum(above, whole)) - np.sqrt(np.minimum(below, whole)) + ROUNDING * np.sqrt(whole)
    terms = np.where((size > 0) & (total > 0), roots * np.abs(D).max(axis=1), 0.0)
    return np.asarray(terms.max(axis=1, keepdims=True), dtype=np.float32)


def body() -> str:
    """ONNX function in text syntax."""
    lines = f"""
        {open_atoms()}
        size = Abs (k)
        squared_rows = Mul (rows_of_D, rows_of_D)
        lengths = ReduceSum <keepdims = 0> (squared_rows, last)
        mass = Mul (size, lengths)
        alive = Greater (mass, zero)
        total = ReduceSum <keepdims = 1> (mass, last)
        most = Max (total, tiny)
        shares = Div (size, most)
        present = Where (alive, shares, zero)
        roots = Sqrt (present)
        column = Unsqueeze (roots, last)
        scaled_rows = Mul (column, rows_of_D)
        count = Constant <value = int64 {{{ATOMS}}}> ()
        rising = Sub (count, index)
        order = Where (alive, rising, start)
        falling, place = TopK <axis = 1, largest = 1, sorted = 1> (order, three)
        places = Unsqueeze (place, last)
        rows_in_order = GatherND <batch_dims = 1> (scaled_rows, places)
        row0, row1, row2 = Split <axis = 1, num_outputs = {OPEN}> (rows_in_order)
        t0 = Squeeze (row0, middle)
        t1 = Squeeze (row1, middle)
        t2 = Squeeze (row2, middle)
    """
    return function_text(NAME, INPUTS, "t0, t1, t2", lines)


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """Those of HimalayaDirection; exact where all terms are 0."""
    for case in direction_cases(rng):
        nothing = not any(term.any() for term in reference(*case.inputs.values()))
        yield replace(case, exact=case.exact and nothing)


OP = Op(NAME, reference, body, ({},), cases, bound=bound, outputs=("t0", "t1", "t2"))
