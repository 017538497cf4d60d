"""How long pieces of work took, by two clocks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Times:
    """What some work took, one entry each: seconds by the wall clock, and of this process's own computing."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @contextmanager
    def one(self, parts: int = 1) -> Iterator[None]:
        """Time a piece of work that does `parts` things at once: the sample is the time of one of them."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.append((time.perf_counter() - wall) / parts)
        self.cpu.append((time.process_time() - cpu) / parts)

    def to_json(self) -> dict[str, list[float]]:
        return {"seconds": self.wall, "cpu_seconds": self.cpu}
