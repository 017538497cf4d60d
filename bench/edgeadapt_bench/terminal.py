"""A result as a terminal shows it: medians in milliseconds or counts in millions, ratios, and what is to be known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from edgeadapt_bench import tables
from edgeadapt_bench.baselines import BARE
from edgeadapt_bench.blocks import Block, blocks
from edgeadapt_bench.phases import PHASES
from edgeadapt_bench.results import Result
from edgeadapt_bench.units import digits

Row = Mapping[str, Any]
_LARGEST = 6  # files of a bundle that are named


def table(result: Result) -> RenderableType:
    """Tables, and lines below them."""
    threads = dict.fromkeys(row["threads"] for row in result.rows)
    count = (
        tables.counted(next(iter(threads)), "thread")
        if len(threads) == 1
        else f"{' and '.join(map(str, threads))} threads"
    )
    found = [_opened(result, f"{result.device['name']}: {result.device['cpu']}, {count}")]
    for block in blocks(result):
        found += [_counted(block)] if result.emulated else _timed(block)
    return Group(*found, *(escape(line) for line in _lines(result)))


def _opened(result: Result, title: str) -> Table:
    made = _table(title, "variant", "threads", "load M" if result.emulated else "load ms", "peak MB", "model MB")
    load = {(row["variant"], row["threads"]): row for row in result.rows if row["phase"] == "load"}
    for item in result.memory:
        if item["workload"] is None:
            row = load.get((item["variant"], item["threads"]))
            sizes = (f"{item[key] / 1e6:.0f}" for key in ("peak_bytes", "increase_bytes"))
            made.add_row(item["variant"], str(item["threads"]), _figure(row), *sizes)
    return made


def _timed(block: Block) -> list[Table]:
    phases = [PHASES[phase] for phase in block.phases]
    heads = [f"{phase.title.lower()} ms{phase.unit[1:]}" for phase in phases]
    rate = "decode" in block.phases
    medians = _table(block.title, "variant", *block.vary, *heads, *["tokens/s"] * rate, *["held MB"] * block.holds)
    both = [head for phase in phases for head in (phase.name.replace("_", " "), f"{phase.name.replace('_', ' ')}, CPU")]
    ratios = _table("x bare", "variant", *block.vary, *both)
    for entry in block.entries:
        rows = [entry.rows.get(phase) for phase in block.phases]
        where = [entry.variant, *map(str, entry.sizes)]
        decode = entry.rows.get("decode")
        speed = ["-" if decode is None else digits(1 / decode["p50"])] * rate
        held = ["-" if entry.held is None else f"{entry.held / 1e6:.2f}"] * block.holds
        medians.add_row(*where, *map(_figure, rows), *speed, *held)
        if any(row is not None and row["ratio_to_bare"] for row in rows):
            keys = ("ratio_to_bare", "cpu_ratio_to_bare")
            cells = [tables.ratio(None if row is None else row[key]) for row in rows for key in keys]
            ratios.add_row(*where, *map(escape, cells))
    return [medians, ratios] if block.compared else [medians]


def _counted(block: Block) -> Table:
    units = {phase: next(entry.rows[phase]["unit"] for entry in block.entries) for phase in block.phases}
    heads = [
        head for phase, unit in units.items() for head in (f"{phase} M{unit.removeprefix('instructions')}", "x bare")
    ]
    made = _table(block.title, "variant", *block.vary, *heads)
    bare = {entry.sizes: entry.rows for entry in block.entries if entry.variant == BARE}
    for entry in block.entries:
        cells = []
        for phase in block.phases:
            row, against = entry.rows.get(phase), bare.get(entry.sizes, {}).get(phase)
            cells.append(_figure(row))
            share = None if row is None or against is None else row["instructions"] / against["instructions"]
            cells.append("-" if share is None else f"{share:.4f}")
        made.add_row(entry.variant, *map(str, entry.sizes), *cells)
    return made


def _lines(result: Result) -> Sequence[str]:
    lines = ["model MB: peak beyond the same process without the model"]
    if result.emulated:
        lines.append(str(result.document["note"]))
    else:
        lines.append(
            "x bare: paired ratio [95 % interval over openings and rounds], by wall clock and computing time (CPU)"
        )
        counts: dict[str, list[int]] = {}
        for row in result.rows:
            counts.setdefault(row["phase"].replace("_", " "), []).append(row["n"])
        lines.append(f"samples of a row, at least: {', '.join(f'{phase} {min(n)}' for phase, n in counts.items())}")
        before, after = (result.document["conditions"][when]["load_average"] for when in ("before", "after"))
        lines.append(f"load average {before:.1f} before, {after:.1f} after")
    lines += [f"{name}: {note}" for name, note in tables.notes(result).items()]
    for bundle in result.document["sizes"]:
        sizes = result.files(bundle)
        large = sorted(sizes.items(), key=lambda item: -item[1])[:_LARGEST]
        named = ", ".join(f"{name} {size / 1e6:.2f}" for name, size in large)
        lines.append(
            f"{bundle}: {sum(sizes.values()) / 1e6:.1f} MB on disk ({named}{', ...' * (len(sizes) > _LARGEST)})"
        )
    return [*lines, *(f"INVALID: {problem}" for problem in result.problems)]


def _figure(row: Row | None) -> str:
    """Milliseconds, or millions of instructions."""
    if row is None:
        return "-"
    return digits(row["instructions"] / 1e6 if "instructions" in row else row["p50"] * 1e3)


def _table(title: str, name: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column(name)
    for column in columns:
        made.add_column(column, justify="right")
    return made
