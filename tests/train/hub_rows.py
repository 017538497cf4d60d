"""Rows with the field schemas of the hub's datasets, the words made up; and folders that hold them as the hub does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeadapt_train.streams.hub import HubTask

ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "wmt/wmt14": lambda n: {"translation": {"de": f"Haus {n}", "en": f"house {n}"}},
    "nyu-mll/glue rte": lambda n: {"sentence1": f"p {n}", "sentence2": f"h {n}", "label": n % 2, "idx": n},
    "nyu-mll/glue sst2": lambda n: {"sentence": f"film {n} ", "label": n % 2, "idx": n},
    "abisee/cnn_dailymail": lambda n: {"article": f"long {n}", "highlights": f"short {n}", "id": str(n)},
    "google-research-datasets/tydiqa": lambda n: {
        "id": f"{('swahili', 'finnish', 'arabic', 'korean', 'bengali')[n % 5]}-{n}",
        "title": "t",
        "context": f"context {n}",
        "question": f"question {n}?",
        "answers": {"text": [f"answer {n}", "other"], "answer_start": [0, 3]},
    },
    "HuggingFaceH4/CodeAlpaca_20K": lambda n: {"prompt": f"do {n}", "completion": f"x = {n}"},
    "google/boolq": lambda n: {"question": f"is it {n}", "answer": bool(n % 2), "passage": "p"},
    "fancyzhx/ag_news": lambda n: {"text": f"news {n}", "label": n % 4},
    "facebook/xnli": lambda n: {"premise": f"p {n}", "hypothesis": f"h {n}", "label": n % 3},
    "openai/gsm8k": lambda n: {"question": f"how many {n}?", "answer": f"so many\n#### {n}"},
    "google-research-datasets/paws-x": lambda n: {"id": n, "sentence1": f"a {n}", "sentence2": "b", "label": n % 2},
    "knkarthick/dialogsum": lambda n: {"id": str(n), "dialogue": f"A: {n}", "summary": f"s {n}", "topic": "t"},
    "mteb/amazon_massive_intent": lambda n: {
        "id": str(n),
        "label": 47,
        "label_text": ("alarm_set", "weather_query")[n % 2],
        "text": f"wake me at {n}",
        "lang": "vi",
    },
    "Helsinki-NLP/opus-100": lambda n: {"translation": {"en": f"house {n}", "tr": f"ev {n}"}},
    "fancyzhx/dbpedia_14": lambda n: {"label": n // 2 % 14, "title": f"title {n}", "content": " words"},
    "google-research-datasets/mbpp": lambda n: {
        "task_id": n,
        "text": f"Write add{n}.",
        "code": f"def add{n}(x):\r\n  return x + {n}",
        "test_list": [f"assert add{n}(1) == {n + 1}", f"assert add{n}(2) == {n + 2}"],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
    "rajpurkar/squad": lambda n: {
        "id": f"5{n}",
        "title": "t",
        "context": f"context {n}",
        "question": f" question {n}?",
        "answers": {"text": ["yes", "yes", "indeed"], "answer_start": [0, 0, 3]},
    },
    "allenai/sciq": lambda n: {
        "question": f"what {n}?",
        "distractor3": "dog",
        "distractor1": "bird",
        "distractor2": "ant",
        "correct_answer": "cat",
        "support": "",
    },
    "eriktks/conll2003": lambda n: {"id": str(n), "tokens": ["Ada", "met", f"B{n}"], "ner_tags": [1, 0, 2]},
    "fancyzhx/amazon_polarity": lambda n: {"label": n % 2, "title": f"t {n}", "content": "good"},
}
COUNT = 80


def row(task: HubTask, number: int) -> dict[str, Any]:
    """Row `number` of the task's dataset."""
    return ROWS.get(task.data.id, ROWS.get(f"{task.data.id} {task.data.config}"))(number)  # type: ignore[misc]


def mirrored(folder: Path, tasks: tuple[HubTask, ...]) -> Path:
    """Copies of the tasks' datasets: JSON lines, and a README with the configurations, as on the hub."""
    configurations: dict[str, dict[str, set[str]]] = {}
    for task in tasks:
        place = folder / task.data.id
        config = task.data.config or "default"
        splits = configurations.setdefault(task.data.id, {}).setdefault(config, set())
        for at, split in enumerate((*task.train, task.evaluation)):
            splits.add(split)
            file = place / config / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            numbers = range(at * 1000, at * 1000 + COUNT)
            file.write_text("".join(json.dumps(row(task, number)) + "\n" for number in numbers))
    for name, configs in configurations.items():
        lines = ["---", "configs:"]
        for config, splits in configs.items():
            lines += [f"- config_name: '{config}'", "  data_files:"]
            for split in sorted(splits):
                lines += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
        (folder / name / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder
