"""HIMALAYA on the device: a direction graph of its own, and rank-one updates in the base graph.

    direction.onnx   pool [B, d] float32, task [B] int64  ->  himalaya.r, himalaya.u.0 ... u.(L-1) [B, 1, d] float32
                     r = HimalayaDirection(pool, task, stored tensors)          u_l = gains_table[task]_l r
    base graph       residual: h_l + u_l (r^T h_l) at block outputs             (passes/graft_residual.py)
                     square:   W x + u_l (r^T x) at q_proj and o_proj           (passes/graft_square.py)

    state.safetensors  what ships but takes no part in a forward pass: coefficient statistics and the split tree, with
                       which learning can go on from the deployed adapter; the two files hold every stored tensor

The gains already hold s / sqrt(d). Every direction depends on the prompt, so there is no static merge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.bundle import FactorPrecision
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import DOMAIN, OPS, OPSET
from edgeadapt.ops.himalaya_tables import Tables
from edgeadapt.tensors import serialise
from edgeadapt_export.decoder_map import Geometry
from edgeadapt_export.methods import torch_sites
from edgeadapt_export.methods.contract import Deployed, StoredAdapter
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.common import add_initializer
from edgeadapt_export.passes.direction_inputs import input_names
from edgeadapt_export.passes.function_bodies import AddFunctionBodies
from edgeadapt_export.passes.graft_residual import GraftResidual
from edgeadapt_export.passes.graft_square import GraftSquare
from edgeadapt_export.store import write_model

GRAPH, STATE = "direction.onnx", "state.safetensors"
_TABLES = tuple(Tables.__dataclass_fields__)


class Himalaya:
    """See the module's docstring."""

    factors: tuple[FactorPrecision, ...] = ("fp32",)

    def graft(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        kind, layers, modules = _sites(adapter)
        if _tables(adapter).width != geometry.hidden_size:
            raise EdgeAdaptError(
                f"the adapter is {_tables(adapter).width} wide, the backbone {geometry.hidden_size}; "
                "export it with the backbone it was trained on"
            )
        graft = GraftResidual(geometry, layers) if kind == "residual" else GraftSquare(geometry, layers, modules)
        apply(model, graft)

    def merge(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        raise EdgeAdaptError(
            "--merge: HIMALAYA's direction depends on the prompt, so it has no static merge; leave it out"
        )

    def write(self, folder: Path, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> Deployed:
        write_model(direction_graph(adapter), folder / GRAPH)
        rest = {name: array for name, array in adapter.tensors.items() if name not in (*_TABLES, "gains")}
        (folder / STATE).write_bytes(serialise(rest))
        return Deployed("graph", GRAPH, input_names(adapter.tensors["gains"].shape[1]))

    @contextlib.contextmanager
    def attach(self, torch_model: Any, adapter: StoredAdapter, pool: NDArray[np.float32], task: int) -> Iterator[None]:
        """r from the NumPy reference, then y + g r (r^T x) at each site by a hook."""
        import torch

        kind, layers, modules = _sites(adapter)
        at = np.array([task], np.int64)
        r = torch.from_numpy(OPS["HimalayaDirection"].reference(pool, at, *_tables(adapter).as_dict().values())[0])
        gains = adapter.tensors["gains"][task].astype(np.float32)

        with contextlib.ExitStack() as hooks:
            for layer, gain in zip(layers, gains.tolist(), strict=True):
                block = torch_sites.block(torch_model, layer)
                if kind == "residual":
                    hooks.enter_context(torch_sites.on_output(block, torch_sites.rank_one_on_output(r, gain)))
                for name in modules:
                    module = torch_sites.linear(block, name)
                    hooks.enter_context(torch_sites.on_output(module, torch_sites.rank_one_on_input(r, gain)))
            yield


def direction_graph(adapter: StoredAdapter) -> ir.Model:
    """The adapter's own graph, with its tensors and its function body inside."""
    tables = _tables(adapter)
    gains = adapter.tensors["gains"]
    pool = ir.Value(name="pool", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch_size", tables.width]))
    task = ir.Value(name="task", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch_size"]))
    graph = ir.Graph([pool, task], [], nodes=[], opset_imports={"": OPSET}, name="himalaya_direction")
    model = ir.Model(graph, ir_version=10, producer_name="edgeadapt")
    stored = [add_initializer(model, name, np.ascontiguousarray(array)) for name, array in tables.as_dict().items()]
    table = add_initializer(model, "gains", np.ascontiguousarray(gains))
    direction = ir.node("HimalayaDirection", [pool, task, *stored], domain=DOMAIN, name="/himalaya/HimalayaDirection")
    picked = ir.node("Gather", [table, task], {"axis": 0}, name="/himalaya/Gather")
    widened = ir.node("Cast", [picked.outputs[0]], {"to": ir.DataType.FLOAT}, name="/himalaya/Cast")
    layers = gains.shape[1]
    # Axes as nodes: the graph's initializers are the adapter's own tensors and nothing else.
    axes = [ir.node("Constant", [], {"value_ints": [axis]}, name=f"/himalaya/axis_{axis}") for axis in (1, 2)]
    row = ir.node("Unsqueeze", [direction.outputs[0], axes[0].outputs[0]], name="/himalaya/r/Unsqueeze")
    column = ir.node("Unsqueeze", [widened.outputs[0], axes[1].outputs[0]], name="/himalaya/gains/Unsqueeze")
    product = ir.node("Mul", [column.outputs[0], row.outputs[0]], name="/himalaya/u/Mul")
    cut = {"axis": 1, "num_outputs": layers}
    split = ir.node("Split", [product.outputs[0]], cut, num_outputs=layers, name="/himalaya/u/Split")
    outputs = [row.outputs[0], *split.outputs]
    for value, name in zip(outputs, input_names(layers), strict=True):
        value.name, value.type = name, ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape(["batch_size", 1, tables.width])
    graph.extend([direction, picked, widened, *axes, row, column, product, split])
    graph.outputs.extend(outputs)
    return apply(model, AddFunctionBodies())


def _tables(adapter: StoredAdapter) -> Tables:
    missing = [name for name in (*_TABLES, "gains") if name not in adapter.tensors]
    if missing:
        raise EdgeAdaptError(
            f"the adapter has no tensor {missing[0]!r}, so it is not a HIMALAYA adapter; train it again"
        )
    return Tables(**{name: adapter.tensors[name] for name in _TABLES})


def _sites(adapter: StoredAdapter) -> tuple[str, tuple[int, ...], tuple[str, ...]]:
    """(kind, layers, modules) of the run's `sites`, checked against the gains [n_rows, len(layers)]."""
    sites = adapter.manifest.sites
    kind = sites.get("kind")
    if kind not in ("residual", "square"):
        raise EdgeAdaptError(f"HIMALAYA's sites are residual or square, not {kind!r}")
    count = adapter.manifest.backbone.num_layers
    layers = tuple(int(layer) for layer in sites.get("layers", range(count)))
    modules = tuple(str(name) for name in sites.get("modules", ("q_proj", "o_proj"))) if kind == "square" else ()
    gains, rows = _gains(adapter), len(_tables(adapter).rows)
    if gains.dtype != np.float16 or gains.shape != (rows, len(layers)):
        raise EdgeAdaptError(f"gains are {gains.dtype} {gains.shape}; {rows} rows and {len(layers)} sites need float16")
    if rows < len(adapter.manifest.tasks):
        raise EdgeAdaptError(f"{len(adapter.manifest.tasks)} tasks, but rows for {rows} only; train the adapter again")
    if len(set(layers)) < len(layers) or not all(0 <= layer < count for layer in layers):
        raise EdgeAdaptError(f"the sites name layers outside 0..{count - 1}, or one of them twice")
    return str(kind), layers, modules


def _gains(adapter: StoredAdapter) -> NDArray[Any]:
    return adapter.tensors["gains"] if "gains" in adapter.tensors else np.empty((0, 0))
