"""The 3-bit codec of the atoms: Gaussian Lloyd-Max levels, 8 codes in 3 bytes, one fp16 scale per group of 64.

    level  l_c, c = 0..7 : -2.1520 -1.3439 -0.7560 -0.2451 0.2451 0.7560 1.3439 2.1520        (ascending)
    start  s0 = sqrt(mean x_i^2) over the group       (the levels are those of a zero-mean unit Gaussian, so the root
                                                       mean square, not the deviation from the group's own mean)
    refine s  = <x, l_c0> / <l_c0, l_c0>, c0 = nearest codes under s0: the least-squares scale for those codes
    store  fp16(s); codes c = nearest levels of x / fp16(s), ties to the larger level
    value  y_i = l_{c_i} * fp16(s)

A group of zeros has scale 0 and decodes to zeros exactly. A row's last group may be shorter than 64. Widths are
multiples of 8, so that every row is whole bytes: code i of each run of eight occupies bits 3i..3i+2 of its 24-bit
little-endian word. Bytes: rows * (3 d / 8 + 2 ceil(d / 64)).

Levels: J. Max, "Quantizing for minimum distortion", IRE Trans. IT 6(1), 1960; NMSE 0.0345, cosine 0.983 on Gaussian
data. Annealed (soft) rounding belongs to training and is not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.codecs.statistics import ErrorStatistics, error_statistics, finite_matrix, stored_scales
from edgeadapt.errors import EdgeAdaptError

GROUP = 64
LEVELS: NDArray[np.float32] = np.array(
    [-2.1520, -1.3439, -0.7560, -0.2451, 0.2451, 0.7560, 1.3439, 2.1520], dtype=np.float32
)
_BOUNDARIES = (LEVELS[1:] + LEVELS[:-1]) / 2
_SHIFTS = np.arange(0, 24, 3, dtype=np.uint32)
_BYTES = np.array([0, 8, 16], dtype=np.uint32)


@dataclass(frozen=True)
class ThreeBit:
    """`packed` uint8 [rows, 3 d / 8] and `scales` float16 [rows, ceil(d / 64)]."""

    packed: NDArray[np.uint8]
    scales: NDArray[np.float16]

    def __post_init__(self) -> None:
        if self.packed.dtype != np.uint8 or self.scales.dtype != np.float16:
            raise EdgeAdaptError("3-bit: packed must be uint8 and scales float16")
        if self.packed.ndim != 2 or self.packed.shape[1] % 3 or not self.packed.shape[1]:
            raise EdgeAdaptError(f"3-bit: packed has shape {self.packed.shape}; it must be [rows, 3 d / 8]")
        expected = (self.packed.shape[0], groups(self.width))
        if self.scales.shape != expected:
            raise EdgeAdaptError(f"3-bit: scales have shape {self.scales.shape}; width {self.width} needs {expected}")

    @property
    def width(self) -> int:
        """Values per row, d."""
        return int(self.packed.shape[1]) // 3 * 8

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.scales.nbytes

    def error(self, original: NDArray[np.floating]) -> ErrorStatistics:
        """Error statistics against the matrix that was quantised."""
        return error_statistics(original, dequantise(self))


def groups(width: int) -> int:
    """Scales per row of `width` values."""
    return -(-width // GROUP)


def pack(codes: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Codes 0..7 [..., d], d a multiple of 8 -> bytes [..., 3 d / 8]."""
    if codes.shape[-1] % 8:
        raise EdgeAdaptError(f"3-bit: width {codes.shape[-1]} is not a multiple of 8; eight codes share three bytes")
    octets = codes.reshape(*codes.shape[:-1], codes.shape[-1] // 8, 8).astype(np.uint32)
    words = np.bitwise_or.reduce(octets << _SHIFTS, axis=-1)
    triples = (words[..., None] >> _BYTES).astype(np.uint8)
    return np.asarray(triples.reshape(*codes.shape[:-1], codes.shape[-1] // 8 * 3))


def unpack(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bytes [..., 3 d / 8] -> codes 0..7 [..., d]."""
    if packed.shape[-1] % 3:
        raise EdgeAdaptError(f"3-bit: {packed.shape[-1]} bytes per row; three bytes hold eight codes")
    triples = packed.reshape(*packed.shape[:-1], packed.shape[-1] // 3, 3).astype(np.uint32)
    words = np.bitwise_or.reduce(triples << _BYTES, axis=-1)
    codes = (words[..., None] >> _SHIFTS) & np.uint32(7)
    return np.asarray(codes.astype(np.uint8).reshape(*packed.shape[:-1], packed.shape[-1] // 3 * 8))


def quantise(values: NDArray[np.floating]) -> ThreeBit:
    """Matrix [rows, d], d a multiple of 8 -> ThreeBit. Raises EdgeAdaptError for NaN, inf or another width."""
    x = finite_matrix(values, "3-bit")
    rows, width = x.shape
    if width % 8 or not width:
        raise EdgeAdaptError(f"3-bit: width {width} is not a positive multiple of 8; eight codes share three bytes")
    count = groups(width)
    padded = np.zeros((rows, count * GROUP), dtype=np.float32)
    padded[:, :width] = x
    grouped = padded.reshape(rows, count, GROUP)
    present = (np.arange(count * GROUP) < width).reshape(count, GROUP)
    members = present.sum(axis=1)
    # float64: the square of a large float32 may overflow, and a refined scale should not carry the sum's rounding.
    exact = grouped.astype(np.float64)
    start = np.sqrt(np.square(exact).sum(axis=2) / members)
    chosen = np.where(present, LEVELS[_nearest(exact, start)], np.float32(0)).astype(np.float64)
    refined = (exact * chosen).sum(axis=2) / np.square(chosen).sum(axis=2)
    scales = stored_scales(np.where(start > 0, refined, 0.0).astype(np.float32), "3-bit")
    codes = _nearest(exact, scales.astype(np.float64)).reshape(rows, count * GROUP)[:, :width]
    return ThreeBit(pack(codes), scales)


def dequantise(quantised: ThreeBit) -> NDArray[np.float32]:
    """ThreeBit -> matrix float32 [rows, d]."""
    scales = np.repeat(quantised.scales.astype(np.float32), GROUP, axis=1)[:, : quantised.width]
    return np.asarray(LEVELS[unpack(quantised.packed)] * scales)


def unit_gains(quantised: ThreeBit) -> NDArray[np.float16]:
    """fp16 gain [rows] with gain * ||row|| = 1 to within fp16's rounding (5e-4); 0 for a row that decodes to zeros."""
    norms = np.linalg.norm(dequantise(quantised).astype(np.float64), axis=1)
    gains = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return stored_scales(gains.astype(np.float32), "3-bit gains")


def _nearest(x: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.intp]:
    """Index of the level nearest to x / scale; a zero scale gives code 4."""
    safe = np.where(scale > 0, scale, 1.0)[..., None]
    return np.asarray(np.searchsorted(_BOUNDARIES, np.where(scale[..., None] > 0, x / safe, 0.0), side="right"))
