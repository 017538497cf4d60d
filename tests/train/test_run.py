"""`edgeadapt train` as a whole, on a tiny backbone and a folder stream: configuration, resume, kill -9, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.rundir import RunDir, newest
from edgeadapt_train import configs
from edgeadapt_train.configuration import compose
from edgeadapt_train.limits import Limits
from edgeadapt_train.run import train
from tests.support import tiny_backbone

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny backbone and two tiny tasks."""
    folder = tmp_path_factory.mktemp("train")
    tiny_backbone(folder / "backbone")
    stream = folder / "stream"
    stream.mkdir()
    for name, choices in (("1-topics", ["sport", "trade"]), ("2-mood", ["good", "bad"])):
        rows = [{"name": name, "prompt": "Text: {text}\nAnswer:", "choices": choices, "max_prompt_tokens": 48}]
        for split, count in (("train", 32), ("validation", 4), ("evaluation", 12)):
            for n in range(count):
                target = choices[n % 2]
                rows.append({"split": split, "text": f"{split} {n} {target * 2}", "target": target})
        (stream / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def words(place: Path, results: Path, *more: str) -> list[str]:
    return [
        "run=demo", f"results_dir={results}", "model=custom", f"model.id={place / 'backbone'}", "stream=folder",
        f"stream.folder={place / 'stream'}", "precision=fp32", "device=cpu", "threads=1", "batch_size=4", "steps=6",
        "checkpoint_every=2", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("adapter", ["himalaya", "lora8"])
def test_a_run_ends_as_a_finished_run_directory(place: Path, tmp_path: Path, adapter: str) -> None:
    directory = train(words(place, tmp_path, f"adapter={adapter}"))
    assert directory == tmp_path / "demo" == newest(tmp_path)
    run = RunDir.open(directory)
    assert run.adapter.backbone.id == str(place / "backbone")
    assert run.adapter.method == ("lora" if adapter == "lora8" else "himalaya")
    assert [task.name for task in run.adapter.tasks] == ["1-topics", "2-mood"]
    assert run.adapter.bytes.deployed == sum(value.nbytes for value in run.tensors().values())
    scores = run.scores()
    assert scores is not None
    assert not np.isnan(scores.baseline).any()
    assert not np.isnan(scores.matrix).any()
    steps = [record for record in run.metrics() if "loss" in record]
    assert len(steps) == 12
    assert all(record["tokens"] > 0 and record["seconds"] > 0 for record in steps)
    assert (scores.metrics, scores.languages) == (("accuracy", "accuracy"), ("en", "en"))
    for name, confusion in run.confusion().items():
        place_of = scores.tasks.index(name)
        right = sum(confusion.counts[i][i] for i in range(2))
        assert sum(map(sum, confusion.counts)) == scores.counts[place_of] == 12
        assert right / 12 == scores.matrix[1, place_of]
    assert list(run.confusion()) == ["1-topics", "2-mood"]
    assert run.environment()["precision"] == "fp32"
    assert "run_id: demo" in run.config()


def test_scores_without_task_ids_are_those_with_guessed_ones(place: Path, tmp_path: Path) -> None:
    directory = train(words(place, tmp_path, "lr=0.05"))
    assert directory is not None
    run = RunDir.open(directory)
    scores, events = run.scores(), [r for r in run.metrics() if r.get("event") == "task ids"]
    assert scores is not None
    assert scores.withheld is not None
    assert scores.withheld_bytes == 2 * 2 * 64
    assert [(r["task"], r["asked"]) for r in events] == [
        (after, asked) for after in scores.tasks for asked in scores.tasks
    ]
    shares = {(r["task"], r["asked"]): r["guessed_right"] for r in events}
    assert shares["1-topics", "1-topics"] == 1  # there is no other task yet
    assert shares["1-topics", "2-mood"] == 0
    assert scores.withheld[0, 0] == scores.matrix[0, 0]


def test_methods_that_ignore_the_task_answer_alike_without_its_id(place: Path, tmp_path: Path) -> None:
    directory = train(words(place, tmp_path, "adapter=lora8"))
    assert directory is not None
    scores = RunDir.open(directory).scores()
    assert scores is not None
    np.testing.assert_array_equal(scores.withheld, scores.matrix)
    assert scores.withheld_bytes == 0


def test_scores_without_task_ids_can_be_left_out(place: Path, tmp_path: Path) -> None:
    directory = train(words(place, tmp_path, "mode=trial", "task_ids=given"))
    assert directory is not None
    scores = RunDir.open(directory).scores()
    assert scores is not None
    assert scores.withheld is None


def test_jointly_all_tasks_are_one_training_and_are_scored_after_it(place: Path, tmp_path: Path) -> None:
    directory = train(words(place, tmp_path, "adapter=lora8", "strategy=joint"))
    assert directory is not None
    run = RunDir.open(directory)
    scores = run.scores()
    assert scores is not None
    assert np.isnan(scores.matrix[0]).all()
    assert not np.isnan(scores.matrix[1]).any()
    assert [r["task"] for r in run.metrics() if "loss" in r] == ["joint"] * 12
    assert len(run.adapter.tasks) == 2


def test_the_validation_split_can_be_scored_instead(place: Path, tmp_path: Path) -> None:
    directory = train(words(place, tmp_path, "mode=trial", "split=validation"))
    assert directory is not None
    scores = RunDir.open(directory).scores()
    assert scores is not None
    assert scores.counts == (4, 4)


def test_gradient_checkpointing_changes_no_loss(place: Path, tmp_path: Path) -> None:
    losses = []
    for name, flag in (("plain", "false"), ("saving", "true")):
        directory = train(words(place, tmp_path, f"run_id={name}", f"gradient_checkpointing={flag}", "task_ids=given"))
        assert directory is not None
        losses.append([r["loss"] for r in RunDir.open(directory).metrics() if "loss" in r])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    with pytest.raises(EdgeAdaptError, match="gradient_checkpointing=true: tabs"):
        train(words(place, tmp_path, "run_id=tabs", "adapter=tabs", "gradient_checkpointing=true"))


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("limits.tasks=3", "the stream has 2 tasks"),
        ("limits.languages=[en,de]", "no task of the stream is in 'de'"),
        ("limits.languages=[multi,de]", "no task of the stream is in 'de'"),
        ("limits.adapter_bytes=1000", "himalaya has"),
    ],
)
def test_a_run_is_held_to_its_limits(place: Path, tmp_path: Path, limit: str, said: str) -> None:
    with pytest.raises(EdgeAdaptError, match=said):
        train(words(place, tmp_path, limit, "mode=trial"))
    assert not tmp_path.joinpath("demo").exists()


