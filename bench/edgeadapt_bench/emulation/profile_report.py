"""A profile as plain lines, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeadapt_bench.emulation.profile import Function, mix
from edgeadapt_bench.emulation.static_cycles import LABEL, Estimate, disassemble


def lines(functions: Sequence[Function], cycles: Estimate, *, show: int, most: int = 24) -> list[str]:
    """Functions, the class of their instructions, and the assembly of the `show` hottest blocks."""
    total = cycles.instructions
    blocks = [block for function in functions for block in function.blocks]
    classes = ", ".join(f"{name} {count / total:.1%}" for name, count in mix(blocks).items())
    found = [f"{total / 1e6:.2f} M instructions: {classes}"]
    found.append(f"{cycles.cycles / 1e6:.2f} M cycles, {cycles.per_cycle:.2f} instructions per cycle ({LABEL})")
    for function in functions[:most]:
        spent = sum(block.runs * cycles.per_block.get(block, 0.0) for block in function.blocks)
        share = f"{function.instructions / 1e6:9.3f} M {function.instructions / total:6.1%}"
        found.append(f"{share} {spent / 1e6:9.3f} M cycles  {function.name}")
    for block in sorted(blocks, key=lambda item: -item.instructions)[:show]:
        per = cycles.per_block.get(block)
        estimated = "no estimate" if per is None else f"{per:.1f} cycles a run"
        share = f"{block.instructions / total:.1%} of all"
        found.append(f"\n0x{block.address:x}: {block.runs} runs x {len(block.words)}, {share}, {estimated}")
        found.extend(f"    {line}" for line in disassemble(block))
    return found


def to_json(functions: Sequence[Function], cycles: Estimate) -> dict[str, Any]:
    return {
        "emulated": True,
        "instructions": cycles.instructions,
        "mix": dict(mix(block for function in functions for block in function.blocks)),
        "static_cycles": {"cycles": cycles.cycles, "covered": cycles.covered, "note": LABEL},
        "functions": [
            {"name": item.name, "instructions": item.instructions, "blocks": len(item.blocks)} for item in functions
        ],
    }
