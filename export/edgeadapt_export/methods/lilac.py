"""LILAC on the device: shared dictionaries and per-layer coefficients, int8, expanded to low-rank factors at loading.

A^T_l = C^A_l D_in(d_in) [r, d_in]      B_l = C^B_l D_out(d_out) [r, d_out]
tensors  in.W, out.W int8 [K, W]; MODULE.A, MODULE.B int8 [L, r, K]; each with .scales float16, one per row
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_export.methods.contract import StoredAdapter
from edgeadapt_export.methods.low_rank import Expanded, Stacks, sites, tensor
from edgeadapt_export.methods.own_graph import OwnGraph


class Lilac(Expanded):
    """See the module's docstring."""

    def stacks(self, adapter: StoredAdapter) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        def value(name: str) -> NDArray[np.float32]:
            scales = tensor(adapter, f"{name}.scales").astype(np.float32)
            return np.asarray(tensor(adapter, name).astype(np.float32) * scales[..., None])

        return {
            module: (value(f"{module}.A") @ value(d_in), value(f"{module}.B") @ value(d_out))
            for module, (d_in, d_out) in _dictionaries(adapter).items()
        }

    def stack_nodes(self, graph: OwnGraph, adapter: StoredAdapter) -> Stacks:
        made: dict[str, ir.Value] = {}

        def value(name: str) -> ir.Value:
            if name not in made:
                codes = graph.widened(name, tensor(adapter, name))
                scales = graph.widened(f"{name}.scales", tensor(adapter, f"{name}.scales"))
                made[name] = graph.add("Mul", codes, graph.unsqueeze(scales, -1))
            return made[name]

        return {
            module: (
                graph.add("MatMul", value(f"{module}.A"), value(d_in)),
                graph.add("MatMul", value(f"{module}.B"), value(d_out)),
            )
            for module, (d_in, d_out) in _dictionaries(adapter).items()
        }


def _dictionaries(adapter: StoredAdapter) -> dict[str, tuple[str, str]]:
    """The names of each module's two dictionaries."""
    widths = adapter.manifest.sites.get("widths", {})
    modules = sites(adapter)[1]
    if sorted(widths) != sorted(modules):
        raise EdgeAdaptError("the sites of a LILAC adapter must say how wide its modules are; train it again")
    return {module: (f"in.{widths[module][0]}", f"out.{widths[module][1]}") for module in modules}
