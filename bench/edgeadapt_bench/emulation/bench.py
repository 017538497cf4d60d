"""`edgeadapt bench --device emulated`: every variant in a guest of its own, one after the other.

Nothing is interleaved and no sample has an interval: a count is the same every time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.baselines import BARE, Variant
from edgeadapt_bench.devices import emulated
from edgeadapt_bench.devices.base import Fingerprint
from edgeadapt_bench.emulation import machine, sysroot
from edgeadapt_bench.emulation.counts import Counts
from edgeadapt_bench.emulation.job import Job
from edgeadapt_bench.emulation.sysroot import Sysroot
from edgeadapt_bench.report import FORMAT, Origin, now, sizes
from edgeadapt_bench.workloads import Workload

UNITS = {"load": "instructions", "prefill": "instructions/token", "decode": "instructions/token"}
NOTE = (
    "emulated Cortex-A72, one thread: user instructions, the same every time. They are not a time; "
    "adapter inputs are noise, since what an op costs does not depend on its values"
)


@dataclass(frozen=True)
class EmulatedRow:
    """One variant: counts per phase, and the guest process's peak. There is no field for a time."""

    origin: Origin
    started: str
    counts: Counts

    def to_json(self, device: str) -> list[dict[str, Any]]:
        """One object per phase, in the words of native rows, with `instructions` for what they call samples."""
        job, values = self.counts.job, self.counts.instructions()
        return [
            {
                **self.origin.to_json(),
                "workload": {
                    "name": "generation",
                    "prompt_tokens": job.prompt,
                    "decode_tokens": job.tokens,
                    "batch": 1,
                },
                "phase": phase,
                "unit": unit,
                "started": self.started,
                "device": device,
                "emulated": True,
                "versions": dict(self.counts.versions),
                "instructions": values[phase],
                "runs": self.counts.found.phases[phase],
            }
            for phase, unit in UNITS.items()
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
            "rows": [item for row in self.rows for item in row.to_json(identity)],
            "memory": [
                {
                    **row.origin.to_json(),
                    "device": identity,
                    "emulated": True,
                    "peak_bytes": row.counts.peak,
                    "increase_bytes": row.counts.peak - row.counts.found.memory["import"]["VmRSS"],
                }
                for row in self.rows
            ],
            "sizes": {bundle: dict(files) for bundle, files in self.sizes.items()},
        }

    def table(self) -> RenderableType:
        """Millions of instructions per variant, and ratios to the bare backbone."""
        table = Table(
            title=f"{self.device}: {self.fingerprint.cpu}, 1 thread", title_justify="left", box=box.SIMPLE_HEAD
        )
        table.add_column("variant")
        for name in ("load M", "prefill M/token", "x bare", "decode M/token", "x bare", "peak MB"):
            table.add_column(name, justify="right")
        bare = next((row.counts.instructions() for row in self.rows if row.origin.variant == BARE), None)
        for row in self.rows:
            values = row.counts.instructions()
            cells = [f"{values['load'] / 1e6:.0f}"]
            for phase in ("prefill", "decode"):
                cells.append(f"{values[phase] / 1e6:.2f}")
                cells.append("-" if bare is None else f"{values[phase] / bare[phase]:.4f}")
            table.add_row(row.origin.variant, *cells, f"{row.counts.peak / 1e6:.0f}")
        notes = [f"{row.origin.variant}: {row.origin.note}" for row in self.rows if row.origin.note]
        return Group(table, NOTE, *notes)


def bench(
    chosen: Sequence[Variant],
    *,
    device: str,
    threads: int,
    quick: bool,
    workload: Workload,
    tell: Callable[[str], None],
) -> EmulatedReport:
    """Measure variants. `quick`: one token and one prompt fewer of each.

    Raises:
        EdgeAdaptError: more than one thread (no deterministic count exists then), or a guest that failed.
    """
    if threads != 1:
        raise EdgeAdaptError(f"--threads {threads}: emulated processors take turns, so only one thread can be counted")
    started = now()
    if device == emulated.RASPBERRY_PI_4:
        tell(
            "this machine is no Raspberry Pi 4: its processor is emulated, which gives instruction counts and no times"
        )
    system = sysroot.prepare(tell)
    library = emulated.library()
    if library is None:
        tell("no aarch64 build of the ops (scripts/build-kernels --target aarch64): function bodies are measured")
    rows = []
    seen: dict[tuple[Path, str, Path | None], EmulatedRow] = {}
    for variant in chosen:
        ops = library if variant.ops == "auto" else None
        key = variant.bundle, variant.graph, ops
        if key not in seen:  # another reading of the same would be the same
            tell(f"emulating {variant.name}")
            seen[key] = _measure(variant, ops, system, workload, quick=quick)
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


def _measure(variant: Variant, ops: Path | None, system: Sysroot, workload: Workload, *, quick: bool) -> EmulatedRow:
    bundle = Bundle.open(variant.bundle)
    graph = bundle.graph(variant.graph)
    tokens, prefills = (1, 1) if quick else (min(workload.decode_tokens, 3), 2)
    job = Job(graph.name, ops=ops is not None, prompt=workload.prompt_tokens, tokens=tokens, prefills=prefills)
    origin = Origin.of(variant, 1, "bodies" if ops is None else "library")
    started = now()
    answer = machine.measure(job, graph, ops, system)
    return EmulatedRow(origin, started, Counts(str(variant.bundle), variant.graph, job, system.versions(), answer))
