"""A run as it is evaluated, wherever it was read from; and reading it from its run directory.

A directory counts as a run that has its scores: they are written when the stream has been learnt. The adapter itself is
not needed, so a run may be kept without its weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from edgeadapt import rundir
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.records import decode, read_json
from edgeadapt.scores import Confusion, Scores
from edgeadapt_train.evaluation.costs import Cost

Role = Literal["proposed", "baseline", "other"]
# What differs between runs that are the same but for their seed.
_OWN = ("run_id", "results_dir", "seed", "checkpoint_every", "threads", "tracking", "search")


@dataclass(frozen=True)
class Step:
    """One optimiser step: `number` over the whole run, from 1."""

    number: int
    task: str
    loss: float


@dataclass(frozen=True)
class StoredRun:
    """A run that has been learnt. `cost`: of its bundle, where it was benchmarked."""

    run_id: str
    config: Mapping[str, Any]
    scores: Scores
    steps: tuple[Step, ...] = ()
    confusion: Mapping[str, Confusion] = field(default_factory=dict)
    adapter_bytes: int | None = None
    cost: Cost | None = None

    @property
    def role(self) -> Role:
        """By the id, as the reference runs are named."""
        if "proposed" in self.run_id:
            return "proposed"
        return "baseline" if "comparative" in self.run_id or "baseline" in self.run_id else "other"

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))

    @property
    def replicas(self) -> str:
        """Equal for runs that differ in nothing but the seed."""
        kept = {key: value for key, value in self.config.items() if key not in _OWN}
        stream = kept.get("stream")
        if isinstance(stream, Mapping):
            kept["stream"] = {key: value for key, value in stream.items() if key != "seed"}
        return json.dumps(kept, sort_keys=True, default=str)

    @property
    def final(self) -> dict[str, float]:
        """Score on each task at the stream's end."""
        return dict(zip(self.scores.tasks, map(float, self.scores.matrix[-1]), strict=True))


class Source(Protocol):
    """Where runs come from."""

    def run(self, run_id: str) -> StoredRun:
        """Raises EdgeAdaptError where there is no such run, or it has no scores yet."""


class LocalRuns:
    """Run directories below one directory."""

    def __init__(self, results_dir: Path) -> None:
        self._root = results_dir

    def run(self, run_id: str) -> StoredRun:
        path = self._root / run_id
        if not path.is_dir():
            raise EdgeAdaptError(f"{self._root}: there is no run {run_id!r}; there are: {self._listed()}")
        if not (path / rundir.SCORES).is_file():
            raise EdgeAdaptError(f"{path}: has no {rundir.SCORES}, so its training has not finished; train it again")
        return StoredRun(
            run_id,
            config=_config(path / rundir.CONFIG),
            scores=Scores.from_json(read_json(path / rundir.SCORES), str(path / rundir.SCORES)),
            steps=tuple(
                Step(int(record["step"]), str(record["task"]), float(record["loss"]))
                for record in rundir.read_metrics(path)
                if "loss" in record
            ),
            confusion=confusions(_optional(path / rundir.CONFUSION) or {}, str(path / rundir.CONFUSION)),
            adapter_bytes=_deployed(path / rundir.MANIFEST),
        )

    def _listed(self) -> str:
        found = sorted(item.parent.name for item in self._root.glob(f"*/{rundir.SCORES}"))
        return ", ".join(found[:8]) + (", ..." if len(found) > 8 else "") if found else "none"


def confusions(value: Any, name: str) -> dict[str, Confusion]:
    """Confusion matrices by task, from their JSON."""
    if not isinstance(value, dict):
        raise EdgeAdaptError(f"{name}: expected an object, found {type(value).__name__}")
    return {task: decode(Confusion, one, f"{name}: {task}") for task, one in value.items()}


def _config(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise EdgeAdaptError(f"{path}: not YAML ({' '.join(str(error).split())[:120]})") from None
    return found if isinstance(found, dict) else {}


def _optional(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _deployed(path: Path) -> int | None:
    found = _optional(path)
    return None if found is None else decode(rundir.AdapterManifest, found, str(path)).bytes.deployed
