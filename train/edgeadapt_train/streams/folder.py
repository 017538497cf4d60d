"""A stream of one's own: a folder with one JSON-lines file per task, learnt in the order of their names, or one YAML
file with the tasks in their order.

A JSON-lines file:
    first line     {"name": "topics", "prompt": "Text: {text}\\nTopic:", "choices": ["a", "b"], ...}    a TaskSpec
    other lines    {"split": "train" | "validation" | "evaluation", "text": "...", "target": "..."}
                   kind "tokens":             {..., "text": "Ada lives in Turin", "target": "B-PER O O B-LOC"}
                   kind "multiple-choice":    {..., "choices": ["...", "..."]}      the example's own
                   kind "generation":         {..., "references": ["..."]}          other right answers, if there are

A YAML file:
    tasks:
      - name: topics                       # a TaskSpec
        prompt: "Text: {text}\\nTopic:"
        choices: [a, b]
        file: topics.jsonl                 # examples as above, without the first line; from this file's own folder
      - name: moods
        ...
        examples:                          # or here
          - {split: train, text: "...", target: "..."}

`topic` may stand beside the TaskSpec's fields: what sort of task it is, in a word or two. A task without a validation
split keeps a tenth of its train split for it. Errors name the file and the line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.records import decode, parse_json
from edgeadapt.tasks import TaskSpec
from edgeadapt_train.batches import Example
from edgeadapt_train.streams import lined_yaml
from edgeadapt_train.streams.base import Sizes, Source, Task, misfit

SPLITS = ("train", "validation", "evaluation")
_FIELDS = {"split", "text", "target", "choices", "references"}


class Row(NamedTuple):
    """An object as it was written, and where: "FILE, line N"."""

    where: str
    value: Mapping[str, Any]


def sources(folder: str) -> dict[str, Source]:
    """The tasks of a folder, or of a YAML file, by their names."""
    place = Path(folder).expanduser()
    if place.suffix in (".yaml", ".yml"):
        return _named(_of_yaml(place))
    files = sorted(place.glob("*.jsonl"))
    if not files:
        raise EdgeAdaptError(f"stream.folder={folder}: no .jsonl file there; write one per task")
    return _named(_of_lines(file) for file in files)


def _named(found: Iterable[tuple[Row, Sequence[Row]]]) -> dict[str, Source]:
    made: dict[str, Source] = {}
    for header, rows in found:
        spec, topic = _spec(header)
        if spec.name in made:
            raise EdgeAdaptError(f"{header.where}: there is another task named {spec.name!r}")
        made[spec.name] = partial(_task, spec, topic, rows)
    return made


def _of_lines(file: Path) -> tuple[Row, Sequence[Row]]:
    rows = _rows(file)
    if not rows:
        raise EdgeAdaptError(f"{file}: is empty; its first line must describe the task")
    return rows[0], rows[1:]


def _of_yaml(file: Path) -> Iterable[tuple[Row, Sequence[Row]]]:
    top = Row(f"{file}, line 1", lined_yaml.read(file))
    for entry in _listed(top, "tasks"):
        where = f"{file}, line {lined_yaml.line(entry)}"
        if not isinstance(entry, Mapping):
            raise EdgeAdaptError(f"{where}: a task has fields, such as name and prompt; found {entry!r}")
        header = Row(where, {key: value for key, value in entry.items() if key not in ("file", "examples")})
        if ("file" in entry) == ("examples" in entry):
            raise EdgeAdaptError(f"{where}: a task needs either file or examples")
        if "file" in entry:
            yield header, _rows(file.parent / str(entry["file"]))
            continue
        listed = _listed(Row(where, entry), "examples")
        yield header, [Row(f"{file}, line {lined_yaml.line(item)}", item) for item in listed]


def _listed(row: Row, key: str) -> Sequence[Any]:
    found = row.value.get(key) if isinstance(row.value, Mapping) else None
    if not isinstance(found, list) or not found:
        raise EdgeAdaptError(f"{row.where}: {key} must be there, a list with at least one entry")
    return found


def _rows(file: Path) -> list[Row]:
    """The objects of a JSON-lines file; empty lines are skipped."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise EdgeAdaptError(f"{file}: cannot be read ({error.strerror})") from None
    places = ((f"{file}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip())
    return [Row(where, parse_json(line, where)) for where, line in places]


def _spec(header: Row) -> tuple[TaskSpec, str]:
    fields = dict(_object(header))
    topic = fields.pop("topic", "")
    return decode(TaskSpec, fields, header.where), str(topic)


def _task(spec: TaskSpec, topic: str, rows: Sequence[Row], sizes: Sizes) -> Task:
    parts: dict[str, list[Example]] = {name: [] for name in SPLITS}
    for row in rows:
        split, example = _example(row)
        if (reason := misfit(spec, example)) is not None:
            raise EdgeAdaptError(f"{row.where}: {reason}")
        parts[split].append(example)
    if not parts["validation"]:
        kept = max(1, len(parts["train"]) // 10)
        parts["train"], parts["validation"] = parts["train"][:-kept], parts["train"][-kept:]
    chosen = {name: tuple(items[: getattr(sizes, name)]) for name, items in parts.items()}
    return Task(spec, **chosen, topic=topic)


def _example(row: Row) -> tuple[str, Example]:
    value = _object(row)
    if value.get("split") not in SPLITS or not all(isinstance(value.get(key), str) for key in ("text", "target")):
        raise EdgeAdaptError(f"{row.where}: needs split ({', '.join(SPLITS)}), text and target, all strings")
    if unknown := sorted(set(value) - _FIELDS):
        raise EdgeAdaptError(f"{row.where}: unknown field {unknown[0]!r}; there are {', '.join(sorted(_FIELDS))}")
    lists = {}
    for key in ("choices", "references"):
        lists[key] = value.get(key, [])
        if not isinstance(lists[key], list) or not all(isinstance(item, str) for item in lists[key]):
            raise EdgeAdaptError(f"{row.where}: {key} must be a list of strings")
    return value["split"], Example(value["text"], value["target"], tuple(lists["choices"]), tuple(lists["references"]))


def _object(row: Row) -> Mapping[str, Any]:
    if not isinstance(row.value, Mapping):
        raise EdgeAdaptError(f"{row.where}: expected an object, found {type(row.value).__name__}")
    return row.value
