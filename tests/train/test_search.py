"""The search: what it draws, prunes and keeps; one that was killed goes on. Training itself comes last."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.rundir import RunDir, read_metrics
from edgeadapt_train.configuration import RunSettings, compose
from edgeadapt_train.evaluation.remote import RemoteRuns
from edgeadapt_train.evaluation.runs import LocalRuns
from edgeadapt_train.run import train
from edgeadapt_train.search import Report, searched
from edgeadapt_train.search_space import Dimension, SearchSettings
from edgeadapt_train.search_storage import JOURNAL, storage
from tests.support import tiny_backbone
from tests.train.search_objectives import cliff, hill, mortal, noted
from tests.train.wandb_files import Project, Remote, stored

ROOT = Path(__file__).parents[2]
SPACE = (
    "search.space.lr={type: loguniform, low: 1e-5, high: 1e-1}",
    "search.space.adapter.rank={type: categorical, choices: [2, 4, 8]}",
)


def settings(results: Path, *more: str, trials: int = 8) -> RunSettings:
    words = ("run=demo", "adapter=lora8", f"results_dir={results}", f"search.trials={trials}")
    return compose([*words, *SPACE, *more])


def trials_of(results: Path) -> list[optuna.trial.FrozenTrial]:
    kept = storage(None, results / "demo" / "search")
    return optuna.load_study(study_name="demo", storage=kept).trials


def values_of(results: Path) -> list[tuple[dict[str, object], float | None]]:
    """What was drawn and what it came to, of trials that ended."""
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return [(trial.params, trial.value) for trial in trials_of(results) if trial.state in ended]


def test_the_run_gets_the_best_values(tmp_path: Path) -> None:
    asked = settings(tmp_path, trials=12)
    final = searched(asked, hill)
    best = json.loads((tmp_path / "demo" / "search" / "best.json").read_text())
    complete = [value for _, value in values_of(tmp_path) if value is not None]
    assert best["value"] == max(complete)
    assert best["values"] == {"lr": final.loop.lr, "adapter.rank": final.adapter["rank"]}
    assert final.directory == asked.directory
    assert final.split == "evaluation"
    assert sum(best["trials"].values()) == 12


def test_trials_are_scored_on_validation_untracked_and_leave_nothing(tmp_path: Path) -> None:
    seen: list[RunSettings] = []
    searched(settings(tmp_path, "tracking.mode=offline", trials=3), noted(seen, hill))
    assert len({trial.directory for trial in seen}) == 3
    for trial in seen:
        assert (trial.split, trial.task_ids, trial.tracking.mode, trial.search.trials) == (
            "validation", "given", "disabled", 0,
        )  # fmt: skip
        assert not trial.directory.exists()
    assert sorted(path.name for path in (tmp_path / "demo" / "search").iterdir() if path.name[0] != ".") == [
        "best.json", JOURNAL,
    ]  # fmt: skip


def test_the_same_seed_draws_the_same_values(tmp_path: Path) -> None:
    for name in ("a", "b"):
        searched(settings(tmp_path / name), hill)
    searched(settings(tmp_path / "c", "seed=1"), hill)
    first, second, other = (values_of(tmp_path / name) for name in "abc")
    assert first == second
    assert first != other


def test_an_interrupted_search_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    searched(settings(tmp_path / "whole"), hill)
    left = [3, 100]

    def interrupted(trial: RunSettings, report: Report) -> float:
        left[0] -= 1
        if left[0] < 0:
            left.pop(0)
            raise KeyboardInterrupt
        return hill(trial, report)

    with pytest.raises(KeyboardInterrupt):
        searched(settings(tmp_path / "cut"), interrupted)
    final = searched(settings(tmp_path / "cut"), interrupted)
    assert values_of(tmp_path / "cut") == values_of(tmp_path / "whole")
    assert final.loop.lr == searched(settings(tmp_path / "whole"), hill).loop.lr


def test_an_interrupted_trial_finds_its_scratch_folder_again(tmp_path: Path) -> None:
    places: list[Path] = []

    def halfway(trial: RunSettings, report: Report) -> float:
        places.append(trial.directory)
        if len(places) == 1:
            trial.directory.mkdir(parents=True)
            raise KeyboardInterrupt
        assert len(places) > 2 or trial.directory.is_dir()
        return hill(trial, report)

    with pytest.raises(KeyboardInterrupt):
        searched(settings(tmp_path, trials=2), halfway)
    searched(settings(tmp_path, trials=2), halfway)
    assert places[0] == places[1] != places[2]


def test_hopeless_trials_are_pruned(tmp_path: Path) -> None:
    searched(settings(tmp_path, trials=20), hill)
    states = [trial.state for trial in trials_of(tmp_path)]
    assert states[:5] == [optuna.trial.TrialState.COMPLETE] * 5
    pruned = [trial for trial in trials_of(tmp_path) if trial.state is optuna.trial.TrialState.PRUNED]
    assert pruned
    assert all(len(trial.intermediate_values) == 2 for trial in pruned)


def test_a_trial_that_fails_is_one_trial_less(tmp_path: Path) -> None:
    final = searched(settings(tmp_path, trials=6), cliff)
    states = [trial.state.name for trial in trials_of(tmp_path)]
    assert len(states) == 6
    assert {"FAIL", "COMPLETE"} <= set(states)
    assert final.loop.lr <= 1e-3


def test_a_search_in_which_all_fail_says_so(tmp_path: Path) -> None:
    high = "search.space.lr={type: loguniform, low: 1e-2, high: 1e-1}"
    with pytest.raises(EdgeAdaptError, match="none of 3 trials came to its end"):
        searched(settings(tmp_path, high, trials=3), cliff)


def test_what_the_objective_cannot_work_with_ends_the_search(tmp_path: Path) -> None:
    def refusing(trial: RunSettings, report: Report) -> float:
        raise EdgeAdaptError("no validation examples")

    with pytest.raises(EdgeAdaptError, match="no validation examples"):
        searched(settings(tmp_path), refusing)


def test_two_workers_share_the_trials_and_a_killed_one_loses_none(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "doomed").touch()
    asked = settings(tmp_path, "search.workers=2", trials=6)
    with pytest.raises(EdgeAdaptError, match="a worker of its search ended with code -9"):
        searched(asked, mortal)
    searched(asked, mortal)
    ended = [trial for trial in trials_of(tmp_path) if trial.state.name in ("COMPLETE", "PRUNED")]
    assert len(ended) == 6
    assert len({json.dumps(trial.params) for trial in ended}) == 6


def test_a_search_that_is_killed_goes_on(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "doomed").touch()
    script = (
        "import sys; from pathlib import Path; from tests.train.test_search import settings\n"
        "from edgeadapt_train.search import searched; from tests.train.search_objectives import mortal\n"
        "searched(settings(Path(sys.argv[1])), mortal)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False, capture_output=True)
    assert killed.returncode == -9
    searched(settings(tmp_path), hill)
    searched(settings(tmp_path / "whole"), hill)
    assert values_of(tmp_path) == values_of(tmp_path / "whole")


def test_a_torn_line_of_the_journal_is_cut_off(tmp_path: Path) -> None:
    searched(settings(tmp_path, trials=3), hill)
    journal = tmp_path / "demo" / "search" / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 5, "wor')
    searched(settings(tmp_path, trials=4), hill)
    assert journal.read_bytes().startswith(whole)
    assert len(trials_of(tmp_path)) == 4


def test_any_database_keeps_the_trials(tmp_path: Path) -> None:
    url = f"search.storage=sqlite:///{tmp_path}/trials.db"
    searched(settings(tmp_path, url, trials=3), hill)
    more = searched(settings(tmp_path, url, trials=5), hill)
    study = optuna.load_study(study_name="demo", storage=f"sqlite:///{tmp_path}/trials.db")
    assert len(study.trials) == 5
    assert more.loop.lr == study.best_params["lr"]


def test_a_search_of_another_configuration_is_not_gone_on_with(tmp_path: Path) -> None:
    searched(settings(tmp_path, trials=2), hill)
    with pytest.raises(EdgeAdaptError, match="began with another batch_size"):
        searched(settings(tmp_path, "batch_size=4", trials=3), hill)


def test_a_key_that_the_configuration_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match=r"search.space.adapter.rang: the configuration has no such key"):
        searched(settings(tmp_path, "search.space.adapter.rang={type: int, low: 1, high: 4}"), hill)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("search.space={}", "nothing to search"),
        ("search.workers=0", r"search\.workers=0"),
        ("search.storage=trials.db", r"search\.storage=trials\.db: give an RDB URL"),
        ("search.space.lr={type: normal}", r"search\.space\.lr\.type='normal'"),
        ("search.space.lr={type: uniform, low: 2, high: 1}", r"search\.space\.lr: low=2 and high=1"),
        ("search.space.lr={type: loguniform, low: 0, high: 1}", r"search\.space\.lr: low=0: a loguniform"),
        ("search.space.lr={type: int, low: 0.5, high: 1}", r"search\.space\.lr: low=0\.5 .*whole numbers"),
        ("search.space.lr={type: uniform, choices: [1, 2]}", r"search\.space\.lr: a uniform key needs low and high"),
        (
            "search.space.lr={type: categorical, choices: [1]}",
            r"search\.space\.lr: a categorical key needs at least two",
        ),
        ("search.space.lr={type: categorical, choices: [[1], [2]]}", r"search\.space\.lr\.choices"),
        ("search.space.lr=3", r"search\.space\.lr=3: give a type"),
        ("search.space.lr={low: 1, high: 2}", r"search\.space\.lr\.low=1: give a type"),
    ],
)
def test_settings_name_the_option(tmp_path: Path, words: str, said: str) -> None:
    with pytest.raises(EdgeAdaptError, match=said):
        compose(["run=demo", f"results_dir={tmp_path}", "search.trials=2", words])


def test_dotted_keys_may_come_nested() -> None:
    nested = {"trials": 1, "space": {"adapter": {"ewc": {"strength": {"type": "uniform", "low": 0, "high": 1}}}}}
    assert SearchSettings.of(nested).space == {"adapter.ewc.strength": Dimension("uniform", 0.0, 1.0)}


def test_a_trial_run_neither_searches_nor_tracks(tmp_path: Path) -> None:
    short = settings(tmp_path, "mode=trial", "tracking.mode=offline")
    assert (short.search.trials, short.tracking.mode) == (0, "disabled")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trials of two tiny tasks, then the run, tracked alone."""
    place = tmp_path_factory.mktemp("trained")
    tiny_backbone(place / "backbone")
    (place / "stream").mkdir()
    for name, choices in (("1-topics", ["sport", "trade"]), ("2-mood", ["good", "bad"])):
        rows: list[object] = [{"name": name, "prompt": "{text}\nAnswer:", "choices": choices, "max_prompt_tokens": 48}]
        for split, count in (("train", 8), ("validation", 4), ("evaluation", 6)):
            rows += [{"split": split, "text": f"{split} {n}", "target": choices[n % 2]} for n in range(count)]
        (place / "stream" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    directory = train(
        [
            "run=demo", "adapter=lora8", f"results_dir={place / 'runs'}", "model=custom", "stream=folder",
            f"model.id={place / 'backbone'}", f"stream.folder={place / 'stream'}", "precision=fp32", "device=cpu",
            "threads=1", "batch_size=4", "steps=1", "search.trials=2", "tracking.mode=offline", *SPACE,
        ]
    )  # fmt: skip
    assert directory is not None
    return directory


def test_training_searches_first(trained: Path) -> None:
    best = json.loads((trained / "search" / "best.json").read_text())
    scores = RunDir.open(trained).scores()
    assert scores is not None
    assert scores.counts == (6, 6)
    assert max(record["lr"] for record in read_metrics(trained) if "loss" in record) == best["values"]["lr"]
    assert [len(trial.intermediate_values) for trial in trials_of(trained.parent)] == [2, 2]
    assert {path.name for path in trained.parent.iterdir()} == {"demo"}


def test_a_finished_run_is_not_searched_again(trained: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="this run is finished"):
        searched(settings(trained.parent, trials=100), hill)


def test_the_final_run_alone_is_tracked_and_as_a_whole(trained: Path) -> None:
    (folder,) = (trained / "wandb").glob("offline-run-*")
    found = stored(folder)
    config = {key: value for key, value in found.config.items() if key != "_wandb"}  # as the API leaves it out
    project = Project("edgeadapt", [Remote(found.id, found.name, config, found.summary, found.history)])
    there, here = RemoteRuns(project, "edgeadapt", None).run("demo"), LocalRuns(trained.parent).run("demo")
    assert there.scores.to_json() == here.scores.to_json()
    assert (there.steps, there.confusion, there.adapter_bytes) == (here.steps, here.confusion, here.adapter_bytes)
    assert (there.seed, there.replicas) == (here.seed, here.replicas)
    retained = [row["retained_accuracy"] for row in found.history if "retained_accuracy" in row]
    assert retained == pytest.approx([here.scores.matrix[0, 0], here.scores.matrix[1].mean()])
