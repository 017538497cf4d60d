"""Streams of the Hugging Face hub, on small local copies with the hub's own field schemas."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgeadapt import cli
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train import sandbox, streams
from edgeadapt_train.batches import Example
from edgeadapt_train.streams import cts25, hub, hub_check, unihyper
from edgeadapt_train.streams.base import Task
from edgeadapt_train.streams.hub import HubData
from tests.train.hub_rows import COUNT, mirrored, row

SIZES = {"train": 10, "validation": 3, "evaluation": 5}
BY_NAME = {task.spec.name: task for task in (*cts25.TASKS, *unihyper.TASKS)}


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mirrored(tmp_path_factory.mktemp("mirror"), (*cts25.TASKS, *unihyper.TASKS))


@pytest.fixture(scope="module")
def loaded(mirror: Path) -> dict[str, Task]:
    found = [streams.load({"name": name, "mirror": str(mirror), **SIZES}) for name in ("cts25", "unihyper")]
    assert [task.spec.name for task in found[0]] == [task.spec.name for task in cts25.TASKS]
    return {task.spec.name: task for tasks in found for task in tasks}


def test_cts25_has_25_tasks_in_14_languages_and_all_but_one_are_pinned() -> None:
    assert len({task.spec.name for task in cts25.TASKS}) == len(cts25.TASKS) == 25
    assert len({task.spec.language for task in cts25.TASKS}) == 14
    assert [task.spec.name for task in cts25.TASKS if task.data.revision is None] == ["dialogsum"]
    assert all(len(task.data.revision) == 40 for task in cts25.TASKS if task.data.revision)
    assert len(set(cts25.INTENTS)) == 60


@pytest.mark.parametrize("name", BY_NAME)
def test_every_task_is_read_within_its_caps_its_splits_disjoint(loaded: dict[str, Task], name: str) -> None:
    task = loaded[name]
    assert (len(task.train), len(task.validation), len(task.evaluation)) == (10, 3, 5)
    assert task.spec == BY_NAME[name].spec
    assert task.topic


@pytest.mark.parametrize(
    ("name", "number", "text", "target"),
    [
        ("wmt14_en_de", 1, "house 1", "Haus 1"),
        ("opus_en_tr", 1, "house 1", "ev 1"),
        ("rte", 1, "Hypothesis: h 1\nPremise: p 1", "no entailment"),
        ("xnli_ru", 2, "Hypothesis: h 2\nPremise: p 2", "contradiction"),
        ("pawsx_ja", 1, "1: a 1\n2: b", "same"),
        ("sst2", 0, "film 0", "negative"),
        ("ag_news", 3, "news 3", "science"),
        ("dbpedia", 27, "title 27:  words", "book"),
        ("boolq_noisy", 1, "Question: is it 1?\nPassage: p", "yes"),
        ("cnn_dm", 4, "long 4", "short 4"),
        ("dialogsum", 4, "A: 4", "s 4"),
        ("gsm8k", 4, "how many 4?", "so many\n#### 4"),
        ("code_alpaca", 4, "do 4", "x = 4"),
        ("massive_pt", 1, "wake me at 1", "weather_query"),
        ("conll2003", 1, "Ada met B1", "B-PER O I-PER"),
        ("amazon_reviews", 1, "t 1: good", "positive"),
    ],
)
def test_a_row_becomes_a_question_and_its_answer(name: str, number: int, text: str, target: str) -> None:
    assert BY_NAME[name].example(row(BY_NAME[name], number)) == Example(text, target)


def test_extracted_answers_have_all_the_annotators_words_once() -> None:
    found = BY_NAME["squad"].example(row(BY_NAME["squad"], 7))
    assert found == Example("Question: question 7?\nContext: context 7", "yes", references=("indeed",))


def test_tydiqa_is_told_apart_by_the_ids() -> None:
    for name, place in (("tydiqa_sw", 0), ("tydiqa_fi", 1), ("tydiqa_ar", 2), ("tydiqa_ko", 3)):
        task = BY_NAME[name]
        numbers = [number for number in range(10) if task.example(row(task, number)) is not None]
        assert numbers == [place, place + 5]


def test_sciqs_choices_do_not_show_which_is_right_by_their_place(loaded: dict[str, Task]) -> None:
    assert {item.choices for item in loaded["sciq"].train} == {("ant", "bird", "cat", "dog")}


def test_mbpps_own_code_passes_its_tests() -> None:
    found = BY_NAME["mbpp"].example(row(BY_NAME["mbpp"], 3))
    assert found is not None
    assert found.text == "Write add3.\nTest: assert add3(1) == 4"
    assert sandbox.passes(f"{found.target}\n\n{found.references[0]}")
    assert not sandbox.passes(f"{found.target.replace('+', '-')}\n\n{found.references[0]}")


def test_a_fifth_of_boolqs_train_labels_is_flipped_and_no_other(mirror: Path) -> None:
    settings = {"name": "cts25", "mirror": str(mirror), "tasks": ["boolq_noisy"], **SIZES, "train": 40, "seed": 3}
    (noisy,), (again,) = streams.load(settings), streams.load(settings)
    (other,) = streams.load({**settings, "seed": 4})
    clean = {item.text: item.target for item in map(BY_NAME["boolq"].example, rows_of("boolq")) if item}
    wrong = [item.text for item in noisy.train if item.target != clean[item.text]]
    assert len(wrong) == 8  # of 40
    assert all(item.target == clean[item.text] for item in (*noisy.validation, *noisy.evaluation))
    assert noisy == again
    assert wrong != [item.text for item in other.train if item.target != clean[item.text]]


def rows_of(name: str) -> list[dict[str, Any]]:
    return [row(BY_NAME[name], number) for start in (0, 1000) for number in range(start, start + COUNT)]


def test_a_split_that_is_sorted_by_class_is_sampled_whole(mirror: Path) -> None:
    settings = {"name": "cts25", "mirror": str(mirror), "tasks": ["dbpedia"], **SIZES, "evaluation": 20}
    (task,) = streams.load(settings)
    assert len({item.target for item in task.evaluation}) > 10 // 2  # the first 20 rows are of 10 classes, in order
    assert [item.text for item in task.evaluation] != sorted(item.text for item in task.evaluation)


def test_a_sample_takes_every_item_as_often() -> None:
    items = [Example(str(n), "x") for n in range(10)]
    taken = Counter(item.text for seed in range(2000) for item in hub.sample(items, 3, seed))
    assert set(taken) == {str(n) for n in range(10)}
    assert all(abs(count - 600) < 100 for count in taken.values())  # 600 expected, standard deviation 20
    assert hub.sample(items, 3, 1) == hub.sample(items, 3, 1)
    assert len(hub.sample(items, 99, 0)) == 10


def test_a_revision_that_nobody_pins_is_asked_once_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEADAPT_CACHE", str(tmp_path))
    asked: list[tuple[str, str]] = []

    class Hub:
        def dataset_info(self, name: str, revision: str, timeout: float) -> Any:
            asked.append((name, revision))
            return type("Info", (), {"sha": "f" * 40})

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    data = HubData("a/b", branch=hub.PARQUET)
    assert hub.recorded(data) is None
    assert hub.revision(data) == hub.revision(data) == hub.recorded(data) == "f" * 40
    assert asked == [("a/b", "refs/convert/parquet")]
    assert hub.revision(HubData("a/b", revision="1" * 40)) == "1" * 40


def test_what_a_mirror_lacks_is_named(mirror: Path, tmp_path: Path) -> None:
    settings = {"name": "cts25", "tasks": ["rte"], **SIZES}
    with pytest.raises(EdgeAdaptError, match="nyu-mll/glue: no such folder"):
        streams.load({**settings, "mirror": str(tmp_path)})
    (tmp_path / "nyu-mll" / "glue").mkdir(parents=True)
    with pytest.raises(EdgeAdaptError, match="cannot be read"):
        streams.load({**settings, "mirror": str(tmp_path)})


@pytest.mark.parametrize(
    ("sizes", "found"), [((10, 3), (10, 3)), ((60, 30), (60, 20)), ((75, 30), (64, 16)), ((999, 999), (64, 16))]
)
def test_where_rows_are_few_a_fifth_of_them_is_for_validation(
    mirror: Path, sizes: tuple[int, int], found: tuple[int, int]
) -> None:
    wanted = dict(zip(("train", "validation"), sizes, strict=True))
    (task,) = streams.load({"name": "cts25", "mirror": str(mirror), "tasks": ["rte"], **SIZES, **wanted})
    assert (len(task.train), len(task.validation)) == found  # of 80 rows


def test_rows_of_another_schema_are_named(tmp_path: Path) -> None:
    folder = mirrored(tmp_path, (BY_NAME["sst2"],))
    for split in ("train", "validation"):
        file = folder / "nyu-mll" / "glue" / "sst2" / f"{split}.jsonl"
        file.write_text(json.dumps({"text": "a film", "label": 1}) + "\n")
    with pytest.raises(EdgeAdaptError, match=r"not what sst2 was written for \(KeyError\('sentence'\)\)"):
        streams.load({"name": "cts25", "tasks": ["sst2"], "mirror": str(tmp_path), **SIZES})


def test_check_says_what_a_mirror_holds(mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["data", "check", "cts25", "--mirror", str(mirror), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [one["task"] for one in found] == [task.spec.name for task in cts25.TASKS]
    assert all(one["readable"] for one in found)
    script = tmp_path / "eriktks" / "conll2003" / "conll2003.py"
    script.parent.mkdir(parents=True)
    script.touch()
    by_task = {one.task: one for one in hub_check.check("unihyper", tmp_path)}
    assert "only a loading script" in by_task["conll2003"].said
    assert by_task["sst2"].said.endswith("no such folder")
    with pytest.raises(SystemExit, match="1"):
        cli.main(["data", "check", "unihyper", "--mirror", str(tmp_path)])
    assert "4 of the 4 tasks of unihyper cannot be read here" in capsys.readouterr().err


def test_check_does_not_wait_for_every_task_where_there_is_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    asked = []

    def ask(data: HubData) -> tuple[bool, str]:
        asked.append(data)
        raise requests.ConnectionError

    monkeypatch.setattr(hub_check, "_ask", ask)
    found = hub_check.check("cts25")
    assert len(asked) == 1
    assert [one.said for one in found] == ["no connection"] * 25
    assert {one.known for one in found} <= {"pinned", "recorded", "not yet"}


def test_check_tells_an_answer_from_the_hub_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import requests
    from huggingface_hub.errors import RepositoryNotFoundError

    answer = requests.Response()
    answer.status_code = 404

    class Hub:
        def dataset_info(self, name: str, revision: str, timeout: float) -> Any:
            if name == "google/boolq":
                raise RepositoryNotFoundError("gone", response=answer)
            files = [type("File", (), {"rfilename": "data/train-0.parquet"})]
            return type("Info", (), {"siblings": files})

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    by_task = {one.task: one for one in hub_check.check("unihyper")}
    assert by_task["sst2"].readable
    assert by_task["boolq"].said == "the hub answers 404 (RepositoryNotFoundError)"
