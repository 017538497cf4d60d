"""UniHyperLoRA, SAT-LoRA and HF-SAT-LoRA on the device.

    atoms.onnx     task [B] int64 -> atoms.W, atoms.K, atoms.bias, atoms.{kind}      (passes/graft_atoms.py)
                   All but the bias depends on stored tensors alone: the atoms are projected to each distinct width when
                   the graph is loaded, and a task is a row of E.
    base graph     one AtomRoute per block, one AtomMixUpdate per linear layer

The graph's initializers are the stored tensors: int8 rows, int4 mixer and delta. A DCT basis is computed from its
formula, its angles reduced in integers, so that no large argument meets a cosine in float32.
What is mixed depends on the token, so there is no static merge.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.bundle import FactorPrecision
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.methods import atom_tables as tables
from edgeadapt_export.methods import torch_sites
from edgeadapt_export.methods.atom_tables import ANCHOR, ATOMS, TASK_UNIT, TYPE_OF, TYPES, Stored
from edgeadapt_export.methods.contract import Deployed, StoredAdapter
from edgeadapt_export.methods.own_graph import OwnGraph
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.graft_atoms import ROUTER_INPUTS, GraftAtoms, Layout, Mixture, layout
from edgeadapt_export.store import write_model

GRAPH = "atoms.onnx"


class AtomMix:
    """See the module's docstring."""

    factors: tuple[FactorPrecision, ...] = ("fp32",)

    def graft(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        modules, top_k = _sites(adapter)
        stored = Stored(adapter)
        mixture = Mixture(ATOMS, stored.tensor("keys").shape[0], top_k, read_once=stored.shared)
        apply(model, GraftAtoms(geometry, layout(model, geometry, modules), mixture))

    def merge(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        raise EdgeAdaptError(
            f"--merge: {adapter.manifest.method} mixes atoms by the token, so it has no static merge; leave it out"
        )

    def write(self, folder: Path, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> Deployed:
        plan = layout(model, geometry, _sites(adapter)[0])
        write_model(_AtomsGraph(Stored(adapter), geometry.hidden_size, plan).model, folder / GRAPH)
        return Deployed("graph", GRAPH, plan.inputs)

    @contextlib.contextmanager
    def attach(self, torch_model: Any, adapter: StoredAdapter, pool: NDArray[np.float32], task: int) -> Iterator[None]:
        """Tables by NumPy; routes by hooks before the blocks, y + sum_j c_j U[i_j] by hooks on the linear layers."""
        import torch

        stored, (modules, top_k) = Stored(adapter), _sites(adapter)
        layers, d = adapter.manifest.backbone.num_layers, adapter.manifest.backbone.hidden_size
        W, K, e = (torch.from_numpy(item) for item in tables.router(stored, d))
        g = torch.from_numpy(tables.gains(stored, layers))
        pairs: dict[tuple[int, int], tuple[Any, Any]] = {}
        chosen: dict[int, tuple[Any, Any]] = {}

        def route(layer: int) -> Any:
            def before(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
                h = args[0] if args else named["hidden_states"]
                u = torch.nn.functional.normalize(h, dim=-1, eps=1e-30)
                best, index = ((u @ W + e[task]) @ K).topk(top_k, dim=-1)
                chosen[layer] = index, best.softmax(dim=-1)

            return before

        def mixed(layer: int, module: str, shape: tuple[int, int]) -> torch_sites.Change:
            def change(x: Any, y: Any) -> Any:
                (index, weight), (U, V) = chosen[layer], pairs[shape]
                for j in range(top_k):
                    i = index[..., j]
                    c = weight[..., j] * g[layer, TYPE_OF[module]][i] * (V[i] * x).sum(dim=-1)
                    y = y + c[..., None] * U[i]
                return y

            return change

        with contextlib.ExitStack() as hooks:
            for layer in range(layers):
                block = torch_sites.block(torch_model, layer)
                hooks.callback(block.register_forward_pre_hook(route(layer), with_kwargs=True).remove)
                for module in modules:
                    linear = torch_sites.linear(block, module)
                    shape = (linear.out_features, linear.in_features)
                    if shape not in pairs:
                        made = (tables.atoms(stored, part, shape, d) for part in "UV")
                        pairs[shape] = tuple(torch.from_numpy(item) for item in made)  # type: ignore[assignment]
                    hooks.enter_context(torch_sites.on_output(linear, mixed(layer, module, shape)))
            yield


class _AtomsGraph:
    """The adapter's own graph; the functions of atom_tables.py in ONNX nodes."""

    def __init__(self, stored: Stored, hidden_size: int, plan: Layout) -> None:
        self._stored, self._d, self._graph = stored, hidden_size, OwnGraph("atoms")
        self._rows: dict[str, ir.Value] = {}
        self._made: dict[tuple[str, int], ir.Value] = {}
        self.model = self._graph.model
        task = ir.Value(name="task", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch_size"]))
        self.model.graph.inputs.append(task)
        self._route(task)
        self._tables(plan)

    def _route(self, task: ir.Value) -> None:
        graph, d = self._graph, self._d
        weight = graph.add("Transpose", self._matrix("router"), perm=[1, 0])
        if self._stored.shared:
            weight = graph.add("MatMul", self._basis(d), self._first_rows(weight, self._columns(d)))
        keys = self._matrix("keys")
        own = graph.add("Gather", graph.widened("tasks", self._stored.tensor("tasks")), task, axis=0)
        bias = graph.add("MatMul", graph.add("Mul", own, self._number(TASK_UNIT)), keys)
        width = self._stored.tensor("keys").shape[0]
        self._output(graph.add("Mul", weight, self._number(math.sqrt(d))), ROUTER_INPUTS[0], [d, width])
        self._output(graph.add("Identity", keys), ROUTER_INPUTS[1], [width, ATOMS])
        self._output(graph.unsqueeze(bias, 1), ROUTER_INPUTS[2], ["batch_size", 1, ATOMS])

    def _tables(self, plan: Layout) -> None:
        graph, g = self._graph, self._gains(plan.layers)
        for kind in plan.tables:
            shapes = [(width, kind.depth) for width in kind.widths]
            m, count = sum(kind.widths), len(shapes)
            reading = shapes[:1] if self._stored.shared else shapes
            written = [self._atoms("U", shape) for shape in shapes]
            read = [self._atoms("V", shape) for shape in reading]
            types = graph.ints([TYPE_OF[module] for module in kind.modules])
            own = graph.add("Transpose", graph.add("Gather", g, types, axis=1), perm=[2, 0, 1])
            gains = graph.reshape(own, [ATOMS, plan.layers * count])
            width = m + len(reading) * kind.depth + plan.layers * count
            self._output(graph.concat([*written, *read, gains], axis=1), kind.input, [ATOMS, width])

    def _atoms(self, part: str, shape: tuple[int, int]) -> ir.Value:
        if not self._stored.shared:
            return self._matrix(f"{part}.{shape[0]}x{shape[1]}")
        d = shape[0] if part == "U" else shape[1]
        if (part, d) not in self._made:
            graph = self._graph
            point = graph.add("Constant", value_floats=[math.log2(d / ANCHOR), 1.0])
            hidden = graph.add("Tanh", graph.add("MatMul", point, self._matrix("h1")))
            one = graph.add("Constant", value_floats=[1.0])
            stretch = graph.add("Add", graph.add("MatMul", graph.concat([hidden, one], 0), self._matrix("h2")), one)
            stretched = graph.add("Mul", self._matrix(part), stretch)
            columns = self._columns(d)
            if columns < ANCHOR:
                stretched = graph.add("Slice", stretched, graph.ints([0]), graph.ints([columns]), graph.ints([1]))
            turned = graph.add("Transpose", self._basis(d), perm=[1, 0])
            self._made[part, d] = graph.add("MatMul", stretched, turned)
        return self._made[part, d]

    def _gains(self, layers: int) -> ir.Value:
        graph = self._graph
        one = self._number(1.0)
        if "table" in self._stored.adapter.tensors:
            return graph.reshape(graph.add("Add", self._matrix("table"), one), [layers, TYPES, ATOMS])
        values = tables.places(layers)
        flat = graph.add("Constant", value_floats=values.ravel().tolist())
        first, second = (graph.add("Transpose", self._small(name), perm=[1, 0]) for name in ("mixer1", "mixer2"))
        hidden = graph.add("Sin", graph.add("MatMul", graph.reshape(flat, values.shape), first))
        ones = graph.reshape(graph.add("Constant", value_floats=[1.0] * len(values)), [-1, 1])
        mixed = graph.add("MatMul", graph.concat([hidden, ones], 1), second)
        g = graph.reshape(graph.add("Add", mixed, one), [layers, TYPES, ATOMS])
        if "delta" in self._stored.adapter.tensors:
            rows = graph.add("Gather", self._small("delta"), graph.ints(tables.buckets(layers).tolist()), axis=0)
            g = graph.add("Add", g, graph.unsqueeze(rows, 1))
        return g

    def _basis(self, d: int) -> ir.Value:
        """B_d [d, columns]."""
        if ("basis", d) not in self._made:
            self._made["basis", d] = self._shipped(d) or self._dct(d)
        return self._made["basis", d]

    def _shipped(self, d: int) -> ir.Value | None:
        if "basis" not in self._stored.adapter.tensors or d != self._d:
            return None
        return self._graph.add("Transpose", self._matrix("basis"), perm=[1, 0])

    def _dct(self, d: int) -> ir.Value:
        graph, columns = self._graph, self._columns(d)
        zero, one, two = (graph.add("Constant", value_int=value) for value in (0, 1, 2))
        n, j = (graph.add("Range", zero, graph.add("Constant", value_int=end), one) for end in (d, columns))
        odd = graph.unsqueeze(graph.add("Add", graph.add("Mul", n, two), one), 1)
        steps = graph.add("Mod", graph.add("Mul", odd, j), graph.add("Constant", value_int=4 * d))
        angle = graph.add("Mul", graph.add("Cast", steps, to=ir.DataType.FLOAT), self._number(math.pi / (2 * d)))
        first, others = self._number(math.sqrt(1 / d)), self._number(math.sqrt(2 / d))
        return graph.add("Mul", graph.add("Cos", angle), graph.add("Where", graph.add("Equal", j, zero), first, others))

    def _columns(self, d: int) -> int:
        if "basis" in self._stored.adapter.tensors and d == self._d:
            return int(self._stored.tensor("basis").shape[0])
        return min(ANCHOR, d)

    def _matrix(self, name: str) -> ir.Value:
        """An int8 matrix, dequantised."""
        if name not in self._rows:
            codes = self._graph.widened(name, self._stored.tensor(name))
            scales = self._graph.widened(f"{name}_scales", self._stored.tensor(f"{name}_scales"))
            self._rows[name] = self._graph.add("Mul", codes, self._graph.unsqueeze(scales, 1))
        return self._rows[name]

    def _small(self, name: str) -> ir.Value:
        """An int4 matrix, dequantised."""
        shape = tables.MIXER_SHAPES[name]
        packed = ir.PackedTensor(self._stored.tensor(name), ir.DataType.INT4, shape=ir.Shape(shape), name=name)
        value = ir.Value(name=name, shape=packed.shape, type=ir.TensorType(packed.dtype), const_value=packed)
        self.model.graph.register_initializer(value)
        scale = self._graph.widened(f"{name}_scale", self._stored.tensor(f"{name}_scale"))
        return self._graph.add("DequantizeLinear", value, self._graph.add("Squeeze", scale))

    def _first_rows(self, value: ir.Value, count: int) -> ir.Value:
        if count == ANCHOR:
            return value
        return self._graph.add("Slice", value, self._graph.ints([0]), self._graph.ints([count]), self._graph.ints([0]))

    def _number(self, value: float) -> ir.Value:
        return self._graph.add("Constant", value_float=value)

    def _output(self, value: ir.Value, name: str, shape: list[int | str]) -> None:
        value.name, value.type, value.shape = name, ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
        self.model.graph.outputs.append(value)


def _sites(adapter: StoredAdapter) -> tuple[tuple[str, ...], int]:
    """(modules, top_k) of the run's `sites`."""
    sites = adapter.manifest.sites
    modules = tuple(str(name) for name in sites.get("modules", ()))
    if sites.get("kind") != "atoms" or not isinstance(sites.get("top_k"), int) or not set(modules) <= set(TYPE_OF):
        raise EdgeAdaptError(
            f"{adapter.manifest.method}'s sites are atoms, with modules and top_k; found {dict(sites)}"
        )
    return modules, int(sites["top_k"])
