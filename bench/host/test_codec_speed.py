"""How fast weights and atoms are packed and unpacked on this machine: `pytest bench/host --benchmark-only`.

Two commits are compared by storing one and naming it: `--benchmark-save=before`, then `--benchmark-compare=*before`.
Matrices are SmolLM2-135M's largest linear layer, 1536 x 576; atoms are HIMALAYA's two tiers at its width, 40 x 576.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeadapt.codecs import blockwise, int4, int8, three_bit

LINEAR = np.random.default_rng(0).standard_normal((1536, 576)).astype(np.float32)
ATOMS = np.random.default_rng(1).standard_normal((40, 576)).astype(np.float32)

PACK: dict[str, Callable[[], object]] = {
    "int4 blocks of 32": lambda: int4.quantise(LINEAR, 32),
    "int4 blocks of 32, zero points": lambda: int4.quantise(LINEAR, 32, zero_points=True),
    "int8 blocks of 64": lambda: int8.quantise_blockwise(LINEAR, 64),
    "int8 rows": lambda: int8.quantise(ATOMS),
    "3 bits": lambda: three_bit.quantise(ATOMS),
}
_INT4, _INT8 = int4.quantise(LINEAR, 32), int8.quantise_blockwise(LINEAR, 64)
_ROWS, _THREE = int8.quantise(ATOMS), three_bit.quantise(ATOMS)
UNPACK: dict[str, Callable[[], object]] = {
    "int4 blocks of 32": lambda: blockwise.dequantise(_INT4),
    "int8 blocks of 64": lambda: blockwise.dequantise(_INT8),
    "int8 rows": lambda: int8.dequantise(_ROWS),
    "3 bits": lambda: three_bit.dequantise(_THREE),
}


@pytest.mark.parametrize("codec", PACK)
def test_pack(codec: str, benchmark: Any) -> None:
    benchmark.group = "pack"
    benchmark(PACK[codec])


@pytest.mark.parametrize("codec", UNPACK)
def test_unpack(codec: str, benchmark: Any) -> None:
    benchmark.group = "unpack"
    benchmark(UNPACK[codec])
