"""What an ONNX file says about itself, read without the onnx package (a device does not have it).

A walk over the protobuf wire format: (field << 3 | type) as a varint, then a varint, 8 bytes, a length and that many
bytes, or 4 bytes. Only the few fields named below are looked into (numbers from onnx.proto3); tensors' contents are
skipped. Every occurrence of a field is visited, so nothing hides behind a second one.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeadapt.errors import EdgeAdaptError

_MAX_DEPTH = 24
# Element types of TensorProto.DataType: name and bits of one element (0: not of fixed width).
_TYPES = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 8: ("string", 0), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32),
    13: ("uint64", 64), 16: ("bfloat16", 16), 17: ("float8e4m3fn", 8), 19: ("float8e5m2", 8), 21: ("uint4", 4),
    22: ("int4", 4), 23: ("float4e2m1", 4),
}  # fmt: skip


@dataclass(frozen=True)
class External:
    """Where a tensor's bytes lie outside the file. `length` is None when the file leaves it out (up to the end)."""

    tensor: str
    location: str
    offset: int
    length: int | None


@dataclass(frozen=True)
class Port:
    """An input or output of the graph; a dimension is a number, a name, or '?'."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSummary:
    """`operators` counts nodes by "domain::type" (just "type" in the standard domain), subgraphs included."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opsets: Mapping[str, int]
    operators: Mapping[str, int]
    functions: tuple[str, ...]
    externals: tuple[External, ...]
    initializer_bytes: int


@dataclass
class _Found:
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    opsets: dict[str, int] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)
    functions: list[str] = field(default_factory=list)
    externals: list[External] = field(default_factory=list)
    initializer_bytes: int = 0


class _BrokenError(Exception):
    pass


def scan(path: Path) -> GraphSummary:
    """Summary of the model file at `path`. Raises EdgeAdaptError when it is not a well-formed ONNX model."""
    found = _Found()
    try:
        with path.open("rb") as source:  # the map lives as long as something refers to it
            _model(memoryview(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)), found)
    except (_BrokenError, ValueError) as error:  # ValueError: an empty file cannot be mapped; text that is not UTF-8
        raise EdgeAdaptError(f"{path}: not a well-formed ONNX file ({error}); fetch or export it again") from None
    return GraphSummary(
        tuple(found.inputs),
        tuple(found.outputs),
        found.opsets,
        dict(found.operators),
        tuple(found.functions),
        tuple(found.externals),
        found.initializer_bytes,
    )


def _model(data: memoryview, found: _Found) -> None:
    seen = False
    for number, value in _fields(data):
        if number == 7:
            seen = True
            _graph(_bytes(value), found, 0, top=True)
        elif number == 8:
            domain, version = "", 0
            for part, content in _fields(_bytes(value)):
                domain = _text(content) if part == 1 else domain
                version = _int(content) if part == 2 else version
            found.opsets[domain] = version
        elif number == 20:  # training_info: two graphs
            for part, content in _fields(_bytes(value)):
                if part in (1, 2):
                    _graph(_bytes(content), found, 0, top=False)
        elif number == 25:
            _function(_bytes(value), found)
    if not seen:
        raise _BrokenError("it has no graph")


def _function(data: memoryview, found: _Found) -> None:
    name = domain = ""
    for number, value in _fields(data):
        name = _text(value) if number == 1 else name
        domain = _text(value) if number == 10 else domain
        if number == 7:
            _node(_bytes(value), _Inner(found), 0)
        elif number == 11:
            _attribute(_bytes(value), found, 0)
    found.functions.append(f"{domain}::{name}" if domain else name)


class _Inner(_Found):
    """Collects external data for `outer`, but not the operators: those of a function's body are not the graph's."""

    def __init__(self, outer: _Found) -> None:
        super().__init__(externals=outer.externals)


def _graph(data: memoryview, found: _Found, depth: int, *, top: bool) -> None:
    if depth > _MAX_DEPTH:
        raise _BrokenError("subgraphs nested too deeply")
    for number, value in _fields(data):
        if number == 1:
            _node(_bytes(value), found, depth)
        elif number == 5:
            found.initializer_bytes += _tensor(_bytes(value), found)
        elif number == 15:
            _sparse(_bytes(value), found)
        elif top and number == 11:
            found.inputs.append(_port(_bytes(value)))
        elif top and number == 12:
            found.outputs.append(_port(_bytes(value)))


def _node(data: memoryview, found: _Found, depth: int) -> None:
    kind = domain = ""
    for number, value in _fields(data):
        kind = _text(value) if number == 4 else kind
        domain = _text(value) if number == 7 else domain
        if number == 5:
            _attribute(_bytes(value), found, depth)
    found.operators[f"{domain}::{kind}" if domain else kind] += 1


def _attribute(data: memoryview, found: _Found, depth: int) -> None:
    for number, value in _fields(data):
        if number in (5, 10):
            _tensor(_bytes(value), found)
        elif number in (6, 11):
            _graph(_bytes(value), found, depth + 1, top=False)
        elif number in (22, 23):
            _sparse(_bytes(value), found)


def _sparse(data: memoryview, found: _Found) -> None:
    for number, value in _fields(data):
        if number in (1, 2):
            _tensor(_bytes(value), found)


def _tensor(data: memoryview, found: _Found) -> int:
    """Bytes of the tensor; notes where they lie if that is outside."""
    name, count, bits = "", 1, 0
    entries: list[tuple[str, str]] = []
    for number, value in _fields(data):
        if number == 1:
            for extent in [value] if isinstance(value, int) else _varints(value):
                count *= extent
        elif number == 2:
            bits = _TYPES.get(_int(value), ("", 0))[1]
        elif number == 8:
            name = _text(value)
        elif number == 13:
            pair = {1: "", 2: ""}
            for part, content in _fields(_bytes(value)):
                if part in pair:
                    pair[part] = _text(content)
            entries.append((pair[1], pair[2]))
    if entries:
        numbers = {key: _decimal(value) for key, value in entries if key in ("offset", "length")}
        locations = [value for key, value in entries if key == "location"] or [""]
        for location in locations:
            found.externals.append(External(name, location, numbers.get("offset", 0), numbers.get("length")))
    return (count * bits + 7) // 8


def _port(data: memoryview) -> Port:
    name, dtype, shape = "", "?", []
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for kind, content in _fields(_bytes(value)):
                for part, inner in _fields(_bytes(content)) if kind == 1 else ():
                    if part == 1:
                        dtype = _TYPES.get(_int(inner), ("?", 0))[0]
                    elif part == 2:
                        shape = [_dimension(_bytes(one)) for tag, one in _fields(_bytes(inner)) if tag == 1]
    return Port(name, dtype, tuple(shape))


def _dimension(data: memoryview) -> int | str:
    size: int | str = "?"
    for number, value in _fields(data):
        size = _int(value) if number == 1 else _text(value) if number == 2 else size
    return size


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise _BrokenError("a field has number 0")
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise _BrokenError(f"unknown wire type {kind}")
        if size > end - at:
            raise _BrokenError("it ends early")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _BrokenError("it ends early")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _BrokenError("a number has more than ten bytes")


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _BrokenError("a number where a message should be")
    return value


def _int(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise _BrokenError("a message where a number should be")
    return value


def _text(value: int | memoryview) -> str:
    return str(_bytes(value), "utf-8")


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise _BrokenError(f"an external offset or length of {text[:20]!r}")
    return int(text)
