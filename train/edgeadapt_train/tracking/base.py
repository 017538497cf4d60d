"""What every tracker does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self


class Tracker(Protocol):
    """Takes a run's figures; a context manager that finishes, as failed if its block raised."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of a step, counted from 1 over the whole run. Steps rise; those of one step belong together."""

    def summarise(self, values: Mapping[str, Any]) -> None:
        """What the run comes to: anything that JSON can say."""

    def finish(self, failed: bool) -> None:
        """No more figures come."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.finish(failed=error is not None)


class Opener(Protocol):
    """Starts a tracker, or goes on with what it holds of this run directory."""

    def __call__(
        self, *, run_id: str, config: Mapping[str, Any], directory: Path, project: str, entity: str | None
    ) -> Tracker: ...
