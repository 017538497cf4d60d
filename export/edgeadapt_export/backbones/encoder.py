"""An encoder's graph: exported by Optimum, fused by onnxruntime's transformer optimizer, put in order by our passes.

    folder --Optimum--> model.onnx (kept in the cache) --fused--> --passes--> base graph --QuantiseWeights--> int8, int4

Inputs and outputs (d wide, B rows of S tokens)
    input_ids       [B, S]  int64
    attention_mask  [B, S]  int64   1 for a token, 0 for padding, on whichever side
    token_type_ids  [B, S]  int64   only where the model has types (BERT; not DistilBERT)
    last_hidden_state [B, S, d] float32; rows of padding are without meaning

What is left of a layer (72 nodes in all for MiniLM's six, of 524 in Optimum's form)
    MatMul [d, 3d] -> Split -> Add -> Attention -> MatMul [d, d] -> SkipLayerNormalization
        -> MatMul [d, 4d] -> BiasGelu or FastGelu -> MatMul [4d, d] -> SkipLayerNormalization
Every bias but the query's is an input of the op behind its MatMul, so no linear layer needs one of its own.
Nodes keep Optimum's names (for BERT /encoder/layer.{l}/attention/self/qkv/MatMul, .../attention/output/dense/MatMul,
/encoder/layer.{l}/intermediate/dense/MatMul, .../output/dense/MatMul); weights are named after their nodes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from edgeadapt.backbones import Backbone
from edgeadapt.errors import EdgeAdaptError, MissingExtra
from edgeadapt.progress import Progress, silent
from edgeadapt.records import read_json
from edgeadapt_export.backbones.kept import architecture, kept_graph
from edgeadapt_export.graph_map import MICROSOFT
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.common import float_matrix, nodes
from edgeadapt_export.passes.linear_bias import MoveLinearBias
from edgeadapt_export.passes.open_embedding import OpenEmbedding
from edgeadapt_export.passes.pack_projections import PackProjections
from edgeadapt_export.passes.quantise import Precision as Quantised
from edgeadapt_export.passes.quantise import QuantiseWeights
from edgeadapt_export.passes.standard_attention import OPSET, StandardAttention, ValueBias
from edgeadapt_export.passes.tanh_gelu import TanhGelu
from edgeadapt_export.passes.tidy import Tidy

Gelu = Literal["erf", "tanh"]
LAYOUT = 1  # raise it when what is kept changes; older graphs are then built anew
OUTPUT = "last_hidden_state"
_FILE = "model.onnx"
_FUSED_LIKE = "bert"  # the optimizer's one kind for BERT, DistilBERT, RoBERTa, ELECTRA and their likes


@dataclass(frozen=True)
class EncoderGraph:
    """Optimum's fp32 export on the disk, what made it, and the numbers that the optimizer wants to be told."""

    path: Path
    exporter: str
    num_layers: int
    num_heads: int
    hidden_size: int

    @property
    def model(self) -> Path:
        return self.path / _FILE


def build(backbone: Backbone, cache: Path | None = None, progress: Progress = silent) -> EncoderGraph:
    """Optimum's export of `backbone`, from the cache if this version has made it from these bytes before.

    Raises EdgeAdaptError if Optimum cannot export the architecture, MissingExtra if there is no Optimum.
    """
    try:
        exporter = f"optimum-onnx {version('optimum-onnx')}"
    except PackageNotFoundError:
        raise MissingExtra("export", "optimum-onnx") from None
    path = kept_graph(
        backbone, exporter, LAYOUT, (_FILE,), lambda out: _run_exporter(backbone, out), cache=cache, progress=progress
    )
    layers, heads, hidden = _numbers(backbone)
    return EncoderGraph(path, exporter, layers, heads, hidden)


