"""The same job in several boots, one after the other: what is counted must not differ by a single instruction.

Nothing in the guest is left to chance: addresses are not randomised and PYTHONHASHSEED is 0 (init.py); the random
numbers that the kernel starts with and the date are the same in every boot (machine.py). With the host's own, importing
the libraries differs by some hundred instructions from boot to boot, and memory by some pages.
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
        for phase, counted in first.phases.items():
            if (found := other.phases.get(phase)) != counted:
                raise CheckFailed(f"boot {number} counted {found} for {phase}, and the first {counted}")
        if other.memory != first.memory:
            raise CheckFailed(f"boot {number} needed {other.memory['end']} bytes, and the first {first.memory['end']}")
        if other.answer != first.answer:
            raise CheckFailed(f"boot {number} answered {other.answer}, and the first {first.answer}")
