"""TABS on the device: low-rank factors, and gates in the graph that read what q, k and v do.

    expand.onnx   -> lora.{l}.{linear}.A, .B     V^T and B = s U of every layer
                     tabs.{l}.a [d, 1], tabs.{l}.c [1], float32
    base graph    y + ((g x) A) B, g = clip(sigma(x a + c) (zeta - gamma) + gamma, 0, 1)     (passes/graft_gates.py)

The gate depends on the token, so there is no static merge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.methods import torch_sites
from edgeadapt_export.methods.contract import StoredAdapter
from edgeadapt_export.methods.low_rank import Expanded, Stacks, sites, tensor
from edgeadapt_export.methods.own_graph import OwnGraph
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.graft_gates import GraftGates, a_input, c_input


class Tabs(Expanded):
    """See the module's docstring."""

    def stacks(self, adapter: StoredAdapter) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        return {
            name: tuple(tensor(adapter, f"{name}.{part}").astype(np.float32) for part in "VB")  # type: ignore[misc]
            for name in sites(adapter)[1]
        }

    def stack_nodes(self, graph: OwnGraph, adapter: StoredAdapter) -> Stacks:
        made = {}
        for name in sites(adapter)[1]:
            down, up = (graph.widened(f"{name}.{part}", tensor(adapter, f"{name}.{part}")) for part in "VB")
            made[name] = (down, up)
        return made

    def further(self, graph: OwnGraph, adapter: StoredAdapter) -> None:
        layers, width = tensor(adapter, "a").shape
        rows = graph.reshape(graph.widened("a", tensor(adapter, "a")), [layers * width, 1])
        graph.split(rows, [a_input(layer) for layer in range(layers)], [width, 1])
        graph.split(graph.widened("c", tensor(adapter, "c")), [c_input(layer) for layer in range(layers)], [1])

    def graft(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        super().graft(model, geometry, adapter)
        layers, width = tensor(adapter, "a").shape
        apply(model, GraftGates(layers, width, *stretch(adapter)))

    def merge(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        raise EdgeAdaptError("--merge: TABS's gates depend on the tokens, so it has no static merge; leave it out")

    @contextlib.contextmanager
    def attach(self, torch_model: Any, adapter: StoredAdapter, pool: NDArray[np.float32], task: int) -> Iterator[None]:
        import torch

        a, c = (torch.from_numpy(tensor(adapter, name).astype(np.float32)) for name in "ac")
        gamma, zeta = stretch(adapter)
        with contextlib.ExitStack() as hooks:
            for name, (down, up) in self.stacks(adapter).items():
                for layer, (v, b) in enumerate(zip(torch.from_numpy(down), torch.from_numpy(up), strict=True)):

                    def change(x: Any, y: Any, layer: int = layer, v: Any = v, b: Any = b) -> Any:
                        g = (torch.sigmoid(x @ a[layer] + c[layer]) * (zeta - gamma) + gamma).clamp(0, 1)
                        return y + ((g[..., None] * x) @ v.T) @ b

                    target = torch_sites.linear(torch_sites.block(torch_model, layer), name)
                    hooks.enter_context(torch_sites.on_output(target, change))
            yield


def stretch(adapter: StoredAdapter) -> tuple[float, float]:
    """gamma and zeta of the run's `sites`."""
    said = adapter.manifest.sites.get("stretch")
    if not isinstance(said, list | tuple) or len(said) != 2:
        raise EdgeAdaptError(f"TABS's sites must name the stretch of its gates; found {said!r}; train it again")
    return float(said[0]), float(said[1])
