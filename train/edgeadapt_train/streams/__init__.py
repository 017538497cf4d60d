"""Streams by name: one line each. A stream's configuration is its loader's arguments and its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.streams import demo, folder
from edgeadapt_train.streams.base import Task

STREAMS: dict[str, Callable[..., list[Task]]] = {
    "demo": demo.load,
    "folder": folder.load,
}

__all__ = ["STREAMS", "Task", "load"]


def load(settings: Mapping[str, Any]) -> list[Task]:
    """The tasks of {"name": STREAM, argument: value ...}. Raises EdgeAdaptError for unknown or missing ones."""
    arguments = dict(settings)
    name = arguments.pop("name", None)
    if name not in STREAMS:
        raise EdgeAdaptError(f"stream.name={name!r} is unknown; there are: {', '.join(sorted(STREAMS))}")
    loader = STREAMS[name]
    try:
        signature(loader).bind(**arguments)
    except TypeError as error:
        raise EdgeAdaptError(f"stream: {name}: {error}") from None
    return loader(**arguments)
