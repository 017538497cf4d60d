"""Block-wise 4- and 8-bit weights, in the layout of com.microsoft::MatMulNBits and com.microsoft::GatherBlockQuantized.

A weight W [N, K] (N output features or vocabulary rows, K the summed width) is cut along K into nb = ceil(K / block)
blocks; the last is padded with the zero point. With bits b, half = 2^(b-1):

    symmetric      W ~ s (q - half)          q in 0..2^b - 1; the zero point is the ops' default, 8 or 128
    zero points    W ~ s (q - z)             z in 0..2^b - 1 per block
    start          symmetric: s = -m / half for the value m of largest magnitude, so that m itself takes the extra
                   negative code (the scale may be negative); zero points: s = (max - min) / (2^b - 1) and
                   z = round(-min / s), the range first extended to hold zero
    refine         s = <w, q - z> / <q - z, q - z>: the least-squares scale for those codes, then the codes once more;
                   a block keeps whichever of the two has the smaller squared error
    zero block     s = 0, q = z = half: decodes to exact zeros

Layout
    data           uint8 [N, nb, block b / 8]; at 4 bits value 2i is the low nibble of byte i, value 2i+1 the high one
    scales         float32 [N, nb]
    zero_points    uint8 [N, ceil(nb b / 8)], packed along nb in the same nibble order (absent: the default)

One buffer for both ops (checked against stock onnxruntime 1.31.1 in tests/core/test_codecs.py)
    MatMulNBits takes B = data [N, nb, block b / 8] and scales [N, nb].
    GatherBlockQuantized takes data [N, nb block b / 8] - the same bytes, rank 2 - with the SAME scales [N, nb] (data
    and scales must have equal rank: the rank-3 view is refused), gather_axis=0, quantize_axis=1, bits=b and
    block_size=block; `bits` must be given at 8 bits, its default is 4.
    So two initializers of different shape may point at one region of the external data, and the scales can be one
    initializer. Default zero points agree: for uint8 data both ops use 8 at 4 bits and 128 at 8 bits, so symmetric
    weights need no explicit zero points; explicit ones are the same [N, ceil(nb b / 8)] array for both.
    Mind: the gather yields nb * block columns, not K. Sharing without a Slice needs K to be a multiple of the block:
    for d = 576 block 32 and 64 are fine and 128 is not (it returns 640).

Bytes: N nb (block b / 8 + 4), plus N ceil(nb b / 8) with zero points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeadapt.codecs.statistics import ErrorStatistics, error_statistics, finite_matrix
from edgeadapt.errors import EdgeAdaptError

Bits = Literal[4, 8]
# Rows are quantised in slices of about this many values: several float32 temporaries then stay within the cache.
_SLICE = 1 << 18


@dataclass(frozen=True)
class BlockQuantised:
    """A weight [rows, columns] in `bits` per value: see the module's layout section for the three arrays."""

    bits: Bits
    block: int
    columns: int
    data: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        check_format(self.bits, self.block)
        if self.columns < 1 or self.data.ndim != 3:
            raise EdgeAdaptError(f"int{self.bits}: data has shape {self.data.shape}; it must be [N, blocks, bytes]")
        rows, blocks = self.data.shape[0], -(-self.columns // self.block)
        if self.data.dtype != np.uint8 or self.data.shape != (rows, blocks, self.block * self.bits // 8):
            found = f"data is {self.data.dtype} {self.data.shape}"
            raise EdgeAdaptError(
                f"int{self.bits}: {found}, which is not {self.columns} columns in blocks of {self.block}"
            )
        if self.scales.dtype != np.float32 or self.scales.shape != (rows, blocks):
            raise EdgeAdaptError(f"int{self.bits}: scales must be float32 {(rows, blocks)}, not {self.scales.shape}")
        if self.zero_points is not None:
            expected = (rows, -(-blocks * self.bits // 8))
            if self.zero_points.dtype != np.uint8 or self.zero_points.shape != expected:
                found = f"{self.zero_points.dtype} {self.zero_points.shape}"
                raise EdgeAdaptError(f"int{self.bits}: zero points are {found}; they must be uint8 {expected}")

    @property
    def rows(self) -> int:
        return int(self.data.shape[0])

    @property
    def gather_data(self) -> NDArray[np.uint8]:
        """The same bytes as `data`, in GatherBlockQuantized's rank-2 shape [N, nb * block * bits / 8] (a view)."""
        return self.data.reshape(self.rows, self.data.shape[1] * self.data.shape[2])

    @property
    def shareable(self) -> bool:
        """True if a gather of this buffer yields exactly `columns` values a row: one buffer serves both ops."""
        return self.columns % self.block == 0

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + self.scales.nbytes + (0 if self.zero_points is None else self.zero_points.nbytes)

    def error(self, original: NDArray[np.floating]) -> ErrorStatistics:
        """Error statistics against the matrix that was quantised."""
        return error_statistics(original, dequantise(self))


def quantise_blocks(
    values: NDArray[np.floating], *, bits: Bits, block: int, zero_points: bool = False
) -> BlockQuantised:
    """Matrix [N, K] -> BlockQuantised. Raises EdgeAdaptError for NaN, inf, no columns, or a block that
    is not a power of two >= 16."""
    check_format(bits, block)
    w = finite_matrix(values, f"int{bits}")
    rows, columns = w.shape
    if not columns:
        raise EdgeAdaptError(f"int{bits}: the matrix has no columns; nothing to quantise")
    blocks = -(-columns // block)
    data = np.empty((rows, blocks, block * bits // 8), dtype=np.uint8)
    scales = np.empty((rows, blocks), dtype=np.float32)
    points = np.empty((rows, blocks), dtype=np.uint8)
    step = max(1, _SLICE // (blocks * block))
    for first in range(0, rows, step):
        part = slice(first, min(first + step, rows))
        padded = np.zeros((part.stop - first, blocks * block), dtype=np.float32)
        padded[:, :columns] = w[part]
        codes, scales[part], points[part] = _fit(padded.reshape(len(padded), blocks, block), bits, zero_points)
        data[part] = _pack(codes, bits)
    return BlockQuantised(bits, block, columns, data, scales, _pack_points(points, bits) if zero_points else None)


def assemble(
    codes: NDArray[np.uint8], scales: NDArray[np.float32], *, bits: Bits, block: int, columns: int
) -> BlockQuantised:
    """Symmetric BlockQuantised of codes q [N, nb block], one to a byte, and scales [N, nb]."""
    data = _pack(codes.reshape(*scales.shape, block), bits)
    return BlockQuantised(bits, block, columns, data, scales)


def dequantise(quantised: BlockQuantised) -> NDArray[np.float32]:
    """BlockQuantised -> matrix float32 [N, K]: s (q - z), in float32 as the ops compute it."""
    codes = _unpack(quantised.data, quantised.bits)
    points = _unpack_points(quantised)
    values = (codes.astype(np.float32) - points.astype(np.float32)[..., None]) * quantised.scales[..., None]
    rows = values.reshape(quantised.rows, values.shape[1] * values.shape[2])
    return np.ascontiguousarray(rows[:, : quantised.columns])


def _fit(
    w: NDArray[np.float32], bits: Bits, zero_points: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Blocks [n, nb, block] -> codes of that shape, scales [n, nb] and zero points [n, nb]."""
    half, top = 1 << (bits - 1), (1 << bits) - 1
    high, low = w.max(axis=2), w.min(axis=2)
    if zero_points:
        high, low = np.maximum(high, 0), np.minimum(low, 0)
        # Each end is divided before the difference is taken: max - min of two finite numbers may overflow.
        start = high / np.float32(top) - low / np.float32(top)
        points = np.where(start > 0, np.rint(-low / np.where(start > 0, start, np.float32(1))), half).clip(0, top)
    else:
        start = np.where(high > -low, high, low) / np.float32(-half)
        points = np.full(start.shape, half)
    points = points.astype(np.float32)
    codes = _codes(w, start, points, top)
    centred = codes - points[..., None]
    # Sums relative to the largest magnitude: squares of large or tiny float32 values would leave float32's range.
    unit = np.maximum(high, -low)
    relative = w / np.where(unit > 0, unit, np.float32(1))[..., None]
    energy = np.einsum("nbk,nbk->nb", centred, centred)
    product = np.einsum("nbk,nbk->nb", relative, centred)
    refined = np.where(energy > 0, product / np.where(energy > 0, energy, np.float32(1)) * unit, start)
    again = _codes(w, refined, points, top)
    better = _loss(w, again, refined, points, unit) < _loss(w, codes, start, points, unit)
    scales = np.where(better, refined, start).astype(np.float32)
    scales = np.where(unit > 0, scales, np.float32(0))
    points = np.where(unit > 0, points, np.float32(half))
    chosen = np.where(better[..., None], again, codes)
    return np.where(unit[..., None] > 0, chosen, half).astype(np.uint8), scales, points.astype(np.uint8)


def _codes(
    w: NDArray[np.float32], scales: NDArray[np.float32], points: NDArray[np.float32], top: int
) -> NDArray[np.float32]:
    usable = np.abs(scales) > 0
    quotient = w / np.where(usable, scales, np.float32(1))[..., None] * usable[..., None]
    return np.clip(np.rint(quotient + points[..., None]), 0, top)


def _loss(
    w: NDArray[np.float32],
    codes: NDArray[np.float32],
    scales: NDArray[np.float32],
    points: NDArray[np.float32],
    unit: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Squared error of each block, in units of its largest magnitude."""
    safe = np.where(unit > 0, unit, np.float32(1))[..., None]
    difference = (w - (codes - points[..., None]) * scales[..., None]) / safe
    return np.asarray(np.einsum("nbk,nbk->nb", difference, difference))


def _pack(codes: NDArray[np.uint8], bits: Bits) -> NDArray[np.uint8]:
    return codes if bits == 8 else codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))


def _unpack(data: NDArray[np.uint8], bits: Bits) -> NDArray[np.uint8]:
    if bits == 8:
        return data
    return np.stack((data & np.uint8(15), data >> np.uint8(4)), axis=-1).reshape(*data.shape[:-1], 2 * data.shape[-1])


def _pack_points(points: NDArray[np.uint8], bits: Bits) -> NDArray[np.uint8]:
    """[N, nb] -> [N, ceil(nb * bits / 8)]; the unused nibble of an odd row is 0."""
    return points if bits == 8 else _pack(np.pad(points, ((0, 0), (0, points.shape[1] % 2))), bits)


def _unpack_points(quantised: BlockQuantised) -> NDArray[np.uint8]:
    if quantised.zero_points is None:
        return np.full(quantised.scales.shape, 1 << (quantised.bits - 1), dtype=np.uint8)
    return _unpack(quantised.zero_points, quantised.bits)[:, : quantised.scales.shape[1]]


def check_format(bits: int, block: int) -> None:
    """Raise EdgeAdaptError for a form that the two ops do not have."""
    if bits not in (4, 8):
        raise EdgeAdaptError(f"block-wise codec: {bits} bits; give 4 or 8")
    if block < 16 or block & (block - 1):
        raise EdgeAdaptError(f"int{bits}: block {block}; both ops need a power of two, 16 or more")
