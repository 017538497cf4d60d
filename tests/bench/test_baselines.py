"""Competitors: who takes part, and that every engine computes the same model before anybody compares its times."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import sha256_of
from edgeadapt.runtime import session
from edgeadapt.runtime.decoder import Decoder, other_inputs
from edgeadapt_bench import gguf_files
from edgeadapt_bench.baselines import COMPETITORS, Competitor, Variant, select
from edgeadapt_bench.inputs import noise
from tests.exported import Exported

PROMPT = [7, 40, 131, 5, 9, 88, 200, 17, 3, 61]
NOWHERE = Competitor("nowhere", "bench-nowhere", ("no_such_engine",), lambda _: [])
BY_NAME = {competitor.name: competitor for competitor in COMPETITORS}
TINY = [name for name in BY_NAME if name != "llama.cpp"]  # whose models come from a bundle or its backbone alone


def opened(variant: Variant) -> Any:
    subject: Any = importlib.import_module(variant.worker).Subject
    return subject(variant.to_json(), 1)


def available(name: str, bundle: Bundle) -> Sequence[Variant]:
    try:
        return BY_NAME[name].of(bundle)
    except EdgeAdaptError as error:
        pytest.skip(str(error))


def reference(bundle: Bundle, graph: str, count: int) -> list[np.ndarray]:
    """Logits of edgeadapt's own decoder, after the prompt and after each of `count` greedy tokens."""
    base = session.create(bundle.graph(graph), threads=1)
    extra = other_inputs(base)
    decoder = Decoder(base, adapter_inputs=tuple(extra), context_length=bundle.manifest.backbone.context_length)
    decoder.feed({name: noise(item) for name, item in extra.items()})
    found = [decoder.prefill(PROMPT, count).copy()]
    for _ in range(count):
        found.append(decoder.step(int(found[-1].argmax())).copy())
    return found


