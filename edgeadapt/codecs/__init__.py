"""Quantised storage in NumPy: 3-bit atoms, int8 rows, and block-wise int4/int8 weights in ONNX Runtime's layout.

    three_bit.quantise(x) -> ThreeBit           int8.quantise(x)           -> Int8Rows
    int4.quantise(x)      -> BlockQuantised     int8.quantise_blockwise(x) -> BlockQuantised
    calibrated.quantise(x, moments) -> BlockQuantised, int4 that keeps what a layer computes on its inputs

Each result knows its `nbytes` and its `error(x)`; `dequantise` is in the module that quantised (`blockwise.dequantise`
for both block-wise forms).
"""

from __future__ import annotations

from edgeadapt.codecs.blockwise import BlockQuantised
from edgeadapt.codecs.int8 import Int8Rows
from edgeadapt.codecs.statistics import ErrorStatistics, error_statistics
from edgeadapt.codecs.three_bit import ThreeBit

__all__ = ["BlockQuantised", "ErrorStatistics", "Int8Rows", "ThreeBit", "error_statistics"]
