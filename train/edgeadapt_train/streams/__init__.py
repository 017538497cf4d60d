"""Streams by name: one line each. A stream's configuration is its name, what all streams understand, and its own.

train, validation, evaluation    most examples per split
tasks                            names of the tasks to learn, in the order to learn them; null: all, as they come
max_prompt_tokens                of every task, in place of its own; null: each its own
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.streams import bigbench25, cts25, demo, folder, unihyper
from edgeadapt_train.streams.base import Sizes, Source, Task

# From a stream's own settings to its tasks by name, in their order; none is read before it is asked for.
STREAMS: dict[str, Callable[..., Mapping[str, Source]]] = {
    "bigbench25": bigbench25.sources,
    "cts25": cts25.sources,
    "demo": demo.sources,
    "folder": folder.sources,
    "unihyper": unihyper.sources,
}
SIZES = ("train", "validation", "evaluation")

__all__ = ["STREAMS", "Task", "load"]


def load(settings: Mapping[str, Any]) -> list[Task]:
    """The tasks of {"name": STREAM, argument: value ...}. Raises EdgeAdaptError for unknown or missing ones."""
    arguments = dict(settings)
    name = arguments.pop("name", None)
    if name not in STREAMS:
        raise EdgeAdaptError(f"stream.name={name!r} is unknown; there are: {', '.join(sorted(STREAMS))}")
    if missing := [size for size in SIZES if size not in arguments]:
        raise EdgeAdaptError(f"stream.{missing[0]} must be given: the most examples of that split")
    sizes = Sizes(**{size: arguments.pop(size) for size in SIZES})
    wanted, longest = arguments.pop("tasks", None), arguments.pop("max_prompt_tokens", None)
    try:
        signature(STREAMS[name]).bind(**arguments)
    except TypeError as error:
        raise EdgeAdaptError(f"stream: {name}: {error}") from None
    found = STREAMS[name](**arguments)
    tasks = [found[one](sizes) for one in chosen(wanted, list(found))]
    if longest is None:
        return tasks
    return [replace(task, spec=replace(task.spec, max_prompt_tokens=longest)) for task in tasks]


def chosen(wanted: Sequence[str] | None, known: Sequence[str]) -> Sequence[str]:
    """The names in `wanted`, or all. Raises EdgeAdaptError for one that is unknown or there twice."""
    if wanted is None:
        return known
    if isinstance(wanted, str) or not wanted:
        raise EdgeAdaptError(f"stream.tasks={wanted!r}: give a list of names, or null for all of them")
    for one in wanted:
        if one not in known:
            raise EdgeAdaptError(f"stream.tasks: {one!r} is unknown; there are: {', '.join(known)}")
    if len(set(wanted)) < len(wanted):
        raise EdgeAdaptError(f"stream.tasks={list(wanted)}: a task can be learnt once")
    return wanted
