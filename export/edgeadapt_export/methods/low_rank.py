"""What deployers share whose adapter is y + (x A) B beside linear layers, however it stores A [d, r] and B [r, m].

graft    LowRankUpdate with A and B as inputs of the base graph (passes/graft_linear.py)
merge    W + A B, in float32, before anything is quantised: W [d_in, d_out] of the graph, or the module's columns of a
         packed one
attach   y + (x A) B in float32 by hooks on the PyTorch model
expanded A and B come from the adapter's own graph, expand.onnx, which has no inputs: it runs once, when the adapter is
         loaded. What it stores is what training stored; a method says how a stack of factors over all layers follows
         from that, and for all layers at once, so that the graph has tens of nodes and not hundreds
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.bundle import FactorPrecision
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_export.graph_map import Geometry, module_slice
from edgeadapt_export.methods import torch_sites
from edgeadapt_export.methods.contract import Deployed, StoredAdapter
from edgeadapt_export.methods.own_graph import OwnGraph
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.common import float_matrix
from edgeadapt_export.passes.graft_linear import GraftLinear, Part, parts
from edgeadapt_export.store import write_model

GRAPH = "expand.onnx"
Factors = Mapping[tuple[int, str], tuple[NDArray[Any], NDArray[Any]]]
Stacks = Mapping[str, tuple[ir.Value, ir.Value]]


def sites(adapter: StoredAdapter) -> tuple[tuple[int, ...], tuple[str, ...], int]:
    """(layers, modules, rank) of the run's `sites`."""
    said = adapter.manifest.sites
    if said.get("kind") != "linear" or not said.get("modules") or not isinstance(said.get("rank"), int):
        raise EdgeAdaptError(
            f"the sites of {adapter.manifest.method} must be linear, with modules and a rank; found {dict(said)}"
        )
    layers = tuple(int(layer) for layer in said.get("layers", range(adapter.manifest.backbone.num_layers)))
    return layers, tuple(str(module) for module in said["modules"]), int(said["rank"])


def tensor(adapter: StoredAdapter, name: str) -> NDArray[Any]:
    """A stored tensor. Raises EdgeAdaptError where the file has none of that name."""
    if name not in adapter.tensors:
        raise EdgeAdaptError(f"the adapter has no tensor {name!r}, although its sites name it; train it again")
    return adapter.tensors[name]


def graft(model: ir.Model, geometry: Geometry, adapter: StoredAdapter, factors: Factors) -> None:
    """Sites with inputs of the shapes of `factors`; raises EdgeAdaptError where those are not the graph's."""
    layers, modules, rank = sites(adapter)
    targets = parts(model, geometry, layers, modules, rank)
    depths = {part.linear: factors[part.layer, part.blocks[0].module][0].shape[0] for part in targets}
    for part in targets:
        for block in part.blocks:
            a, b = factors[block.layer, block.module]
            if a.shape != (depths[part.linear], rank) or b.shape != (rank, block.width):
                raise EdgeAdaptError(
                    f"layers.{block.layer}.{block.module}: factors {a.shape} and {b.shape} do not fit the graph's "
                    f"{depths[part.linear]} x {block.width} at rank {rank}; give the backbone it was trained on"
                )
    apply(model, GraftLinear(targets, depths, adapter.factors))


def merge(model: ir.Model, geometry: Geometry, factors: Factors) -> None:
    """Fold the factors into the fp32 weights."""
    for (layer, module), (a, b) in factors.items():
        add_to_weight(model, geometry, layer, module, a.astype(np.float32) @ b.astype(np.float32))


def add_to_weight(model: ir.Model, geometry: Geometry, layer: int, module: str, delta: NDArray[np.float32]) -> None:
    """W + delta [d_in, d_out], for a linear layer or the module's columns of a packed one."""
    at = module_slice(model, geometry, layer, module)
    weight = at.linear.node.inputs[1]
    matrix = float_matrix(weight)
    if weight is None or matrix is None or delta.shape != (matrix.shape[0], at.width):
        raise EdgeAdaptError(f"layers.{layer}.{module}: an update {delta.shape} does not fit the graph's weight")
    merged = np.array(matrix)
    merged[:, at.offset : at.offset + at.width] += delta
    weight.const_value = ir.Tensor(merged, name=weight.name)