def fused(graph: EncoderGraph) -> ir.Model:
    """The graph with embedding, attention, normalisations and Gelu each in one node; linear layers stay MatMuls.

    Raises EdgeAdaptError when a layer's attention was not recognised: the export would be slow without a word.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions(_FUSED_LIKE)
    options.use_multi_head_attention = True  # its weights stay outside, where they can be quantised
    options.use_raw_attention_mask()  # [B, S] as it is: padding on either side
    with quiet():
        optimised = optimize_model(
            str(graph.model), _FUSED_LIKE, graph.num_heads, graph.hidden_size, options, opt_level=0
        )  # fmt: skip
    model = ir.from_proto(optimised.model)
    assert isinstance(model, ir.Model)
    model.opset_imports[MICROSOFT] = 1
    found = len(list(nodes(model, "MultiHeadAttention")))
    if found != graph.num_layers:
        raise EdgeAdaptError(
            f"{graph.path}: the attention of {graph.num_layers - found} of {graph.num_layers} layers is none that "
            "onnxruntime's optimizer knows; choose a BERT-like encoder"
        )
    return model


def base_graph(graph: EncoderGraph, precision: Quantised | None = None, *, gelu: Gelu | None = None) -> ir.Model:
    """The graph that ships.

    Args:
        precision: None keeps float32.
        gelu: exact by default in float32, by tanh where the weights are rounded.
    """
    return quantised(float_graph(graph), precision, gelu=gelu)


def float_graph(graph: EncoderGraph, value_bias: ValueBias = "moved") -> ir.Model:
    """The graph in float32, its linear layers as MatMuls; `value_bias` as in passes/standard_attention.py."""
    from onnxscript.version_converter import convert_version

    model = fused(graph)
    _name_weights(model)
    convert_version(model, OPSET)
    return apply(model, OpenEmbedding(), PackProjections(), StandardAttention(value_bias), Tidy())


def quantised(model: ir.Model, precision: Quantised | None, *, gelu: Gelu | None = None) -> ir.Model:
    """`float_graph`'s result with its weights in `precision`; see `base_graph`."""
    if gelu == "tanh" or (gelu is None and precision is not None):
        apply(model, TanhGelu())
    if precision is not None:
        apply(model, QuantiseWeights(precision), MoveLinearBias())
    return model


def _run_exporter(backbone: Backbone, out: Path) -> None:
    from optimum.exporters.onnx import main_export

    try:
        with quiet():
            main_export(
                str(backbone.path),
                output=out,
                task="feature-extraction",
                library_name="transformers",
                framework="pt",
                device="cpu",
                dtype="fp32",
                do_validation=False,
                local_files_only=True,
                trust_remote_code=False,
            )
    except Exception as error:  # whatever a broken folder or an unknown model provokes in three libraries
        reason = " ".join(str(error).split())[:200]
        raise EdgeAdaptError(
            f"backbone {backbone.id}: Optimum cannot export {architecture(backbone.path)} as an encoder "
            f"({type(error).__name__}: {reason}); choose a BERT-like encoder"
        ) from error


def _numbers(backbone: Backbone) -> tuple[int, int, int]:
    """Layers, heads and width from config.json, whatever the family calls them."""
    config: dict[str, Any] = read_json(backbone.path / "config.json")
    names = (("num_hidden_layers", "n_layers"), ("num_attention_heads", "n_heads"), ("hidden_size", "dim"))
    numbers: list[int] = []
    for pair in names:
        value = next((config[name] for name in pair if name in config), None)
        if not isinstance(value, int) or value < 1:
            raise EdgeAdaptError(f"{backbone.path / 'config.json'}: {pair[0]} is {value!r}; choose a BERT-like encoder")
        numbers.append(value)
    return numbers[0], numbers[1], numbers[2]


def _name_weights(model: ir.Model) -> None:
    """Name every linear layer's weight after its node: the exporter only numbers them."""
    for node in nodes(model, "MatMul"):
        weight = node.inputs[1]
        if weight is not None and float_matrix(weight) is not None and len(list(weight.uses())) == 1:
            weight.name = f"{node.name}.weight"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' progress bars, tracer warnings and log lines."""
    from transformers.utils import logging as transformers_logging

    noise, level = transformers_logging.get_verbosity(), logging.root.manager.disable
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(noise)
        logging.disable(level)
