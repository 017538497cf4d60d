"""Running what is planned and not stored yet, one run after the other in one process.

A run trains in WORK/<run_id>, with checkpoints, and goes on from there after a kill; when it is finished its small
files are stored and the rest is removed. A run that cannot be made (an option that is gone, a diverging loss) is
reported and passed over.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.configuration import compose
from edgeadapt_train.evidence import stored
from edgeadapt_train.evidence.plan import Planned, planned
from edgeadapt_train.evidence.stored import Stored
from edgeadapt_train.run import opened


def areas(found: Mapping[str, Stored]) -> dict[str, float]:
    """Retained-accuracy AUC of stored runs by id: what later stages are planned by."""
    return {run_id: run.summary.auc for run_id, run in found.items()}


def waiting(found: Mapping[str, Stored], only: str | None) -> list[Planned]:
    """What can be run by now and is not stored."""
    return [run for run in planned(areas(found)) if run.run_id not in found and only in (None, run.stage)]


def campaign(out: Path, work: Path, *, only: str | None, minutes: float | None) -> None:
    """Run what is waiting; after `minutes` no further run is begun."""
    end = None if minutes is None else time.monotonic() + 60 * minutes
    for run in _one_by_one(out, only):
        if end is not None and time.monotonic() > end:
            say("the time is up; the same command goes on")
            return
        try:
            learn(run, out, work, _untrained(run.stage, stored.read_all(out)))
        except EdgeAdaptError as error:
            say(f"{run.run_id}: passed over: {error}")


def learn(run: Planned, out: Path, work: Path, untrained: np.ndarray | None = None) -> None:
    """One run, from where it is to its stored files. `untrained`: the bare backbone's scores, where they are known."""
    settings = compose([*run.words(), f"results_dir={work}", "threads=1"])
    fresh, begun = not settings.directory.exists(), time.process_time()
    with opened(settings) as learner:
        if untrained is not None:
            learner.board.baseline[:] = untrained
        learner.learn()
        learner.publish()
    seconds = time.process_time() - begun
    stored.keep(settings.directory, out, seconds if fresh else None)
    shutil.rmtree(settings.directory)
    say(f"{run.run_id}: stored, {seconds:.0f} s")


def _untrained(stage: str, found: Mapping[str, Stored]) -> np.ndarray | None:
    """The bare backbone's scores on a stage's tasks: the same in all of its runs, so measured in the first."""
    known = (run.scores.baseline for run_id, run in found.items() if run_id.split("-")[1] == stage)
    return next(known, None)


def _one_by_one(out: Path, only: str | None) -> Iterator[Planned]:
    """What is waiting, looked up anew before every run: a stored run may decide about later ones."""
    tried: set[str] = set()
    while True:
        left = [run for run in waiting(stored.read_all(out), only) if run.run_id not in tried]
        if not left:
            return
        tried.add(left[0].run_id)
        yield left[0]


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
