"""JSON from strangers: strict reading, and records decoded by their annotations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.records import decode, encode, parse_json, read_json


@dataclass(frozen=True)
class Inner:
    number: int
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"]
    flag: bool
    inner: Inner
    many: tuple[Inner, ...]
    sizes: Mapping[str, int]
    free: Mapping[str, Any]
    maybe: str | None = None
    rows: tuple[tuple[float | None, ...], ...] = ()


GOOD = {
    "name": "x", "kind": "a", "flag": True, "inner": {"number": 3}, "many": [{"number": 1, "share": 1}],
    "sizes": {"k": 2}, "free": {"anything": [None, {"deep": "yes"}]}, "rows": [[0.5, None], []],
}  # fmt: skip


def test_a_record_is_read_and_written_back() -> None:
    found = decode(Outer, GOOD, "file")
    assert found.inner == Inner(3)
    assert found.many == (Inner(1, 1.0),)
    assert found.rows == ((0.5, None), ())
    assert decode(Outer, json.loads(json.dumps(encode(found))), "again") == found


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"name": 3}, "name: expected a string"),
        ({"kind": "c"}, "kind: 'c' is none of a, b"),
        ({"kind": True}, "kind: True is none of"),
        ({"kind": ["a"]}, "kind: .* is none of"),
        ({"flag": 1}, "flag: expected true or false"),
        ({"inner": {"number": True}}, "inner: number: expected an integer"),
        ({"inner": {"number": 1.0}}, "inner: number: expected an integer"),
        ({"inner": {}}, "inner: the field 'number' is missing"),
        ({"inner": {"number": 1, "x": 1}}, "inner: unknown field 'x'"),
        ({"inner": None}, "inner: expected an object"),
        ({"many": {"number": 1}}, "many: expected a list"),
        ({"many": [{"number": 1}, {"number": "1"}]}, r"many\[1\]: number: expected an integer"),
        ({"sizes": {"k": None}}, r"sizes\.k: expected an integer"),
        ({"maybe": 3}, "maybe: expected a string"),
        ({"rows": [["0.5"]]}, r"rows\[0\]\[0\]: expected a number"),
    ],
)
def test_a_wrong_type_is_refused_with_its_place(change: dict[str, Any], where: str) -> None:
    with pytest.raises(EdgeAdaptError, match=where):
        decode(Outer, {**GOOD, **change}, "file")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b'{"a": 1, "a": 2}', b'{"a": NaN}', b"[Infinity]", b"[-Infinity]", b"[1e999]", b"\xff{}", b"[1] 2",
        b"\xef\xbb\xbf{}", b"[" * 100_000, b"[" * 66 + b"]" * 66, b"1" * 5000, b'{"a":' * 70 + b"1" + b"}" * 70,
    ],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_what_json_readers_usually_let_through_is_refused(data: bytes) -> None:
    with pytest.raises(EdgeAdaptError, match=r"^file: not acceptable JSON"):
        parse_json(data, "file")


def test_an_oversize_file_is_refused_without_being_parsed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b" " * (2 << 20) + b"{}")
    with pytest.raises(EdgeAdaptError, match=r"x\.json: larger than 1 MiB"):
        read_json(path, 1 << 20)
    with pytest.raises(EdgeAdaptError, match=r"none\.json: cannot be read"):
        read_json(tmp_path / "none.json")


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_one_clean_error(data: bytes) -> None:
    value, said = None, ""
    try:
        value = parse_json(data, "file")
    except EdgeAdaptError as error:
        said = str(error)
    assert "\n" not in said
    assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_sixty_four_levels_are_enough_and_allowed() -> None:
    assert parse_json(b"[" * 65 + b"]" * 65, "file")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), JSON, min_size=1, max_size=3))
def test_any_value_in_any_field_gives_a_record_or_one_clean_error(change: dict[str, Any]) -> None:
    try:
        found = decode(Outer, {**GOOD, **change}, "file")
    except EdgeAdaptError:
        return
    assert decode(Outer, encode(found), "again") == found
