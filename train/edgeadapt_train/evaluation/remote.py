"""Runs at Weights & Biases, as edgeadapt's own tracker puts them there (tracking/figures.py).

A run is found by its name, which is its run_id, or by its id there. Its configuration and its summary hold all that a
run directory does except the steps, which are its history.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from edgeadapt.errors import EdgeAdaptError, MissingExtra
from edgeadapt.scores import Scores
from edgeadapt_train.evaluation.runs import Step, StoredRun, confusions


class RemoteRun(Protocol):
    """What is asked of wandb.apis.public.Run."""

    @property
    def id(self) -> str: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def summary_metrics(self) -> Mapping[str, Any]: ...
    def scan_history(self, keys: list[str]) -> Iterable[Mapping[str, Any]]: ...


class Api(Protocol):
    """What is asked of wandb.Api."""

    def runs(self, path: str, filters: dict[str, Any]) -> Iterable[RemoteRun]: ...


class RemoteRuns:
    """Runs of one project."""

    def __init__(self, api: Api, project: str, entity: str | None) -> None:
        self._api, self._path = api, f"{entity}/{project}" if entity else project

    def run(self, run_id: str) -> StoredRun:
        with self._answering():
            found = self._found(run_id)
            summary = found.summary_metrics
            if "scores" not in summary:
                raise EdgeAdaptError(f"{self._path}/{run_id}: has no scores, so its training has not finished")
            history = list(found.scan_history(keys=["_step", "task", "loss"]))
            config = found.config
        name = f"{self._path}/{run_id}"
        return StoredRun(
            run_id,
            config=config,
            scores=Scores.from_json(summary["scores"], f"{name}: scores"),
            steps=tuple(Step(int(row["_step"]), str(row["task"]), float(row["loss"])) for row in history),
            confusion=confusions(summary.get("confusion", {}), f"{name}: confusion"),
            adapter_bytes=summary.get("adapter_bytes"),
        )

    def _found(self, run_id: str) -> RemoteRun:
        """The only run of this name or id."""
        found = list(self._api.runs(self._path, filters={"$or": [{"display_name": run_id}, {"name": run_id}]}))
        if not found:
            raise EdgeAdaptError(f"source=wandb: there is no run {run_id!r} in {self._path}")
        if len(found) > 1:
            ids = ", ".join(run.id for run in found)
            raise EdgeAdaptError(
                f"source=wandb: {self._path} has {len(found)} runs named {run_id!r}; give an id: {ids}"
            )
        return found[0]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Whatever the service answers instead, in one line: its own errors, requests' and those of its protocol."""
        try:
            yield
        except EdgeAdaptError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise EdgeAdaptError(
                f"source=wandb: {self._path} cannot be read ({said}); look at project and entity"
            ) from None


def open_api() -> Api:
    """The API with this machine's key. Raises MissingExtra, and EdgeAdaptError without a key or a network."""
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise MissingExtra("tracking", error.name or "wandb") from None
    try:
        api: Api = wandb.Api()
    except (wandb.Error, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise EdgeAdaptError(
            f"source=wandb: Weights & Biases does not answer ({said}); log in with `wandb login`"
        ) from None
    return api
