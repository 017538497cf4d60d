"""Rotary tables computed when a session loads, not stored: 2 MB less in every bundle of SmolLM2.

Rule    cos_cache and sin_cache [S, D/2] are cos(p f_i) and sin(p f_i) for positions p = 0..S-1 and inverse frequencies
        f [D/2]. Where that is so, they become
            angles = Unsqueeze(Range(0, S, 1), 1) * f          Cos(angles)          Sin(angles)
        which onnxruntime folds into constants while loading. f is read off the tables themselves: arctan of row 1, then
        the float32 neighbour that reproduces the whole table best, since p amplifies an error in f by S.
        Scaled or interpolated rotary embeddings fit no such f, or scale the table: those are left as they are.
Needs   Nothing.
Leaves  Tables within TOLERANCE of the stored ones (float32 rounding of cos and sin), or the graph unchanged.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt_export.passes.common import add_initializer, drop_unused_initializers, float_matrix, nodes

TOLERANCE = 1e-6
_NEIGHBOURS = 8
F32 = NDArray[np.float32]


class ComputeRotaryTables(ir.passes.InPlacePass):
    """See the module's docstring."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found: dict[tuple[ir.Value, ir.Value], list[ir.Node]] = {}
        for node in nodes(model, "GroupQueryAttention"):
            cos, sin = node.inputs[7], node.inputs[8]
            if cos is not None and sin is not None:
                found.setdefault((cos, sin), []).append(node)
        changed = False
        for index, ((cos, sin), users) in enumerate(found.items()):
            cosines, sines = float_matrix(cos), float_matrix(sin)
            if cosines is None or sines is None or len(cosines) < 2:
                continue
            frequencies = inverse_frequencies(cosines, sines)
            if frequencies is not None:
                made = _tables(model, index, len(cosines), frequencies)
                for node in users:
                    node.replace_input_with(7, made[0])
                    node.replace_input_with(8, made[1])
                changed = True
        drop_unused_initializers(model)
        return ir.passes.PassResult(model, changed)

    def ensures(self, model: ir.Model) -> None:
        if any(None in node.inputs[7:9] for node in nodes(model, "GroupQueryAttention")):
            raise ir.passes.PostconditionError("an attention lost its rotary tables")


def inverse_frequencies(cosines: F32, sines: F32) -> F32 | None:
    """f [D/2] float32 with tables cos(p f), sin(p f) within TOLERANCE, or None if there is none."""
    start = np.arctan2(sines[1].astype(np.float64), cosines[1].astype(np.float64)).astype(np.float32)
    candidates = [start]
    for direction in (np.float32(-np.inf), np.float32(np.inf)):
        candidate = start
        for _ in range(_NEIGHBOURS):
            candidate = np.nextafter(candidate, direction)
            candidates.append(candidate)
    positions = np.arange(len(cosines), dtype=np.float32)[:, None]
    best = start.copy()
    least = np.full(len(start), np.inf)
    for candidate in candidates:
        angles = positions * candidate
        worst = np.maximum(np.abs(np.cos(angles) - cosines).max(axis=0), np.abs(np.sin(angles) - sines).max(axis=0))
        best = np.where(worst < least, candidate, best)
        least = np.minimum(least, worst)
    return best if least.max() <= TOLERANCE else None


def _tables(model: ir.Model, index: int, length: int, frequencies: F32) -> tuple[ir.Value, ir.Value]:
    name = f"rotary.{index}"

    def scalar(part: str, value: float) -> ir.Value:
        return add_initializer(model, f"{name}.{part}", np.array(value, np.float32))

    first = next(iter(model.graph), None)
    assert first is not None
    limits = [scalar("start", 0), scalar("limit", length), scalar("step", 1)]
    positions = ir.node("Range", limits, name=f"/{name}/Range")
    axis = add_initializer(model, f"{name}.axis", np.array([1], np.int64))
    column = ir.node("Unsqueeze", [positions.outputs[0], axis], name=f"/{name}/Unsqueeze")
    row = add_initializer(model, f"{name}.inverse_frequencies", frequencies[None, :])
    angles = ir.node("Mul", [column.outputs[0], row], name=f"/{name}/Mul")
    made = [ir.node(op, [angles.outputs[0]], name=f"/{name}/{op}") for op in ("Cos", "Sin")]
    shape = ir.Shape([length, len(frequencies)])
    for node in made:
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), shape
    model.graph.insert_before(first, [positions, column, angles, *made])
    return made[0].outputs[0], made[1].outputs[0]
