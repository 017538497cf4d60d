"""What a run's bundle costs on a processor, from the rows that `edgeadapt bench --json` wrote of it.

    overhead   = 100 (ratio - 1) %     ratio: of the adapter's time to the bare backbone's in the same benchmark,
                 paired, with its interval; of an emulated device that of instruction counts, which is no time
    memory     = the process's peak, and by how much its increase exceeds the bare backbone's, in bytes

The phase is the first there is of decode, classify, embed and prefill, and of it the first workload. The adapter is the
one that has the run's name, as export gives it, or the only one that the file has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.records import read_json

PHASES = ("decode", "classify", "embed", "prefill")
BARE = "bare"
_LIMIT = 256 << 20  # bytes of a file: it holds every sample


@dataclass(frozen=True)
class Cost:
    """`overhead`: percent, with its interval, or three times the same where a count has none. `memory`: peak and
    increase over the bare backbone's, in bytes. `samples`, `bare`: seconds, empty for an emulated device."""

    file: str
    device: str
    emulated: bool
    phase: str
    workload: str
    precision: str
    threads: int
    overhead: tuple[float, float, float]
    memory: tuple[float, float] | None
    samples: tuple[float, ...] = ()
    bare: tuple[float, ...] = ()


def beside(run: Path) -> Path | None:
    """The benchmark in a run directory: bench*.json, the newest of them."""
    found = sorted(run.glob("bench*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    return found[-1] if found else None


def cost(path: Path, run_id: str) -> Cost:
    """What the file says of the run's adapter. Raises EdgeAdaptError: no or an invalid benchmark, or another run's."""
    document = read_json(path, _LIMIT)
    try:
        if document.get("problems"):
            raise EdgeAdaptError(f"{path}: its figures are not valid ({document['problems'][0]}); measure again")
        return _cost(path, document, run_id)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError):
        raise EdgeAdaptError(f"{path}: not a bench result; give what `edgeadapt bench --json` wrote") from None


def _cost(path: Path, document: Mapping[str, Any], run_id: str) -> Cost:
    rows = document["rows"]
    variant = _variant(path, rows, run_id)
    found = [(row, _bare(rows, row)) for row in rows if row["variant"] == variant]
    pairs = [(row, bare) for phase in PHASES for row, bare in found if row["phase"] == phase and bare is not None]
    if not pairs:
        raise EdgeAdaptError(f"{path}: has no row of {variant} beside one of the bare backbone; measure again")
    row, bare = pairs[0]
    emulated = bool(document["device"]["emulated"])
    if emulated:
        ratio = (row["instructions"] / bare["instructions"],) * 3
    else:
        paired = row["ratio_to_bare"]
        ratio = (paired["value"], paired["low"], paired["high"])
    return Cost(
        file=path.name,
        device=str(document["device"].get("model") or document["device"]["name"]),
        emulated=emulated,
        phase=row["phase"],
        workload=", ".join(f"{name} {value}" for name, value in row["workload"].items() if name != "name"),
        precision=row["precision"],
        threads=int(row["threads"]),
        overhead=tuple(100 * (float(one) - 1) for one in ratio),  # type: ignore[arg-type]
        memory=_memory(document["memory"], variant),
        samples=_flat(row.get("samples", ())),
        bare=_flat(bare.get("samples", ())),
    )


def _variant(path: Path, rows: Sequence[Mapping[str, Any]], run_id: str) -> str:
    """The run's adapter, with our kernels where it was measured with and without."""
    named = re.sub(r"[^A-Za-z0-9_.-]+", "-", run_id).strip("-.")[:100]
    adapters = dict.fromkeys(str(row["adapter"]) for row in rows if row["adapter"] is not None)
    chosen = named if named in adapters else next(iter(adapters)) if len(adapters) == 1 else None
    if chosen is None:
        there = ", ".join(adapters) or "none"
        raise EdgeAdaptError(f"{path}: benchmarks no adapter {named}; there are: {there}")
    variants = dict.fromkeys(str(row["variant"]) for row in rows if row["adapter"] == chosen)
    return chosen if chosen in variants else next(iter(variants))


def _bare(rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The bare backbone's row of the same phase, workload and number of threads."""
    same = ("phase", "workload", "threads")
    return next((one for one in rows if one["variant"] == BARE and all(one[key] == row[key] for key in same)), None)


def _memory(items: Sequence[Mapping[str, Any]], variant: str) -> tuple[float, float] | None:
    found = {item["variant"]: item for item in items if item.get("workload") is None}
    if variant not in found or BARE not in found:
        return None
    own, bare = found[variant], found[BARE]
    return float(own["peak_bytes"]), float(own["increase_bytes"] - bare["increase_bytes"])


def _flat(samples: Any) -> tuple[float, ...]:
    """Samples of all openings; files of earlier versions have them in one list."""
    return tuple(float(one) for opening in samples for one in (opening if isinstance(opening, list) else [opening]))
