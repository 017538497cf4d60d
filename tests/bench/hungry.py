"""A subject that allocates, and does nothing else: what the harness must report of it is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeadapt_bench.times import Times

PACKAGES = ("numpy",)


class Subject:
    vocabulary_size = 1
    ops = "foreign"

    def __init__(self, variant: dict[str, Any], threads: int) -> None:
        self.load = Times()
        with self.load.one():
            self.block = np.ones(int(variant["options"]["bytes"]), dtype=np.uint8)
