"""Many copies of an adapter in memory beside one base session, each loaded by itself from the bundle's one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnxruntime as ort

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.runtime.engine import Engine
from edgeadapt.runtime.session import Ops
from edgeadapt_bench import memory

MOST = 1024


class Crowd:
    """An engine around the open session that knows the adapter under `MOST` names."""

    def __init__(self, bundle: Bundle, adapter: str, base: ort.InferenceSession, *, threads: int, ops: Ops) -> None:
        entry = bundle.adapter(adapter)
        self._names = [f"{adapter[:90]}.{number}" for number in range(MOST)]
        copies = tuple(replace(entry, name=name) for name in self._names)
        manifest = replace(bundle.manifest, adapters=copies)
        self._engine = Engine(replace(bundle, manifest=manifest), base, threads=threads, ops=ops)
        self._task = entry.tasks[0].name if entry.tasks else None
        self._loaded = 0
        self._before: int | None = None

    def grow(self, adapters: int, ids: Sequence[int]) -> int:
        """Load copies until there are so many, binding each once. Returns the bytes that all of them hold by now.

        Raises EdgeAdaptError for fewer than there are, since memory that was given back may not return to the system.
        """
        if not self._loaded <= adapters <= MOST:
            raise EdgeAdaptError(
                f"{adapters} adapters in memory, after {self._loaded}: give rising numbers, {MOST} at most"
            )
        if self._before is None:
            self._engine.pool(ids)  # its graph is the engine's, not an adapter's
            self._before = memory.resident()
        while self._loaded < adapters:
            self._loaded += 1
            self.use(self._loaded - 1, ids)
        return memory.resident() - self._before

    def use(self, number: int, ids: Sequence[int]) -> None:
        """Bind copy `number` for a prompt."""
        self._engine.use(self._names[number])
        if self._task is not None:
            self._engine.task(self._task)
        self._engine.adapt(ids)
