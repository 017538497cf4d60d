"""What a device is to the harness: something with an identity, conditions that change, and resident workers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from edgeadapt_bench.baselines import Variant

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Fingerprint:
    """What does not change between two rows of one device. "unknown" where it cannot be read."""

    model: str
    cpu: str
    architecture: str
    cores: int
    features: tuple[str, ...]
    clock_range_mhz: tuple[float, float] | str
    governor: str
    memory_bytes: int
    kernel: str
    system: str
    libc: str

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits that rows name their device by."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        return {"id": self.identity, **asdict(self), "features": list(self.features)}


@dataclass(frozen=True)
class Conditions:
    """What may change while measuring. "unknown" where it cannot be read."""

    load_average: float
    clock_mhz: float | str
    temperature_c: float | str
    throttled: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Worker(Protocol):
    """A resident process on the device that has one variant open (see edgeadapt_bench.serving for what it answers)."""

    opened: dict[str, Any]  # the answer to `open`

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Ask and wait. Raises EdgeAdaptError with the worker's own message, or if it died."""
        ...


class Device(Protocol):
    """Somewhere to measure by the clock, in workers that take turns."""

    name: str
    emulated: bool

    def fingerprint(self) -> Fingerprint: ...

    def conditions(self) -> Conditions: ...

    def settle(self, tell: Callable[[str], None]) -> None:
        """Wait until it is fit to be measured; `tell` is called with a line if that takes time."""
        ...

    def worker(self, variant: Variant, threads: int) -> AbstractContextManager[Worker]:
        """Start a worker for a variant; it ends with the block."""
        ...
