"""One row of the table: how fast a kernel moved its bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    workload: str
    isa: str
    size: int  # bytes read and written by one call, each once
    seconds: float  # median of a call
    limit: float  # bytes per second of a copy or a read of as many bytes, whichever is faster

    def line(self) -> str:
        rate = self.size / self.seconds
        return (
            f"{self.workload:<36} {self.isa:<11} {self.size / 1e6:>8.3f} {self.seconds * 1e6:>10.1f} "
            f"{rate / 1e9:>8.2f} {self.limit / 1e9:>8.2f} {rate / self.limit:>6.0%}"
        )
