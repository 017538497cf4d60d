"""LoRA's sites: y <- y + (x A) B beside a linear layer, A and B being graph inputs.

Rule    y' = LowRankUpdate(y, x, A, B), one per MatMul of the graph. Where q, k and v are one packed MatMul, one update
        serves them: A holds the modules' factors side by side, B stands them on a block diagonal at their columns, so
        that an update of q or v alone leaves the other columns as they are (zeros of B).
Adds    inputs lora.{l}.{linear}.A [d_in, R] and lora.{l}.{linear}.B [R, width], R = rank x modules in it, both float32,
        float16 or int8; with int8 lora.{l}.{linear}.scales [R] float32. With `tables` every one of them holds several
        adapters, in a first dimension of its own, and adapter_index [batch_size] int64 says which one each row uses.
Needs   Every target exists; the graph has no LowRankUpdate yet.
Leaves  One LowRankUpdate per target. B = 0 changes nothing, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from edgeadapt.bundle import FactorPrecision
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import DOMAIN
from edgeadapt.ops.low_rank_update import INDEX_INPUT
from edgeadapt_export.graph_map import Geometry, linears, module_slice, output_width
from edgeadapt_export.passes.common import nodes

OP = "LowRankUpdate"
TYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "int8": ir.DataType.INT8}


@dataclass(frozen=True)
class Block:
    """One module's factors in a part: its columns start at `offset` of the part's output."""

    layer: int
    module: str
    offset: int
    width: int


@dataclass(frozen=True)
class Part:
    """One LowRankUpdate: which linear layer it stands beside, and the modules whose factors it takes, in A's order."""

    layer: int
    linear: str
    width: int
    rank: int
    blocks: tuple[Block, ...]

    @property
    def a_input(self) -> str:
        return f"lora.{self.layer}.{self.linear}.A"

    @property
    def b_input(self) -> str:
        return f"lora.{self.layer}.{self.linear}.B"

    @property
    def scales_input(self) -> str:
        return f"lora.{self.layer}.{self.linear}.scales"


def parts(
    model: ir.Model, geometry: Geometry, layers: tuple[int, ...], modules: tuple[str, ...], rank: int
) -> tuple[Part, ...]:
    """Group the modules by the linear layer that computes them. Raises EdgeAdaptError for a module the graph lacks."""
    made = []
    for layer in layers:
        grouped: dict[str, list[Block]] = {}
        widths: dict[str, int] = {}
        for module in modules:
            at = module_slice(model, geometry, layer, module)
            grouped.setdefault(at.linear.name, []).append(Block(layer, module, at.offset, at.width))
            widths[at.linear.name] = output_width(at.linear)
        for linear, blocks in grouped.items():
            ordered = tuple(sorted(blocks, key=lambda block: block.offset))
            made.append(Part(layer, linear, widths[linear], rank * len(ordered), ordered))
    return tuple(made)


class GraftLinear(ir.passes.InPlacePass):
    """See the module's docstring."""

    def __init__(
        self,
        targets: tuple[Part, ...],
        depths: Mapping[str, int],
        factors: FactorPrecision = "fp32",
        *,
        tables: bool = False,
    ) -> None:
        """`depths`: input width of each linear layer by name."""
        self.targets = targets
        self.depths = depths
        self.factors = factors
        self.tables = tables

    def requires(self, model: ir.Model) -> None:
        known = linears(model)
        for part in self.targets:
            if (part.layer, part.linear) not in known:
                raise EdgeAdaptError(f"layer {part.layer} of the graph has no {part.linear}")
        if any(nodes(model, OP)):
            raise ir.passes.PreconditionError("the graph carries low-rank updates already")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        known = linears(model)
        kind = ir.TensorType(TYPES[self.factors])
        several = ["adapters"] if self.tables else []
        index = [_index(model)] if self.tables else [None]
        for part in self.targets:
            linear = known[part.layer, part.linear]
            down = ir.Value(
                name=part.a_input, type=kind, shape=ir.Shape([*several, self.depths[part.linear], part.rank])
            )
            up = ir.Value(name=part.b_input, type=kind, shape=ir.Shape([*several, part.rank, part.width]))
            factors = [down, up]
            if self.factors == "int8":
                floats = ir.TensorType(ir.DataType.FLOAT)
                factors.append(ir.Value(name=part.scales_input, type=floats, shape=ir.Shape([*several, part.rank])))
            model.graph.inputs.extend(factors)
            y, where = linear.y, index if self.tables or len(factors) > 2 else []
            update = ir.node(OP, [y, linear.x, down, up, *where, *factors[2:]], domain=DOMAIN, name=_name(part))
            update.outputs[0].name = f"/lora/layers.{part.layer}/{part.linear}/output_0"
            update.outputs[0].type, update.outputs[0].shape = y.type, y.shape
            y.replace_all_uses_with(update.outputs[0])
            update.replace_input_with(0, y)
            model.graph.insert_after(linear.node, update)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        found = sorted(str(node.name) for node in nodes(model, OP))
        if found != sorted(_name(part) for part in self.targets):
            raise ir.passes.PostconditionError(f"expected {len(self.targets)} updates, found {len(found)}")


def _index(model: ir.Model) -> ir.Value:
    index = ir.Value(name=INDEX_INPUT, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch_size"]))
    model.graph.inputs.append(index)
    return index


def _name(part: Part) -> str:
    return f"/lora/layers.{part.layer}/{part.linear}/{OP}"
