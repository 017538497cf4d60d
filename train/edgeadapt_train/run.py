"""`edgeadapt train`: one run from its configuration to a finished run directory.

    baseline scores -> for each task: begin, steps, end, scores of every seen task and of the next -> adapter files
A run that was cut short goes on from its last checkpoint when it is started again with the same configuration; a
finished one is left alone. The scores are always those of the stored form of the adapter: of what ships.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeadapt import __version__, rundir
from edgeadapt.backbones import resolve
from edgeadapt.energy.meters import Energy, meters
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import storage_errors
from edgeadapt.manifest import AdapterBytes
from edgeadapt.tasks import TaskSpec
from edgeadapt.text import TextCodec
from edgeadapt_train import checkpoint, streams
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Adapter
from edgeadapt_train.adapters.headed import Headed
from edgeadapt_train.backbone import Backbone, CausalBackbone, load, threads
from edgeadapt_train.checkpoint import Position
from edgeadapt_train.configuration import RunSettings, compose
from edgeadapt_train.loop import Learner, restore_adapter
from edgeadapt_train.objectives import check_kind, encoded, objective
from edgeadapt_train.progress import Reporter, reporter
from edgeadapt_train.scoring import evaluate

# Keys that may differ between a run and its continuation: they do not change the result, or not by more than rounding.
_FREE = ("results_dir", "checkpoint_every")


def train(overrides: Sequence[str]) -> Path | None:
    """Train the run that the overrides name; returns its directory, or None after printing `--cfg`.

    Raises EdgeAdaptError for a wrong configuration, a finished run, an unfinished run of another configuration, a
    backbone or data that cannot be had, and a full disk.
    """
    words = [word for word in overrides if word not in ("--cfg", "--cfg=job")]
    settings = compose(words)
    if len(words) < len(overrides):
        print(settings.yaml, end="")
        return None
    with opened(settings) as run:
        run.learn()
        run.publish()
    return settings.directory


@contextmanager
def opened(settings: RunSettings) -> Iterator[Run]:
    """A run ready to learn, its configuration and environment written. Raises EdgeAdaptError as `train` does."""
    directory = settings.directory
    _claim(directory, settings.yaml)
    with reporter() as show, threads(settings.threads), storage_errors(directory):
        tasks = streams.load(settings.stream)
        found = resolve(settings.model.id)
        named = Path(settings.model.id).expanduser()
        # Export must find the backbone again: a folder by its whole path, anything else by its id.
        identity = str(named.resolve()) if named.exists() else found.id
        backbone = load(
            found.path,
            identity,
            found.revision,
            settings.precision,
            settings.device,
            quantisation=settings.model.quantisation,
        )
        for task in tasks:
            check_kind(backbone, task.spec)
        rundir.write_config(directory, settings.yaml)
        rundir.write_environment(directory, environment(backbone))
        show.say(f"{settings.run_id}: {found.id} in {backbone.precision}, {len(tasks)} tasks, into {directory}")
        yield Run(settings, tasks, backbone, TextCodec.from_folder(found.path), show)


class Run:
    """The state of a run while it goes."""

    def __init__(
        self, settings: RunSettings, tasks: list[streams.Task], backbone: Backbone, text: TextCodec, show: Reporter
    ) -> None:
        self.settings, self.tasks, self.backbone, self.text, self.show = settings, tasks, backbone, text, show
        self._path = settings.directory
        self.adapter = build_adapter(settings, backbone, [task.spec for task in tasks])
        self._meters = meters()
        count = len(tasks)
        self._baseline = np.full(count, np.nan)
        self._matrix = np.full((count, count), np.nan)
        self._step = 0

    def learn(self) -> None:
        """Every task that is not learnt yet, in order."""
        restored = checkpoint.read(self._path)
        first = Position(0, 0, 0, 0, {}) if restored is None else restored[0]
        if restored is not None:
            self._set_scores(first.scores)
            self._step = first.step
            self.show.say(f"{self.settings.run_id}: goes on at task {first.task + 1}, step {first.done}")
        kept = list(rundir.read_metrics(self._path))[: first.records]
        self._log = rundir.MetricsLog(self._path, kept)
        self._records = len(kept)
        self.baseline()
        self.adapter.attach()
        if restored is not None and first.done == 0 and restored[1]:
            restore_adapter(self.adapter, restored[1])
        for index in range(first.task, len(self.tasks)):
            done = first.done if index == first.task else 0
            self._learn_task(index, done, restored[1] if restored is not None and done else {})
        self.adapter.detach()

    def baseline(self) -> list[float]:
        """The bare backbone's score on every task; measured once."""
        if np.isnan(self._baseline).any():
            for index in range(len(self.tasks)):
                self._baseline[index] = self.score(index, None)
                self.show.say(f"{self.tasks[index].spec.name}: {self._baseline[index]:.3f} before training")
        return [float(score) for score in self._baseline]

    def _learn_task(self, index: int, done: int, tensors: dict[str, torch.Tensor]) -> None:
        task, settings = self.tasks[index], self.settings
        examples = encoded(self.backbone, task.spec, task.train, self.text)
        taught = objective(self.backbone, self.adapter, task.spec, index, self.text)
        learner = Learner(self.backbone, self.adapter, examples, taught, settings=settings.loop, index=index)
        if done:
            learner.restore(tensors, done)
        else:
            self._record(index, learner.begin())
        spent: list[Energy] = []
        for meter in self._meters:
            meter.start()
        while learner.done < learner.total:
            report = learner.step()
            spent = [meter.reading() for meter in self._meters]  # now, since a counter may wrap
            self._step += 1
            values = {"loss": report.loss, "lr": report.lr, "gradient_norm": report.gradient_norm}
            self._record(index, [{**values, "tokens": report.tokens}])
            self._record(index, report.events)
            self.show.step(task.spec.name, report.step, learner.total, report.loss)
            if learner.done % settings.checkpoint_every == 0:
                self._save(learner, index, learner.done)
        steps = learner.done - done
        self._record(
            index, [{"event": "measured energy", "joules": e.joules, "source": e.source, "steps": steps} for e in spent]
        )
        self._record(index, learner.finish())
        for other in range(min(index + 2, len(self.tasks))):
            self._matrix[index, other] = self.score(other, self.adapter)
        shown = ", ".join(f"{self.tasks[j].spec.name} {self._matrix[index, j]:.3f}" for j in range(index + 1))
        self.show.say(f"after {task.spec.name}: {shown}")
        self._save(learner, index + 1, 0)

    def publish(self) -> None:
        """scores.json, then the adapter: the run is finished when adapter.json is there."""
        counts = tuple(len(task.evaluation) for task in self.tasks)
        names = tuple(task.spec.name for task in self.tasks)
        rundir.write_scores(self._path, rundir.Scores(names, counts, self._baseline, self._matrix))
        write_adapter(self._path, self.adapter, self.backbone, self.tasks)
        self.show.say(f"{self.settings.run_id}: finished, {self._path}")

    def score(self, index: int, adapter: Adapter | None) -> float:
        """Score of the adapter's stored form (None: of the bare backbone) on a task's evaluation texts."""
        task, settings = self.tasks[index], self.settings
        scored = evaluate(
            self.backbone,
            adapter,
            task.spec,
            task.evaluation,
            index=index,
            text=self.text,
            batch_size=settings.eval_batch_size,
            max_new_tokens=settings.max_new_tokens,
        )
        return scored.score

    def _record(self, index: int, events: Sequence[dict[str, Any]]) -> None:
        self._records += len(events)
        for event in events:
            self._log.append({"step": self._step, "task": self.tasks[index].spec.name, **event})

    def _save(self, learner: Learner, task: int, done: int) -> None:
        position = Position(task, done, self._step, self._records, self._scores())
        checkpoint.write(self._path, position, learner.state())

    def _scores(self) -> dict[str, Any]:
        return {"baseline": _nullable(self._baseline), "matrix": [_nullable(row) for row in self._matrix]}

    def _set_scores(self, value: dict[str, Any]) -> None:
        def numbers(row: list[float | None]) -> list[float]:
            return [math.nan if score is None else score for score in row]

        self._baseline = np.array(numbers(value["baseline"]))
        self._matrix = np.array([numbers(row) for row in value["matrix"]])


