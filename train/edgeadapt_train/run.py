"""`edgeadapt train`: one run from its configuration to a finished run directory.

    baseline scores -> for each task: begin, steps, end, scores of every seen task and of the next -> adapter files
A run that was cut short goes on from its last checkpoint when it is started again with the same configuration; a
finished one is left alone. The scores are always those of the stored form of the adapter: of what ships.
continual/lessons.py says what is taught and scored when, continual/task_ids.py what is known of task ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeadapt import rundir
from edgeadapt.energy.meters import Energy, meters
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import storage_errors
from edgeadapt.scores import Confusion
from edgeadapt.text import TextCodec
from edgeadapt_train import checkpoint, streams, tracking
from edgeadapt_train.adapters.base import Adapter
from edgeadapt_train.backbone import Backbone, threads
from edgeadapt_train.batches import Example
from edgeadapt_train.checkpoint import Position
from edgeadapt_train.configuration import RunSettings, compose, plain
from edgeadapt_train.continual import lessons
from edgeadapt_train.continual.lessons import Lesson
from edgeadapt_train.continual.scoreboard import Scoreboard
from edgeadapt_train.continual.task_ids import Prototypes, spread
from edgeadapt_train.loop import Learner, restore_adapter
from edgeadapt_train.objectives import check_kind, encoded, objective
from edgeadapt_train.parallel import Team, check_alone, team
from edgeadapt_train.parts import build_adapter, load_backbone
from edgeadapt_train.progress import Reporter, Silent, reporter
from edgeadapt_train.run_files import claim, environment, write_adapter
from edgeadapt_train.scoring import Scored, confusion, evaluate
from edgeadapt_train.search import on_validation, searched
from edgeadapt_train.tracking import Tracker, TrackingSettings
from edgeadapt_train.tracking.disabled import Disabled
from edgeadapt_train.tracking.figures import after_task, at_the_end


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
    if settings.search.trials:
        check_alone("search.trials", "search.workers=N takes several processes of its own")
        settings = searched(settings, on_validation)
    with opened(settings) as run, run.tracked():
        run.learn()
        run.publish()
    return settings.directory


@contextmanager
def opened(settings: RunSettings, quiet: bool = False) -> Iterator[Run]:
    """A run ready to learn, its configuration and environment written. Raises EdgeAdaptError as `train` does."""
    directory = settings.directory
    claim(directory, settings.yaml)
    members = team(cpu=settings.device == "cpu")
    with _reporter(members, quiet) as show, threads(settings.threads), storage_errors(directory):
        tasks = streams.load(settings.stream)
        settings.limits.check_stream(tasks)
        backbone, text = load_backbone(settings)
        for task in tasks:
            check_kind(backbone, task.spec)
        run = Run(settings, tasks, backbone, text, show, members=members)
        if members.rank == 0:
            rundir.write_config(directory, settings.yaml)
            rundir.write_environment(directory, {**environment(backbone), "processes": members.size})
        show.say(
            f"{settings.run_id}: {settings.model.id} in {backbone.precision}, {len(tasks)} tasks, into {directory}"
        )
        if (remark := settings.limits.hold_device(backbone.device)) is not None:
            show.say(remark)
        yield run


class Run:
    """The state of a run while it goes."""

    def __init__(
        self,
        settings: RunSettings,
        tasks: list[streams.Task],
        backbone: Backbone,
        text: TextCodec,
        show: Reporter,
        *,
        members: Team,
    ) -> None:
        self.settings, self.tasks, self.backbone, self.text, self.show = settings, tasks, backbone, text, show
        self._path, self._team = settings.directory, members
        self._prototypes = Prototypes()
        self.adapter = build_adapter(settings, backbone, [task.spec for task in tasks], self._prototypes)
        settings.limits.check_adapter(self.adapter)
        lessons.check(settings.strategy, backbone, self.adapter)
        self.lessons = lessons.lessons(settings.strategy, [task.spec.name for task in tasks])
        if settings.gradient_checkpointing and not self.adapter.recomputable:
            raise EdgeAdaptError(f"gradient_checkpointing=true: {self.adapter.method} computes a block once only")
        self._meters = meters()
        self.board = Scoreboard(len(tasks))
        self.tracker: Tracker = Disabled()
        self._step = 0

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """Within the block the tracker that the settings name is told what is recorded."""
        wanted = self.settings.tracking if self._team.rank == 0 else TrackingSettings()
        config = plain(self.settings.yaml)
        with tracking.open(wanted, run_id=self.settings.run_id, config=config, directory=self._path) as self.tracker:
            yield

    def learn(self, after: Callable[[int], None] = lambda row: None) -> None:
        """Every lesson that is not learnt yet, in order. `after` is told which row of the matrix each has filled."""
        restored = checkpoint.read(self._path)
        first = Position(0, 0, 0, 0, {}) if restored is None else restored[0]
        if restored is not None:
            self.board.restore(first.scores)
            self._step = first.step
            self.show.say(f"{self.settings.run_id}: goes on at task {first.task + 1}, step {first.done}")
        kept = list(rundir.read_metrics(self._path))[: first.records]
        self._log = rundir.MetricsLog(self._path, kept) if self._team.rank == 0 else None
        self._records = len(kept)
        self.baseline()
        self.adapter.attach()
        if restored is not None and first.done == 0 and restored[1]:
            restore_adapter(self.adapter, restored[1])
        for lesson in self.lessons[: first.task]:
            self._learn_ids(lesson)
        for number, lesson in enumerate(self.lessons[first.task :], first.task):
            done = first.done if number == first.task else 0
            self._learn_lesson(number, lesson, done, restored[1] if restored is not None and done else {})
            after(lesson.row)
        self.adapter.detach()

    def baseline(self) -> list[float]:
        """The bare backbone's score on every task; measured once."""
        if np.isnan(self.board.baseline).any():
            for index in range(len(self.tasks)):
                self.board.baseline[index] = self.score(index, None)
                self.show.say(f"{self.tasks[index].spec.name}: {self.board.baseline[index]:.3f} before training")
        return [float(score) for score in self.board.baseline]

    def _learn_lesson(self, number: int, lesson: Lesson, done: int, tensors: dict[str, torch.Tensor]) -> None:
        settings, taught = self.settings, [self.tasks[index] for index in lesson.tasks]
        examples = [item for task in taught for item in encoded(self.backbone, task.spec, task.train, self.text)]
        learner = Learner(
            self.backbone,
            self.adapter,
            examples,
            objective(self.backbone, self.adapter, taught[0].spec, lesson.index, self.text),
            settings=lesson.loop(settings.loop),
            index=lesson.index,
            team=self._team,
        )
        if done:
            learner.restore(tensors, done)
        else:
            self._record(lesson, learner.begin())
        spent: list[Energy] = []
        for meter in self._meters:
            meter.start()
        while learner.done < learner.total:
            began = time.perf_counter()
            report = learner.step()
            seconds = time.perf_counter() - began
            spent = [meter.reading() for meter in self._meters]  # now, since a counter may wrap
            self._step += 1
            values = {"loss": report.loss, "lr": report.lr, "gradient_norm": report.gradient_norm}
            self._record(lesson, [{**values, "tokens": report.tokens, "seconds": seconds}])
            self._record(lesson, report.events)
            self.show.step(lesson.name, report.step, learner.total, report.loss)
            if learner.done % settings.checkpoint_every == 0:
                self._save(learner, number, learner.done)
        steps = learner.done - done
        self._record(
            lesson,
            [{"event": "measured energy", "joules": e.joules, "source": e.source, "steps": steps} for e in spent],
        )
        self._record(lesson, learner.finish())
        self._learn_ids(lesson)
        self._score_after(lesson)
        self._save(learner, number + 1, 0)

    def _learn_ids(self, lesson: Lesson) -> None:
        if self._guesses:
            (index,) = lesson.tasks
            task = self.tasks[index]
            self._prototypes.learn(self.backbone, encoded(self.backbone, task.spec, spread(task.train), self.text))

    def _score_after(self, lesson: Lesson) -> None:
        """The lesson's row of the matrix; after the last one, confusion matrices."""
        board, row, last = self.board, lesson.row, lesson.row == len(self.tasks) - 1
        for index in lesson.scored:
            spec, found = self.tasks[index].spec, self.answered(index, self.adapter, lesson.asked(index))
            board.matrix[row, index] = found.score
            if last and spec.choices:
                counts = confusion(spec, found.answers, [item.target for item in self.asked(index)])
                board.confusion[spec.name] = Confusion(spec.choices, tuple(map(tuple, counts.tolist())))
            if self.settings.task_ids == "both":
                board.withheld[row, index] = self._withheld(lesson, index) if self._guesses else found.score
        shown = ", ".join(f"{self.tasks[j].spec.name} {board.matrix[row, j]:.3f}" for j in lesson.scored if j <= row)
        self.show.say(f"after {lesson.name}: {shown}")
        self.tracker.log(self._step, after_task([task.spec.name for task in self.tasks], board.matrix, row))

    def _withheld(self, lesson: Lesson, index: int) -> float:
        """Score on task `index` where the adapter is not told the task."""
        spec = self.tasks[index].spec
        prompts = encoded(self.backbone, spec, self.asked(index), self.text)
        right = self._prototypes.share_right(self.backbone, prompts, index)
        self._record(lesson, [{"event": "task ids", "asked": spec.name, "guessed_right": right}])
        if right == 1:
            return float(self.board.matrix[lesson.row, index])
        with self._prototypes.guessing():
            return self.score(index, self.adapter)

    def publish(self) -> None:
        """The scores, then the adapter: the run is finished when adapter.json is there."""
        if self._team.rank == 0:
            scores = self.board.scores(self.tasks, self.settings.split, self._prototypes.nbytes)
            self.tracker.summarise(at_the_end(scores, self.board.confusion, self.adapter.byte_report()["deployed"]))
            rundir.write_scores(self._path, scores)
            rundir.write_confusion(self._path, self.board.confusion)
            write_adapter(self._path, self.adapter, self.backbone, self.tasks)
        self.show.say(f"{self.settings.run_id}: finished, {self._path}")

    def asked(self, index: int) -> Sequence[Example]:
        """The examples that a task is scored on."""
        task = self.tasks[index]
        return task.evaluation if self.settings.split == "evaluation" else task.validation

    def score(self, index: int, adapter: Adapter | None) -> float:
        """Score of the adapter's stored form (None: of the bare backbone) on a task's texts."""
        return self.answered(index, adapter, index).score

    def answered(self, index: int, adapter: Adapter | None, told: int) -> Scored:
        """The same with the answers. `told`: the id that the adapter is told."""
        return evaluate(
            self.backbone,
            adapter,
            self.tasks[index].spec,
            self.asked(index),
            index=told,
            text=self.text,
            batch_size=self.settings.eval_batch_size,
            max_new_tokens=self.settings.max_new_tokens,
        )

    @property
    def _guesses(self) -> bool:
        return self.settings.task_ids == "both" and self.adapter.reads_task

    def _record(self, lesson: Lesson, events: Sequence[dict[str, Any]]) -> None:
        self._records += len(events)
        if self._log is None:
            return
        for event in events:
            told: dict[str, Any] = {"task": lesson.name, **event}
            self._log.append({"step": self._step, **told})
            if "loss" in event:
                self.tracker.log(self._step, told)

    def _save(self, learner: Learner, lesson: int, done: int) -> None:
        if self._team.rank == 0:
            position = Position(lesson, done, self._step, self._records, self.board.state())
            checkpoint.write(self._path, position, learner.state())


def _reporter(members: Team, quiet: bool) -> Any:
    return nullcontext(Silent()) if quiet or members.rank > 0 else reporter()
