"""A result's rows as tables want them: one block for each workload, one entry for each of its sizes and variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeadapt_bench.results import Result
from edgeadapt_bench.units import in_words

Row = Mapping[str, Any]
THREADS = "threads"


@dataclass(frozen=True)
class Entry:
    """One variant at one point: `sizes` are those that differ within the block; `held` bytes, where that is told."""

    variant: str
    sizes: tuple[int, ...]
    rows: Mapping[str, Row]
    held: int | None


@dataclass(frozen=True)
class Block:
    """`title`: the workload with the sizes that are the same for all; `vary`: names of the others."""

    title: str
    vary: tuple[str, ...]
    phases: tuple[str, ...]
    entries: tuple[Entry, ...]

    @property
    def holds(self) -> bool:
        return any(entry.held is not None for entry in self.entries)

    @property
    def compared(self) -> bool:
        """Whether there is a ratio to the bare backbone anywhere."""
        return any(row.get("ratio_to_bare") for entry in self.entries for row in entry.rows.values())


def blocks(result: Result) -> list[Block]:
    """Of all workloads but loading, which has no sizes."""
    names = dict.fromkeys(row["workload"]["name"] for row in result.rows if row["phase"] != "load")
    return [_block(result, name) for name in names]


def _block(result: Result, name: str) -> Block:
    rows = [row for row in result.rows if row["workload"]["name"] == name]
    places = {(row["variant"], tuple(_sizes(row).items())): dict[str, Row]() for row in rows}
    for row in rows:
        places[row["variant"], tuple(_sizes(row).items())][row["phase"]] = row
    held = {
        (item["variant"], tuple(_sizes(item).items())): int(item["increase_bytes"])
        for item in result.memory
        if item["workload"] is not None
    }
    values: dict[str, set[int]] = {}
    for row in rows:
        for size, value in _sizes(row).items():
            values.setdefault(size, set()).add(value)
    vary = tuple(size for size, found in values.items() if len(found) > 1)
    same = {size: value for size, value in rows[0]["workload"].items() if size not in vary}
    entries = [
        Entry(variant, tuple(dict(sizes)[size] for size in vary), found, held.get((variant, sizes)))
        for (variant, sizes), found in places.items()
    ]
    order = {variant: number for number, variant in enumerate(result.variants)}
    entries.sort(key=lambda entry: (entry.sizes, order[entry.variant]))
    phases = tuple(phase for phase in result.phases if any(phase in found for found in places.values()))
    return Block(in_words(same), vary, phases, tuple(entries))


def _sizes(item: Row) -> dict[str, int]:
    return {**{size: value for size, value in item["workload"].items() if size != "name"}, THREADS: item["threads"]}
