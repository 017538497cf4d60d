"""The atoms, gains and router of UniHyperLoRA and SAT-LoRA in a host's widths, from the stored tensors, in NumPy.

    U^ [M, d_out], V^ [M, d_in]      unihyper: (U h) B^T and (V h) B^T, h(log2 d) the stretch; sat: stored as they are
    g [L, 6, M]                      1 + the mixer's MLP + delta[bucket], or 1 + the table's rows
    W [d, r] = sqrt(d) B W_r^T       K [r, M]       e [tasks, r]
Equations: methods.md section 2; the same in ONNX nodes are in atom_mix.py. Float64 inside, float32 given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.codecs import int8, nibbles
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_export.methods.contract import Array, StoredAdapter

ANCHOR, ATOMS, BUCKETS, TYPES, TASK_UNIT = 256, 128, 8, 6, 1 / 32
MIXER_SHAPES = {"mixer1": (14, 8), "mixer2": (128, 15), "delta": (BUCKETS, ATOMS)}
TYPE_OF = {"q_proj": 0, "k_proj": 1, "v_proj": 2, "o_proj": 3, "gate_proj": 4, "up_proj": 4, "down_proj": 5}
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Stored:
    """An adapter's tensors, by what they are."""

    adapter: StoredAdapter

    def tensor(self, name: str) -> Array:
        try:
            return self.adapter.tensors[name]
        except KeyError:
            raise EdgeAdaptError(
                f"the adapter has no tensor {name!r}, so it is not what it says; train it again"
            ) from None

    @property
    def shared(self) -> bool:
        """One dictionary for all widths (unihyper)."""
        return self.adapter.manifest.method == "unihyper"

    def rows(self, name: str) -> F64:
        """An int8 matrix, dequantised."""
        return int8.dequantise(int8.Int8Rows(self.tensor(name), self.tensor(f"{name}_scales"))).astype(np.float64)

    def small(self, name: str) -> F64:
        """An int4 matrix, dequantised."""
        shape = MIXER_SHAPES[name]
        return nibbles.dequantise(self.tensor(name), self.tensor(f"{name}_scale"), shape).astype(np.float64)


def basis(stored: Stored, d: int, hidden_size: int) -> F64:
    """B_d [d, min(256, d)]: the stored one where the adapter ships one for the host's width, else the DCT."""
    if "basis" in stored.adapter.tensors and d == hidden_size:
        return stored.rows("basis").T
    n, j = np.arange(d)[:, None], np.arange(min(ANCHOR, d))[None]
    scale = np.sqrt(np.where(j == 0, 1, 2) / d)
    return np.asarray(scale * np.cos(((2 * n + 1) * j % (4 * d)) * np.pi / (2 * d)))


def atoms(stored: Stored, part: str, shape: tuple[int, int], hidden_size: int) -> F32:
    """U^ [M, d_out] (`part` U) or V^ [M, d_in] (V) of the linear maps of shape (d_out, d_in)."""
    if not stored.shared:
        return stored.rows(f"{part}.{shape[0]}x{shape[1]}").astype(np.float32)
    d = shape[0] if part == "U" else shape[1]
    B = basis(stored, d, hidden_size)
    first = stored.rows("h1")
    hidden = np.tanh(first[0] * np.log2(d / ANCHOR) + first[1])
    h = 1 + np.append(hidden, 1) @ stored.rows("h2")
    columns = B.shape[1]
    return ((stored.rows(part)[:, :columns] * h[:columns]) @ B.T).astype(np.float32)


def places(layers: int) -> F64:
    """The mixer's inputs [6 L, 8]: depth in [0, 1], the type as a one-hot, 1."""
    depth = np.repeat(np.arange(layers) / max(1, layers - 1), TYPES)[:, None]
    return np.concatenate((depth, np.tile(np.eye(TYPES), (layers, 1)), np.ones((TYPES * layers, 1))), axis=1)


def buckets(layers: int) -> NDArray[np.int64]:
    """Each layer's row of delta."""
    return np.minimum(BUCKETS * np.arange(layers, dtype=np.int64) // max(1, layers - 1), BUCKETS - 1)


def gains(stored: Stored, layers: int) -> F32:
    """g [L, 6, M]."""
    if "table" in stored.adapter.tensors:
        return (1 + stored.rows("table").reshape(layers, TYPES, ATOMS)).astype(np.float32)
    hidden = np.sin(places(layers) @ stored.small("mixer1").T)
    g = 1 + np.append(hidden, np.ones((len(hidden), 1)), axis=1) @ stored.small("mixer2").T
    g = g.reshape(layers, TYPES, ATOMS)
    if "delta" in stored.adapter.tensors:
        g += stored.small("delta")[buckets(layers)][:, None]
    return np.asarray(g, dtype=np.float32)


def router(stored: Stored, hidden_size: int) -> tuple[F32, F32, F32]:
    """W [d, r], K [r, M] and e [tasks, r]."""
    weight = stored.rows("router").T
    if stored.shared:
        B = basis(stored, hidden_size, hidden_size)
        weight = B @ weight[: B.shape[1]]
    e = stored.tensor("tasks").astype(np.float32) * np.float32(TASK_UNIT)
    return (np.sqrt(hidden_size) * weight).astype(np.float32), stored.rows("keys").astype(np.float32), e
