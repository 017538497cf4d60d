"""The stored tensors of a HIMALAYA adapter, as the op HimalayaDirection takes them.

    atoms        uint8   [40, 3 d / 8]         3-bit codes, packed as in codecs/three_bit.py; d a multiple of 8
    atom_scales  float16 [40, ceil(d / 64)]    one per group of 64
    atom_gains   float16 [40]                  restores ||atom|| = 1; 0 marks an inactive elastic atom
    w1           int8    [w, d + 17]           router, first layer: d pool columns, 16 task columns, b1
    w1_scales    float16 [w]
    w2           int8    [80, w + 1]           router, second layer: 40 logit rows, 40 coefficient rows; last column b2
    w2_scales    float16 [80]
    tasks        int8    [32, 16]              task table, in units of 1/32
    rows         int8    [n_rows, 80]          what each task adds to [logits; coefficients]; 1 <= n_rows <= 32
    row_scales   float16 [n_rows]

Scales and gains are finite and not negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.codecs import int8, three_bit
from edgeadapt.ops.registry import Array, require

NAME = "HimalayaDirection"
ATOMS = 40
TASKS = 32
TASK_WIDTH = 16
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Tables:
    """The ten stored tensors, in the op's order; shapes and dtypes as in the module's docstring.

    Raises EdgeAdaptError when one of them has another shape or dtype.
    """

    atoms: NDArray[np.uint8]
    atom_scales: NDArray[np.float16]
    atom_gains: NDArray[np.float16]
    w1: NDArray[np.int8]
    w1_scales: NDArray[np.float16]
    w2: NDArray[np.int8]
    w2_scales: NDArray[np.float16]
    tasks: NDArray[np.int8]
    rows: NDArray[np.int8]
    row_scales: NDArray[np.float16]

    def __post_init__(self) -> None:
        d, w, n = self.atoms.shape[-1] // 3 * 8, len(self.w1), len(self.rows)
        expected: dict[str, tuple[Any, tuple[int, ...]]] = {
            "atoms": (np.uint8, (ATOMS, 3 * d // 8)),
            "atom_scales": (np.float16, (ATOMS, three_bit.groups(d))),
            "atom_gains": (np.float16, (ATOMS,)),
            "w1": (np.int8, (w, d + TASK_WIDTH + 1)),
            "w1_scales": (np.float16, (w,)),
            "w2": (np.int8, (2 * ATOMS, w + 1)),
            "w2_scales": (np.float16, (2 * ATOMS,)),
            "tasks": (np.int8, (TASKS, TASK_WIDTH)),
            "rows": (np.int8, (n, 2 * ATOMS)),
            "row_scales": (np.float16, (n,)),
        }
        require(1 <= n <= TASKS and w >= 1 and d >= 8, NAME, f"needs 1..{TASKS} rows, a router width and d >= 8")
        for name, (dtype, shape) in expected.items():
            value = getattr(self, name)
            message = f"{name} is {value.dtype} {value.shape}; d={d} needs {dtype.__name__} {shape}"
            require(value.dtype == dtype and value.shape == shape, NAME, message)

    def as_dict(self) -> dict[str, Array]:
        """Name -> array, in the op's order."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def writing(self, tensors: Mapping[str, Array]) -> Tables:
        """The same with the atoms that are written: atoms=read_write stores write_atoms, write_atom_scales and
        write_atom_gains [16, ..] for the elastic ones. Without them it is what is read."""
        if "write_atoms" not in tensors:
            return self
        core = ATOMS - len(tensors["write_atoms"])
        names = ("atoms", "atom_scales", "atom_gains")
        return replace(self, **{n: np.concatenate((getattr(self, n)[:core], tensors[f"write_{n}"])) for n in names})

    @property
    def width(self) -> int:
        """d."""
        return int(self.atoms.shape[1]) // 3 * 8


def random_tables(rng: np.random.Generator, width: int, router: int, n_rows: int) -> Tables:
    """Tables of an adapter with random atoms (24 + 8 active) and a router whose logits have unit scale; for checks."""

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    atoms = three_bit.quantise(normal(ATOMS, width))
    gains = three_bit.unit_gains(atoms)
    gains[32:] = 0
    w1 = int8.quantise(normal(router, width + TASK_WIDTH + 1) / np.float32(width**0.5))
    w2 = int8.quantise(normal(2 * ATOMS, router + 1) / np.float32(router**0.5))
    rows = int8.quantise(normal(n_rows, 2 * ATOMS))
    tasks = rng.integers(-127, 128, (TASKS, TASK_WIDTH)).astype(np.int8)
    return Tables(
        atoms.packed, atoms.scales, gains, w1.codes, w1.scales, w2.codes, w2.scales, tasks, rows.codes, rows.scales
    )


def fixed_logits(tables: Tables, a: Array, c: Array) -> Tables:
    """`tables` with the router cut off and every row set to [a; c] (int8 [40] each, in units of 1/32)."""
    row = np.concatenate((a, c)).astype(np.int8)
    return replace(
        tables,
        w2=np.zeros_like(tables.w2),
        rows=np.tile(row, (len(tables.rows), 1)),
        row_scales=np.full_like(tables.row_scales, 1 / 32),
    )
