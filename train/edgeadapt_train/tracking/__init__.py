"""Where a run's figures go besides its own metrics.jsonl, which is always written.

    with tracking.open(settings, run_id=..., config=..., directory=...) as tracker:
        tracker.log(step, {"loss": 0.7})
        tracker.summarise({"retained_accuracy_auc": 0.61})

Another tracker is one file here, with a function of the kind `Opener`, and one line in MODES.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.tracking import disabled, weights_and_biases
from edgeadapt_train.tracking.base import Opener, Tracker

MODES: Mapping[str, Opener] = {
    "disabled": disabled.start,
    "offline": partial(weights_and_biases.start, "offline"),
    "online": partial(weights_and_biases.start, "online"),
}


@dataclass(frozen=True)
class TrackingSettings:
    """`mode`: one of MODES. `entity`: the user or team that the project belongs to; None: the account's own."""

    mode: str = "disabled"
    project: str = "edgeadapt"
    entity: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise EdgeAdaptError(f"tracking.mode={self.mode}: choose one of {', '.join(MODES)}")
        if not self.project or set(self.project) & set("/\\#?%:"):
            raise EdgeAdaptError(f"tracking.project={self.project!r}: give a name without any of / \\ # ? % :")


def open(settings: TrackingSettings, *, run_id: str, config: Mapping[str, Any], directory: Path) -> Tracker:
    """The tracker that the settings name, ready to take figures; what it writes here lies below `directory`.

    A run that goes on after a kill goes on in the tracker, too. Raises EdgeAdaptError, before any training, where a
    package is missing or a server cannot be reached or refuses.
    """
    start = MODES[settings.mode]
    return start(run_id=run_id, config=config, directory=directory, project=settings.project, entity=settings.entity)


__all__ = ["MODES", "Tracker", "TrackingSettings", "open"]