def build_adapter(settings: RunSettings, backbone: Backbone, tasks: Sequence[TaskSpec]) -> Adapter:
    """The run's adapter; on an encoder with a head for every task."""
    adapter = registry.build(settings.adapter, backbone.host, settings.loop.seed)
    if isinstance(backbone, CausalBackbone):
        return adapter
    model = settings.model
    headed = Headed(adapter, tasks, backbone.host.hidden_size, model.pooling, model.head_lr / settings.loop.lr)
    return headed.to(backbone.device)


def write_adapter(path: Path, adapter: Adapter, backbone: Backbone, tasks: Sequence[streams.Task]) -> None:
    """adapter.safetensors and adapter.json of a learnt adapter; its measured bytes must equal its formula."""
    host = backbone.host
    manifest = rundir.AdapterManifest(
        format=rundir.FORMAT,
        method=adapter.method,
        variant=adapter.variant,
        backbone=rundir.BackboneRef(host.id, host.revision, host.hidden_size, len(host.layers)),
        sites=adapter.sites(),
        tasks=tuple(task.spec for task in tasks),
        bytes=AdapterBytes(**adapter.byte_report()),
        pooling=adapter.heads.pooling if isinstance(adapter, Headed) else None,
    )
    rundir.write_adapter(path, manifest, adapter.deployed())


def environment(backbone: Backbone) -> dict[str, Any]:
    """Versions, and what decides about speed and rounding."""
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    packages = ("torch", "transformers", "peft", "bitsandbytes", "numpy", "hydra-core", "safetensors", "tokenizers")
    return {
        "edgeadapt": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "packages": {name: installed(name) for name in packages},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": backbone.device.type,
        "precision": backbone.precision,
        "threads": torch.get_num_threads(),
    }


def _claim(directory: Path, yaml: str) -> None:
    """Refuse to overwrite a finished run, or to go on with one of another configuration."""
    if (directory / rundir.MANIFEST).is_file():
        raise EdgeAdaptError(f"{directory}: this run is finished; give another run_id=NAME, or remove the directory")
    config = directory / rundir.CONFIG
    if not config.is_file():
        return
    differing = list(_differences(config.read_text(encoding="utf-8"), yaml))
    if differing:
        raise EdgeAdaptError(
            f"{directory}: an unfinished run with another {differing[0]}; give another run_id=NAME, or remove it"
        )


def _differences(old: str, new: str) -> Iterator[str]:
    from omegaconf import OmegaConf

    before, after = (dict(OmegaConf.to_container(OmegaConf.create(text)) or {}) for text in (old, new))  # type: ignore[arg-type]
    for key in sorted({*before, *after} - set(_FREE), key=str):
        if before.get(key) != after.get(key):
            yield f"{key} ({before.get(key)} then, {after.get(key)} now)"


def _nullable(row: np.ndarray) -> list[float | None]:
    return [None if np.isnan(score) else float(score) for score in row]
