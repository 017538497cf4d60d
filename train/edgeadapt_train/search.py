"""Searching a run's settings: trials on the validation split, then the run itself with the best values.

    value(x)   AUC of the retained accuracy (continual/metrics.py) on the VALIDATION examples, of the run with settings
               x; of a stream of one task, its score

After each task of a trial the AUC so far is reported, and the median pruner stops what lies below the median of the
others. Trials are Optuna's, drawn by its TPE sampler; all of them live in the storage: a journal in the run's
directory, or any database that an RDB URL names. A trial trains in a scratch folder, which is removed after it.

    RUN/search/journal.log     the storage, unless search.storage names another
    RUN/search/scratch/        what is being trained
    RUN/search/best.json       the best values, what they came to, and how many trials there were

A search that was killed goes on. Trials that had ended stay; one that was under way is begun again with its values,
from its own checkpoint. Each draw has a random state of its own, made of the run's seed and of how many trials had
begun: with one worker, a search that was killed draws what it would have drawn.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import locked, write_json
from edgeadapt_train.configuration import RunSettings, again, plain
from edgeadapt_train.continual.metrics import summary
from edgeadapt_train.run_files import check_unfinished
from edgeadapt_train.search_storage import storage

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

FOLDER, SCRATCH, BEST = "search", "scratch", "best.json"
_STARTUP, _WARMUP = 5, 1  # trials before one is pruned; tasks of it before it may be
_ABOUT, _KILLED = "about", "killed"  # attributes of a study: its settings, and the trials that were cut short
_OF = "of"  # attribute of a trial that is begun again: the one that it stands for
_FREE = ("results_dir", "checkpoint_every", "threads", "tracking")  # may differ when a search goes on

Report = Callable[[int, float], None]  # a task's number, from 0, and what the stream comes to after it
Objective = Callable[[RunSettings, Report], float]


class Pruned(Exception):
    """A trial is not worth going on with."""


class Failed(Exception):
    """A trial has come to nothing, say because its loss was not a number; the next one need not."""


def searched(settings: RunSettings, objective: Objective) -> RunSettings:
    """The settings of the final run: with the best values of `search.trials` trials.

    Raises EdgeAdaptError: where that run is finished, for a key that the configuration lacks, a storage that does not
    open or holds another search, whatever the objective cannot work with, and where no trial came to its end.
    """
    from optuna.trial import TrialState

    search, place = settings.search, settings.directory / FOLDER
    check_unfinished(settings.directory)
    _check_keys(settings)
    with locked(place):
        study = _study(settings)
        _begin_again(study)
        if _begun(study) < search.trials:
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise EdgeAdaptError(
                    "search.trials: a search starts processes of its own; begin it with search.workers=N"
                )
            _work_all(settings, objective)
            study = _study(settings)
        trials = study.get_trials(deepcopy=False)
        finished = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        if not finished:
            raise EdgeAdaptError(
                f"{settings.run_id}: none of {search.trials} trials came to its end; narrow search.space"
            )
        best = max(finished, key=lambda trial: (trial.values[0], -trial.number))
        write_json(place / BEST, _best(best, trials))
        shutil.rmtree(place / SCRATCH, ignore_errors=True)
    _say(settings, f"the best of {len(finished)} complete trials came to {best.values[0]:.4f}: {_words(best.params)}")
    return again(settings.yaml, best.params)


def on_validation(settings: RunSettings, report: Report) -> float:
    """Train, and score on the validation examples after each task: the objective of `edgeadapt train`."""
    from edgeadapt_train.run import opened

    with opened(settings, quiet=True) as run:
        for index, task in enumerate(run.tasks):
            if not run.asked(index):
                raise EdgeAdaptError(
                    f"search: task {task.spec.name} has no validation examples; give stream.validation=N"
                )
        try:
            run.learn(lambda row: report(row, so_far(run.board.matrix, run.board.baseline, row)))
        except EdgeAdaptError as error:
            raise Failed(str(error)) from None
        return so_far(run.board.matrix, run.board.baseline, len(run.tasks) - 1)


def so_far(matrix: np.ndarray, baseline: np.ndarray, row: int) -> float:
    """AUC of the retained accuracy up to row `row` of the matrix, from 0; where it has no area, the row's mean."""
    found = summary(matrix[: row + 1, : row + 1], baseline[: row + 1])
    return float(found.retained[-1]) if np.isnan(found.auc) else found.auc


def _best(best: FrozenTrial, trials: list[FrozenTrial]) -> dict[str, Any]:
    counts = Counter(trial.state.name.lower() for trial in trials)
    return {
        "objective": "AUC of the retained accuracy on the validation examples",
        "value": best.values[0],
        "values": best.params,
        "trial": best.number,
        "after_each_task": [value for _, value in sorted(best.intermediate_values.items())],
        "trials": dict(sorted(counts.items())),
    }


def _check_keys(settings: RunSettings) -> None:
    from omegaconf import OmegaConf

    config = OmegaConf.create(settings.yaml)
    for key in settings.search.space:
        if OmegaConf.select(config, key, default=config) is config:
            raise EdgeAdaptError(f"search.space.{key}: the configuration has no such key; see edgeadapt train --cfg")


