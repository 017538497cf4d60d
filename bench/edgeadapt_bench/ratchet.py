"""Instruction counts that must not move without a reason: what is committed, against what is counted now.

    moved       |now / before - 1| > TOLERANCE, either way: what became cheaper is held from then on, too
    a row       a bundle's graph on the emulated Cortex-A72: user instructions of load, prefill and decode per token
    changes     why rows were last replaced, the newest first

Counts repeat to the last instruction for one set of versions; where the versions differ, what moved says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import write_json

FORMAT = 1
TOLERANCE = 0.02
Counts = Mapping[str, float]  # user instructions by phase


@dataclass(frozen=True)
class Change:
    """Why these rows were replaced, and when (ISO 8601)."""

    when: str
    reason: str
    rows: Sequence[str]


@dataclass(frozen=True)
class Ratchet:
    """What is committed. `versions`: of what the counts depend on."""

    versions: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, Counts] = field(default_factory=dict)
    changes: Sequence[Change] = ()

    def moved(self, found: Mapping[str, Counts]) -> list[str]:
        """A line for every count that moved, or that only one side has, among the rows that were counted now."""
        lines = []
        for name, counts in found.items():
            before = self.rows.get(name)
            if before is None:
                lines.append(f"{name}: not committed yet")
                continue
            for phase in dict.fromkeys((*before, *counts)):
                if phase not in before or phase not in counts:
                    lines.append(f"{name}, {phase}: only {'counted now' if phase in counts else 'committed'}")
                elif abs(counts[phase] / before[phase] - 1) > TOLERANCE:
                    lines.append(
                        f"{name}, {phase}: {before[phase]:,.0f} -> {counts[phase]:,.0f} instructions "
                        f"({counts[phase] / before[phase] - 1:+.1%})"
                    )
        return lines

    def replaced(self, found: Mapping[str, Counts], versions: Mapping[str, str], when: str, reason: str) -> Ratchet:
        """The same with new rows. Raises EdgeAdaptError without a reason."""
        if len(reason.split()) < 2:
            raise EdgeAdaptError(f"--update {reason!r}: say in some words why the counts moved")
        return Ratchet(dict(versions), {**self.rows, **found}, (Change(when, reason, sorted(found)), *self.changes))

    def write(self, path: Path) -> None:
        write_json(path, {"format": FORMAT, "tolerance": TOLERANCE, **asdict(self)})


def load(path: Path) -> Ratchet:
    """Raises EdgeAdaptError for a file that is none; an absent one is empty."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if value["format"] != FORMAT:
            raise EdgeAdaptError(f"{path}: format {value['format']}, and this version reads {FORMAT}")
        rows = {name: {phase: float(count) for phase, count in row.items()} for name, row in value["rows"].items()}
        return Ratchet(value["versions"], rows, tuple(Change(**change) for change in value["changes"]))
    except FileNotFoundError:
        return Ratchet()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EdgeAdaptError(f"{path}: not a ratchet ({error}); take it from the last commit") from None
