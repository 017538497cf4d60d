"""A stream of one's own: a folder with one JSON-lines file per task, learnt in the order of their names.

    first line     {"name": "topics", "prompt": "Text: {text}\\nTopic:", "choices": ["a", "b"], ...}    a TaskSpec
    other lines    {"split": "train" | "validation" | "evaluation", "text": "...", "target": "..."}
                   a task of words, kind "tokens": {"text": "Ada lives in Turin", "target": "B-PER O O B-LOC"}

A task without a validation split keeps a tenth of its train split for it. Errors name the file and the line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.records import parse_json
from edgeadapt.tasks import TaskSpec
from edgeadapt_train.batches import Example
from edgeadapt_train.streams.base import Task, misfit

SPLITS = ("train", "validation", "evaluation")


def load(folder: str, train: int, validation: int, evaluation: int) -> list[Task]:
    """Every *.jsonl of `folder`; at most so many examples per split, the first ones of the file."""
    place = Path(folder).expanduser()
    files = sorted(place.glob("*.jsonl"))
    if not files:
        raise EdgeAdaptError(f"stream.folder={folder}: no .jsonl file there; write one per task")
    limits = dict(zip(SPLITS, (train, validation, evaluation), strict=True))
    return [_read(file, limits) for file in files]


def _read(file: Path, limits: dict[str, int]) -> Task:
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise EdgeAdaptError(f"{file}: cannot be read ({error.strerror})") from None
    if not lines:
        raise EdgeAdaptError(f"{file}: is empty; its first line must describe the task")
    try:
        spec = TaskSpec.from_json(_object(lines[0], f"{file}, line 1"))
    except TypeError as error:
        raise EdgeAdaptError(f"{file}, line 1: not a task ({error})") from None
    parts: dict[str, list[Example]] = {name: [] for name in SPLITS}
    for number, line in enumerate(lines[1:], 2):
        where = f"{file}, line {number}"
        value = _object(line, where)
        if value.get("split") not in SPLITS or not all(isinstance(value.get(key), str) for key in ("text", "target")):
            raise EdgeAdaptError(f"{where}: needs split ({', '.join(SPLITS)}), text and target, all strings")
        example = Example(value["text"], value["target"])
        if (reason := misfit(spec, example)) is not None:
            raise EdgeAdaptError(f"{where}: {reason}")
        parts[value["split"]].append(example)
    if not parts["validation"]:
        kept = max(1, len(parts["train"]) // 10)
        parts["train"], parts["validation"] = parts["train"][:-kept], parts["train"][-kept:]
    chosen = {name: tuple(items[: limits[name]]) for name, items in parts.items()}
    return Task(spec, **chosen)


def _object(line: bytes, where: str) -> dict[str, Any]:
    value = parse_json(line, where)
    if not isinstance(value, dict):
        raise EdgeAdaptError(f"{where}: expected an object, found {type(value).__name__}")
    return value
