"""`edgeadapt bench --device emulated`: every variant in a guest of its own, one after the other.

Nothing is interleaved and no sample has an interval: a count is the same every time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.baselines import Variant
from edgeadapt_bench.devices import emulated
from edgeadapt_bench.devices.base import Fingerprint
from edgeadapt_bench.devices.board import RASPBERRY_PI_4
from edgeadapt_bench.emulation import machine, sysroot
from edgeadapt_bench.emulation.counts import Counts
from edgeadapt_bench.emulation.job import Job
from edgeadapt_bench.encoders import graph_of
from edgeadapt_bench.report import FORMAT, Origin, now, sizes
from edgeadapt_bench.units import in_words
from edgeadapt_bench.workloads import Embedding, Generation, Workload

UNITS = {
    "decode": "instructions/token",
    "prefill": "instructions/token",
    "embed": "instructions/text",
    "load": "instructions",
}
NOTE = (
    "emulated Cortex-A72, one thread: user instructions, the same every time. They are not a time; "
    "adapter inputs are noise, since what an op costs does not depend on its values"
)


@dataclass(frozen=True)
class EmulatedRow:
    """One variant and workload: counts per phase, and the guest process's peak. There is no field for a time."""

    origin: Origin
    workload: Workload
    started: str
    counts: Counts

    @property
    def instructions(self) -> dict[str, float]:
        """By phase; an encoder's run is a text."""
        found = self.counts.instructions()
        return {"embed" if phase == "forward" else phase: value for phase, value in found.items() if phase != "import"}

    def to_json(self, device: str) -> list[dict[str, Any]]:
        """One object per phase, in the words of native rows, with `instructions` for what they call samples."""
        runs = {"embed" if phase == "forward" else phase: found for phase, found in self.counts.found.phases.items()}
        return [
            {
                **self.origin.to_json(),
                "workload": {"name": "load"} if phase == "load" else self.workload.sizes(),
                "phase": phase,
                "unit": UNITS[phase],
                "started": self.started,
                "device": device,
                "emulated": True,
                "versions": dict(self.counts.versions),
                "instructions": value,
                "runs": runs[phase],
            }
            for phase, value in self.instructions.items()
        ]


@dataclass(frozen=True)
class EmulatedReport:
    """One run on the emulated machine."""

    device: str
    fingerprint: Fingerprint
    started: str
    rows: Sequence[EmulatedRow]
    sizes: Mapping[str, Mapping[str, int]]

    def to_json(self) -> dict[str, Any]:
        identity = self.fingerprint.identity
        return {
            "format": FORMAT,
            "started": self.started,
            "device": {"name": self.device, "emulated": True, **self.fingerprint.to_json()},
            "note": NOTE,
            "rows": self._items(identity),
            "memory": [
                {
                    **row.origin.to_json(),
                    "workload": None,
                    "device": identity,
                    "emulated": True,
                    "peak_bytes": row.counts.peak,
                    "increase_bytes": row.counts.peak - row.counts.found.memory["import"]["VmRSS"],
                }
                for row in self._largest()
            ],
            "sizes": {bundle: dict(files) for bundle, files in self.sizes.items()},
        }

    def _items(self, device: str) -> list[dict[str, Any]]:
        """Every row's objects; that of loading once for each variant, since no workload changes it."""
        items = [item for row in self.rows for item in row.to_json(device)]
        first = {(item["variant"], item["phase"], str(item["workload"])): item for item in reversed(items)}
        return [item for item in items if first[item["variant"], item["phase"], str(item["workload"])] is item]

    def _largest(self) -> list[EmulatedRow]:
        """Of each variant, the row of the workload with the highest peak."""
        found: dict[str, EmulatedRow] = {}
        for row in self.rows:
            known = found.setdefault(row.origin.variant, row)
            found[row.origin.variant] = max(known, row, key=lambda one: one.counts.peak)
        return list(found.values())


def bench(
    chosen: Sequence[Variant],
    *,
    device: str,
    threads: Sequence[int],
    quick: bool,
    workloads: Sequence[Workload],
    tell: Callable[[str], None],
) -> EmulatedReport:
    """Measure variants. `quick`: one token and one prompt fewer of each.

    Raises:
        EdgeAdaptError: more than one thread (no deterministic count exists then), a workload that is not counted, or a
            guest that failed.
    """
    if list(threads) != [1]:
        several = ",".join(map(str, threads))
        raise EdgeAdaptError(f"--threads {several}: emulated processors take turns, so only one thread can be counted")
    counted = [workload for workload in workloads if isinstance(workload, (Generation, Embedding))]
    if not counted:
        raise EdgeAdaptError(
            f"--workload {workloads[0].name}: an emulated device counts generation, and embeddings of an encoder"
        )
    started = now()
    if device == RASPBERRY_PI_4:
        tell(
            "this machine is no Raspberry Pi 4: its processor is emulated, which gives instruction counts and no times"
        )
    system = sysroot.prepare(tell)
    library = emulated.library()
    if library is None:
        tell("no aarch64 build of the ops (scripts/build-kernels --target aarch64): function bodies are measured")
    rows = []
    seen: dict[tuple[Path, Path | None, Workload], EmulatedRow] = {}
    for variant, workload in product(chosen, counted):
        ops = library if variant.ops == "auto" else None
        graph = graph_of(variant)
        key = graph, ops, workload
        if key not in seen:  # another reading of the same would be the same
            tell(f"emulating {variant.name}, {in_words(workload.sizes())}")
            origin = Origin.of(variant, 1, "bodies" if ops is None else "library")
            job = _job(graph.name, workload, ops is not None, quick=quick)
            at = now()
            found = machine.measure(job, graph, ops, system)
            seen[key] = EmulatedRow(
                origin, workload, at, Counts(str(variant.bundle), variant.graph, job, system.versions(), found)
            )
        first = seen[key]
        origin = replace(first.origin, variant=variant.name, adapter=variant.adapter, note=variant.note)
        rows.append(replace(first, origin=origin))
    return EmulatedReport(
        device=device,
        fingerprint=emulated.fingerprint(system.versions()),
        started=started,
        rows=rows,
        sizes=sizes(chosen),
    )


def _job(graph: str, workload: Generation | Embedding, ops: bool, *, quick: bool) -> Job:
    if isinstance(workload, Embedding):
        if workload.batch != 1:
            raise EdgeAdaptError(f"--workload embedding:batch={workload.batch}: an emulated device counts one text")
        return Job(graph, "graph", ops, workload.tokens, tokens=1 if quick else 3)
    tokens, prefills = (1, 1) if quick else (min(workload.output, 3), 2)
    return Job(graph, ops=ops, prompt=workload.prompt, tokens=tokens, prefills=prefills)
