"""An encoder's graph: Optimum's export, the optimizer's fusions, our passes; on a tiny random BERT and DistilBERT."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from edgeadapt.backbones import Backbone, resolve
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.progress import silent
from edgeadapt_export import encoder_variants
from edgeadapt_export.backbones import encoder
from edgeadapt_export.backbones.encoder import EncoderGraph, base_graph
from edgeadapt_export.encoder_variants import VARIANTS, write_variants
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.common import float_matrix, nodes
from edgeadapt_export.passes.linear_bias import MoveLinearBias
from edgeadapt_export.passes.pack_projections import packed_name
from edgeadapt_export.passes.quantise import QuantiseWeights
from edgeadapt_export.passes.standard_attention import StandardAttention
from edgeadapt_export.store import WeightStore
from tests.export.graphs import session
from tests.support import tiny_backbone, tiny_encoder

LAYERS = 2


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("encoders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEADAPT_CACHE", str(root / "cache"))
        yield root


@pytest.fixture(scope="module")
def bert(cache: Path) -> Path:
    return tiny_encoder(cache / "bert")


@pytest.fixture(scope="module")
def graph(bert: Path) -> EncoderGraph:
    return encoder.build(resolve(str(bert)))


def batch(types: bool = True) -> dict[str, np.ndarray]:
    """Three rows of 20 tokens: whole, padded on the right, padded on the left; two types."""
    rng = np.random.default_rng(0)
    mask = np.ones((3, 20), np.int64)
    mask[1, 13:] = 0
    mask[2, :4] = 0
    made = {"input_ids": rng.integers(3, 300, (3, 20)), "attention_mask": mask}
    return made | ({"token_type_ids": rng.integers(0, 2, (3, 20))} if types else {})


def hidden(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """last_hidden_state of the tokens that are not padding [n, d]."""
    found = session(path).run([encoder.OUTPUT], inputs)[0]
    return np.asarray(found[inputs["attention_mask"].astype(bool)])


def in_pytorch(folder: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        found = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).last_hidden_state.numpy()
    return np.asarray(found[inputs["attention_mask"].astype(bool)])


def saved(model: ir.Model, folder: Path) -> Path:
    """As it is: linear layers stay stock nodes."""
    with WeightStore(folder / "graph.onnx.data") as store:
        store.save(model, folder / "graph.onnx")
    return folder / "graph.onnx"


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def test_the_graph_is_exported_once_and_quietly(bert: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    backbone, said = resolve(str(bert), progress=silent), []
    capfd.readouterr()
    first = encoder.build(backbone, tmp_path, lambda *what: said.append(what[0]))
    made = first.model.stat().st_mtime_ns
    assert encoder.build(backbone, tmp_path, lambda *what: said.append(what[0])) == first
    assert first.model.stat().st_mtime_ns == made
    base_graph(first)
    assert len(said) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_in_float32_it_is_pytorchs_model_with_padding_on_either_side(cache: Path, tmp_path: Path, kind: str) -> None:
    folder = cache / kind
    if not folder.exists():
        tiny_encoder(folder, kind=kind)
    inputs = batch(types=kind == "bert")
    path = saved(base_graph(encoder.build(resolve(str(folder)))), tmp_path)
    assert [item.name for item in session(path).get_inputs()] == list(inputs)
    np.testing.assert_allclose(hidden(path, inputs), in_pytorch(folder, inputs), atol=1e-4)


def test_every_length_up_to_the_last_position_works(bert: Path, graph: EncoderGraph, tmp_path: Path) -> None:
    path = saved(base_graph(graph, "int8"), tmp_path)
    for length in (1, 2, 96):
        ids = np.full((1, length), 7, np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        assert np.isfinite(hidden(path, inputs)).all()
        assert cosines(hidden(path, inputs), in_pytorch(bert, inputs)).min() > 0.99


def test_what_a_layer_is_made_of(graph: EncoderGraph) -> None:
    fp32 = Counter(node.op_type for node in base_graph(graph).graph)
    assert fp32["Attention"] == fp32["BiasGelu"] == LAYERS
    assert fp32["SkipLayerNormalization"] == 2 * LAYERS + 1
    assert fp32["MatMul"] == 4 * LAYERS
    assert fp32["Add"] == LAYERS + 1  # of the query's biases and of the token types
    int8 = Counter(node.op_type for node in base_graph(graph, "int8").graph)
    assert int8["MatMulNBits"] == 4 * LAYERS
    assert int8["Add"] == 1
    assert int8["FastGelu"] == LAYERS
    assert sum(int8.values()) == 12 + 9 * LAYERS


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_no_weight_is_left_in_float32(graph: EncoderGraph, precision: Any) -> None:
    model = base_graph(graph, precision)
    large = [name for name, value in model.graph.initializers.items() if float_matrix(value) is not None]
    assert all(name.endswith(".scales") or "position_embeddings" in name for name in large)
    linears = list(nodes(model, "MatMulNBits"))
    assert all(len(node.inputs) == 6 for node in linears)  # with their biases
    assert [node.name for node in linears[:2]] == [
        "/encoder/layer.0/attention/self/qkv/MatMul",
        "/encoder/layer.0/attention/output/dense/MatMul",
    ]
    rows = next(nodes(model, "GatherBlockQuantized")).inputs[0]
    assert rows is not None
    assert rows.name == "embeddings.word_embeddings.weight.rows"


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.999), ("int4", 0.9)])
def test_quantised_hidden_states_point_where_pytorchs_do(
    bert: Path, graph: EncoderGraph, tmp_path: Path, precision: Any, least: float
) -> None:
    path = saved(base_graph(graph, precision), tmp_path)
    assert cosines(hidden(path, batch()), in_pytorch(bert, batch())).min() >= least


def test_a_bias_in_the_linear_layer_is_the_bias_behind_it(graph: EncoderGraph, tmp_path: Path) -> None:
    within = apply(base_graph(graph), QuantiseWeights("int8"))
    for node in nodes(within, "MatMulNBits"):
        node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)  # activations stay float32
    behind = within.clone()
    apply(within, MoveLinearBias())
    assert Counter(node.op_type for node in within.graph)["Gelu"] == LAYERS
    expected = hidden(saved(behind, tmp_path), batch())
    np.testing.assert_allclose(hidden(saved(within, tmp_path), batch()), expected, atol=1e-5)


def test_the_tanh_gelu_is_within_5e_4_of_the_exact_one_everywhere(tmp_path: Path) -> None:
    y = np.linspace(-12, 12, 100_001, dtype=np.float32)
    exact = y / 2 * (1 + np.array([math.erf(value / math.sqrt(2)) for value in y.tolist()]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    body = helper.make_graph([helper.make_node("FastGelu", ["x"], ["y"], domain="com.microsoft")], "g", [x], [result])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "gelu.onnx"
    path.write_bytes(helper.make_model(body, opset_imports=imports, ir_version=10).SerializeToString())
    assert np.abs(session(path).run(None, {"x": y})[0] - exact).max() <= 5e-4


def test_attention_of_an_older_opset_is_refused(graph: EncoderGraph) -> None:
    with pytest.raises(EdgeAdaptError, match="StandardAttention: opset 18: Attention came with 23"):
        apply(encoder.fused(graph), StandardAttention())


def test_packed_names() -> None:
    assert packed_name(["/a/q/MatMul", "/a/k/MatMul", "/a/v/MatMul"]) == "/a/qkv/MatMul"
    assert packed_name(["one", "/two", "/3/4"]) == "one/qkv"


def test_a_decoder_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tiny_backbone(tmp_path / "llama", layers=1)
    with pytest.raises(EdgeAdaptError, match="choose a BERT-like encoder") as error:
        base_graph(encoder.build(resolve(str(folder)), tmp_path / "cache"))
    assert "\n" not in str(error.value)


def test_code_in_a_models_folder_is_never_run(bert: Path, tmp_path: Path) -> None:
    folder, trap = tmp_path / "hostile", tmp_path / "ran"
    shutil.copytree(bert, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "hostile", "auto_map": {"AutoConfig": "hostile.HostileConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "hostile.py").write_text(f"open({str(trap)!r}, 'w')\nclass HostileConfig: pass\n")
    with pytest.raises(EdgeAdaptError, match="Optimum cannot export BertModel as an encoder"):
        encoder.build(Backbone("hostile", "sha256:0", folder), tmp_path / "cache")
    assert not trap.exists()


def test_all_variants_take_the_same_inputs_and_mean_the_same(bert: Path, tmp_path: Path) -> None:
    made = write_variants(tmp_path, str(bert), progress=silent)
    assert list(made) == list(VARIANTS)
    expected = in_pytorch(bert, batch())
    for name, path in made.items():
        assert cosines(hidden(path, batch()), expected).min() >= (0.9999 if "fp32" in name else 0.9), name


def test_what_is_for_rpi4_uses_our_ops_and_runs_without_them(bert: Path, tmp_path: Path) -> None:
    path = write_variants(tmp_path, str(bert), ["int8"], silent)["int8"]
    model = ir.load(path)
    ours = {"QuantMatMul": 4 * LAYERS, "AddLayerNorm": 2 * LAYERS, "TanhGelu": LAYERS}
    assert Counter(node.op_type for node in model.graph if node.domain == "edgeadapt") == ours
    assert {name for _, name, _ in model.functions} == set(ours)
    assert len(list(nodes(model, "SkipLayerNormalization"))) == 1  # the embedding's, whose second addend is broadcast
    assert cosines(hidden(path, batch()), in_pytorch(bert, batch())).min() >= 0.999  # hidden() is without the library


def test_variants_by_command_line(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder_variants.main([str(tmp_path), "--backbone", str(bert), "--only", "int8"])
    assert json.loads(capsys.readouterr().out) == {"int8": str(tmp_path / "int8.onnx")}
    with pytest.raises(EdgeAdaptError, match="encoder variant 'int3': give one of stock-fp32"):
        write_variants(tmp_path, str(bert), ["int3"], silent)


@pytest.mark.slow
def test_the_real_minilm(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    texts = ("A man is eating food.", "Someone has a meal.", "The new law on data protection requires consent.")
    source = resolve("all-MiniLM-L6-v2")
    made = write_variants(tmp_path, only=("fp32", "int8"), progress=silent)
    tokenizer = Tokenizer.from_file(str(source.path / "tokenizer.json"))
    tokenizer.no_padding()
    similar = {}
    for name, path in {"pytorch": None, **made}.items():
        rows = []
        for text in texts:
            ids = np.array([tokenizer.encode(text).ids], np.int64)
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            found = in_pytorch(source.path, inputs) if path is None else hidden(path, inputs)
            rows.append(found.mean(axis=0) / np.linalg.norm(found.mean(axis=0)))
        similar[name] = np.array(rows) @ np.array(rows).T
    assert similar["pytorch"][0, 1] > 0.5 > similar["pytorch"][0, 2]
    np.testing.assert_allclose(similar["fp32"], similar["pytorch"], atol=1e-5)
    np.testing.assert_allclose(similar["int8"], similar["pytorch"], atol=0.03)
    assert sum(file.stat().st_size for file in tmp_path.glob("int8.onnx*")) <= 24_500_000
