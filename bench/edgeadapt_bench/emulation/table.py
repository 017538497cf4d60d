"""Stored rows side by side, against what the kernels are to reach. Pure: rows in, Markdown out.

A row is a JSON object as scripts/kernel_counts.py stores it: {"name", "instructions": {phase: number}, "peak_bytes",
"static": {phase: {"cycles": number, "instructions": number}}, ...}. Phases of decoders are load, prefill and decode
(both per token), of encoders forward. A missing row shows as "-".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Goal:
    """One line: a figure of our row, beside that of stock onnxruntime's and llama.cpp's, and the most it may be."""

    what: str
    ours: str
    stock: str
    other: str | None
    phase: str  # or "peak"
    most: float  # millions of instructions, or MB


GOALS = (
    Goal("int8 decode, per token", "ours-int8", "stock-int8", "llama-q8_0", "decode", 55),
    Goal("int4 decode, per token", "ours-int4", "stock-int4", "llama-q4_0", "decode", 60),
    Goal("int8 prefill of 64, per token", "ours-int8", "stock-int8", "llama-q8_0", "prefill", 35),
    Goal("int4 prefill of 64, per token", "ours-int4", "stock-int4", "llama-q4_0", "prefill", 35),
    Goal("int8 session load", "ours-int8", "stock-int8", "llama-q8_0", "load", 200),
    Goal("int4 session load", "ours-int4", "stock-int4", "llama-q4_0", "load", 200),
    Goal("int8 guest peak RSS, MB", "ours-int8", "stock-int8", "llama-q8_0", "peak", 210),
    Goal("int4 guest peak RSS, MB", "ours-int4", "stock-int4", "llama-q4_0", "peak", 150),
    Goal("MiniLM int8, 32 tokens, whole forward", "minilm-ours-int8", "minilm-stock-int8", None, "forward", 95),
)


@dataclass(frozen=True)
class Overhead:
    """What an adapter's sites add to a phase of the bare backbone, and the most it may be."""

    what: str
    row: str
    bare: str
    most: float  # a share


OVERHEADS = (
    Overhead("RankOneUpdate at every block (HIMALAYA), int8", "himalaya-int8", "ours-int8", 0.005),
    Overhead("RankOneUpdate at every block (HIMALAYA), int4", "himalaya-int4", "ours-int4", 0.005),
    Overhead("LoRA-8 on all linears, int8", "lora8-all-int8", "ours-int8", 0.05),
    Overhead("LoRA-8 on q and v, int8", "lora8-int8", "ours-int8", 0.05),
    Overhead("LoRA-8 on q and v, int4", "lora8-int4", "ours-int4", 0.05),
)
_CYCLES = (("fp32", "stock-fp32"), ("int8", "ours-int8"), ("int4", "ours-int4"), ("stock int8", "stock-int8"),
           ("stock int4", "stock-int4"))  # fmt: skip


def markdown(rows: Rows, head: str) -> str:
    """The tables, `head` above them."""
    lines = [head, "", "| millions of user instructions | stock onnxruntime | llama.cpp | ours | goal | |"]
    lines.append("|---|---|---|---|---|---|")
    for goal in GOALS:
        ours = _value(rows, goal.ours, goal.phase)
        others = (_value(rows, goal.stock, goal.phase), goal.other and _value(rows, goal.other, goal.phase))
        cells = [_shown(value) for value in (*others, ours)]
        lines.append(f"| {goal.what} | {' | '.join(cells)} | <= {goal.most:g} | {verdict(ours, goal.most)} |")
    fp32 = [f"{phase} {_shown(_value(rows, 'stock-fp32', phase))}" for phase in ("decode", "prefill", "load", "peak")]
    lines += ["", f"fp32 on stock onnxruntime, for scale: {', '.join(fp32)}."]
    lines += ["", "| adapters, decode | instructions added | goal | |", "|---|---|---|---|"]
    for item in OVERHEADS:
        with_it, bare = _value(rows, item.row, "decode"), _value(rows, item.bare, "decode")
        added = None if with_it is None or bare is None else with_it / bare - 1
        shown = "-" if added is None else f"{added:+.2%}"
        lines.append(f"| {item.what} | {shown} | <= {item.most:.1%} | {verdict(added, item.most)} |")
    lines += [
        "",
        "| static cycles, millions per token | decode | per cycle | prefill | per cycle |",
        "|---|---|---|---|---|",
    ]
    for what, name in _CYCLES:
        cells = [cell for phase in ("decode", "prefill") for cell in _static(rows, name, phase)]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def verdict(value: float | None, most: float) -> str:
    """In words whether a figure keeps within its goal, and by how much it misses it."""
    if value is None:
        return "not measured"
    return "met" if value <= most else f"missed by {value / most - 1:.1%}"


def _value(rows: Rows, name: str, phase: str) -> float | None:
    if name not in rows:
        return None
    if phase == "peak":
        return float(rows[name]["peak_bytes"]) / 1e6
    found = rows[name]["instructions"].get(phase)
    return None if found is None else float(found) / 1e6


def _static(rows: Rows, name: str, phase: str) -> tuple[str, str]:
    found = rows.get(name, {}).get("static", {}).get(phase)
    if found is None:
        return "-", "-"
    return f"{found['cycles'] / 1e6:.1f}", f"{found['instructions'] / found['cycles']:.2f}"


def _shown(value: float | str | None) -> str:
    return "-" if value is None or isinstance(value, str) else f"{value:,.1f}"
