"""Weights in 4 or 8 bits: every large constant matrix becomes block-wise quantised, the embedding included.

Rule    MatMul(x, W [K, N])                     -> MatMulNBits(x, Q)            Q of W^T [N, K], blocks along K
        FusedMatMul(x, E [V, d], transB=1)      -> MatMulNBits(x, Q)            Q of E
        Gather(E [V, d], ids)                   -> GatherBlockQuantized(Q, ids) the same Q, as a view of rank 2
        where E and W are float32 initializers. MatMulNBits wants the data as [N, nb, blob] and GatherBlockQuantized as
        [N, nb blob], so a tied embedding is two initializers over one buffer; `edgeadapt_export.store` writes equal
        bytes once, hence one region of model.onnx.data.
        int4    blocks of 32; zero point 8, the default; see calibration.py for weights that are `ready`
        int8    blocks of 128 where they divide K, else 64 (576 is no multiple of 128); zero point 128, the default
        accuracy_level 4: the runtime may quantise x to int8 in blocks, too, which is where its speed comes from.
Needs   Every float32 matrix that a Gather reads has rows of whole blocks.
Leaves  No MatMul, FusedMatMul or Gather with a float32 constant matrix of two dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.codecs import BlockQuantised, int4, int8
from edgeadapt_export.graph_map import MICROSOFT
from edgeadapt_export.passes.common import add_initializer, drop_unused_initializers, float_matrix, nodes, replace

Precision = Literal["int4", "int8"]
ACCURACY_LEVEL = 4
_LINEAR = ("MatMul", "FusedMatMul")


class QuantiseWeights(ir.passes.InPlacePass):
    """See the module's docstring. `ready`: weights that are quantised already, by name."""

    def __init__(self, precision: Precision, ready: Mapping[str, BlockQuantised] | None = None) -> None:
        self.precision = precision
        self.ready = ready or {}

    def requires(self, model: ir.Model) -> None:
        for gather in nodes(model, "Gather"):
            table = float_matrix(gather.inputs[0])
            if table is not None and table.shape[1] % block_size(self.precision, table.shape[1]):
                raise ir.passes.PreconditionError(
                    f"the embedding has width {table.shape[1]}, which is not a multiple of 32; export it with --fp32"
                )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        done: dict[str, Packed] = {}
        for node in nodes(model, *_LINEAR, "Gather"):
            gather = node.op_type == "Gather"
            weight = node.inputs[0 if gather else 1]
            matrix = float_matrix(weight)
            if matrix is None or weight is None:
                continue
            name = str(weight.name)
            if name not in done:
                rows = matrix if gather or node.op_type == "FusedMatMul" else matrix.T
                done[name] = Packed(model, name, self.ready.get(name) or quantise(self.precision, rows))
            packed = done[name]
            replace(model, node, quantised_gather(node, packed) if gather else quantised_linear(node, packed))
        drop_unused_initializers(model)
        return ir.passes.PassResult(model, bool(done))

    def ensures(self, model: ir.Model) -> None:
        for node in nodes(model, *_LINEAR, "Gather"):
            if any(float_matrix(value) is not None for value in node.inputs):
                raise ir.passes.PostconditionError(f"{node.name} still reads a float32 matrix")


class Packed:
    """A quantised matrix in a graph: its buffer as the initializers that the two ops want, made when asked for."""

    def __init__(self, model: ir.Model, name: str, weight: BlockQuantised) -> None:
        self.weight = weight
        self._model = model
        self._name = name
        self._made: dict[str, ir.Value] = {}

    def data(self) -> ir.Value:
        return self._get("data", self.weight.data)

    def rows(self) -> ir.Value:
        return self._get("rows", self.weight.gather_data)

    def scales(self) -> ir.Value:
        return self._get("scales", self.weight.scales)

    def zero_points(self) -> list[ir.Value]:
        """The last input of both ops; none where the ops' default holds."""
        points = self.weight.zero_points
        return [] if points is None else [self._get("zero_points", points)]

    def _get(self, part: str, array: NDArray[np.uint8] | NDArray[np.float32]) -> ir.Value:
        if part not in self._made:
            self._made[part] = add_initializer(self._model, f"{self._name}.{part}", array)
        return self._made[part]


def quantised_linear(node: ir.Node, packed: Packed) -> ir.Node:
    """The op that computes a quantised linear layer. The one place to change when another op should do it."""
    weight = packed.weight
    attributes = {
        "K": weight.columns,
        "N": weight.rows,
        "bits": weight.bits,
        "block_size": weight.block,
        "accuracy_level": ACCURACY_LEVEL,
    }
    inputs = [node.inputs[0], packed.data(), packed.scales(), *packed.zero_points()]
    return ir.node("MatMulNBits", inputs, attributes, domain=MICROSOFT, name=node.name)


def quantised_gather(node: ir.Node, packed: Packed) -> ir.Node:
    """The op that looks up rows of a quantised table."""
    weight = packed.weight
    attributes = {"bits": weight.bits, "block_size": weight.block, "gather_axis": 0, "quantize_axis": 1}
    inputs = [packed.rows(), node.inputs[1], packed.scales(), *packed.zero_points()]
    return ir.node("GatherBlockQuantized", inputs, attributes, domain=MICROSOFT, name=node.name)


def block_size(precision: Precision, columns: int) -> int:
    """Values that share one scale."""
    if precision == "int4":
        return 32
    return next((block for block in (128, 64, 32) if columns % block == 0), 64)


def quantise(precision: Precision, rows: NDArray[np.float32]) -> BlockQuantised:
    """Matrix [N, K] -> its quantised form, by its values alone."""
    block = block_size(precision, rows.shape[1])
    if precision == "int4":
        return int4.quantise(rows, block)
    return int8.quantise_blockwise(rows, block)
