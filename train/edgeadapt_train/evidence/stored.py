"""A finished run as the evidence keeps it: its small files, never its weights.

    RUNS/<run_id>/   config.yaml  environment.json  metrics.jsonl  scores.json  confusion.json  adapter.json  cost.json
cost.json: {"cpu_seconds": whole run, scoring included; null if it was interrupted and went on}
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeadapt import rundir
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import published_directory, write_json
from edgeadapt.records import decode, read_json
from edgeadapt.rundir import AdapterManifest
from edgeadapt.scores import Scores
from edgeadapt_train.continual.metrics import Summary, summary

RUNS = "runs"
COST = "cost.json"
FILES = (
    rundir.CONFIG,
    rundir.ENVIRONMENT,
    rundir.METRICS,
    rundir.SCORES,
    rundir.CONFUSION,
    rundir.MANIFEST,
)


@dataclass(frozen=True)
class Stored:
    """`config`: the resolved configuration as plain values."""

    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    adapter: AdapterManifest
    scores: Scores
    cpu_seconds: float | None

    @property
    def run_id(self) -> str:
        return self.path.name

    def events(self, name: str) -> list[dict[str, Any]]:
        """The records of metrics.jsonl that are events of this name, in order."""
        return [record for record in rundir.read_metrics(self.path) if record.get("event") == name]

    @property
    def summary(self) -> Summary:
        return summary(self.scores.matrix, self.scores.baseline)


def keep(run: Path, out: Path, cpu_seconds: float | None) -> None:
    """Copy a finished run's small files to out/RUNS, whole or not at all."""
    with published_directory(out / RUNS / run.name, rundir.MANIFEST) as building:
        for name in FILES:
            if (run / name).is_file():
                shutil.copyfile(run / name, building / name)
        write_json(building / COST, {"cpu_seconds": cpu_seconds})


def read(path: Path) -> Stored:
    """A run that `keep` stored. Raises EdgeAdaptError naming the file that is missing or not what it should be."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(OmegaConf.load(path / rundir.CONFIG))
    environment = read_json(path / rundir.ENVIRONMENT)
    if not isinstance(config, dict) or not isinstance(environment, dict):
        raise EdgeAdaptError(f"{path}: {rundir.CONFIG} and {rundir.ENVIRONMENT} must be mappings")
    manifest, cost = path / rundir.MANIFEST, path / COST
    return Stored(
        path,
        {str(key): value for key, value in config.items()},
        environment,
        decode(AdapterManifest, read_json(manifest), str(manifest)),
        Scores.from_json(read_json(path / rundir.SCORES), str(path / rundir.SCORES)),
        read_json(cost)["cpu_seconds"] if cost.is_file() else None,
    )


def read_all(out: Path) -> dict[str, Stored]:
    """Every stored run by its id."""
    folder = out / RUNS
    found = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return {path.name: read(path) for path in found if not path.name.startswith(".")}
