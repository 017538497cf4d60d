"""QuantMatMul: a linear layer with block-wise 4- or 8-bit weights, the backbone's own.

    y = x W^T + bias        W_nk = t_nb (c_nk - z_nb)        b = floor(k / block_size)

    x           float32 [..., K]
    data        uint8   [N, nb, block_size bits / 8]   the codes c, as codecs.blockwise packs them; nb = ceil(K / block)
    scales      float32 [N, nb]                        t
    zero_points uint8   [N, ceil(nb bits / 8)]         z; absent: 8 at 4 bits, 128 at 8 bits
    bias        float32 [N]                            absent: 0
    y           float32 [..., N]

The arrays and the attributes K, N, bits (4, 8) and block_size (a power of two from 32 at 4 bits and 16 at 8, to 256)
are those of com.microsoft::MatMulNBits, which is the whole body: the file runs wherever that op does, at its speed and
with its numbers. The kernel is for processors on which stock ONNX Runtime has no fast path for it (no integer dot
product).

The reference is the dequantised product. Both views may quantise x to 8 bits, a block at a time, with the scale
s_b = max |x_k| / 127 of the block; rounding moves a number by s_b / 2 at most, so that a view owes

    |y - reference| <= sum_b s_b / 2 sum_{k in b} |W_nk|    and the rounding of float32 sums

A row of x that holds a NaN or an infinity is outside the contract: the kernel makes that row of y NaN, the body what it
likes; neither touches another row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeadapt.codecs.blockwise import Bits, BlockQuantised, dequantise, quantise_blocks
from edgeadapt.ops.registry import DOMAIN, OPSET, Array, Case, Op, require

NAME = "QuantMatMul"
F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
ROUNDING = 1e-5  # of sum_k |x_k| |W_nk|: float32 sums of up to a few thousand terms
SMALLEST = np.finfo(np.float32).tiny  # the least activation scale: below it, rounding is not relative any more


def reference(
    x: F32,
    data: U8,
    scales: F32,
    zero_points: U8 | None = None,
    bias: F32 | None = None,
    *,
    K: int,
    N: int,
    bits: Bits,
    block_size: int,
) -> F32:
    """The op in NumPy, summed in float64 and rounded once. Raises EdgeAdaptError for other shapes or attributes."""
    weight = _weight(BlockQuantised(bits, block_size, K, data, scales, zero_points), N)
    require(x.ndim >= 1 and x.shape[-1] == K, NAME, f"x is {x.shape}; its last dimension must be K = {K}")
    if bias is not None:
        require(bias.shape == (N,), NAME, f"bias is {bias.shape}; it must be [N] = [{N}]")
    with np.errstate(invalid="ignore", over="ignore"):
        y = x.astype(np.float64) @ dequantise(weight).astype(np.float64).T
        return np.asarray(y if bias is None else y + bias, dtype=np.float32)


def bound(
    x: F32,
    data: U8,
    scales: F32,
    zero_points: U8 | None = None,
    bias: F32 | None = None,
    *,
    K: int,
    N: int,
    bits: Bits,
    block_size: int,
) -> F32:
    """What a view may differ by, in y's shape: see the module's docstring."""
    weight = _weight(BlockQuantised(bits, block_size, K, data, scales, zero_points), N)
    magnitudes = np.abs(dequantise(weight)).astype(np.float64)
    blocks = scales.shape[1]
    padding = blocks * block_size - K
    W = np.pad(magnitudes, ((0, 0), (0, padding))).reshape(N, blocks, block_size).sum(axis=2)
    rows = np.abs(x).astype(np.float64)
    blocked = np.pad(rows, [(0, 0)] * (x.ndim - 1) + [(0, padding)]).reshape(*x.shape[:-1], blocks, block_size)
    s = np.maximum(blocked.max(axis=-1) / 127, SMALLEST)
    sums = rows @ magnitudes.T + (0 if bias is None else np.abs(bias))
    return np.asarray(s / 2 @ W.T * (1 + ROUNDING) + ROUNDING * sums, dtype=np.float32)


def body() -> str:
    """ONNX function in text syntax: the single stock node. Absent inputs and their absence pass through."""
    header = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}, "com.microsoft": 1]>'
    attributes = "K: int = @K, N: int = @N, bits: int = @bits, block_size: int = @block_size, accuracy_level = 4"
    node = f"com.microsoft.MatMulNBits <{attributes}> (x, data, scales, zero_points, , bias)"
    signature = f"{NAME} <K, N, bits, block_size> (x, data, scales, zero_points, bias) => (y)"
    return f"{header}\n{signature}\n{{\n    y = {node}\n}}\n"


def _weight(weight: BlockQuantised, N: int) -> BlockQuantised:
    least = 32 if weight.bits == 4 else 16
    require(least <= weight.block <= 256, NAME, f"block_size is {weight.block}; it must be in {least}..256")
    require(weight.rows == N, NAME, f"data has {weight.rows} rows; it must have N = {N}")
    return weight


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """Random shapes in both widths, then what must not go wrong."""

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    def case(
        name: str,
        x: F32,
        N: int,
        bits: Bits,
        block: int,
        *,
        points: bool = False,
        bias: bool = False,
        W: F32 | None = None,
    ) -> Case:
        K = x.shape[-1]
        weight = quantise_blocks(
            normal(N, K) + np.float32(0.5 * points) if W is None else W, bits=bits, block=block, zero_points=points
        )
        inputs: dict[str, Array] = {"x": x, "data": weight.data, "scales": weight.scales}
        if weight.zero_points is not None:
            inputs["zero_points"] = weight.zero_points
        if bias:
            inputs["bias"] = normal(N)
        return Case(name, inputs, attributes={"K": K, "N": N, "bits": bits, "block_size": block}, sized=True)

    settings: tuple[tuple[Bits, int], ...] = ((4, 32), (8, 32), (8, 64), (8, 128))
    for bits, block in settings:
        yield case(f"{bits} bits, blocks of {block}", normal(1, 1, 2 * block), 24, bits, block)
        yield case(f"{bits} bits, blocks of {block}, many rows", normal(2, 5, 6 * block), 33, bits, block)
        yield case(f"{bits} bits, blocks of {block}, odd sizes", normal(3, 1, 7 * block - 5), 7, bits, block, bias=True)
        yield case(f"{bits} bits, blocks of {block}, zero points", normal(2, 3, 5 * block), 9, bits, block, points=True)
        yield case(
            f"{bits} bits, blocks of {block}, everything",
            normal(1, 4, 11 * block + 1),
            3,
            bits,
            block,
            points=True,
            bias=True,
        )
    yield case("4 bits, large blocks", normal(2, 3, 700), 5, 4, 256)
    yield case("4 bits, large blocks, zero points", normal(1, 6, 300), 5, 4, 128, points=True)
    yield case("8 bits, small blocks", normal(1, 5, 100), 6, 8, 16)
    yield case("8 bits, a block larger than K", normal(1, 2, 10), 4, 8, 256)
    yield case("one number", normal(1, 1, 1), 1, 4, 32)
    yield case("no rows", normal(1, 0, 64), 8, 4, 32)
    yield case("a matrix", normal(6, 64), 8, 8, 64)
    yield case("zeros", np.zeros((1, 2, 96), np.float32), 8, 4, 32)
    yield case("zero weights", normal(1, 2, 96), 8, 4, 32, W=np.zeros((8, 96), np.float32))
    outliers = normal(1, 5, 128)
    outliers[..., 3] = 1e4
    yield case("an outlier in every row", outliers, 8, 8, 64)
    yield case("large activations", normal(1, 2, 64) * np.float32(1e30), 8, 4, 32)
    yield case("tiny activations", normal(1, 2, 64) * np.float32(1e-30), 8, 8, 64)
    extreme = np.full((1, 5, 256), 127, np.float32) * np.sign(normal(1, 5, 256))
    signs = np.sign(normal(4, 256))
    yield case("every code at its end, 8 bits", extreme, 4, 8, 128, W=np.where(signs > 0, 127, -128).astype(np.float32))
    yield case("every code at its end, 4 bits", extreme, 4, 4, 32, W=np.where(signs > 0, 7, -8).astype(np.float32))


OP = Op(NAME, reference, body, ({},), cases, bound=bound)
