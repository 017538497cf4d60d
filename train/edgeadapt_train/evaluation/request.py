"""What `edgeadapt evaluate` is asked: words of the form key=value.

    results_dir=DIR            the directory of runs; figures and tables are written there, too
    run_ids='["a","b"]'        which runs, in the order to show them
    source=local|wandb         run directories below results_dir, or runs at Weights & Biases
    project=NAME entity=NAME   of source=wandb: where the runs are
    primary_metric=NAME        what the best runs are chosen by
    bench='{a: FILE}'          what `edgeadapt bench --json` wrote of a run's bundle; without it, RUN/bench*.json

Lists and mappings are written as YAML or JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.continual.named import PRIMARY
from edgeadapt_train.evaluation.measures import MEASURES

SOURCES = ("local", "wandb")
_PLAIN = ("results_dir", "source", "project", "entity", "primary_metric")
KEYS = (*_PLAIN[:1], "run_ids", *_PLAIN[1:], "bench")


@dataclass(frozen=True)
class Request:
    """An evaluation, checked."""

    results_dir: Path
    run_ids: tuple[str, ...]
    source: str = "local"
    project: str = "edgeadapt"
    entity: str | None = None
    primary_metric: str = PRIMARY
    bench: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.run_ids or len(set(self.run_ids)) < len(self.run_ids):
            raise EdgeAdaptError(f"run_ids={list(self.run_ids)}: give at least one, and each once")
        for run_id in self.run_ids:
            if not run_id or "/" in run_id or run_id.startswith("."):
                raise EdgeAdaptError(f"run_ids: {run_id!r} is not the name of a run")
        if self.source not in SOURCES:
            raise EdgeAdaptError(f"source={self.source}: choose one of {', '.join(SOURCES)}")
        if self.primary_metric not in MEASURES:
            raise EdgeAdaptError(f"primary_metric={self.primary_metric}: choose one of {', '.join(MEASURES)}")
        if unknown := sorted(set(self.bench) - set(self.run_ids)):
            raise EdgeAdaptError(f"bench: {unknown[0]!r} is none of run_ids")

    @classmethod
    def parse(cls, words: Sequence[str]) -> Request:
        """Raises EdgeAdaptError, naming the word."""
        found: dict[str, Any] = {}
        for word in words:
            key, equals, text = word.partition("=")
            if not equals or key not in KEYS:
                raise EdgeAdaptError(f"{word}: give key=value with one of the keys {', '.join(KEYS)}")
            found[key] = text if key in _PLAIN else _structure(key, text)
        for key in ("results_dir", "run_ids"):
            if not found.get(key):
                raise EdgeAdaptError(f"{key} must be given: {key}=VALUE")
        found["results_dir"] = Path(found["results_dir"]).expanduser()
        return cls(**found)


def _structure(key: str, text: str) -> Any:
    """A list of names, or a mapping of names to files."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if key == "bench" and isinstance(value, dict) and value:
        return {str(name): Path(str(file)).expanduser() for name, file in value.items()}
    if key == "run_ids" and isinstance(value, list) and value and not any(isinstance(x, list | dict) for x in value):
        return tuple(str(name) for name in value)
    example = """'["a","b"]'""" if key == "run_ids" else "'{a: a.json}'"
    raise EdgeAdaptError(f"{key}={text}: give it as {key}={example}")
