"""No tracker: metrics.jsonl and scores.json are all there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeadapt_train.tracking.base import Tracker


class Disabled(Tracker):
    """Takes everything and keeps nothing."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def summarise(self, values: Mapping[str, Any]) -> None:
        pass

    def finish(self, failed: bool) -> None:
        pass


def start(**_: Any) -> Disabled:
    return Disabled()
