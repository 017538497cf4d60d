"""Checkpoints: one safetensors file, replaced atomically. A kill leaves the old one or the new one.

checkpoints/last.safetensors: the learner's tensors (adapter and optimiser); in the header's metadata, under
"edgeadapt", JSON with where the run is: task, steps done, and the scores so far.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import storage_errors, write_atomic
from edgeadapt.records import parse_json
from edgeadapt.rundir import CHECKPOINTS

FILE = "last.safetensors"
_KEY = "edgeadapt"


@dataclass(frozen=True)
class Position:
    """Where a run is: `done` steps of task `task` (0: not begun), steps and records logged in all, scores known."""

    task: int
    done: int
    step: int
    records: int
    scores: dict[str, Any]


def write(run: Path, position: Position, tensors: dict[str, Tensor]) -> None:
    """Replace the run's checkpoint."""
    from safetensors.torch import save

    with storage_errors(run):
        write_atomic(run / CHECKPOINTS / FILE, save(tensors, metadata={_KEY: json.dumps(position.__dict__)}))


def read(run: Path) -> tuple[Position, dict[str, Tensor]] | None:
    """The run's checkpoint, if there is one."""
    from safetensors import SafetensorError, safe_open

    path = run / CHECKPOINTS / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as source:
            position = Position(**parse_json((source.metadata() or {}).get(_KEY, "").encode(), str(path)))
            return position, {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError) as error:
        raise EdgeAdaptError(
            f"{path}: not a checkpoint of edgeadapt ({error}); remove the run to start again"
        ) from None


def bit_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two checkpoints' tensors agree in every bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
