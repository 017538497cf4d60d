"""The native library as ONNX Runtime sees it. That each kernel equals its reference is in test_ops.py; here: every
instruction set, odd memory, threads, what is refused and how, and what the library shows to the outside."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from onnx import TensorProto, helper

from edgeadapt.codecs.blockwise import quantise_blocks
from edgeadapt.ops import DOMAIN, OPS, OPSET, VERSION, Case, Op
from edgeadapt.ops.library import library_path
from edgeadapt.ops.registry import Array
from tests.contract.views import Outputs, assert_agrees, model_of
from tests.contract.views import run as run_stock

FOUND = library_path()
LIBRARY = FOUND if FOUND is not None else Path()
pytestmark = pytest.mark.skipif(FOUND is None, reason="this installation has no native library: scripts/build-kernels")

NO_SUCH_SET = "EDGEADAPT_OPS_ISA names an instruction set"
CASES = [(op, case.name, index) for op in OPS.values() for index, case in enumerate(op.cases(np.random.default_rng(0)))]


@pytest.fixture(autouse=True)
def _every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that do not pay on this processor, too (EDGEADAPT_OPS_ISA, edgeadapt/kernels/cpu.h)."""
    monkeypatch.setenv("EDGEADAPT_OPS_ISA", "best")


def with_kernels(threads: int = 1) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # plain allocations: the address sanitizer then sees an output's ends
    options.register_custom_ops_library(str(LIBRARY))
    return options


def run(model: bytes, inputs: Mapping[str, Array], threads: int = 1) -> Outputs:
    return tuple(ort.InferenceSession(model, with_kernels(threads)).run(None, dict(inputs)))


def first_case(name: str, **form: bool) -> Case:
    return next(case for case in OPS[name].cases(np.random.default_rng(7)) if dict(case.form) == form)


@pytest.mark.parametrize("isa", ["scalar", "baseline", "avx2", "avx512", "avx512vnni"])
@pytest.mark.parametrize(("op", "name", "index"), CASES, ids=[f"{op.name}: {name}" for op, name, _ in CASES])
def test_every_instruction_set_equals_the_reference(
    isa: str, op: Op, name: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEADAPT_OPS_ISA", isa)
    case = list(op.cases(np.random.default_rng(3)))[index]
    try:
        actual = run(model_of(op, case, with_body=False), case.inputs)
    except Exception as error:
        if NO_SUCH_SET in str(error) and isa.startswith("avx"):
            pytest.skip(f"this processor has no {isa}")
        raise
    assert_agrees(op, case, actual)


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEADAPT_OPS_ISA", "altivec")
    case = first_case("RankOneUpdate")
    with pytest.raises(Exception, match=NO_SUCH_SET):
        run(model_of(OPS["RankOneUpdate"], case, with_body=False), case.inputs)


def test_a_kernel_is_preferred_to_a_function_body_of_the_same_name() -> None:
    case = first_case("RankOneUpdate")
    op = OPS["RankOneUpdate"]
    model = onnx.load_from_string(model_of(op, case, with_body=True))
    wrong = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]> RankOneUpdate (x, r, u) => (z) {{ z = Neg (x) }}'
    model.functions[0].CopyFrom(onnx.parser.parse_function(wrong))
    data = model.SerializeToString()

    np.testing.assert_array_equal(run_stock(data, dict(case.inputs))[0], -case.inputs["x"])  # stock: the (wrong) body
    assert_agrees(op, case, run(data, case.inputs))


@pytest.mark.parametrize("name", list(OPS))
def test_unaligned_inputs(name: str) -> None:
    for form in OPS[name].forms:
        case = first_case(name, **form)
        shifted = {}
        for key, value in case.inputs.items():
            raw = bytearray(value.nbytes + 64)
            start = np.frombuffer(raw, np.uint8).ctypes.data % 64
            array = np.frombuffer(raw, value.dtype, value.size, offset=(64 - start) % 64 + value.itemsize).reshape(
                value.shape
            )
            array[...] = value
            shifted[key] = array
        assert any(value.ctypes.data % 16 for value in shifted.values())
        assert_agrees(OPS[name], case, run(model_of(OPS[name], case, with_body=False), shifted))


