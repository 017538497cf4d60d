"""Where the linear layers of a backbone's graph are, by one set of names for all families (edgeadapt.families).

    decoder   the model builder's   /model/layers.{l}/attn/{qkv_proj|q_proj|k_proj|v_proj|o_proj}/MatMul
                                    /model/layers.{l}/mlp/{gate_proj|up_proj|down_proj}/MatMul
    encoder   Optimum's             /encoder/layer.{l}/{path of BERT's module}/MatMul
                                    /transformer/layer.{l}/{path of DistilBERT's module}/MatMul
                                    with q, k, v packed (passes/pack_projections.py) .../qkv/MatMul
Those conventions are read here and nowhere else. What follows from the wiring is in decoder_map.py and encoder_map.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.families import module_name

MICROSOFT = "com.microsoft"
LINEAR_OPS = {("", "MatMul"), (MICROSOFT, "FusedMatMul"), (MICROSOFT, "MatMulNBits")}
PACKED = "qkv_proj"
_DECODERS = re.compile(r"/model/layers\.(\d+)/(?:attn|mlp)/(\w+)/MatMul")
_ENCODERS = re.compile(r"/(?:encoder|transformer)/layer\.(\d+)/([\w/]+)/MatMul")
_PACKED_MODULES = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Linear:
    """One linear layer: `node` computes y [B, T, width] from x [B, T, depth]."""

    layer: int
    name: str
    node: ir.Node

    @property
    def x(self) -> ir.Value:
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def y(self) -> ir.Value:
        return self.node.outputs[0]


@dataclass(frozen=True)
class Slice:
    """Where one module's columns stand in the output of the linear layer that computes it."""

    linear: Linear
    offset: int
    width: int


@dataclass(frozen=True)
class Geometry:
    """The numbers of a backbone that the graph alone does not spell out, and its family, which says where sites are."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    kind: Literal["decoder", "encoder"] = "decoder"

    @property
    def packed_widths(self) -> dict[str, int]:
        kv = self.num_kv_heads * self.head_dim
        return dict(zip(_PACKED_MODULES, (self.num_heads * self.head_dim, kv, kv), strict=True))


def linears(model: ir.Model) -> dict[tuple[int, str], Linear]:
    """Every linear layer of the blocks, by (layer, name)."""
    found = {}
    for node in model.graph:
        place = _place(node.name or "") if (node.domain, node.op_type) in LINEAR_OPS else None
        if place is not None:
            found[place] = Linear(*place, node)
    return found


def _place(node_name: str) -> tuple[int, str] | None:
    if match := _DECODERS.fullmatch(node_name):
        return int(match[1]), match[2]
    if match := _ENCODERS.fullmatch(node_name):
        path = match[2].replace("/", ".")
        return int(match[1]), PACKED if path.endswith(".qkv") else module_name(path)
    return None


def module_slice(model: ir.Model, geometry: Geometry, layer: int, module: str) -> Slice:
    """The columns of `module` (q_proj, ..., down_proj) in `layer`. Raises EdgeAdaptError if the graph has none."""
    known = linears(model)
    widths = geometry.packed_widths
    if (layer, PACKED) in known and module in widths:
        before = _PACKED_MODULES[: _PACKED_MODULES.index(module)]
        return Slice(known[layer, PACKED], sum(widths[name] for name in before), widths[module])
    if (layer, module) not in known:
        names = sorted({name for at, name in known if at == layer})
        raise EdgeAdaptError(
            f"layer {layer} of the graph has no {module}; it has {', '.join(names) or 'no linear layer'}"
        )
    linear = known[layer, module]
    return Slice(linear, 0, output_width(linear))


def output_width(linear: Linear) -> int:
    """Columns of a linear layer's output, from its weight."""
    if linear.node.op_type == "MatMulNBits":
        return linear.node.attributes["N"].as_int()
    weight = linear.node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    transposed = "transB" in linear.node.attributes and bool(linear.node.attributes["transB"].as_int())
    return int(weight.const_value.shape.numpy()[0 if transposed else 1])
