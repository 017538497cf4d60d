"""Stored results as CSV, one line per row, and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from edgeadapt_bench.baselines import BARE
from edgeadapt_bench.results import FEWEST, Result
from edgeadapt_bench.units import shown
from edgeadapt_bench.workloads import PHASES

_WORKLOAD = ("name", "prompt_tokens", "decode_tokens", "batch")
_ORIGIN = ("variant", "phase", "unit", "adapter", "graph", "precision", "threads", "ops", "bundle", "bundle_sha256")
_SUMMARY = ("n", "p50", "low", "high", "p90", "p99", "mean", "minimum", "maximum", "deviation")
_RATIOS = ("ratio_to_bare", "cpu_ratio_to_bare")
_ENDS = ("value", "low", "high")


def to_csv(result: Result) -> str:
    """A header and one line per row, in the units of the file; lines of emulated rows have no column for a time."""
    memory = {item["variant"]: item for item in result.memory}
    versions = sorted({name for row in result.rows for name in row["versions"]})
    head = ["started", "device", "cpu", "emulated", *(f"workload_{name}" for name in _WORKLOAD), *_ORIGIN]
    head += ["instructions"] if result.emulated else [*_SUMMARY, *(f"{key}_{end}" for key in _RATIOS for end in _ENDS)]
    head += ["peak_bytes", "increase_bytes", *(f"version_{name}" for name in versions), "note"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in result.rows:
        cells: list[Any] = [row["started"], row["device"], result.device["cpu"], str(result.emulated).lower()]
        cells += [row["workload"][name] for name in _WORKLOAD]
        cells += [row[name] for name in _ORIGIN]
        if result.emulated:
            cells.append(row["instructions"])
        else:
            cells += [row[name] for name in _SUMMARY]
            cells += [(row[key] or {}).get(end) for key in _RATIOS for end in _ENDS]
        cells += [memory.get(row["variant"], {}).get(key) for key in ("peak_bytes", "increase_bytes")]
        cells += [*(row["versions"].get(name) for name in versions), row["note"]]
        writer.writerow(cells)
    return out.getvalue()


def to_markdown(result: Result) -> str:
    """A heading that says where the figures come from, one table per kind of figure, and what makes them doubtful."""
    device = result.device
    row = result.rows[0]
    versions = ", ".join(f"{name} {text}" for name, text in row["versions"].items())
    lines = [
        f"### {device['cpu']}{' (emulated)' * result.emulated}, {counted(row['threads'], 'thread')}",
        "",
        f"{_described(row['workload'])}; {result.document['started']}; {versions}.",
        "",
        *(f"**INVALID: {problem}**\n" for problem in result.problems),
    ]
    lines += _counted(result) if result.emulated else _timed(result)
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


def _described(workload: Mapping[str, Any]) -> str:
    return f"{workload['name']}, prompt of {workload['prompt_tokens']} tokens, batch {workload['batch']}"


def _timed(result: Result) -> list[str]:
    phases = [phase for phase in PHASES if result.of(phase)]
    names = [phase.replace("_", " ") + (" / token" if phase == "decode" else "") for phase in phases]
    medians = [
        [variant, *(_median(result.of(phase).get(variant)) for phase in phases), *_memory(result, variant)]
        for variant in result.variants
    ]
    compared = [phase for phase in phases if any(row["ratio_to_bare"] for row in result.of(phase).values())]
    ratios = [
        [variant, *(ratio(result.of(phase).get(variant, {}).get(key)) for phase in compared for key in _RATIOS)]
        for variant in result.variants
        if variant != BARE
    ]
    heads = [head for phase in compared for head in (f"{phase} x bare", f"{phase} x bare, CPU")]
    lines = _table(["median [95 %]", *names, "peak", "with the model"], medians)
    return [*lines, "", *_table(["paired ratio [95 %]", *heads], ratios)] if ratios and compared else lines


def _counted(result: Result) -> list[str]:
    rows = []
    for variant in result.variants:
        cells = [variant]
        for phase in ("load", "prefill", "decode"):
            row, bare = result.of(phase).get(variant), result.of(phase).get(BARE)
            cells.append("-" if row is None else shown(row["instructions"], "instructions"))
            cells.append("-" if row is None or bare is None else f"{row['instructions'] / bare['instructions']:.4f}")
        rows.append([*cells, *_memory(result, variant)])
    heads = ["load", "x bare", "prefill / token", "x bare", "decode / token", "x bare", "peak", "with the model"]
    return _table(["user instructions", *heads], rows)


def _median(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    interval = f"[{shown(row['low'], 's')}, {shown(row['high'], 's')}]" if row["n"] >= FEWEST else "[?]"
    return f"{shown(row['p50'], 's')} {interval}"


def _memory(result: Result, variant: str) -> tuple[str, str]:
    found = next((item for item in result.memory if item["variant"] == variant), None)
    return (
        ("-", "-") if found is None else (shown(found["peak_bytes"], "bytes"), shown(found["increase_bytes"], "bytes"))
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(head), ["---", *("---:" for _ in head[1:])], *rows]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