@pytest.mark.parametrize("rows", [1, 2, 129])
def test_two_threads_give_the_same_bits_as_one_in_a_linear(rows: int) -> None:
    weight = quantise_blocks(np.random.default_rng(1).standard_normal((999, 96)), bits=4, block=32)
    x = np.random.default_rng(2).standard_normal((rows, 96)).astype(np.float32)
    attributes = {"K": 96, "N": 999, "bits": 4, "block_size": 32}
    case = Case("many rows", {"x": x, "data": weight.data, "scales": weight.scales}, attributes=attributes, sized=True)
    model = model_of(OPS["QuantMatMul"], case, with_body=False)
    one, two = (run(model, case.inputs, threads) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
    assert_agrees(OPS["QuantMatMul"], case, one)


@pytest.mark.parametrize("name", ["RankOneUpdate", "LowRankUpdate"])
def test_two_threads_give_the_same_bits_as_one(name: str) -> None:
    rng = np.random.default_rng(5)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    inputs = {"x": normal(3, 129, 96), "r": normal(3, 1, 96), "u": normal(3, 1, 96)}
    if name == "LowRankUpdate":
        inputs = {"y": normal(3, 129, 96), "x": inputs["x"], "A": normal(96, 8), "B": normal(8, 96)}
    case = Case("many rows", inputs)
    model = model_of(OPS[name], case, with_body=False)
    one, two = (run(model, case.inputs, threads) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
    assert_agrees(OPS[name], case, one)


def test_a_chain_that_reuses_its_buffers() -> None:
    """a -> Neg -> three updates: an output may take its x's buffer only where nobody reads that x any more."""
    text = f"""
        <ir_version: 10, opset_import: ["": {OPSET}, "{DOMAIN}": {VERSION}]>
        chain (float[B, T, d] a, float[B, 1, d] r, float[B, 1, d] u) => (float[B, T, d] z)
        {{
            n = Neg (a)
            v = {DOMAIN}.RankOneUpdate (n, r, u)
            s = Add (n, v)
            w = {DOMAIN}.RankOneUpdate (s, u, r)
            q = {DOMAIN}.RankOneUpdate (w, r, u)
            z = Add (q, s)
        }}
    """
    rng = np.random.default_rng(2)
    a, r, u = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 5, 40), (2, 1, 40), (2, 1, 40)))
    r /= np.linalg.norm(r, axis=2, keepdims=True)
    session = ort.InferenceSession(onnx.parser.parse_model(text).SerializeToString(), with_kernels())
    update = OPS["RankOneUpdate"].reference
    s = -a + update(-a, r, u)
    expected = update(update(s, u, r), r, u) + s
    np.testing.assert_allclose(session.run(None, {"a": a, "r": r, "u": u})[0], expected, rtol=1e-5, atol=1e-4)


