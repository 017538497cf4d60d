"""The 4-bit codec of small matrices: one fp16 scale for all of it, two codes to a byte.

    scale  s = fp16(max |x| / 7); a matrix of zeros has scale 0
    codes  q = clip(round(x / s), -7, 7), rounding half to even, x divided by the *stored* scale
    bytes  q[2i] in the low four bits and q[2i+1] in the high ones, two's complement: the layout of ONNX's int4
    value  y = q * s
Bytes: ceil(numbers / 2) + 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeadapt.codecs.statistics import finite_matrix, stored_scales
from edgeadapt.errors import EdgeAdaptError


def quantise(values: NDArray[np.floating]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Matrix -> codes uint8 [ceil(numbers / 2)] and scale float16 [1]. Raises EdgeAdaptError for NaN and inf."""
    x = finite_matrix(values, "int4")
    scale = stored_scales(np.abs(x).max(initial=0.0, keepdims=True).reshape(1) / np.float32(7), "int4")
    s = scale.astype(np.float32)
    quotient = np.divide(x, s, out=np.zeros_like(x), where=s > 0)
    q = np.clip(np.rint(quotient), -7, 7).astype(np.int8).ravel()
    even = np.append(q, np.int8(0)) if q.size % 2 else q
    nibbles = even.view(np.uint8) & 15
    return (nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8), scale


def dequantise(codes: NDArray[np.uint8], scale: NDArray[np.float16], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The matrix float32 of this shape. Raises EdgeAdaptError if there are not as many codes."""
    count = int(np.prod(shape))
    if codes.dtype != np.uint8 or codes.shape != ((count + 1) // 2,) or scale.shape != (1,):
        raise EdgeAdaptError(f"int4: {codes.dtype} {codes.shape} and {scale.shape} are not the codes of {shape}")
    q = np.stack((codes & 15, codes >> 4), axis=1).ravel()[:count].astype(np.int8)
    q = np.where(q > 7, q - 16, q)
    return np.asarray(q.astype(np.float32).reshape(shape) * scale.astype(np.float32))
