"""Plain values from a configuration against the annotations of the dataclass that takes them."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edgeadapt.errors import EdgeAdaptError


@cache
def _hints(owner: type) -> dict[str, Any]:
    return get_type_hints(owner)


def checked(owner: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values, as the fields of `owner` are annotated: an int may stand for a float, a list for a tuple.

    Raises EdgeAdaptError naming the key, for an unknown one and for a value of another type.
    """
    known = [item.name for item in fields(owner)]
    if unknown := sorted(set(values) - set(known)):
        raise EdgeAdaptError(f"{prefix}{unknown[0]}: there is no such option; there are: {', '.join(known)}")
    return {key: _fit(_hints(owner)[key], value, prefix + key) for key, value in values.items()}


def _fit(kind: Any, value: Any, key: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(kind) if option is not type(None)]
        return None if value is None else _fit(options[0], value, key)
    if origin is Literal:
        if isinstance(value, bool) or value not in get_args(kind):
            raise EdgeAdaptError(f"{key}={value!r}: choose one of {', '.join(map(str, get_args(kind)))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise EdgeAdaptError(f"{key}={value!r}: give a list, such as [a, b]")
        return tuple(_fit(get_args(kind)[0], item, key) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    words = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise EdgeAdaptError(f"{key}={value!r}: give {words.get(kind, kind)}")
    return value
