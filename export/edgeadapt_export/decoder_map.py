"""Where things are in a decoder graph of the model builder: its linear layers and its blocks' outputs.

The builder names its nodes /model/layers.{l}/attn/{qkv_proj|q_proj|k_proj|v_proj|o_proj}/MatMul and
/model/layers.{l}/mlp/{gate_proj|up_proj|down_proj}/MatMul; that convention is read here and nowhere else. What
follows from the wiring (which branch a block's output adds, how wide the packed slices are) is read off the wiring.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx_ir as ir

from edgeadapt.errors import EdgeAdaptError

MICROSOFT = "com.microsoft"
LINEAR_OPS = {("", "MatMul"), (MICROSOFT, "FusedMatMul"), (MICROSOFT, "MatMulNBits")}
_LINEAR_NAME = re.compile(r"/model/layers\.(\d+)/(?:attn|mlp)/(\w+)/MatMul")
_PACKED = ("q_proj", "k_proj", "v_proj")


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
    """The numbers of a decoder that the graph alone does not spell out (from genai_config.json and config.json)."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int

    @property
    def packed_widths(self) -> dict[str, int]:
        kv = self.num_kv_heads * self.head_dim
        return dict(zip(_PACKED, (self.num_heads * self.head_dim, kv, kv), strict=True))


def linears(model: ir.Model) -> dict[tuple[int, str], Linear]:
    """Every linear layer of the blocks, by (layer, name as the builder has it)."""
    found = {}
    for node in model.graph:
        match = _LINEAR_NAME.fullmatch(node.name or "")
        if match and (node.domain, node.op_type) in LINEAR_OPS:
            layer, name = int(match[1]), match[2]
            found[layer, name] = Linear(layer, name, node)
    return found


def module_slice(model: ir.Model, geometry: Geometry, layer: int, module: str) -> Slice:
    """The columns of `module` (q_proj, ..., down_proj) in `layer`. Raises EdgeAdaptError if the graph has none."""
    known = linears(model)
    widths = geometry.packed_widths
    if (layer, "qkv_proj") in known and module in widths:
        before = _PACKED[: _PACKED.index(module)]
        return Slice(known[layer, "qkv_proj"], sum(widths[name] for name in before), widths[module])
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


def block_output(model: ir.Model, layer: int) -> ir.Node:
    """The SkipSimplifiedLayerNormalization that ends block `layer`: inputs 0 the residual stream, 1 the last branch.

    Raises EdgeAdaptError if the block is wired in any other way (parallel branches, norms after the branch, experts).
    """
    down = linears(model).get((layer, "down_proj"))
    reached = None if down is None else _through_bias(down.y)
    if reached is not None:
        for node, position in reached.uses():
            if node.op_type == "SkipSimplifiedLayerNormalization" and position == 1:
                return node
    raise EdgeAdaptError(
        f"layer {layer} of the graph does not end in down_proj and a skip normalisation, so there is no residual site; "
        "adapt square projections (site=square) instead"
    )


def lm_head(model: ir.Model) -> tuple[ir.Node, list[ir.Value]]:
    """The product that makes the logits from the last hidden states, and the values between it and `logits`, included.

    What may stand between them (a bias, a cap) works on every position alone.
    """
    value = next((value for value in model.graph.outputs if value.name == "logits"), None)
    after: list[ir.Value] = []
    while value is not None and (node := value.producer()) is not None:
        if (node.domain, node.op_type) in LINEAR_OPS:
            return node, after
        after.append(value)
        value = node.inputs[0]
    raise EdgeAdaptError("the graph's logits do not come from a product with the LM head's weight")


def residual_start(model: ir.Model) -> ir.Value:
    """The embedding output [B, T, d]: what enters the first block."""
    for node in model.graph:
        if node.op_type in ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "LayerNormalization"):
            value = node.inputs[0]
            assert value is not None
            return value
    raise EdgeAdaptError("the graph has no normalisation, so it is not a decoder of the model builder")


def _through_bias(value: ir.Value) -> ir.Value:
    consumers = list(value.uses())
    if len(consumers) == 1 and consumers[0][0].op_type == "Add":
        other = consumers[0][0].inputs[1 - consumers[0][1]]
        if other is not None and other.is_initializer():
            return consumers[0][0].outputs[0]
    return value
