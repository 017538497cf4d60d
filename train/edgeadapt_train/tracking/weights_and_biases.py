"""Weights & Biases, on its servers or in a folder that `wandb sync` sends there later.

    RUN/wandb/run-*  offline-run-*     a folder for each time that training was started
    RUN/wandb/id                       the run's id there, drawn once, so that a run that goes on goes on there, too

All that W&B writes lies in RUN/wandb, its caches and temporary files included. It gets the configuration, the steps'
figures and the summary; no code, no console output, nothing about the machine.

W&B takes the steps of a run in rising order, and drops one that it has: what is trained again after a kill, between the
last checkpoint and the kill, is not counted twice online. Offline each start has a folder of its own.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from edgeadapt.errors import EdgeAdaptError, MissingExtra
from edgeadapt.files import write_atomic
from edgeadapt_train.tracking.base import Tracker

FOLDER, ID = "wandb", "id"
_WAIT_S = 60.0  # for the server's first answer
_UPLOAD_S = 600.0  # for the last figures, at the end; what is left can be sent by `wandb sync`


class WeightsAndBiases(Tracker):
    """A run at W&B."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def summarise(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))

    def finish(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def start(
    mode: Literal["offline", "online"],
    *,
    run_id: str,
    config: Mapping[str, Any],
    directory: Path,
    project: str,
    entity: str | None,
) -> WeightsAndBiases:
    """Offline: into RUN/wandb/offline-run-*, asking nobody. Online: to the server.

    Raises MissingExtra, and EdgeAdaptError without a key, a network, or the right to write there.
    """
    place = (directory / FOLDER).resolve()
    with _kept_in(place):
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise MissingExtra("tracking", error.name or "wandb") from None
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_code=True,
            disable_git=True,
            init_timeout=_WAIT_S,
            finish_timeout=_UPLOAD_S,
            host="",
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        try:
            run = wandb.init(
                mode=mode,
                id=_identity(place / ID, run_id),
                name=run_id,
                project=project,
                entity=entity,
                config=dict(config),
                dir=str(directory.resolve()),
                resume="allow",
                reinit="create_new",
                settings=settings,
            )
        except (wandb.Error, OSError) as error:
            raise EdgeAdaptError(
                f"tracking.mode={mode}: Weights & Biases did not start ({' '.join(str(error).split())[:200]}); "
                "log in with `wandb login` and look at the network, or give tracking.mode=offline or disabled"
            ) from None
    return WeightsAndBiases(run)


def _identity(path: Path, run_id: str) -> str:
    """The run's id at W&B: its name and eight hexadecimal digits, drawn when it first starts."""
    if not path.is_file():
        write_atomic(path, f"{run_id[:100]}-{secrets.token_hex(4)}\n".encode())
    return path.read_text(encoding="utf-8").strip()


@contextmanager
def _kept_in(place: Path) -> Iterator[None]:
    """Let W&B, and the service that it starts here, find its folders below `place`; no reports of its errors."""
    (place / "tmp").mkdir(parents=True, exist_ok=True)
    ours = {
        "WANDB_CACHE_DIR": str(place / "cache"),
        "WANDB_DATA_DIR": str(place / "data"),
        "WANDB_ERROR_REPORTING": "false",
        "TMPDIR": str(place / "tmp"),
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