@pytest.fixture
def bundle(exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bundle:
    """Of a tiny backbone, which lies where the tests run, as the bundle's manifest names it."""
    monkeypatch.setenv("EDGEADAPT_CACHE", str(tmp_path))
    path = exported("himalaya")
    monkeypatch.chdir(exported.root)
    return Bundle.open(path)


def test_all_takes_who_can_run_and_says_why_others_do_not(bundle: Bundle) -> None:
    found = select(bundle, ["all"], (*COMPETITORS[:1], NOWHERE))
    assert [variant.name for variant in found.variants][:2] == ["bare", "himalaya"]
    assert "stock" in [variant.name for variant in found.variants]
    assert found.optional == {"stock"}
    assert not select(bundle, ["all", "stock"], COMPETITORS[:1]).optional
    assert found.left_out == {"nowhere": "needs 'no_such_engine': pip install 'edgeadapt[bench-nowhere]'"}


def test_a_competitor_that_is_named_must_run(bundle: Bundle) -> None:
    with pytest.raises(EdgeAdaptError, match=r"--baseline nowhere: needs 'no_such_engine': pip install 'edgeadapt"):
        select(bundle, ["nowhere"], (NOWHERE,))
    with pytest.raises(EdgeAdaptError, match=r"neither a bundle directory nor one of bare, .*, all$"):
        select(bundle, ["stock"], ())
    assert [item.name for item in select(bundle, ["stock"]).variants] == ["bare", "himalaya", "stock"]


def test_a_result_names_weights_but_not_where_a_cache_is(tmp_path: Path) -> None:
    weights = tmp_path / "gguf" / "model.gguf"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    variant = Variant("x", tmp_path / "bundle", "bare", files=(weights,), precision="Q4_0")
    assert str(variant.place) == "gguf/model.gguf"
    assert variant.sha256() == sha256_of(weights)
    assert variant.sizes() == {"model.gguf": 7}


def test_nobody_but_edgeadapt_unless_asked(bundle: Bundle) -> None:
    assert not any(variant.foreign for variant in select(bundle).variants)


def test_every_extra_exists_and_brings_all_packages() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for competitor in COMPETITORS:
        assert competitor.extra in extras
        assert competitor.extra in extras["bench-all"][0]


def test_a_worker_holds_no_engine_but_its_own() -> None:
    """Or it would count in that engine's memory."""
    code = """
import sys, edgeadapt_bench.serving, edgeadapt_bench.baselines
engines = ("onnxruntime", "onnxruntime_genai", "torch", "transformers", "openvino", "llama_cpp", "onnx")
print(*(name for name in engines if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", TINY)
def test_an_engine_computes_the_same_model(name: str, bundle: Bundle) -> None:
    """After a prompt and after each of five tokens, and again after going back."""
    wanted = reference(bundle, "bare", 5)
    variant = available(name, bundle)[0]
    subject = opened(variant)
    assert subject.vocabulary_size == len(wanted[0])
    for _ in range(2):
        subject.prefill(PROMPT, 6)
        for expected in wanted[:-1]:
            np.testing.assert_allclose(subject.logits(), expected, rtol=0, atol=2e-3)
            token = subject.append([int(expected.argmax())])
        np.testing.assert_allclose(subject.logits(), wanted[-1], rtol=0, atol=2e-3)
        assert token == wanted[-1].argmax()
        subject.rewind(len(PROMPT))
        subject.append([int(wanted[0].argmax())])
        np.testing.assert_allclose(subject.logits(), wanted[1], rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["onnxruntime-genai", "openvino"])
def test_lora_acts_as_in_edgeadapt(name: str, bundle: Bundle) -> None:
    """The same factors, through another engine's way of feeding them: an adapter that is dropped in silence is seen."""
    variant = next(item for item in available(name, bundle) if item.name.endswith("lora8"))
    subject = opened(variant)
    subject.prefill(PROMPT, 1)
    wanted, bare = reference(bundle, "lora8", 0)[0], reference(bundle, "bare", 0)[0]
    assert np.abs(wanted - bare).max() > 1e-3
    np.testing.assert_allclose(subject.logits(), wanted, rtol=0, atol=np.abs(wanted - bare).max() / 10)


def test_pefts_lora_acts(bundle: Bundle) -> None:
    variants = {item.name: item for item in available("pytorch", bundle)}
    logits = []
    for name in ("pytorch", "pytorch lora8"):
        subject = opened(variants[name])
        subject.prefill(PROMPT, 1)
        logits.append(subject.logits())
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


@pytest.mark.parametrize("name", TINY)
def test_phases_of_a_turn(name: str, bundle: Bundle) -> None:
    subject = opened(available(name, bundle)[0])
    assert len(subject.load.wall) == 1
    assert len(subject.decode(PROMPT, 4).wall) == 4
    times = subject.prefill(PROMPT, 4)
    assert len(times.wall) == len(times.cpu) == 1
    assert len(subject.decode(PROMPT, 30).wall) == 30  # more than there was room for
    assert min(times.wall) > 0


def test_a_backbone_that_is_not_the_bundles(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="no package carries a GGUF of backbone"):
        gguf_files.packaged(bundle.manifest.backbone.id)
    monkeypatch.chdir(tmp_path)
    if (pytorch := BY_NAME["pytorch"]).missing is None:
        with pytest.raises(EdgeAdaptError, match="backbone"):
            pytorch.of(bundle)


def test_a_gguf_and_its_lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = pytest.importorskip("gguf", reason="needs edgeadapt[bench-llama]")
    monkeypatch.setenv("EDGEADAPT_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(source, "llama")
    rng = np.random.default_rng(0)
    tensors = {"token_embd.weight": (50, 64), "blk.0.attn_q.weight": (64, 64), "blk.0.attn_v.weight": (32, 64)}
    tensors |= {"blk.0.ffn_up.weight": (96, 64), "output_norm.weight": (64,)}
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in tensors.items()}
    writer.add_uint32("llama.block_count", 1)
    for name, value in values.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    made = gguf.GGUFReader(gguf_files.quantised(source, "q4_0", lambda _: None))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in made.tensors}
    assert kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.0.ffn_up.weight"] == "Q4_0"
    assert kinds["output_norm.weight"] == "F32"
    assert made.fields["llama.block_count"].contents() == 1
    full = gguf.GGUFReader(gguf_files.quantised(source, "f32", lambda _: None))
    for tensor in full.tensors:
        np.testing.assert_array_equal(tensor.data, values[tensor.name])

    lora = gguf.GGUFReader(gguf_files.noise_lora(source, 8))
    shapes = {tensor.name: tuple(tensor.data.shape) for tensor in lora.tensors}
    assert shapes == {
        "blk.0.attn_q.weight.lora_a": (8, 64),
        "blk.0.attn_q.weight.lora_b": (64, 8),
        "blk.0.attn_v.weight.lora_a": (8, 64),
        "blk.0.attn_v.weight.lora_b": (32, 8),
    }
    assert lora.fields["adapter.type"].contents() == "lora"


@pytest.mark.slow
def test_llama_cpp_computes_the_same_model() -> None:
    """In fp32, against PyTorch, on the packaged backbone; and its LoRA acts."""
    pytest.importorskip("llama_cpp", reason="needs edgeadapt[bench-llama]")
    import torch
    import transformers

    from edgeadapt import backbones

    source = gguf_files.packaged("SmolLM2-135M-Instruct")
    weights = gguf_files.quantised(source, "f32", lambda _: None)
    variant = Variant("llama", Path("."), "bare", worker="edgeadapt_bench.baselines.llama_cpp", files=(weights,))
    load: Any = transformers.AutoModelForCausalLM
    with torch.inference_mode():
        model = load.from_pretrained(backbones.resolve("SmolLM2-135M-Instruct").path, dtype=torch.float32)
        wanted = model(torch.tensor([PROMPT])).logits[0, -1].numpy()
    subject = opened(variant)
    for _ in range(2):
        subject.prefill(PROMPT, 1)
        np.testing.assert_allclose(subject.logits(), wanted, rtol=0, atol=0.05)  # its cache is fp16
    options = {"lora": str(gguf_files.noise_lora(source, 8))}
    adapted = importlib.import_module(variant.worker).Subject({**variant.to_json(), "options": options}, 1)
    adapted.prefill(PROMPT, 1)
    assert np.abs(adapted.logits() - subject.logits()).max() > 1e-3
