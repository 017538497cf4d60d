"""`edgeadapt retarget`: UniHyperLoRA's atoms on a backbone that they never saw.

    without      the backbone alone; an encoder with heads of its own, learnt without the adapter
    zero-shot    the source's adapter as it is stored, projected to this backbone's widths; an encoder's heads learnt
                 beside it, frozen
    tuned        stage 2: delta (1,024 numbers, 514 bytes) and the tasks' rows of E learnt, an encoder's heads with
                 them; U, V, h, mixer and router stay the source's bytes
The same stream, in the same order, with the settings of the source's configuration. The new run directory is an
ordinary one, with retarget.json beside: the three scores of every task, bytes, and the share of multiply-adds. It is in
the training stage because tuning is its loop; the exporter sees a run like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import write_json
from edgeadapt.rundir import RunDir
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Adapter, Event, Group
from edgeadapt_train.adapters.headed import Headed
from edgeadapt_train.adapters.wrapped import Wrapped
from edgeadapt_train.backbone import CausalBackbone
from edgeadapt_train.configuration import again
from edgeadapt_train.loop import Learner
from edgeadapt_train.objectives import encoded, objective
from edgeadapt_train.run import Run, opened

FILE = "retarget.json"


@dataclass(frozen=True)
class TaskScores:
    """One task's scores in [0, 1], on the same evaluation texts; `tuned` None if nothing was tuned."""

    task: str
    without: float
    zero_shot: float
    tuned: float | None


@dataclass(frozen=True)
class Retargeted:
    """What came of it."""

    run: str
    source: str
    source_backbone: str
    backbone: str
    bytes: int
    flop_share: float
    tasks: tuple[TaskScores, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "tasks": [asdict(item) for item in self.tasks]}

    def summary(self) -> str:
        share = f"{100 * self.flop_share:.2f} % of the linear maps' multiply-adds"
        lines = [f"{self.run}: {self.source_backbone} -> {self.backbone}, {self.bytes:,} bytes, {share}"]
        for item in self.tasks:
            tuned = "" if item.tuned is None else f", tuned {item.tuned:.3f}"
            lines.append(f"  {item.task}: without {item.without:.3f}, zero-shot {item.zero_shot:.3f}{tuned}")
        return "\n".join(lines)


def retarget(source: Path, model: str, out: Path, *, tune: bool = True, overrides: Sequence[str] = ()) -> Retargeted:
    """Carry the adapter of run `source` over to `model`, into the new run directory `out`.

    Args:
        model: as in `model.id`: a known name, a hub id or a folder.
        tune: False stops after zero-shot; delta is zero then.
        overrides: `key=value` on the source's configuration, such as steps=20.

    Raises:
        EdgeAdaptError: the source is no finished run of UniHyperLoRA; the adapter does more multiply-adds on this
            backbone than it may, or does not fit its linear maps; `out` is finished already.
    """
    finished = RunDir.open(source)
    if finished.adapter.method != "unihyper":
        raise EdgeAdaptError(
            f"{source}: its method is {finished.adapter.method}; only UniHyperLoRA's atoms fit other backbones"
        )
    place = out.resolve()
    changes = {
        "model.id": model,
        "run_id": place.name,
        "results_dir": str(place.parent),
        "adapter.source": str(source.resolve()),
    }
    settings = again(finished.config(), changes, overrides)
    with opened(settings) as run:
        without = _without(run)
        zero_shot = _zero_shot(run)
        names = [task.spec.name for task in run.tasks]
        for name, before, after in zip(names, without, zero_shot, strict=True):
            run.show.say(f"{name}: {before:.3f} without the adapter, {after:.3f} zero-shot")
        tuned: list[float | None] = [None] * len(names)
        if tune:
            run.learn()
            with _attached(run.adapter):
                tuned = [run.score(index, run.adapter) for index in range(len(names))]
        run.publish()
        found = Retargeted(
            run=str(out),
            source=str(source),
            source_backbone=finished.adapter.backbone.id,
            backbone=run.backbone.host.id,
            bytes=sum(run.adapter.byte_terms().values()),
            flop_share=float(run.adapter.sites()["flop_share"]),
            tasks=tuple(map(TaskScores, names, without, zero_shot, tuned)),
        )
        write_json(place / FILE, found.to_json())
    return found


class Resting(Wrapped):
    """An adapter that learns nothing; `acting` False: and does nothing."""

    def __init__(self, inner: Adapter, *, acting: bool) -> None:
        super().__init__(inner)
        self._acting = acting

    def attach(self) -> None:
        if self._acting:
            super().attach()

    def groups(self) -> list[Group]:
        return []

    def begin_task(self, index: int) -> list[Event]:
        self.inner.requires_grad_(False)
        return []

    def penalty(self) -> None:
        return None

    def after_backward(self) -> None:
        pass


def _without(run: Run) -> list[float]:
    if isinstance(run.backbone, CausalBackbone):
        return run.baseline()
    return _heads_alone(run, acting=False)


def _zero_shot(run: Run) -> list[float]:
    if not isinstance(run.backbone, CausalBackbone):
        return _heads_alone(run, acting=True)
    with _attached(run.adapter):
        return [run.score(index, run.adapter) for index in range(len(run.tasks))]


def _heads_alone(run: Run, *, acting: bool) -> list[float]:
    """Scores after learning each task's head beside an adapter that rests."""
    settings, model = run.settings, run.settings.model
    inner = registry.build(settings.adapter, run.backbone.host, settings.loop.seed)
    specs = [task.spec for task in run.tasks]
    resting = Resting(inner, acting=acting)
    scale = model.head_lr / settings.loop.lr
    adapter = Headed(resting, specs, run.backbone.host.hidden_size, model.pooling, scale).to(run.backbone.device)
    with _attached(adapter):
        for index, task in enumerate(run.tasks):
            examples = encoded(run.backbone, task.spec, task.train, run.text)
            taught = objective(run.backbone, adapter, task.spec, index, run.text)
            learner = Learner(run.backbone, adapter, examples, taught, settings=settings.loop, index=index)
            learner.begin()
            while learner.done < learner.total:
                report = learner.step()
                run.show.step(f"{task.spec.name} (head alone)", report.step, learner.total, report.loss)
        return [run.score(index, adapter) for index in range(len(run.tasks))]


@contextmanager
def _attached(adapter: Adapter) -> Iterator[None]:
    adapter.attach()
    try:
        yield
    finally:
        adapter.detach()
