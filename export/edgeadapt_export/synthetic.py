"""Backbones in the shape of published ones, with random weights: what a model of that size costs, without a download.

    edgeadapt bench synthetic:tinyllama-1.1b --quick          made once, in the cache
    edgeadapt export synthetic:llama-2-7b -o DIR              to be carried to a device

    two layers at the real width, a small vocabulary --builder, passes--> base graph
        --grow: layer 1 again and again, the vocabulary's tables at their real size--> bare, lora8, mixed

The graph is the exporter's own, so that a synthetic model runs through exactly the nodes that a trained one does. Only
two layers ever exist in float32; all other weights are drawn as codes while the file is written: uniform bytes, and
scales as those of layer 1. What they compute means nothing, and what it costs does not depend on it.

Shapes are those of the models' own config.json: HuggingFaceTB/SmolLM2-135M-Instruct, Qwen/Qwen3-0.6B,
TinyLlama/TinyLlama-1.1B-Chat-v1.0 and meta-llama/Llama-2-7b-hf.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgeadapt.backbones import SYNTHETIC, Backbone
from edgeadapt.bundle import FORMAT, BundleBackbone, BundleManifest, published_bundle, seal
from edgeadapt.cache import cache_directory
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import locked, storage_errors, write_json
from edgeadapt.progress import Progress
from edgeadapt_export.assembly import lora_baseline
from edgeadapt_export.backbones import decoder
from edgeadapt_export.decoder_source import base_graph, geometry
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.grow import SEED_LAYERS, grow
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.function_bodies import AddFunctionBodies
from edgeadapt_export.passes.own_matmul import UseQuantMatMul
from edgeadapt_export.probe import write_probes
from edgeadapt_export.steps import shown
from edgeadapt_export.store import WeightStore

LAYOUT = 1  # raise it when what is kept changes; older bundles are then made anew
MINIMUM_ONNXRUNTIME = "1.23"  # as for every decoder with quantised weights (decoder_source.py)
_SEED_VOCABULARY = 251  # no width of any model: the builder knows the LM head by this number
Precision = Literal["int4", "int8"]


@dataclass(frozen=True)
class Shape:
    """A decoder's numbers, in the words of its config.json; `options`: the family's own."""

    kind: Literal["llama", "qwen3"]
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    tied: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


SHAPES = {
    "smollm2-135m": Shape(
        "llama", 30, 576, 1536, 9, 3, 49152, 8192, tied=True, options={"rms_norm_eps": 1e-5, "rope_theta": 1e5}
    ),
    "tinyllama-1.1b": Shape("llama", 22, 2048, 5632, 32, 4, 32000, 2048, options={"rms_norm_eps": 1e-5}),
    "qwen3-0.6b": Shape(
        "qwen3", 28, 1024, 3072, 16, 8, 151936, 40960, tied=True,
        options={"head_dim": 128, "rms_norm_eps": 1e-6, "rope_theta": 1e6},
    ),
    "llama-2-7b": Shape("llama", 32, 4096, 11008, 32, 32, 32000, 4096, options={"rms_norm_eps": 1e-5}),
}  # fmt: skip


def shape_of(name: str) -> Shape:
    """Of "synthetic:NAME". Raises EdgeAdaptError naming those there are."""
    known = name.removeprefix(SYNTHETIC)
    if known not in SHAPES:
        raise EdgeAdaptError(
            f"{SYNTHETIC}{known}: no such shape; there are {', '.join(SYNTHETIC + name for name in SHAPES)}"
        )
    return SHAPES[known]


def kept(name: str, precision: Precision = "int4", progress: Progress | None = None) -> Path:
    """The bundle of "synthetic:NAME" in the cache, made if it is not there yet."""
    shape_of(name)
    target = cache_directory() / "synthetic" / f"{name.removeprefix(SYNTHETIC)}-{precision}-{FORMAT}.{LAYOUT}"
    with storage_errors(target.parent), locked(target):
        if not target.is_dir():
            synthesise(name, target, precision=precision, progress=progress)
    return target


def synthesise(name: str, out: Path, *, precision: Precision = "int4", progress: Progress | None = None) -> int:
    """Write the bundle of "synthetic:NAME" into `out`. Returns its bytes.

    Raises EdgeAdaptError for an unknown name, MissingExtra without the packages of `edgeadapt[export]`.
    """
    shape = shape_of(name)
    with shown(progress) as show, storage_errors(out.parent), published_bundle(out) as building:
        manifest = write(name if name.startswith(SYNTHETIC) else SYNTHETIC + name, shape, building, precision, show)
    return sum(entry.size for entry in manifest.files.values())


def write(name: str, shape: Shape, out: Path, precision: Precision, show: Progress) -> BundleManifest:
    """All files of the bundle, sealed."""
    with tempfile.TemporaryDirectory(prefix=".seed-", dir=out.parent) as scratch:
        show("two layers in float32", 0, None)
        seed = seed_model(shape, Path(scratch) / "backbone")
        graph = decoder.build(Backbone(name, "seed", seed), cache=Path(scratch), progress=show)
        real: Geometry = replace(geometry(seed, graph), num_layers=shape.layers, vocab_size=shape.vocabulary)
        base = grow(base_graph(graph, geometry(seed, graph), precision, progress=show), shape.layers, shape.vocabulary)
        made = {
            "bare": base,
            "lora8": lora_baseline(base.clone(), real),
            "mixed": lora_baseline(base.clone(), real, tables=True),
        }
        config = graph.genai_config()
        config["model"]["vocab_size"] = shape.vocabulary
        config["model"]["decoder"]["num_hidden_layers"] = shape.layers
        write_json(out / "genai_config.json", config)
        (out / "tokenizer.json").write_bytes((seed / "tokenizer.json").read_bytes())
        with WeightStore(out / "model.onnx.data") as store:
            for number, (role, model) in enumerate(made.items()):
                show("writing random weights", number, len(made))
                store.save(apply(model, UseQuantMatMul(), AddFunctionBodies()), out / f"{role}.onnx")
        opset = base.opset_imports[""]
    show("hashing and verifying the bundle", 0, None)
    files = {role: f"{role}.onnx" for role in made}
    return seal(
        out,
        BundleManifest(
            format=FORMAT,
            backbone=BundleBackbone(
                id=name,
                revision=f"random-{LAYOUT}",
                architecture=_config(shape).architectures[0],
                num_layers=shape.layers,
                num_kv_heads=real.num_kv_heads,
                head_dim=real.head_dim,
                hidden_size=shape.hidden,
                vocab_size=shape.vocabulary,
                context_length=shape.context,
                eos=(),
            ),
            precision=precision,
            device="rpi4",
            opset=opset,
            minimum_onnxruntime=MINIMUM_ONNXRUNTIME,
            graphs={"model": "bare.onnx", **files, **write_probes(out, [out / file for file in files.values()])},
            adapters=(),
            parity={},
        ),
    )


def _config(shape: Shape, layers: int = SEED_LAYERS, vocabulary: int = _SEED_VOCABULARY) -> Any:
    from transformers import LlamaConfig, Qwen3Config

    kind: Any = {"llama": LlamaConfig, "qwen3": Qwen3Config}[shape.kind]
    return kind(
        architectures=[{"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[shape.kind]],
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **shape.options,
    )


def seed_model(shape: Shape, folder: Path, layers: int = SEED_LAYERS, vocabulary: int = _SEED_VOCABULARY) -> Path:
    """A folder with a random model of so many layers, in bfloat16, and a tokenizer that knows no word."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(_config(shape, layers, vocabulary), dtype=torch.bfloat16)
        model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    make: Any = PreTrainedTokenizerFast
    make(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


def summary(name: str, out: Path, size: int) -> str:
    """What was written, in a line."""
    return f"{out}: {SYNTHETIC}{name.removeprefix(SYNTHETIC)}, random weights, {size / 1e6:,.1f} MB"


__all__ = ["SHAPES", "Shape", "kept", "shape_of", "summary", "synthesise"]
