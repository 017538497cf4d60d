"""Runs at Weights & Biases, as edgeadapt's own tracker puts them there (tracking/summary.py).

A run is found by its name, which is its run_id, or by its id there. Its configuration and its summary hold all that a
run directory does except the steps, which are its history.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    def summary(self) -> Mapping[str, Any]: ...
    def scan_history(self, keys: list[str]) -> Iterable[Mapping[str, Any]]: ...


class Api(Protocol):
    """What is asked of wandb.Api."""

    def runs(self, path: str, filters: dict[str, Any]) -> Iterable[RemoteRun]: ...


class RemoteRuns:
    """Runs of one project."""

    def __init__(self, api: Api, project: str, entity: str | None) -> None:
        self._api, self._path = api, f"{entity}/{project}" if entity else project

    def run(self, run_id: str) -> StoredRun:
        found = self._found(run_id)
        name = f"{self._path}/{run_id}"
        summary = _plain(found.summary)
        if "scores" not in summary:
            raise EdgeAdaptError(f"{name}: its summary has no scores, so its training has not finished")
        history = found.scan_history(keys=["_step", "task", "loss"])
        return StoredRun(
            run_id,
            config=_plain(found.config),
            scores=Scores.from_json(summary["scores"], f"{name}: scores"),
            steps=tuple(Step(int(row["_step"]), str(row["task"]), float(row["loss"])) for row in history),
            confusion=confusions(summary.get("confusion", {}), f"{name}: confusion"),
            adapter_bytes=summary.get("adapter_bytes"),
        )

    def _found(self, run_id: str) -> RemoteRun:
        """The only run of this name or id. Raises EdgeAdaptError; also for whatever the service answers instead."""
        try:
            either = {"$or": [{"display_name": run_id}, {"name": run_id}]}
            found = list(self._api.runs(self._path, filters=either))
        except Exception as error:  # the service's own, requests' and those of its protocol
            said = " ".join(str(error).split())[:200]
            raise EdgeAdaptError(
                f"source=wandb: {self._path} cannot be read ({said}); look at project and entity"
            ) from None
        if not found:
            raise EdgeAdaptError(f"source=wandb: there is no run {run_id!r} in {self._path}")
        if len(found) > 1:
            ids = ", ".join(run.id for run in found)
            raise EdgeAdaptError(
                f"source=wandb: {self._path} has {len(found)} runs named {run_id!r}; give an id: {ids}"
            )
        return found[0]


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


def _plain(value: Any) -> Any:
    """Python's own types: the summary comes in mappings of W&B's own."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
