"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def shown(value: float, unit: str) -> str:
    """A figure of a result file with its unit: three digits that count, and a unit that needs no zeros.

    `unit` is that of the file: s, s/token, s/text, instructions, instructions/token, bytes, or ratio.
    """
    if unit == "ratio":
        return f"{value:.3f}"
    base, _, per = unit.partition("/")
    number, name = _scaled(value, _STEPS[base])
    return f"{number} {name}" + (f"/{per}" if per else "")


def digits(value: float) -> str:
    """Three digits that count, more before the point if there are more."""
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{decimals}f}"


def in_words(workload: Mapping[str, Any]) -> str:
    """A row's workload with its sizes: "generation, prompt 64, output 8"."""
    sizes = [f"{size} {value}" for size, value in workload.items() if size != "name"]
    return ", ".join([str(workload["name"]), *sizes])


_STEPS = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "instructions": ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")),
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
}


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> tuple[str, str]:
    for size, name in steps:
        if abs(value) >= size:
            return digits(value / size), name
    size, name = steps[-1]
    return digits(value / size) if value else "0", name
