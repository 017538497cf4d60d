"""What a figure grows with: a page's curves over every size that took several values, all others being the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from edgeadapt_bench import plots
from edgeadapt_bench.blocks import THREADS, Block, Entry
from edgeadapt_bench.results import FEWEST
from edgeadapt_bench.tables import counted

Estimate = tuple[float, float, float]  # value and interval; the value alone, three times, where there is none


@dataclass(frozen=True)
class Series:
    """Estimates of one figure: (size, variant, estimate)."""

    phase: str | None  # None: memory that is held
    at: str  # the other sizes, in words
    over: str
    points: tuple[tuple[int, str, Estimate], ...]

    def svg(self, title: str, colours: Mapping[str, str], figure: Callable[[float], str]) -> Markup:
        names = dict.fromkeys(name for _, name, _ in self.points)
        drawn = [
            plots.Curve(
                name, colours[name], tuple((place, *estimate) for place, who, estimate in self.points if who == name)
            )
            for name in names
        ]
        return Markup(plots.curves(f"{title}: {self.over}", drawn, figure, self.over.rpartition(" ")[2]))

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(name for _, name, _ in self.points))


def series(block: Block) -> list[Series]:
    """Of one workload, those that have two places at least."""
    found = [one for size in block.vary for one in _over(block, size)]
    return [one for one in found if len({place for place, _, _ in one.points}) > 1]


def _over(block: Block, size: str) -> list[Series]:
    place = block.vary.index(size)
    apart: dict[tuple[int, ...], list[Entry]] = {}
    for entry in block.entries:
        apart.setdefault((*entry.sizes[:place], *entry.sizes[place + 1 :]), []).append(entry)
    others = [name for name in block.vary if name != size]
    over = f"{block.title.partition(',')[0]}, over {size}"
    made = []
    for rest, entries in apart.items():
        at = "".join(f", {_words(name, value)}" for name, value in zip(others, rest, strict=True))
        for phase in block.phases:
            rows = [(entry, entry.rows[phase]) for entry in entries if phase in entry.rows]
            points = tuple((entry.sizes[place], entry.variant, _estimate(row)) for entry, row in rows)
            made.append(Series(phase, at, over, points))
        made.append(Series(None, at, over, _held(entries, place)))
    return made


def _words(size: str, value: int) -> str:
    return counted(value, "thread") if size == THREADS else f"{size} {value}"


def _held(entries: Sequence[Entry], place: int) -> tuple[tuple[int, str, Estimate], ...]:
    told = [(entry, float(entry.held)) for entry in entries if entry.held is not None]
    return tuple((entry.sizes[place], entry.variant, (held, held, held)) for entry, held in told)


def _estimate(row: Mapping[str, Any]) -> Estimate:
    if "instructions" in row:
        return (row["instructions"],) * 3
    return (row["p50"], row["low"], row["high"]) if row["n"] >= FEWEST else (row["p50"],) * 3