def _study(settings: RunSettings) -> Study:
    """The study in the storage. Raises EdgeAdaptError if it is that of another configuration."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=settings.run_id,
        storage=storage(settings.search.storage, settings.directory / FOLDER),
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(_STARTUP, _WARMUP),
        load_if_exists=True,
    )
    about, known = _about(settings), study.user_attrs.get(_ABOUT)
    if known is None:
        study.set_user_attr(_ABOUT, about)
    elif differing := [key for key in sorted({*known, *about}) if known.get(key) != about.get(key)]:
        raise EdgeAdaptError(
            f"{settings.run_id}: its search began with another {differing[0]}; give another run_id=NAME, or remove "
            f"{settings.search.storage or settings.directory / FOLDER}"
        )
    return study


def _about(settings: RunSettings) -> dict[str, Any]:
    """What must be the same for a search to go on."""
    kept = {key: value for key, value in plain(settings.yaml).items() if key not in _FREE}
    return {**kept, "search": kept["search"]["space"]}


def _begin_again(study: Study) -> None:
    """Put the trials that a killed search was at into the queue, with the values that they had."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        killed = study.user_attrs.get(_KILLED, [])
        if trial.number not in killed:
            study.set_user_attr(_KILLED, [*killed, trial.number])
            study.enqueue_trial(trial.params, user_attrs={_OF: _number(trial)})
        study.tell(trial.number, state=TrialState.FAIL)


def _begun(study: Study) -> int:
    """Trials that count: neither waiting nor cut short."""
    from optuna.trial import TrialState

    killed = set(study.user_attrs.get(_KILLED, ()))
    trials = study.get_trials(deepcopy=False)
    return sum(trial.state is not TrialState.WAITING and trial.number not in killed for trial in trials)


def _number(trial: Trial | FrozenTrial) -> int:
    """Of the trial, or of the one that it stands for."""
    return int(trial.user_attrs.get(_OF, trial.number))


def _work_all(settings: RunSettings, objective: Objective) -> None:
    if settings.search.workers == 1:
        _work(settings, objective)
        return
    spawn = get_context("spawn")
    workers = [spawn.Process(target=_worker, args=(settings, objective)) for _ in range(settings.search.workers)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.kill()
    if failed := [worker.exitcode for worker in workers if worker.exitcode]:
        raise EdgeAdaptError(f"{settings.run_id}: a worker of its search ended with code {failed[0]}, as said above")


def _worker(settings: RunSettings, objective: Objective) -> None:
    """A process of its own, which ends when the one that started it does."""
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()
    try:
        _work(settings, objective)
    except EdgeAdaptError as error:
        _say(settings, str(error))
        sys.exit(error.exit_code)


def _end_after(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _work(settings: RunSettings, objective: Objective) -> None:
    """Trials, as long as there are some to begin."""
    study = _study(settings)
    while (asked := _ask(study, settings)) is not None:
        _try(study, *asked, settings, objective)


def _ask(study: Study, settings: RunSettings) -> tuple[Trial, int] | None:
    """The next trial, its values drawn, and how many had begun before it; None where that is all of them."""
    from optuna.samplers import TPESampler

    search = settings.search
    with locked(settings.directory / FOLDER / "ask"):
        begun = _begun(study)
        if begun >= search.trials:
            return None
        state = np.random.SeedSequence([settings.loop.seed, begun]).generate_state(1)
        study.sampler = TPESampler(seed=int(state[0]), constant_liar=search.workers > 1)
        trial = study.ask()
        for key, dimension in search.space.items():
            dimension.draw(trial, key)
        return trial, begun


def _try(study: Study, trial: Trial, begun: int, settings: RunSettings, objective: Objective) -> None:
    """One trial, and what it came to into the study."""
    from optuna.trial import TrialState

    label, tasks = f"trial {begun + 1} of {settings.search.trials}", 0
    _say(settings, f"{label}: {_words(trial.params)}")

    def report(index: int, value: float) -> None:
        nonlocal tasks
        tasks = index + 1
        _say(settings, f"{label}: {value:.4f} after {tasks} {'task' if index == 0 else 'tasks'}")
        trial.report(value, index)
        if trial.should_prune():
            raise Pruned

    try:
        with _scratch(settings, trial) as short:
            value = objective(short, report)
    except Pruned:
        study.tell(trial, state=TrialState.PRUNED)
        _say(settings, f"{label}: pruned after {tasks} tasks")
    except Failed as error:
        study.tell(trial, state=TrialState.FAIL)
        _say(settings, f"{label}: failed: {error}")
    else:
        study.tell(trial, value)
        _say(settings, f"{label}: {value:.4f}, the best so far {study.best_value:.4f}")


@contextmanager
def _scratch(settings: RunSettings, trial: Trial) -> Iterator[RunSettings]:
    """The settings of a trial, whose directory goes when the trial ends; an interrupted one finds it again."""
    place = settings.directory / FOLDER / SCRATCH
    values = hashlib.sha256(json.dumps(trial.params, sort_keys=True).encode()).hexdigest()[:12]
    changes = {
        "run_id": f"{_number(trial)}-{values}",
        "results_dir": str(place),
        "split": "validation",
        "task_ids": "given",
        "search.trials": 0,
        "tracking.mode": "disabled",
    }
    short = again(settings.yaml, {**trial.params, **changes})
    try:
        yield short
    except Exception:
        shutil.rmtree(short.directory, ignore_errors=True)
        raise
    shutil.rmtree(short.directory, ignore_errors=True)


def _words(values: Mapping[str, Any]) -> str:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in values.items()}
    return " ".join(f"{key}={value}" for key, value in shown.items())


def _say(settings: RunSettings, line: str) -> None:
    print(f"{settings.run_id}: {line}", file=sys.stderr, flush=True)
