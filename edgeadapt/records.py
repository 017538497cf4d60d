"""JSON from strangers: read strictly, and turned into frozen dataclasses by their type annotations.

Reading refuses what JSON readers usually let through: duplicate keys, NaN and infinities, integers of thousands of
digits, deep nesting, oversize files, bytes that are not UTF-8. Decoding refuses missing and unknown fields and every
value of another type than annotated (an int may stand for a float, a bool never for an int).
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgeadapt.errors import EdgeAdaptError

T = TypeVar("T")
MAX_JSON_BYTES = 8 << 20
MAX_DEPTH = 64


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> Any:
    """The JSON value in a file of at most `limit` bytes. Raises EdgeAdaptError naming the file."""
    try:
        with path.open("rb") as source:
            data = source.read(limit + 1)
    except OSError as error:
        raise EdgeAdaptError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > limit:
        raise EdgeAdaptError(f"{path}: larger than {limit >> 20} MiB, which no file of this kind is")
    return parse_json(data, str(path))


def parse_json(data: bytes, name: str) -> Any:
    """The JSON value in `data`; `name` is what errors call it."""
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite
        )
        _check_depth(value, MAX_DEPTH)
    except (ValueError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
        raise EdgeAdaptError(f"{name}: not acceptable JSON ({said}); make or fetch it again") from None
    return value


def decode(kind: type[T], value: Any, name: str) -> T:
    """A dataclass `kind` from a JSON object; nested dataclasses, tuples, mappings, optionals and literals included.

    Raises EdgeAdaptError that begins with `name` and the path of the offending field.
    """
    decoded: T = _decode(kind, value, name)
    return decoded


def encode(value: Any) -> Any:
    """The JSON form that `decode` reads back: fields in order, tuples as lists; fields that are None are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: encode(item) for name, item in items if item is not None}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode(kind: Any, value: Any, name: str) -> Any:  # noqa: PLR0911
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(kind) if option is not type(None)]
        return None if value is None else _decode(options[0], value, name)
    if origin is Literal:
        if isinstance(value, bool) or value not in get_args(kind):
            raise EdgeAdaptError(f"{name}: {_short(value)} is none of {', '.join(map(str, get_args(kind)))}")
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_record(kind, value, name)
    if origin is tuple:
        _expect(isinstance(value, list), "a list", value, name)
        return tuple(_decode(get_args(kind)[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping):
        _expect(isinstance(value, dict), "an object", value, name)
        return {key: _decode(get_args(kind)[1], item, f"{name}.{_plain(key)}") for key, item in value.items()}
    if kind is float:
        _expect(isinstance(value, int | float) and not isinstance(value, bool), "a number", value, name)
        return float(value)
    wanted = {int: "an integer", str: "a string", bool: "true or false"}[kind]
    _expect(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), wanted, value, name)
    return value


def _decode_record(kind: type, value: Any, name: str) -> Any:
    _expect(isinstance(value, dict), "an object", value, name)
    hints = _hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(value) - set(fields)):
        raise EdgeAdaptError(f"{name}: unknown field {_short(unknown[0])}")
    for field in fields.values():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in value:
            raise EdgeAdaptError(f"{name}: the field {field.name!r} is missing")
    parts = {key: _decode(hints[key], item, f"{name}: {key}") for key, item in value.items()}
    try:
        return kind(**parts)
    except EdgeAdaptError as error:
        raise EdgeAdaptError(f"{name}: {error}") from None


def _expect(right: bool, wanted: str, value: Any, name: str) -> None:
    if not right:
        raise EdgeAdaptError(f"{name}: expected {wanted}, found {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(key: str) -> str:
    """A key as part of a field's path: quoted if it would break the line."""
    return key if key.isprintable() and len(key) <= 60 else _short(key)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a number that JSON knows")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large")
    return number


def _check_depth(value: Any, left: int) -> None:
    if left < 0:
        raise RecursionError
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(item, left - 1)