def test_languages_that_are_not_named_need_the_word_for_many() -> None:
    tasks = [SimpleNamespace(language="en"), SimpleNamespace(language="sw")]
    Limits(languages=("en", "sw")).check_stream(tasks)
    Limits(languages=("en", "multi")).check_stream(tasks)
    with pytest.raises(EdgeAdaptError, match="the stream has tasks in 'sw', too"):
        Limits(languages=("en",)).check_stream(tasks)


def test_a_protected_task_keeps_its_score_to_the_last_digit(place: Path, tmp_path: Path) -> None:
    directory = train(words(place, tmp_path, "lr=0.05", "steps=8"))
    assert directory is not None
    scores = RunDir.open(directory).scores()
    assert scores is not None
    assert scores.matrix[1, 0] == scores.matrix[0, 0]


def test_a_trial_is_two_steps_per_task(place: Path, tmp_path: Path) -> None:
    directory = train(words(place, tmp_path, "mode=trial"))
    assert directory is not None
    assert sum("loss" in record for record in RunDir.open(directory).metrics()) == 4


def test_a_finished_run_is_never_overwritten(place: Path, tmp_path: Path) -> None:
    train(words(place, tmp_path, "mode=trial"))
    before = (tmp_path / "demo" / "adapter.safetensors").read_bytes()
    with pytest.raises(EdgeAdaptError, match="is finished"):
        train(words(place, tmp_path, "mode=trial"))
    assert (tmp_path / "demo" / "adapter.safetensors").read_bytes() == before