def test_the_output_takes_the_shape_of_the_first_input_before_anything_runs() -> None:
    """Shape inference: symbolic dimensions pass through, so that what follows the op can be planned."""
    node = helper.make_node("RankOneUpdate", ["x", "r", "u"], ["z"], domain=DOMAIN)
    shapes: dict[str, list[str | int | None]] = {"x": ["B", "T", 24], "r": ["B", 1, 24], "u": ["B", 1, 24]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph([node], "shapes", inputs, [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    assert ort.InferenceSession(model, with_kernels()).get_outputs()[0].shape == ["B", "T", 24]


@pytest.mark.parametrize("shape", [None, [None, None, 24], ["B", None, 24]])
def test_what_is_unknown_about_the_input_stays_unknown(shape: list[str | int | None] | None) -> None:
    """A dimension without a name must not become the number -1, nor a missing shape a scalar."""
    node = helper.make_node("RankOneUpdate", ["x", "r", "u"], ["z"], domain=DOMAIN)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("r", "u")]
    inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    graph = helper.make_graph([node], "shapes", inputs, [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    assert ort.InferenceSession(model, with_kernels()).get_outputs()[0].shape in ([], None)


def resize(name: str, axis: int, by: int) -> Callable[[dict[str, Array]], None]:
    def change(inputs: dict[str, Array]) -> None:
        value = inputs[name]
        shape = list(value.shape)
        shape[axis] += by
        inputs[name] = np.zeros(shape, value.dtype)

    return change


def replace(name: str, make: Callable[[Array], Array]) -> Callable[[dict[str, Array]], None]:
    def change(inputs: dict[str, Array]) -> None:
        inputs[name] = make(inputs.get(name, np.zeros(0)))

    return change


def drop(name: str) -> Callable[[dict[str, Array]], None]:
    def change(inputs: dict[str, Array]) -> None:
        del inputs[name]

    return change


REFUSED = [
    ("RankOneUpdate", {}, resize("x", 2, 1), r"input 'r' has shape \[1,1,576\], expected \[1,1,577\]"),
    ("RankOneUpdate", {}, resize("r", 1, 1), r"input 'r' has shape \[1,2,576\], expected \[1,1,576\]"),
    ("RankOneUpdate", {}, resize("u", 2, -1), r"input 'u' has shape \[1,1,575\], expected \[1,1,576\]"),
    ("RankOneUpdate", {}, resize("u", 0, 1), r"input 'u' has shape \[2,1,576\], expected \[1,1,576\]"),
    ("RankOneUpdate", {}, replace("x", lambda x: x[0]), r"input 'x' has shape \[1,576\], expected \[\*,\*,\*\]"),
    ("LowRankUpdate", {"indexed": False}, resize("A", 0, 1), r"input 'A' has shape \[577,16\], expected \[576,\*\]"),
    ("LowRankUpdate", {"indexed": False}, resize("B", 0, 1), r"input 'B' has shape \[17,960\], expected \[16,960\]"),
    (
        "LowRankUpdate",
        {"indexed": False},
        replace("B", lambda b: b.astype(np.float16)),
        "both be float32, both float16 or both int8",
    ),
    ("LowRankUpdate", {"indexed": False}, replace("B", lambda b: b.astype(np.int8)), "not element types 1 and 3"),
    (
        "LowRankUpdate",
        {"indexed": False},
        replace("scales", lambda _: np.ones(16, np.float32)),
        "'scales' belongs to int8",
    ),
    (
        "LowRankUpdate",
        {"indexed": False, "scaled": True},
        drop("scales"),
        "'scales' belongs to int8 factors, and they need",
    ),
    (
        "LowRankUpdate",
        {"indexed": False, "scaled": True},
        resize("scales", 0, 1),
        r"'scales' has shape \[17\], expected \[16\]",
    ),
    (
        "LowRankUpdate",
        {"indexed": True, "scaled": True},
        resize("scales", 0, 1),
        r"'scales' has shape \[4,16\], expected \[3,16\]",
    ),
    ("LowRankUpdate", {"indexed": True}, replace("index", lambda i: i + 5), r"index\[0\] is \d; there are 5 adapters"),
    (
        "LowRankUpdate",
        {"indexed": True},
        replace("index", lambda i: 0 * i - 1),
        r"index\[0\] is -1; there are 5 adapters",
    ),
    ("LowRankUpdate", {"indexed": True}, resize("index", 0, 1), r"input 'index' has shape \[2\], expected \[1\]"),
    (
        "LowRankUpdate",
        {"indexed": True},
        resize("B", 0, -1),
        r"input 'B' has shape \[4,16,960\], expected \[5,16,960\]",
    ),
    ("RankOneNorm", {}, resize("b", 1, 1), r"input 'b' has shape \[1,2,576\], expected \[1,1,576\]"),
    ("RankOneNorm", {}, resize("r", 1, 1), r"input 'r' has shape \[1,2,576\], expected \[1,1,576\]"),
    ("RankOneNorm", {}, resize("u", 0, 1), r"input 'u' has shape \[2,1,576\], expected \[1,1,576\]"),
    ("RankOneNorm", {}, resize("gamma", 0, -1), r"input 'gamma' has shape \[575\], expected \[576\]"),
    ("QuantMatMul", {}, resize("x", 2, 1), r"last dimension of input 'x' must be K = 64"),
    ("QuantMatMul", {}, resize("data", 0, -1), r"input 'data' has shape \[23,2,16\], expected \[24,2,16\]"),
    ("QuantMatMul", {}, resize("data", 2, 16), r"input 'data' has shape \[24,2,32\], expected \[24,2,16\]"),
    ("QuantMatMul", {}, resize("scales", 1, 1), r"input 'scales' has shape \[24,3\], expected \[24,2\]"),
    ("HimalayaDirection", {}, resize("pool", 1, 1), r"width 577; it must be a positive multiple of 8"),
    ("HimalayaDirection", {}, resize("atoms", 0, -1), r"input 'atoms' has shape \[39,216\], expected \[40,216\]"),
    ("HimalayaDirection", {}, resize("atom_scales", 1, -1), r"'atom_scales' has shape \[40,8\], expected \[40,9\]"),
    ("HimalayaDirection", {}, resize("w1", 1, -1), r"input 'w1' has shape \[66,592\], expected \[66,593\]"),
    ("HimalayaDirection", {}, resize("w2", 1, 1), r"input 'w2' has shape \[80,68\], expected \[80,67\]"),
    ("HimalayaDirection", {}, resize("row_scales", 0, 1), r"input 'row_scales' has shape \[2\], expected \[1\]"),
    ("HimalayaDirection", {}, replace("task", lambda t: t + 1), r"task\[0\] is 1; this adapter knows 1 tasks"),
    ("AtomMixUpdate", {}, replace("index", lambda i: i + 128), r"index\[0\] is \d+; there are 128 atoms"),
    ("AtomMixUpdate", {}, replace("index", lambda i: i - 128), r"index\[0\] is -\d+; there are 128 atoms"),
    (
        "AtomMixUpdate",
        {},
        replace("columns", lambda c: c + 1),
        r"columns\[2\] is 769\.\.961; a segment lies within 0\.\.960",
    ),
    ("AtomMixUpdate", {}, replace("columns", lambda c: c - 1), r"columns\[0\] is -1\.\.575"),
    (
        "AtomMixUpdate",
        {},
        resize("atoms", 1, -7),
        r"an atom has 2690 numbers; it must hold 960 and 3 times 576, and 3 gains of each block, block 0 among them",
    ),
    (
        "AtomMixUpdate",
        {},
        replace("columns", lambda c: c[:2]),
        "attribute 'reads' is 3; it must be 1, or one for each of 2",
    ),
    ("AtomMixUpdate", {}, replace("weight", lambda w: w[:, :, :1]), "input 'weight' has shape"),
    ("AtomRoute", {}, replace("K", lambda k: k[:, :1]), "expected"),
    ("AtomRoute", {}, replace("W", lambda w: w[1:]), r"input 'W' has shape \[575,16\], expected \[576,\*\]"),
    ("HimalayaDirection", {}, replace("task", lambda t: t - 1), r"task\[0\] is -1; this adapter knows 1 tasks"),
    ("HimalayaTerms", {}, resize("w1", 1, -1), r"input 'w1' has shape \[66,592\], expected \[66,593\]"),
    ("HimalayaTerms", {}, replace("task", lambda t: t + 1), r"task\[0\] is 1; this adapter knows 1 tasks"),
]


@pytest.mark.parametrize(("name", "form", "change", "message"), REFUSED, ids=[f"{r[0]}: {r[3]}" for r in REFUSED])
def test_what_does_not_fit_is_refused_with_the_input_named(
    name: str, form: dict[str, bool], change: Callable[[dict[str, Array]], None], message: str
) -> None:
    case = first_case(name, **form)
    inputs = dict(case.inputs)
    change(inputs)
    rank = OPS[name].expected(case)[0].ndim
    model = one_node(name, inputs, None if name == "RankOneUpdate" else rank, case.attributes)
    session = ort.InferenceSession(model, with_kernels())
    with pytest.raises(Exception, match=rf"{name}: .*{message}"):
        session.run(None, inputs)


@pytest.mark.parametrize("name", list(OPS))
def test_a_missing_required_input_is_refused(name: str) -> None:
    case = first_case(name, **OPS[name].forms[0])
    last = list(case.inputs)[-1]
    inputs = {key: value for key, value in case.inputs.items() if key != last}
    with pytest.raises(Exception, match=r"(?i)input"):
        ort.InferenceSession(one_node(name, inputs, None, case.attributes), with_kernels()).run(None, inputs)


def one_node(
    name: str, inputs: dict[str, Array], rank: int | None, attributes: Mapping[str, float] | None = None
) -> bytes:
    """A one-node model that takes these arrays, right or wrong."""
    values = [
        helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
        for key, value in inputs.items()
    ]
    shape = None if rank is None else [None] * rank
    types = [
        helper.np_dtype_to_tensor_dtype(value.dtype)
        for value in OPS[name].expected(first_case(name, **OPS[name].forms[0]))
    ]
    outputs = [helper.make_tensor_value_info(*output, shape) for output in zip(OPS[name].outputs, types, strict=True)]
    node = helper.make_node(name, OPS[name].arguments(Case("", inputs)), OPS[name].outputs, domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(key, value) for key, value in (attributes or {}).items())
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    graph = helper.make_graph([node], "one", values, outputs)
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("bits", 5, "must be 4 or 8"),
        ("bits", 2, r"attribute 'bits' is 2; it must be in 4\.\.8"),
        ("block_size", 48, "a power of two"),
        ("block_size", 16, r"attribute 'block_size' is 16; it must be in 32\.\.256"),
        ("K", 0, r"attribute 'K' is 0"),
        ("N", -1, r"attribute 'N' is -1"),
    ],
)
def test_attributes_that_mean_nothing_are_refused_when_the_model_is_loaded(
    attribute: str, value: int, message: str
) -> None:
    case = first_case("QuantMatMul")
    model = one_node("QuantMatMul", dict(case.inputs), None, {**case.attributes, attribute: value})
    with pytest.raises(Exception, match=message):
        ort.InferenceSession(model, with_kernels())


def test_the_last_dimension_of_a_linear_is_known_before_it_runs() -> None:
    case = first_case("QuantMatMul")
    shapes: dict[str, list[str | int]] = {"x": ["B", "T", 64], "data": [24, 2, 16], "scales": [24, 2]}
    types = {"x": TensorProto.FLOAT, "data": TensorProto.UINT8, "scales": TensorProto.FLOAT}
    inputs = [helper.make_tensor_value_info(name, types[name], shape) for name, shape in shapes.items()]
    node = helper.make_node("QuantMatMul", list(shapes), ["y"], domain=DOMAIN, **case.attributes)
    graph = helper.make_graph([node], "shapes", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    assert ort.InferenceSession(model, with_kernels()).get_outputs()[0].shape == ["B", "T", 24]


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_the_normalisation_keeps_its_epsilon(epsilon: float) -> None:
    case = first_case("RankOneNorm")
    other = Case("another epsilon", case.inputs, attributes={"epsilon": epsilon})
    assert_agrees(OPS["RankOneNorm"], other, run(model_of(OPS["RankOneNorm"], other, with_body=False), case.inputs))


@pytest.mark.parametrize("isa", ["scalar", "best"])
@pytest.mark.parametrize("spoiled", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [1, 3, 6])
def test_a_linear_makes_nan_of_rows_that_are_not_finite_and_of_no_other(
    isa: str, spoiled: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEADAPT_OPS_ISA", isa)
    case = first_case("QuantMatMul")
    x = np.random.default_rng(3).standard_normal((1, rows, 64)).astype(np.float32)
    clean = Case("clean", {**case.inputs, "x": x}, attributes=case.attributes)
    hurt = x.copy()
    hurt[0, rows // 2, 40] = spoiled
    model = model_of(OPS["QuantMatMul"], clean, with_body=False)
    (before,), (after,) = run(model, clean.inputs), run(model, {**clean.inputs, "x": hurt})
    kept = np.arange(rows) != rows // 2
    np.testing.assert_array_equal(after[0, kept], before[0, kept])
    assert np.isnan(after[0, ~kept]).all()


def test_activations_too_small_to_scale_lose_no_more_than_the_least_scale() -> None:
    case = first_case("QuantMatMul")
    x = np.full((1, 5, 64), 1e-41, np.float32)
    assert_agrees(
        OPS["QuantMatMul"],
        Case("denormal", {**case.inputs, "x": x}, attributes=case.attributes),
        run(model_of(OPS["QuantMatMul"], case, with_body=False), {**case.inputs, "x": x}),
    )


def test_only_the_entry_point_is_exported_and_only_libc_and_libm_are_needed() -> None:
    if "sanitize" in LIBRARY.parts:
        pytest.skip("the sanitizer build needs the sanitizers' runtime")
    with LIBRARY.open("rb") as source:
        elf = ELFFile(source)
        symbols, dynamic = elf.get_section_by_name(".dynsym"), elf.get_section_by_name(".dynamic")
        assert isinstance(symbols, SymbolTableSection)
        assert isinstance(dynamic, DynamicSection)
        defined = [symbol for symbol in symbols.iter_symbols() if symbol["st_shndx"] != "SHN_UNDEF"]
        exported = {symbol.name for symbol in defined if symbol["st_info"]["bind"] != "STB_LOCAL"}
        tags: Iterable[Any] = dynamic.iter_tags("DT_NEEDED")
        needed = {tag.needed for tag in tags}
    assert exported == {"RegisterCustomOps"}
    assert needed <= {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def test_a_runtime_older_than_the_headers_gets_a_clear_status() -> None:
    """A made-up runtime whose newest OrtApi is version 5: its first function is CreateStatus, as in every OrtApi."""
    said: list[tuple[int, bytes]] = []
    create_status = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)

    def record(code: int, message: bytes) -> int:
        said.append((code, message))
        return 0x5EED

    api = (ctypes.c_void_p * 400)()
    recorder = create_status(record)
    api[0] = ctypes.cast(recorder, ctypes.c_void_p)
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(lambda v: ctypes.addressof(api) if v <= 5 else None)
    version = ctypes.create_string_buffer(b"1.5.2")
    get_version = ctypes.CFUNCTYPE(ctypes.c_void_p)(lambda: ctypes.addressof(version))
    base = (ctypes.c_void_p * 2)(ctypes.cast(get_api, ctypes.c_void_p), ctypes.cast(get_version, ctypes.c_void_p))

    register = ctypes.CDLL(str(LIBRARY)).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(None, ctypes.byref(base)) == 0x5EED
    assert len(said) == 1
    assert b"needs onnxruntime 1." in said[0][1]
    assert b"this is 1.5.2" in said[0][1]


def test_sessions_outlive_the_options_and_each_other() -> None:
    case = first_case("RankOneUpdate")
    model = model_of(OPS["RankOneUpdate"], case, with_body=False)
    sessions = [ort.InferenceSession(model, with_kernels()) for _ in range(4)]
    expected = sessions[0].run(None, dict(case.inputs))[0]
    while sessions:
        np.testing.assert_array_equal(sessions.pop(0).run(None, dict(case.inputs))[0], expected)
    np.testing.assert_array_equal(run(model, case.inputs)[0], expected)
