"""How fast this machine reads its memory: what bounds decoding, which reads every weight once per token.

    bandwidth = bytes / the shortest of REPEATS readings      an array well past the caches, each thread its own part

The reading is NumPy's largest-of-floats, which is vectorised, writes nothing and lets other threads run.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil

REPEATS = 8
LARGE, SMALL = 256 << 20, 64 << 20  # bytes; the small one where memory is short


@dataclass(frozen=True)
class Bandwidth:
    """Bytes per second at best, read by `threads` threads from `bytes` bytes."""

    bytes_per_second: float
    bytes: int
    threads: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(threads: int, size: int | None = None) -> Bandwidth:
    """Takes about half a second on an idle machine, and `size` bytes of memory that are given back.

    Args:
        size: bytes to read, a multiple of 4 * `threads`; if not given, LARGE where at least 16 times that is free.
    """
    if size is None:
        size = LARGE if psutil.virtual_memory().available >= 16 * LARGE else SMALL
    parts = np.array_split(np.ones(size // 4, dtype=np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        taken = [_read(pool, parts) for _ in range(REPEATS)]
    return Bandwidth(sum(part.nbytes for part in parts) / min(taken), sum(part.nbytes for part in parts), threads)


def _read(pool: ThreadPoolExecutor, parts: list[np.ndarray]) -> float:
    begin = time.perf_counter()
    list(pool.map(np.max, parts))
    return time.perf_counter() - begin
