"""Stored results as CSV, one line per row, and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from edgeadapt_bench.baselines import BARE
from edgeadapt_bench.blocks import Block, blocks
from edgeadapt_bench.phases import PHASES
from edgeadapt_bench.results import FEWEST, Result
from edgeadapt_bench.units import shown

_ORIGIN = ("variant", "phase", "unit", "adapter", "graph", "precision", "threads", "ops", "bundle", "bundle_sha256")
_SUMMARY = ("n", "p50", "low", "high", "p90", "p99", "mean", "minimum", "maximum", "deviation")
_RATIOS = ("ratio_to_bare", "cpu_ratio_to_bare")
_ENDS = ("value", "low", "high")


def to_csv(result: Result) -> str:
    """A header and one line per row, in the units of the file; lines of emulated rows have no column for a time."""
    memory = {(item["variant"], item["threads"]): item for item in result.memory if item["workload"] is None}
    sizes = list(dict.fromkeys(size for row in result.rows for size in row["workload"]))
    versions = sorted({name for row in result.rows for name in row["versions"]})
    head = ["started", "device", "cpu", "emulated", *(f"workload_{name}" for name in sizes), *_ORIGIN]
    head += ["instructions"] if result.emulated else [*_SUMMARY, *(f"{key}_{end}" for key in _RATIOS for end in _ENDS)]
    head += ["peak_bytes", "increase_bytes", *(f"version_{name}" for name in versions), "note"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in result.rows:
        cells: list[Any] = [row["started"], row["device"], result.device["cpu"], str(result.emulated).lower()]
        cells += [row["workload"].get(name) for name in sizes]
        cells += [row[name] for name in _ORIGIN]
        if result.emulated:
            cells.append(row["instructions"])
        else:
            cells += [row[name] for name in _SUMMARY]
            cells += [(row[key] or {}).get(end) for key in _RATIOS for end in _ENDS]
        cells += [memory.get((row["variant"], row["threads"]), {}).get(key) for key in ("peak_bytes", "increase_bytes")]
        cells += [*(row["versions"].get(name) for name in versions), row["note"]]
        writer.writerow(cells)
    return out.getvalue()


def to_markdown(result: Result) -> str:
    """A heading that says where the figures come from, a table or two per workload, and what makes them doubtful."""
    device = result.device
    row = result.rows[0]
    versions = ", ".join(f"{name} {text}" for name, text in row["versions"].items())
    threads = " and ".join(map(str, dict.fromkeys(row["threads"] for row in result.rows)))
    lines = [
        f"### {device['cpu']}{' (emulated)' * result.emulated}, {threads} thread{'' if threads == '1' else 's'}",
        "",
        f"{result.document['started']}; {versions}.",
        "",
        *(f"**INVALID: {problem}**\n" for problem in result.problems),
        *_opened(result),
    ]
    for block in blocks(result):
        lines += ["", *(_counted(block) if result.emulated else _timed(block))]
    lines += ["", *(f"- {name}: {note}" for name, note in notes(result).items())]
    return "\n".join(lines).rstrip() + "\n"


def notes(result: Result) -> dict[str, str]:
    """What is to be known of a variant, by its name, and why others are not there."""
    found = {str(row["variant"]): str(row["note"]) for row in (*result.memory, *result.rows) if row["note"]}
    return {**found, **{f"without {name}": reason for name, reason in result.left_out.items()}}


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def ratio(value: Mapping[str, float] | None) -> str:
    """A ratio with its interval; without one where there are too few pairs for it."""
    if value is None:
        return "-"
    interval = f"[{value['low']:.3f} {value['high']:.3f}]" if value["pairs"] >= FEWEST else "[?]"
    return f"{value['value']:.3f} {interval}"


def _opened(result: Result) -> list[str]:
    load = {(row["variant"], row["threads"]): row for row in result.rows if row["phase"] == "load"}
    several = len({item["threads"] for item in result.memory}) > 1
    rows = []
    for item in result.memory:
        if item["workload"] is None:
            sizes = (shown(item[key], "bytes") for key in ("peak_bytes", "increase_bytes"))
            row = load.get((item["variant"], item["threads"]))
            rows.append([item["variant"], *[str(item["threads"])] * several, _figure(row), *sizes])
    return _table(["opened", *["threads"] * several, "load", "peak", "with the model"], rows)


def _timed(block: Block) -> list[str]:
    heads = [PHASES[phase].title + PHASES[phase].unit[1:].replace("/", " / ") for phase in block.phases]
    medians, ratios = [], []
    for entry in block.entries:
        where = [entry.variant, *map(str, entry.sizes)]
        rows = [entry.rows.get(phase) for phase in block.phases]
        held = ["-" if entry.held is None else shown(entry.held, "bytes")] * block.holds
        medians.append([*where, *map(_figure, rows), *held])
        if any(row is not None and row["ratio_to_bare"] for row in rows):
            ratios.append([*where, *(ratio(None if row is None else row[key]) for row in rows for key in _RATIOS)])
    lines = _table([f"{block.title}: median [95 %]", *block.vary, *heads, *["held"] * block.holds], medians)
    if block.compared:
        pairs = [head for phase in block.phases for head in (f"{PHASES[phase].title} x bare", "CPU")]
        lines += ["", *_table([f"{block.title}: paired ratio [95 %]", *block.vary, *pairs], ratios)]
    return lines


def _counted(block: Block) -> list[str]:
    bare = {entry.sizes: entry.rows for entry in block.entries if entry.variant == BARE}
    rows = []
    for entry in block.entries:
        cells = [entry.variant, *map(str, entry.sizes)]
        for phase in block.phases:
            row, against = entry.rows.get(phase), bare.get(entry.sizes, {}).get(phase)
            share = None if row is None or against is None else row["instructions"] / against["instructions"]
            cells += [_figure(row), "-" if share is None else f"{share:.4f}"]
        rows.append(cells)
    units = {phase: next(entry.rows[phase]["unit"] for entry in block.entries) for phase in block.phases}
    heads = [head for phase in block.phases for head in (f"{phase}{_per(units[phase])}", "x bare")]
    return _table([f"{block.title}: user instructions", *block.vary, *heads], rows)


def _per(unit: str) -> str:
    return unit.removeprefix("instructions").replace("/", " / ")


def _figure(row: Mapping[str, Any] | None) -> str:
    """The median with its interval, or a count."""
    if row is None:
        return "-"
    if "instructions" in row:
        return shown(row["instructions"], "instructions")
    interval = f"[{shown(row['low'], 's')}, {shown(row['high'], 's')}]" if row["n"] >= FEWEST else "[?]"
    return f"{shown(row['p50'], 's')} {interval}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(head), ["---", *("---:" for _ in head[1:])], *rows]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
