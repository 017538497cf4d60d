"""edgeadapt's worker with a known slowdown: what a benchmark has to be able to see (edgeadapt_bench.trials).

decode      every step takes 1 + `slower` times as long, by waiting busily; `slower` is an option of the variant
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from edgeadapt.runtime.decoder import Decoder
from edgeadapt_bench import worker

PACKAGES = worker.PACKAGES


class Subject(worker.Subject):
    def __init__(self, variant: dict[str, Any], threads: int) -> None:
        super().__init__(variant, threads)
        self.decoder: Any = _Slowed(self.decoder, float(variant["options"]["slower"]))


class _Slowed:
    """What the worker's decoding asks of a decoder."""

    def __init__(self, decoder: Decoder, slower: float) -> None:
        self._decoder = decoder
        self._slower = slower

    @property
    def length(self) -> int:
        return self._decoder.length

    def rewind(self, length: int) -> None:
        self._decoder.rewind(length)

    def step(self, token: int) -> np.ndarray:
        began = time.perf_counter()
        logits = self._decoder.step(token)
        end = began + (1 + self._slower) * (time.perf_counter() - began)
        while time.perf_counter() < end:
            pass
        return logits
