"""A quantised decoder graph of two layers, made as deep as wished and its vocabulary as large: random codes throughout.

Rule    /model/layers.1/ is cut out as a block and put in again for every further layer. Where the block reads the
        residual stream (its first normalisation) and where the graph goes on (the final one) the same two values stand
        in the same places: that is how a copy is wired, and nothing else leaves or enters a block but what all share.
        Initializers that only the block uses become new ones: codes uint8 uniform, float32 as layer 1's, but not equal
        to them byte for byte, so that nothing is stored twice. Tables over the vocabulary get as many rows.
Needs   A base graph (decoder_source.base_graph) with `SEED_LAYERS` layers and quantised weights.
Leaves  `layers` layers, past and present inputs and outputs for each, and logits [B, T, vocabulary]. Codes are drawn
        when they are written, tensor by tensor: the whole model is never in memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_export.decoder_map import lm_head
from edgeadapt_export.passes.common import constant, nodes

SEED_LAYERS = 2
_BLOCK = f"layers.{SEED_LAYERS - 1}/"
_STREAM = "SkipSimplifiedLayerNormalization"


def grow(model: ir.Model, layers: int, vocabulary: int) -> ir.Model:
    """See the module's docstring; in place. Raises EdgeAdaptError for a graph that is not wired so."""
    block = [node for node in model.graph if f"/model/{_BLOCK}" in (node.name or "")]
    first = next((node for node in block if node.op_type == _STREAM), None)
    inside = {value for node in block for value in node.outputs}
    after = [node for node in model.graph if node not in block and inside & set(node.inputs)]
    if first is None or len(after) != 1 or after[0].op_type != _STREAM:
        raise EdgeAdaptError("the graph's last layer is no block that can be repeated; it is none of this exporter's")
    last = after[0]
    place, ends = block[-1], list(last.inputs[:2])
    for layer in range(SEED_LAYERS, layers):
        stream = list(last.inputs[:2])
        copied = _copied(model, block, layer, dict(zip(first.inputs[:2], stream, strict=True)))
        model.graph.insert_after(place, copied)
        place = copied[-1]
        for position, value in enumerate(ends):
            last.replace_input_with(position, _counterpart(block, copied, value))
    _widen(model, vocabulary)
    return model


def _counterpart(block: list[ir.Node], copied: list[ir.Node], value: ir.Value | None) -> ir.Value:
    """What a copy has in the place of a value that the block makes."""
    for node, copy in zip(block, copied, strict=True):
        if value is not None and value in node.outputs:
            return copy.outputs[list(node.outputs).index(value)]
    raise EdgeAdaptError("the graph's last layer is no block that can be repeated; it is none of this exporter's")


def _copied(
    model: ir.Model, block: list[ir.Node], layer: int, given: Mapping[ir.Value | None, ir.Value | None]
) -> list[ir.Node]:
    """The block once more as layer `layer`; `given`: what stands for its two values of the residual stream."""
    known: dict[ir.Value | None, ir.Value | None] = {None: None, **given}
    made = []
    own = {id(node) for node in block}

    def renamed(name: str | None) -> str:
        for old, new in ((_BLOCK, f"layers.{layer}/"), (f".{SEED_LAYERS - 1}.", f".{layer}.")):
            if old in (name or ""):
                return (name or "").replace(old, new, 1)
        return f"{name}.{layer}"

    for node in block:
        inputs = []
        for value in node.inputs:
            if value not in known:
                known[value] = _input(model, value, renamed(value.name), own) if value is not None else None
            inputs.append(known[value])
        copy = ir.Node(
            node.domain, node.op_type, inputs, list(node.attributes.values()), num_outputs=len(node.outputs),
            name=renamed(node.name),
        )  # fmt: skip
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.type, new.shape = (renamed(old.name) if old.name else old.name), old.type, old.shape
            known[old] = new
            if old in model.graph.outputs:
                model.graph.outputs.append(new)
        made.append(copy)
    return made


def _input(model: ir.Model, value: ir.Value, name: str, block: set[int]) -> ir.Value:
    """What a copy reads in the place of `value`: the same, unless only this layer reads it."""
    if any(id(node) not in block for node, _ in value.uses()):
        return value
    if value in model.graph.inputs:
        own = ir.Value(name=name, type=value.type, shape=value.shape)
        model.graph.inputs.append(own)
        return own
    tensor = constant(value)
    if tensor is None:
        return value
    return _initializer(model, name, tensor, tuple(tensor.shape.numpy()))


def _widen(model: ir.Model, vocabulary: int) -> None:
    """The tables over the vocabulary, with as many rows: the embedding's, and the LM head's if it is another."""
    head, after = lm_head(model)
    gather = next(iter(nodes(model, "GatherBlockQuantized")))
    for node, places in ((head, (1, 2)), (gather, (0, 2))):
        for place in places:
            value = node.inputs[place]
            tensor = constant(value)
            assert value is not None
            assert value.name is not None
            assert tensor is not None
            shape = (vocabulary, *tensor.shape.numpy()[1:])
            if shape != tuple(tensor.shape.numpy()):
                name = value.name
                del model.graph.initializers[name]
                value.replace_all_uses_with(_initializer(model, name, tensor, shape))
    head.attributes["N"] = ir.AttrInt64("N", vocabulary)
    for value in (head.outputs[0], *after):
        if value.shape is not None:
            value.shape = ir.Shape([*value.shape[:2], vocabulary])


def _initializer(model: ir.Model, name: str, like: ir.TensorProtocol, shape: tuple[int, ...]) -> ir.Value:
    """Random numbers like a tensor's, drawn when they are asked for. Codes of one table in two layouts, `T.data` and
    `T.rows`, are the same bytes."""
    seed = zlib.crc32(name.rpartition(".")[0].encode() if like.dtype == ir.DataType.UINT8 else name.encode())

    def drawn() -> ir.Tensor:
        rng = np.random.default_rng(seed)
        if like.dtype == ir.DataType.UINT8:
            codes = np.frombuffer(rng.bytes(int(np.prod(shape))), np.uint8)
            return ir.Tensor(codes.reshape(shape), name=name)
        known: NDArray[np.float32] = np.resize(like.numpy().astype(np.float32, copy=False), shape)
        return ir.Tensor((known * rng.uniform(0.99, 1.01, shape)).astype(np.float32), name=name)

    if like.dtype not in (ir.DataType.UINT8, ir.DataType.FLOAT):
        return _registered(model, name, like, shape)
    return _registered(model, name, ir.LazyTensor(drawn, like.dtype, ir.Shape(shape), name=name), shape)


def _registered(model: ir.Model, name: str, tensor: ir.TensorProtocol, shape: tuple[int, ...]) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value
