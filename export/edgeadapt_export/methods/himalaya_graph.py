"""The graph of HIMALAYA's own that a device runs once per prompt: stored tables in, the base graph's inputs out.

    pool [B, d] float32, task [B] int64
    V [B, R, d]    R = 1: HimalayaDirection's r;  R = 3 (update=terms): HimalayaTerms' t_0, t_1, t_2
    W              the same op on the atoms that are written (atoms=read_write), else V
    u_l            gains[task]_l * W                                     gains [n, L or 1] or, of terms, [n, L or 1, 3]

    R = 1    himalaya.r = V,                          himalaya.u.0 ... u.(L-1) [B, 1, d]
    R = 3    himalaya.A = V^T [B, d, 3],              himalaya.u.0 ... [B, 3, d],              himalaya.index = 0 .. B-1

The initializers are the adapter's own tensors and nothing else: every shape and axis is a node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeadapt.ops import DOMAIN, OPSET
from edgeadapt.ops.himalaya_tables import ATOMS, Tables
from edgeadapt.ops.registry import Array
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.common import add_initializer
from edgeadapt_export.passes.direction_inputs import direction_names, term_names
from edgeadapt_export.passes.function_bodies import AddFunctionBodies

TERMS = 3
WRITTEN = ("write_atoms", "write_atom_scales", "write_atom_gains")


def direction_graph(tensors: Mapping[str, Array], layers: int, terms: bool) -> ir.Model:
    """The graph, with the stored tensors and the function bodies inside."""
    tables = Tables(**{name: tensors[name] for name in Tables.__dataclass_fields__})
    builder = _Builder(tensors)
    rank = TERMS if terms else 1
    V = builder.rows("read", dict.fromkeys(tables.as_dict()), rank)
    W = builder.rows("write", builder.written(), rank) if WRITTEN[0] in tensors else V
    steps = builder.gains(layers, rank)
    product = builder.node("Mul", [steps, builder.node("Unsqueeze", [W, builder.integers(1)])])
    flat = builder.node("Reshape", [product, builder.integers(0, layers * rank, tables.width)])
    updates = builder.nodes("Split", [flat], {"axis": 1, "num_outputs": layers}, layers)
    if terms:
        found = [builder.node("Transpose", [V], {"perm": [0, 2, 1]}), *updates, builder.batch_rows()]
        shapes = [[tables.width, TERMS], *[[TERMS, tables.width]] * layers, []]
        names = term_names(layers)
    else:
        found, shapes, names = [V, *updates], [[1, tables.width]] * (layers + 1), direction_names(layers)
    for value, name, shape in zip(found, names, shapes, strict=True):
        value.name, value.shape = name, ir.Shape(["batch_size", *shape])
        value.type = ir.TensorType(ir.DataType.FLOAT if shape else ir.DataType.INT64)
    builder.graph.outputs.extend(found)
    return apply(builder.model, AddFunctionBodies())


class _Builder:
    """The graph being written: nodes go to its end, stored tensors become initializers when they are first used."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        d = tensors["atoms"].shape[1] // 3 * 8
        self._tensors = tensors
        self._stored: dict[str, ir.Value] = {}
        self.pool = ir.Value(name="pool", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch_size", d]))
        self.task = ir.Value(name="task", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch_size"]))
        inputs = [self.pool, self.task]
        self.graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": OPSET}, name="himalaya_direction")
        self.model = ir.Model(self.graph, ir_version=10, producer_name="edgeadapt")

    def nodes(
        self, op: str, inputs: Sequence[ir.Value], attributes: Mapping[str, object] | None = None, outputs: int = 1
    ) -> list[ir.Value]:
        domain = DOMAIN if op.startswith("Himalaya") else ""
        name = f"/himalaya/{op}_{len(self.graph)}"
        node = ir.node(op, inputs, attributes, domain=domain, num_outputs=outputs, name=name)  # type: ignore[arg-type]
        self.graph.append(node)
        return list(node.outputs)

    def node(self, op: str, inputs: Sequence[ir.Value], attributes: Mapping[str, object] | None = None) -> ir.Value:
        return self.nodes(op, inputs, attributes)[0]

    def integers(self, *values: int) -> ir.Value:
        return self.node("Constant", [], {"value_ints": list(values)})

    def stored(self, name: str) -> ir.Value:
        if name not in self._stored:
            self._stored[name] = add_initializer(self.model, name, np.ascontiguousarray(self._tensors[name]))
        return self._stored[name]

    def rows(self, what: str, tables: Mapping[str, ir.Value | None], rank: int) -> ir.Value:
        """[B, rank, d] from the tables; one that is None is the stored one."""
        inputs = [self.stored(name) if value is None else value for name, value in tables.items()]
        found = self.nodes(
            "HimalayaTerms" if rank > 1 else "HimalayaDirection", [self.pool, self.task, *inputs], None, rank
        )
        each = [self.node("Unsqueeze", [row, self.integers(1)]) for row in found]
        return self.node("Concat", each, {"axis": 1}) if rank > 1 else each[0]

    def written(self) -> dict[str, ir.Value | None]:
        """The tables with the elastic atoms that are written: the core's rows stay."""
        tables: dict[str, ir.Value | None] = dict.fromkeys(Tables.__dataclass_fields__)
        core = ATOMS - len(self._tensors[WRITTEN[0]])
        for name in WRITTEN:
            own = self.stored(name.removeprefix("write_"))
            kept = self.node("Slice", [own, self.integers(0), self.integers(core), self.integers(0)])
            tables[name.removeprefix("write_")] = self.node("Concat", [kept, self.stored(name)], {"axis": 0})
        return tables

    def gains(self, layers: int, rank: int) -> ir.Value:
        """float32 [B, L, rank, 1] of each row's task."""
        picked = self.node("Gather", [self.stored("gains"), self.task], {"axis": 0})
        wide = self.node("Cast", [picked], {"to": ir.DataType.FLOAT})
        column = self.node("Reshape", [wide, self.integers(0, -1, rank, 1)])
        if self._tensors["gains"].shape[1] == layers:
            return column
        return self.node("Expand", [column, self.integers(1, layers, 1, 1)])

    def batch_rows(self) -> ir.Value:
        """int64 [B]: 0, 1, ..."""
        count = self.node("Squeeze", [self.node("Shape", [self.task])])
        first, step = (self.node("Constant", [], {"value_int": value}) for value in (0, 1))
        return self.node("Range", [first, count, step])
