"""The same job in several boots, one after the other: what is counted must not differ by a single instruction.

Address randomisation is off in the guest and PYTHONHASHSEED is 0; only `import` may differ, by some 0.002 %, because
libraries draw random numbers while they are loaded. It is no row of any report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeadapt.errors import CheckFailed
from edgeadapt_bench.emulation import machine
from edgeadapt_bench.emulation.job import Job
from edgeadapt_bench.emulation.machine import Answer
from edgeadapt_bench.emulation.sysroot import Sysroot

UNCOUNTED = "import"


def measure(
    job: Job, graph: Path, library: Path | None, system: Sysroot, *, boots: int, tell: Callable[[str], None]
) -> tuple[list[Answer], list[float]]:
    """Each boot's answer, and what it took this machine in seconds: of the emulator, never of what it emulates.

    Raises CheckFailed if two answers differ.
    """
    answers, seconds = [], []
    for number in range(1, boots + 1):
        began = time.monotonic()
        answers.append(machine.measure(job, graph, library, system))
        seconds.append(time.monotonic() - began)
        tell(f"boot {number} of {boots} was emulated in {seconds[-1]:.0f} s")
    agree(answers)
    return answers, seconds


def agree(answers: Sequence[Answer]) -> None:
    """Raises CheckFailed naming the first figure in which an answer differs from the first one."""
    first = answers[0]
    for number, other in enumerate(answers[1:], 2):
        for phase in first.phases.keys() - {UNCOUNTED}:
            if other.phases.get(phase) != first.phases[phase]:
                found = other.phases.get(phase)
                raise CheckFailed(f"boot {number} counted {found} for {phase}, and the first {first.phases[phase]}")
        if other.memory != first.memory:
            raise CheckFailed(f"boot {number} needed {other.memory['end']} bytes, and the first {first.memory['end']}")
        if other.answer != first.answer:
            raise CheckFailed(f"boot {number} answered {other.answer}, and the first {first.answer}")