def test_an_unfinished_run_goes_on_only_with_its_own_configuration(place: Path, tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "config.yaml").write_text(compose(words(place, tmp_path, "lr=0.5")).yaml)
    with pytest.raises(EdgeAdaptError, match=r"another lr \(0.5 then, 0.01 now\)"):
        train(words(place, tmp_path))


def start(place: Path, results: Path) -> subprocess.Popen[bytes]:
    script = "import sys; from edgeadapt_train.run import train; train(sys.argv[1:])"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "train"))),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", script, *words(place, results)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_after_kill_9_it_resumes_to_the_same_bits(place: Path, tmp_path: Path) -> None:
    whole = train(words(place, tmp_path / "whole"))
    assert whole is not None
    metrics = tmp_path / "cut" / "demo" / "metrics.jsonl"
    kills = 0
    for wanted in (3, 6, 9):  # in the middle of each task, off a checkpoint, and as the first one ends
        process = start(place, tmp_path / "cut")
        while process.poll() is None:
            if metrics.is_file() and metrics.read_text().count('"loss"') >= wanted:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        _, said = process.communicate()
        kills += process.returncode == -signal.SIGKILL
        assert process.returncode in (0, -signal.SIGKILL), said.decode()
    assert kills, "no process was caught in time: make the steps slower"
    if not (tmp_path / "cut" / "demo" / "adapter.json").is_file():
        train(words(place, tmp_path / "cut"))
    cut = RunDir.open(tmp_path / "cut" / "demo")
    expected = load_file(whole / "adapter.safetensors")
    found = cut.tensors()
    assert found.keys() == expected.keys()
    assert all(found[name].tobytes() == value.tobytes() for name, value in expected.items())
    for name in ("scores.json", "confusion.json"):
        assert (cut.path / name).read_bytes() == (whole / name).read_bytes()
    steps = [(r["step"], r["loss"]) for r in cut.metrics() if "loss" in r]
    assert steps == [(r["step"], r["loss"]) for r in RunDir.open(whole).metrics() if "loss" in r]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("colour=red", "colour"),
        ("adapter=nope", "Could not find 'adapter/nope'"),
        ("run=nope", "Could not find 'runs/nope'"),
        ("lr=fast", "lr='fast'"),
        ("mode=half", "mode=half"),
        ("run_id=a/b", "run_id='a/b'"),
        ("threads=0", "threads=0"),
        ("stream=folder", "stream.folder"),
        ("lr=[1", "configuration"),
    ],
)
def test_wrong_words_are_refused_in_one_line(word: str, said: str) -> None:
    with pytest.raises(EdgeAdaptError) as caught:
        compose(["run=demo", word])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("adapter", sorted(path.stem for path in Path(configs.__path__[0], "adapter").glob("*.yaml")))
def test_every_packaged_adapter_composes_and_its_options_are_known(adapter: str) -> None:
    from edgeadapt_train.adapters.registry import METHODS
    from edgeadapt_train.options import checked

    options = dict(compose(["run=demo", f"adapter={adapter}"]).adapter)
    options.pop("ewc", None)
    owner, _ = METHODS[options.pop("method")]
    assert owner(**checked(owner, options))


def test_the_resolved_configuration_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--cfg", "run=demo-lora8"]) is None
    assert "run_id: demo-lora8" in capsys.readouterr().out


def test_a_full_disk_says_so(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from edgeadapt_train import checkpoint

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    with pytest.raises(EdgeAdaptError, match="disk is full"):
        train(words(place, tmp_path))