@contextlib.contextmanager
def attached(torch_model: Any, factors: Factors) -> Iterator[None]:
    """The PyTorch model with the factors beside its linear layers, until the context ends."""
    import torch

    with contextlib.ExitStack() as hooks:
        for (layer, module), pair in factors.items():
            a, b = (torch.from_numpy(factor.astype(np.float32)) for factor in pair)
            target = torch_sites.linear(torch_sites.block(torch_model, layer), module)
            hooks.enter_context(torch_sites.on_output(target, torch_sites.low_rank(a, b)))
        yield


class Expanded(ABC):
    """A deployer whose factors are stored more compactly, and expanded when the adapter is loaded."""

    factors: tuple[FactorPrecision, ...] = ("fp32",)

    @abstractmethod
    def stacks(self, adapter: StoredAdapter) -> Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """A^T [L, r, d_in] and B [L, r, d_out] by module name, in NumPy."""

    @abstractmethod
    def stack_nodes(self, graph: OwnGraph, adapter: StoredAdapter) -> Stacks:
        """The same as nodes of a graph that holds the stored tensors."""

    def further(self, graph: OwnGraph, adapter: StoredAdapter) -> None:  # noqa: B027 - most methods add nothing
        """Outputs beside the factors, for what a method's own graft adds."""

    def _factors(self, adapter: StoredAdapter) -> Factors:
        layers, _, _ = sites(adapter)
        made = self.stacks(adapter)
        return {
            (layer, name): (down[at].T, up[at]) for at, layer in enumerate(layers) for name, (down, up) in made.items()
        }

    def graft(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        graft(model, geometry, adapter, self._factors(adapter))

    def merge(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        merge(model, geometry, self._factors(adapter))

    def write(self, folder: Path, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> Deployed:
        layers, modules, rank = sites(adapter)
        targets = parts(model, geometry, layers, modules, rank)
        graph = OwnGraph(f"{adapter.manifest.method}_expand")
        stacks = self.stack_nodes(graph, adapter)
        for group in _by_linear(targets, len(layers)):
            _pack(graph, group, stacks)
        self.further(graph, adapter)
        write_model(graph.model, folder / GRAPH)
        return Deployed("graph", GRAPH, tuple(str(value.name) for value in graph.model.graph.outputs))

    def attach(
        self, torch_model: Any, adapter: StoredAdapter, pool: NDArray[np.float32], task: int
    ) -> contextlib.AbstractContextManager[None]:
        return attached(torch_model, self._factors(adapter))


def _by_linear(targets: tuple[Part, ...], layers: int) -> list[list[Part]]:
    """The parts of one linear layer at all depths, in groups. Raises EdgeAdaptError where depths differ."""
    groups: dict[str, list[Part]] = {}
    for part in targets:
        groups.setdefault(part.linear, []).append(part)
    for linear, group in groups.items():
        shapes = {(part.width, tuple((b.module, b.offset, b.width) for b in part.blocks)) for part in group}
        if len(group) != layers or len(shapes) > 1:
            raise EdgeAdaptError(f"{linear} is not the same in every adapted layer; merge the adapter (--merge)")
    return list(groups.values())


def _pack(graph: OwnGraph, group: list[Part], stacks: Stacks) -> None:
    """A [d, R] and B [R, width] of one linear layer at all depths, from the stacks of the modules it computes.

    [L, R, d] -> [L d, R] and [L, R, width] -> [L R, width], each cut into L outputs.
    """
    first, layers = group[0], len(group)
    downs = [stacks[block.module][0] for block in first.blocks]
    ups = []
    for block in first.blocks:
        pads = graph.ints([0, 0, block.offset, 0, 0, first.width - block.offset - block.width])
        whole = block.width == first.width
        ups.append(stacks[block.module][1] if whole else graph.add("Pad", stacks[block.module][1], pads))
    down = graph.add("Transpose", graph.concat(downs, axis=1), perm=[0, 2, 1])
    graph.split(graph.reshape(down, [-1, first.rank]), [part.a_input for part in group], [None, first.rank])
    up = graph.reshape(graph.concat(ups, axis=1), [layers * first.rank, first.width])
    graph.split(up, [part.b_input for part in group], [first.rank, first.width])
