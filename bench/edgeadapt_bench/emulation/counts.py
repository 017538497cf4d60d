"""What one emulated run found. Counts and bytes, never a time: there is no field for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgeadapt_bench.emulation.job import Job
from edgeadapt_bench.emulation.machine import Answer

# Phases that are run again and again, and whether their instructions are given per token of the prompt.
_REPEATED = {"prefill": True, "decode": False, "forward": False}


@dataclass(frozen=True)
class Counts:
    """User instructions per phase: `load` once, `prefill` per token of the prompt, `decode` per token, `forward` per
    run of a graph. Of repeated runs the first ones are dropped and the rest averaged; all of them stay in `runs`."""

    model: str
    graph: str
    job: Job
    versions: Mapping[str, str]
    found: Answer

    def instructions(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for phase, runs in self.found.phases.items():
            if phase not in _REPEATED:
                values[phase] = float(runs[-1])
                continue
            kept = runs[-1:] if phase == "prefill" else runs[self.job.discard :]
            values[phase] = sum(kept) / len(kept) / (self.job.prompt if _REPEATED[phase] else 1)
        return values

    @property
    def peak(self) -> int:
        """Bytes: VmHWM of the whole Python process at its end, touched pages of mapped files included."""
        return self.found.memory["end"]["VmHWM"]

    def to_json(self) -> dict[str, Any]:
        return {
            "emulated": True,
            "device": "QEMU cortex-a72, -icount shift=0, 1 thread",
            "model": self.model,
            "graph": self.graph,
            "job": asdict(self.job),
            "versions": dict(self.versions),
            "instructions": self.instructions(),
            "peak_bytes": self.peak,
            "runs": self.found.phases,
            "memory": self.found.memory,
            "nodes": [list(row) for row in self.found.nodes],
            "answer": self.found.answer,
        }

    def table(self) -> str:
        """Plain lines, millions of instructions."""
        units = {"prefill": "per token of the prompt", "decode": "per token", "forward": "per run"}
        lines = [f"{self.model} {self.graph}, ops {'library' if self.job.ops else 'off'}, prompt {self.job.prompt}"]
        for phase, value in self.instructions().items():
            lines.append(f"{phase:10} {value / 1e6:10.2f} M instructions {units.get(phase, '')}".rstrip())
        parts = self.found.memory["end"]
        split = ", ".join(f"{key[3:].lower()} {parts[key] / 1e6:.0f}" for key in ("RssAnon", "RssFile", "RssShmem"))
        lines.append(f"{'peak':10} {self.peak / 1e6:10.1f} MB (VmHWM, Python included; at the end: {split})")
        total = sum(row[3] for row in self.found.nodes)
        for operator, node, calls, count in self.found.nodes[:24]:
            lines.append(f"{count / 1e6:9.2f} M {count / total:6.1%}  {calls:4} x {operator:34} {node}")
        return "\n".join(lines)
