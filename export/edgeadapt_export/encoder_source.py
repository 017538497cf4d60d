"""An encoder as the source of a bundle's graphs.

    folder --Optimum, optimizer, passes--> fp32 graph --> base graph
                              int8 and int4 weights by rounding alone; on rpi4 our own Gelu and sum-and-normalise
The graph gives hidden states; the tasks' heads lie beside the adapter, and the runtime computes them.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from edgeadapt.backbones import Backbone
from edgeadapt.bundle import BundleBackbone, Device, Precision
from edgeadapt.progress import Progress
from edgeadapt.records import read_json
from edgeadapt.text import TextCodec
from edgeadapt_export import encoder_parity
from edgeadapt_export.assembly import lora_baseline
from edgeadapt_export.backbones import encoder
from edgeadapt_export.built import Built
from edgeadapt_export.encoder_map import word_rows
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.methods import Deployed, Deployer, StoredAdapter
from edgeadapt_export.model_files import copy_model_files
from edgeadapt_export.parity import Parity
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.embed_only import KeepEmbedding
from edgeadapt_export.passes.own_activations import UseOwnActivations
from edgeadapt_export.passes.standard_attention import OPSET
from edgeadapt_export.passes.tidy import Tidy

_MINIMUM_ONNXRUNTIME = "1.23"  # the first with opset 23's Attention


class EncoderSource:
    """See edgeadapt_export.assembly.Source."""

    def __init__(self, backbone: Backbone, progress: Progress) -> None:
        self._backbone = backbone
        self._graph = encoder.build(backbone, progress=progress)
        self._codec = TextCodec.from_folder(backbone.path)
        self._config = read_json(backbone.path / "config.json")
        graph = self._graph
        self.shape = Geometry(
            num_layers=graph.num_layers,
            hidden_size=graph.hidden_size,
            num_heads=graph.num_heads,
            num_kv_heads=graph.num_heads,
            head_dim=graph.hidden_size // graph.num_heads,
            vocab_size=int(self._config["vocab_size"]),
            context_length=int(self._config["max_position_embeddings"]),
            kind="encoder",
        )

    def identity(self) -> BundleBackbone:
        shape = self.shape
        return BundleBackbone(
            id=self._backbone.id,
            revision=self._backbone.revision,
            architecture=str(self._config["architectures"][0]),
            num_layers=shape.num_layers,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            hidden_size=shape.hidden_size,
            vocab_size=shape.vocab_size,
            context_length=shape.context_length,
            eos=self._codec.eos_ids,
            kind="encoder",
        )

    def opset(self) -> int:
        return OPSET

    def minimum_onnxruntime(self, precision: Precision) -> str:
        return _MINIMUM_ONNXRUNTIME

    def base(
        self,
        precision: Precision,
        device: Device,
        adapter: StoredAdapter,
        *,
        merging: Deployer | None,
        progress: Progress,
    ) -> ir.Model:
        adapted = adapter.manifest.sites.get("modules", ())
        model = encoder.float_graph(self._graph, "kept" if "o_proj" in adapted else "moved")
        if merging is not None:
            merging.merge(model, self.shape, adapter)
        if precision != "fp32":
            progress(f"quantising the weights to {precision}", 0, None)
        encoder.quantised(model, None if precision == "fp32" else precision)
        return apply(model, UseOwnActivations()) if device == "rpi4" else model

    def embed(self, base: ir.Model) -> ir.Model:
        return apply(base.clone(), KeepEmbedding(self.shape.hidden_size, word_rows), Tidy())

    def baselines(self, base: ir.Model, deployed: Deployed) -> dict[str, ir.Model]:
        return {} if deployed.kind == "lowrank" else {"lora8": lora_baseline(base.clone(), self.shape)}

    def write_files(self, out: Path) -> None:
        copy_model_files(self._backbone.path, out)

    def parity(self, built: Built, method: Deployer, adapter: StoredAdapter, progress: Progress) -> Parity:
        folder, codec = self._backbone.path, self._codec
        return encoder_parity.measure(built, method, adapter, backbone=folder, codec=codec, progress=progress)
