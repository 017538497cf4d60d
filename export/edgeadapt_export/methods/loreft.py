"""LoReFT on the device: an affine low-rank edit of each block's output, its values from a graph of its own.

    h_l <- h_l + (h_l A_l) B_l + c_l        A_l = V_l^T [d, r]    B_l = R_l [r, d]    c_l = b_l R_l [d]
    base graph   passes/graft_affine.py      expand.onnx   no inputs; A_l, B_l and c_l once, when the adapter is loaded
    tensors      V, R float16 [L, r, d]; b float16 [L, r]

The residual stream is a sum, and reads into every later block as it is: there is no weight to fold the edit into.
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
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.methods import torch_sites
from edgeadapt_export.methods.contract import Deployed, StoredAdapter
from edgeadapt_export.methods.low_rank import GRAPH, tensor
from edgeadapt_export.methods.own_graph import OwnGraph
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.graft_affine import GraftAffine, input_names
from edgeadapt_export.store import write_model


class Loreft:
    """See the module's docstring."""

    factors: tuple[FactorPrecision, ...] = ("fp32",)

    def graft(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        layers, rank = _sites(adapter)
        if tensor(adapter, "R").shape[2] != geometry.hidden_size:
            raise EdgeAdaptError(
                f"the adapter is {tensor(adapter, 'R').shape[2]} wide, the backbone {geometry.hidden_size}; "
                "export it with the backbone it was trained on"
            )
        apply(model, GraftAffine(geometry, layers, rank))

    def merge(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        raise EdgeAdaptError(
            "--merge: LoReFT edits the residual stream, which is a sum and no weight's output; leave it out"
        )

    def write(self, folder: Path, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> Deployed:
        layers, rank = _sites(adapter)
        graph = OwnGraph("loreft_expand")
        V, R, b = (graph.widened(name, tensor(adapter, name)) for name in "VRb")
        d = tensor(adapter, "R").shape[2]
        downs, ups, biases = zip(*(input_names(layer) for layer in layers), strict=True)
        turned = graph.add("Transpose", V, perm=[0, 2, 1])
        graph.split(graph.reshape(turned, [-1, rank]), downs, [d, rank])
        graph.split(graph.reshape(R, [-1, d]), ups, [rank, d])
        graph.split(graph.reshape(graph.add("MatMul", graph.unsqueeze(b, 1), R), [-1]), biases, [d])
        write_model(graph.model, folder / GRAPH)
        return Deployed("graph", GRAPH, tuple(str(value.name) for value in graph.model.graph.outputs))

    @contextlib.contextmanager
    def attach(self, torch_model: Any, adapter: StoredAdapter, pool: NDArray[np.float32], task: int) -> Iterator[None]:
        """h + (h V^T + b) R at each block's output by a hook."""
        import torch

        V, R, b = (torch.from_numpy(tensor(adapter, name).astype(np.float32)) for name in "VRb")
        with contextlib.ExitStack() as hooks:
            for at, layer in enumerate(_sites(adapter)[0]):
                change = torch_sites.affine_on_output(V[at].T, R[at], b[at])
                hooks.enter_context(torch_sites.on_output(torch_sites.block(torch_model, layer), change))
            yield


def _sites(adapter: StoredAdapter) -> tuple[tuple[int, ...], int]:
    """(layers, rank) of the run's `sites`, checked against the tensors."""
    said = adapter.manifest.sites
    if said.get("kind") != "residual" or not isinstance(said.get("rank"), int):
        raise EdgeAdaptError(f"LoReFT's sites are residual, with a rank; found {dict(said)}")
    layers = tuple(int(layer) for layer in said.get("layers", range(adapter.manifest.backbone.num_layers)))
    expected = (len(layers), int(said["rank"]))
    if any(tensor(adapter, name).shape[:2] != expected for name in "VRb"):
        raise EdgeAdaptError(f"LoReFT's tensors are not of {expected[0]} layers at rank {expected[1]}; train it again")
    return layers, int(said["rank"])
