"""A decoder as the source of a bundle's graphs.

folder --model builder--> fp32 graph --passes--> base graph
                          shared embedding, computed rotary tables, a choice of logits; int4 calibrated on its own text
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import onnx_ir as ir

from edgeadapt.backbones import Backbone
from edgeadapt.bundle import BundleBackbone, Device, Precision
from edgeadapt.codecs import BlockQuantised
from edgeadapt.files import write_json
from edgeadapt.progress import Progress, silent
from edgeadapt.records import read_json
from edgeadapt.text import TextCodec
from edgeadapt_export import parity
from edgeadapt_export.assembly import lora_baseline
from edgeadapt_export.backbones import decoder
from edgeadapt_export.built import Built
from edgeadapt_export.calibration import kept_weights, quantised_weights
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.methods import Deployed, Deployer, StoredAdapter
from edgeadapt_export.model_files import copy_model_files
from edgeadapt_export.parity import Parity
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.choose_logits import ChooseLogits
from edgeadapt_export.passes.compute_rotary import ComputeRotaryTables
from edgeadapt_export.passes.embed_only import KeepEmbedding
from edgeadapt_export.passes.fuse_silu import FuseSilu
from edgeadapt_export.passes.quantise import QuantiseWeights
from edgeadapt_export.passes.share_embedding import ShareEmbedding
from edgeadapt_export.passes.tidy import Tidy
from edgeadapt_export.sample_text import CALIBRATION_SEED, sample_texts

# The oldest releases that load the graphs and agree with 1.31.1 on them (tried: 1.21.1, 1.22.1, 1.23.2): the attribute
# `bits` of GatherBlockQuantized came with 1.23.
_MINIMUM_ONNXRUNTIME = {"fp32": "1.21", "int4": "1.23", "int8": "1.23"}


class DecoderSource:
    """See edgeadapt_export.assembly.Source."""

    def __init__(self, backbone: Backbone, progress: Progress) -> None:
        self._backbone = backbone
        self._graph = decoder.build(backbone, progress=progress)
        self._codec = TextCodec.from_folder(backbone.path)
        self.shape = geometry(backbone.path, self._graph)

    def identity(self) -> BundleBackbone:
        config = read_json(self._backbone.path / "config.json")
        shape = self.shape
        return BundleBackbone(
            id=self._backbone.id,
            revision=self._backbone.revision,
            architecture=str(config["architectures"][0]),
            num_layers=shape.num_layers,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            hidden_size=shape.hidden_size,
            vocab_size=shape.vocab_size,
            context_length=shape.context_length,
            eos=self._codec.eos_ids,
        )

    def opset(self) -> int:
        return ir.load(self._graph.model).opset_imports[""]

    def minimum_onnxruntime(self, precision: Precision) -> str:
        return _MINIMUM_ONNXRUNTIME[precision]

    def base(
        self,
        precision: Precision,
        device: Device,
        adapter: StoredAdapter,
        *,
        merging: Deployer | None,
        progress: Progress,
    ) -> ir.Model:
        folded = None if merging is None else (merging, adapter)
        texts: list[list[int]] = []
        if precision == "int4":
            sampled = sample_texts(self._graph, self._codec, progress, CALIBRATION_SEED)
            texts = [self._codec.encode(text) for text in sampled]
        return base_graph(self._graph, self.shape, precision, folded=folded, texts=texts, progress=progress)

    def embed(self, base: ir.Model) -> ir.Model:
        return apply(base.clone(), KeepEmbedding(self.shape.hidden_size), Tidy())

    def baselines(self, base: ir.Model, deployed: Deployed) -> dict[str, ir.Model]:
        made = {} if deployed.kind == "lowrank" else {"lora8": lora_baseline(base.clone(), self.shape)}
        return {**made, "mixed": lora_baseline(base.clone(), self.shape, tables=True)}

    def write_files(self, out: Path) -> None:
        copy_model_files(self._backbone.path, out)
        write_json(out / "genai_config.json", self._graph.genai_config())

    def parity(self, built: Built, method: Deployer, adapter: StoredAdapter, progress: Progress) -> Parity:
        texts = sample_texts(self._graph, self._codec, progress)
        items = parity.sequences(texts, adapter.manifest.tasks, self._codec)
        return parity.measure(built, method, adapter, backbone=self._backbone.path, items=items, progress=progress)


def base_graph(
    graph: decoder.DecoderGraph,
    shape: Geometry,
    precision: Precision,
    *,
    folded: tuple[Deployer, StoredAdapter] | None = None,
    texts: Sequence[Sequence[int]] = (),
    progress: Progress = silent,
) -> ir.Model:
    """The backbone's graph, ready to be grafted: shared embedding, computed rotary tables, a choice of logits,
    quantised weights.

    `folded` is merged into the fp32 weights on the way. `texts` are token ids to calibrate int4 on.
    """
    base = apply(ir.load(graph.model), Tidy(), ShareEmbedding(), ComputeRotaryTables(), FuseSilu(), ChooseLogits())
    if folded is not None:
        folded[0].merge(base, shape, folded[1])
    if precision != "fp32":
        progress(f"quantising the weights to {precision}", 0, None)
        ready: Mapping[str, BlockQuantised] = {}
        if precision == "int4" and texts:
            make = quantised_weights if folded else partial(kept_weights, graph.path)
            ready = make(base, texts, progress)
        apply(base, QuantiseWeights(precision, ready))
    return base


def geometry(backbone: Path, graph: decoder.DecoderGraph) -> Geometry:
    """The decoder's shape, from genai_config.json (what the builder used) and config.json."""
    model = graph.genai_config()["model"]
    inner = model["decoder"]
    return Geometry(
        num_layers=int(inner["num_hidden_layers"]),
        hidden_size=int(inner["hidden_size"]),
        num_heads=int(inner["num_attention_heads"]),
        num_kv_heads=int(inner["num_key_value_heads"]),
        head_dim=int(inner["head_size"]),
        vocab_size=int(model["vocab_size"]),
        context_length=int(model["context_length"]),
    )
