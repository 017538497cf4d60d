"""Cycles of hot blocks as llvm-mca reckons them. LLVM models the A72 with the A57's units; nothing here is calibrated.

    cycles = sum over blocks of runs x (cycles of 100 iterations in steady state / 100)

Every block by itself, as if it were a loop: all loads hit the first cache level, all branches are foretold. That
flatters whatever waits for memory. Useful to compare two kernels of one kind, and to see where instructions are few and
slow.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgeadapt_bench.emulation import tools
from edgeadapt_bench.emulation.profile import Block

LABEL = "static estimate, LLVM models the A72 with the A57's units, uncalibrated"
_ITERATIONS = 100
_MOST = 400  # blocks


@dataclass(frozen=True)
class Estimate:
    """`cycles` of `covered` of `instructions`, scaled up to all of them."""

    cycles: float
    instructions: int
    covered: float
    per_block: Mapping[Block, float]

    @property
    def per_cycle(self) -> float:
        return self.instructions / self.cycles if self.cycles else 0.0


def estimate(blocks: Sequence[Block], cover: float = 0.99) -> Estimate:
    """Of the hottest blocks that together make up `cover` of all instructions."""
    tools.require(tools.STATIC)
    total = sum(block.instructions for block in blocks)
    chosen: list[Block] = []
    reached = 0
    for block in sorted(blocks, key=lambda item: -item.instructions):
        if reached >= cover * total or len(chosen) == _MOST:
            break
        chosen.append(block)
        reached += block.instructions
    cycles = dict(zip(chosen, _cycles([disassemble(block) for block in chosen]), strict=True))
    known = {block: value for block, value in cycles.items() if value is not None}
    seen = sum(block.instructions for block in known)
    spent = sum(block.runs * value for block, value in known.items())
    return Estimate(spent * total / seen if seen else 0.0, total, seen / total if total else 0.0, known)


def disassemble(block: Block) -> list[str]:
    """One line of assembly per instruction."""
    code = " ".join(f"0x{byte:02x}" for word in block.words for byte in word.to_bytes(4, "little"))
    command = ["llvm-mc", "--disassemble", "--triple=aarch64", "-mattr=+v8a,+crc"]
    text = subprocess.run(command, input=code, capture_output=True, text=True, check=False).stdout
    return [line.strip().replace("\t", " ") for line in text.splitlines() if line.strip() and line.strip()[0] != "."]


def _cycles(blocks: Sequence[list[str]]) -> list[float | None]:
    """Cycles of one iteration of each; None where llvm-mca knows an instruction not."""
    together = _run(blocks)
    if len(together) == len(blocks):
        return list(together)
    alone = [_run([block]) for block in blocks]
    return [found[0] if len(found) == 1 else None for found in alone]


def _run(blocks: Iterable[list[str]]) -> list[float]:
    parts = (f"# LLVM-MCA-BEGIN\n{chr(10).join(lines)}\n# LLVM-MCA-END\n" for lines in blocks)
    command = ["llvm-mca", "-mtriple=aarch64", "-mcpu=cortex-a72", f"-iterations={_ITERATIONS}"]
    quiet = ["-instruction-info=0", "-resource-pressure=0"]
    done = subprocess.run([*command, *quiet], input="".join(parts), capture_output=True, text=True, check=False)
    return [int(cycles) / _ITERATIONS for cycles in re.findall(r"^Total Cycles:\s+(\d+)$", done.stdout, re.MULTILINE)]
