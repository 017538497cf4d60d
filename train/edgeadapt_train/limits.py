"""What a run has to keep to: numbers that its configuration states and that follow from something else, checked before
any training. A limit of null says nothing.

    tasks               the stream has so many tasks
    languages           the stream has each of them, and no other; with "multi" among them it may have others
    adapter_bytes       the adapter's stored form, tasks begun so far, has at most so many bytes
    router_parameters   its router has at most so many (a byte each)
    gpu_type            the accelerator that the run is meant for; another one is named, not refused
    gpu_gb              this process takes at most so much of a CUDA device's memory
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Adapter
from edgeadapt_train.streams import Task

MANY = "multi"


@dataclass(frozen=True)
class Limits:
    """As the module says."""

    tasks: int | None = None
    languages: tuple[str, ...] | None = None
    adapter_bytes: int | None = None
    router_parameters: int | None = None
    gpu_type: str | None = None
    gpu_gb: float | None = None

    def check_stream(self, tasks: Sequence[Task]) -> None:
        """Raise EdgeAdaptError for a stream other than stated."""
        if self.tasks is not None and len(tasks) != self.tasks:
            raise EdgeAdaptError(f"limits.tasks={self.tasks}: the stream has {len(tasks)} tasks")
        if self.languages is None:
            return
        found = {task.language for task in tasks}
        named = set(self.languages) - {MANY}
        if named - found:
            raise EdgeAdaptError(f"limits.languages: no task of the stream is in {min(named - found)!r}")
        if found - named and MANY not in self.languages:
            raise EdgeAdaptError(f"limits.languages: the stream has tasks in {min(found - named)!r}, too")

    def check_adapter(self, adapter: Adapter) -> None:
        """Raise EdgeAdaptError for an adapter that is larger than stated."""
        terms = adapter.byte_terms()
        limits = {"adapter_bytes": sum(terms.values()), "router_parameters": terms.get("router", 0)}
        for name, found in limits.items():
            most = getattr(self, name)
            if most is not None and found > most:
                raise EdgeAdaptError(f"limits.{name}={most:,}: {adapter.method} has {found:,} on this backbone")

    def hold_device(self, device: torch.device) -> str | None:
        """Bound this process's share of a CUDA device's memory. Returns what there is to say of the device."""
        if device.type != "cuda":
            return None
        found = torch.cuda.get_device_properties(device)
        if self.gpu_gb is not None and 1e9 * self.gpu_gb < found.total_memory:
            torch.cuda.set_per_process_memory_fraction(1e9 * self.gpu_gb / found.total_memory, device)
        if self.gpu_type is None or _words(self.gpu_type) <= _words(found.name):
            return None
        return f"limits.gpu_type={self.gpu_type}: this is {found.name}"


def _words(name: str) -> set[str]:
    return set(name.lower().replace("-", " ").split())
