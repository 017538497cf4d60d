"""The ONNX reader without onnx agrees with onnx, and answers hostile bytes with one clean error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.onnxscan import External, Port, scan


def outside(name: str, location: str, offset: str = "0", length: str = "16") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return tensor


def small_model() -> onnx.ModelProto:
    """External data in an initializer, a subgraph, a constant, a sparse initializer and a function's constant."""
    port = helper.make_tensor_value_info
    branch = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["branch"])],
        "branch",
        [],
        [port("branch", TensorProto.FLOAT, [4])],
        [outside("in_branch", "b.data", "32", "16")],
    )
    nodes = [
        helper.make_node("Constant", [], ["k"], value=outside("in_constant", "c.data")),
        helper.make_node("If", ["yes"], ["i"], then_branch=branch, else_branch=branch),
        helper.make_node("Twice", ["x"], ["t"], domain="edgeadapt"),
        helper.make_node("Add", ["t", "v"], ["y"]),
    ]
    function = helper.make_function(
        "edgeadapt", "Twice", ["x"], ["y"],
        [
            helper.make_node("Constant", [], ["c"], value=outside("in_function", "f.data")),
            helper.make_node("Add", ["x", "c"], ["y"]),
        ],
        [helper.make_opsetid("", 21)],
    )  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [port("x", TensorProto.FLOAT, ["batch", None, 4]), port("yes", TensorProto.BOOL, [])],
        [port("y", TensorProto.FLOAT, ["batch", None, 4])],
        [outside("w", "model.onnx.data", "64", "16"), numpy_helper.from_array(np.zeros((3, 5), np.float16), "v")],
    )
    sparse = graph.sparse_initializer.add()
    sparse.values.CopyFrom(outside("in_sparse", "s.data"))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("edgeadapt", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[function])


def test_a_model_is_summarised(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(small_model().SerializeToString())
    found = scan(path)
    assert found.inputs == (Port("x", "float32", ("batch", "?", 4)), Port("yes", "bool", ()))
    assert found.outputs == (Port("y", "float32", ("batch", "?", 4)),)
    assert found.opsets == {"": 21, "edgeadapt": 1}
    assert found.functions == ("edgeadapt::Twice",)
    assert found.operators == {"Constant": 1, "If": 1, "Identity": 2, "edgeadapt::Twice": 1, "Add": 1}
    assert found.initializer_bytes == 4 * 4 + 2 * 4 * 4 + 3 * 5 * 2


def test_external_data_is_found_wherever_a_model_can_hide_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(small_model().SerializeToString())
    found = set(scan(path).externals)
    assert External("w", "model.onnx.data", 64, 16) in found
    hidden = {"model.onnx.data", "b.data", "c.data", "f.data", "s.data"}
    assert {one.location for one in found} == hidden


def test_a_second_location_does_not_hide_the_first(tmp_path: Path) -> None:
    tensor = outside("w", "/etc/passwd")
    tensor.external_data.add(key="location", value="model.onnx.data")
    path = tmp_path / "m.onnx"
    graph = helper.make_graph([], "g", [], [], [tensor])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    assert [one.location for one in scan(path).externals] == ["/etc/passwd", "model.onnx.data"]


def test_a_second_graph_field_does_not_hide_the_first(tmp_path: Path) -> None:
    """Protobuf merges repeated messages, so both count."""
    hidden, plain = (
        helper.make_model(helper.make_graph([], "g", [], [], [outside(name, f"{name}.data")])) for name in ("a", "b")
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(hidden.SerializeToString() + plain.SerializeToString())
    merged = onnx.ModelProto.FromString(path.read_bytes())
    assert len(merged.graph.initializer) == 2
    assert [one.location for one in scan(path).externals] == ["a.data", "b.data"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"not a model at all",
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\x08" + b"\xff" * 11,
        b"\x3b",
        b"\x08\x0a",
        b"\x38\x01",
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(EdgeAdaptError, match=r"m\.onnx: not a well-formed ONNX file"):
        scan(path)


@pytest.mark.parametrize("field", [{"offset": "-1"}, {"length": "1e3"}, {"offset": "\u0663"}, {"length": "9" * 400}])
def test_offsets_that_are_no_plain_numbers_are_refused(tmp_path: Path, field: dict[str, str]) -> None:
    path = tmp_path / "m.onnx"
    graph = helper.make_graph([], "g", [], [], [outside("w", "d", **field)])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(EdgeAdaptError, match="external offset or length"):
        scan(path)


def test_bottomless_subgraphs_are_refused(tmp_path: Path) -> None:
    def wrap(field: int, content: bytes) -> bytes:
        return bytes([field << 3 | 2, len(content) & 127 | 128, len(content) >> 7]) + content

    graph = wrap(1, wrap(4, b"If"))
    for _ in range(40):  # a node with an attribute with a graph with a node ...
        graph = wrap(1, wrap(5, wrap(6, graph)))
    path = tmp_path / "m.onnx"
    path.write_bytes(wrap(7, graph))
    with pytest.raises(EdgeAdaptError, match="nested too deeply"):
        scan(path)


MODEL = small_model().SerializeToString()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(MODEL) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(MODEL)))
def test_damaged_bytes_give_a_summary_or_one_clean_error(
    tmp_path: Path, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(MODEL)
    for place, value in changes:
        data[place] = value
    path = tmp_path / "m.onnx"
    path.write_bytes(data[:cut])
    said = ""
    try:
        scan(path)
    except EdgeAdaptError as error:
        said = str(error)
    assert "\n" not in said
