"""UniHyperLoRA's and SAT-LoRA's sites: every linear layer of a block gains the atoms that the block's router chose.

Rule    index_l, weight_l = AtomRoute(h_l, W, K, bias)              once per block, h_l what enters it
        y' = AtomMixUpdate(y, x, atoms, columns, index_l, weight_l; row = l)        one per MatMul of the block
        Where q, k and v are one packed MatMul, one update serves them, a segment each.
Adds    inputs atoms.W [d, r], atoms.K [r, M], atoms.bias [B, 1, M], and for each kind of linear layer
        atoms.{kind} [M, m + reads d_in + L S], float32: an atom's U, V and g in a row. It reads once where V depends on
        d_in alone (unihyper), else for each segment. A SwiGLU's gate takes those of up_proj: same type, same shape.
Needs   Every layer has the same linear layers, of the same shapes; the graph has no AtomMixUpdate yet.
Leaves  One AtomRoute per block and one AtomMixUpdate per linear layer. Atoms that are 0 change nothing, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import DOMAIN
from edgeadapt_export import decoder_map
from edgeadapt_export.graph_map import Geometry, Linear, linears, module_slice
from edgeadapt_export.passes.common import add_initializer, nodes

ROUTE, UPDATE = "AtomRoute", "AtomMixUpdate"
ROUTER_INPUTS = ("atoms.W", "atoms.K", "atoms.bias")
_LIKE = {"gate_proj": "up_proj"}


@dataclass(frozen=True)
class Mixture:
    """M atoms, a router r wide, k atoms a token; whether segments of a linear layer read with one V."""

    atoms: int
    width: int
    top_k: int
    read_once: bool


@dataclass(frozen=True)
class Kind:
    """A kind of linear layer: the modules it computes, left to right, with their widths; how many numbers it reads."""

    name: str
    modules: tuple[str, ...]
    widths: tuple[int, ...]
    depth: int

    @property
    def input(self) -> str:
        """Its atoms."""
        return f"atoms.{self.name}"

    def reads(self, mixture: Mixture) -> int:
        """How many vectors V an atom has."""
        return 1 if mixture.read_once else len(self.widths)


@dataclass(frozen=True)
class Layout:
    """The kinds by the name of each linear layer of a block; several names may share one."""

    layers: int
    kinds: dict[str, Kind]

    @property
    def tables(self) -> tuple[Kind, ...]:
        """Every kind once."""
        return tuple(dict.fromkeys(self.kinds.values()))

    @property
    def inputs(self) -> tuple[str, ...]:
        return (*ROUTER_INPUTS, *(kind.input for kind in self.tables))


def layout(model: ir.Model, geometry: Geometry, modules: tuple[str, ...]) -> Layout:
    """Where the modules are. Raises EdgeAdaptError if layers differ or the graph lacks one."""
    found = [_layer(model, geometry, layer, modules) for layer in range(geometry.num_layers)]
    if any(other != found[0] for other in found):
        raise EdgeAdaptError("the blocks' linear layers differ from each other; UniHyperLoRA needs equal blocks")
    return Layout(geometry.num_layers, found[0])


def _layer(model: ir.Model, geometry: Geometry, layer: int, modules: tuple[str, ...]) -> dict[str, Kind]:
    places = [(module, module_slice(model, geometry, layer, module)) for module in modules]
    grouped: dict[str, list[tuple[int, str, int]]] = {}
    depths: dict[str, int] = {}
    for module, at in places:
        grouped.setdefault(at.linear.name, []).append((at.offset, module, at.width))
        depths[at.linear.name] = _depth(at.linear)
    made = {}
    for linear, parts in grouped.items():
        _, names, widths = zip(*sorted(parts), strict=True)
        made[linear] = Kind(linear, names, widths, depths[linear])
    for name, like in _LIKE.items():
        if name in made and like in made and made[name].widths == made[like].widths:
            made[name] = made[like]
    return made


def _depth(linear: Linear) -> int:
    """Numbers that a linear layer reads, from its weight."""
    if linear.node.op_type == "MatMulNBits":
        return linear.node.attributes["K"].as_int()
    weight = linear.node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    transposed = "transB" in linear.node.attributes and bool(linear.node.attributes["transB"].as_int())
    return int(weight.const_value.shape.numpy()[1 if transposed else 0])


class GraftAtoms(ir.passes.InPlacePass):
    """See the module's docstring."""

    def __init__(self, geometry: Geometry, layout: Layout, mixture: Mixture) -> None:
        self.geometry, self.layout, self.mixture = geometry, layout, mixture

    def requires(self, model: ir.Model) -> None:
        if any(nodes(model, ROUTE, UPDATE)):
            raise ir.passes.PreconditionError("the graph mixes atoms already")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        d, M, r, floats = (
            self.geometry.hidden_size,
            self.mixture.atoms,
            self.mixture.width,
            ir.TensorType(ir.DataType.FLOAT),
        )
        starts = [self._block_input(model, layer) for layer in range(self.layout.layers)]
        known = linears(model)
        shapes: dict[str, list[int | str]] = dict(
            zip(ROUTER_INPUTS, ([d, r], [r, M], ["batch_size", 1, M]), strict=True)
        )
        columns = {}
        for kind in self.layout.tables:
            gains = self.layout.layers * len(kind.widths)
            shapes[kind.input] = [M, sum(kind.widths) + kind.reads(self.mixture) * kind.depth + gains]
            ends = np.cumsum(kind.widths)
            ranges = np.stack((ends - kind.widths, ends), axis=1).astype(np.int64)
            columns[kind.name] = add_initializer(model, f"atoms.columns.{kind.name}", ranges)
        given = {name: ir.Value(name=name, type=floats, shape=ir.Shape(shape)) for name, shape in shapes.items()}
        model.graph.inputs.extend(given.values())
        for layer, h in enumerate(starts):
            router = [given[name] for name in ROUTER_INPUTS]
            route = ir.node(
                ROUTE, [h, *router], {"k": self.mixture.top_k}, num_outputs=2, domain=DOMAIN, name=_route(layer)
            )
            types = {"index": ir.DataType.INT64, "weight": ir.DataType.FLOAT}
            for value, (name, dtype) in zip(route.outputs, types.items(), strict=True):
                value.name, value.type = f"{route.name}/{name}", ir.TensorType(dtype)
            first = min((known[layer, name].node for name in self.layout.kinds), key=list(model.graph).index)
            model.graph.insert_before(first, route)
            for name, kind in self.layout.kinds.items():
                linear = known[layer, name]
                y, attributes = linear.y, {"row": layer, "reads": kind.reads(self.mixture)}
                inputs = [y, linear.x, given[kind.input], columns[kind.name], *route.outputs]
                update = ir.node(UPDATE, inputs, attributes, domain=DOMAIN, name=_update(layer, name))
                update.outputs[0].name = f"{update.name}/output_0"
                update.outputs[0].type, update.outputs[0].shape = y.type, y.shape
                y.replace_all_uses_with(update.outputs[0])
                update.replace_input_with(0, y)
                model.graph.insert_after(linear.node, update)
        return ir.passes.PassResult(model, True)

    def _block_input(self, model: ir.Model, layer: int) -> ir.Value:
        """What enters a block: an encoder's first projections read it as it is, a decoder's after a normalisation."""
        if self.geometry.kind == "encoder":
            known = linears(model)
            return (known.get((layer, "qkv_proj")) or known[layer, "q_proj"]).x
        return (
            decoder_map.residual_start(model) if layer == 0 else decoder_map.block_output(model, layer - 1).outputs[3]
        )

    def ensures(self, model: ir.Model) -> None:
        expected = [_route(layer) for layer in range(self.layout.layers)]
        expected += [_update(layer, name) for layer in range(self.layout.layers) for name in self.layout.kinds]
        if sorted(str(node.name) for node in nodes(model, ROUTE, UPDATE)) != sorted(expected):
            raise ir.passes.PostconditionError("not every block routes once and updates each of its linear layers once")


def _route(layer: int) -> str:
    return f"/atoms/layers.{layer}/{ROUTE}"


def _update(layer: int, name: str) -> str:
    return f"/atoms/layers.{layer}/{name}/{UPDATE}"
