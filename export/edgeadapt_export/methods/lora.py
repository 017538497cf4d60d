"""LoRA on the device: unmerged, as factors that are inputs of the base graph; or merged into its weights.

unmerged   y + (x A) B beside each linear layer (passes/graft_linear.py); adapters/<name>/adapter.safetensors holds the
           stored float16 factors, layers.{l}.{module}.A [d_in, r] and .B [r, d_out], the scale folded into B; or
           int8 ones and their .scales [r] (codecs/factors.py). The graph takes them as fp32, fp16 or int8
merged     W + A B, in float32, before anything is quantised: W [d_in, d_out] of the graph, or the module's columns of a
           packed one
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.bundle import FactorPrecision, LowRankBlock, LowRankPart
from edgeadapt.codecs.factors import int8_factors
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.tensors import serialise
from edgeadapt_export.decoder_map import Geometry, module_slice
from edgeadapt_export.methods import torch_sites
from edgeadapt_export.methods.contract import Deployed, StoredAdapter
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.common import float_matrix
from edgeadapt_export.passes.graft_linear import GraftLinear, Part, parts

WEIGHTS = "adapter.safetensors"


class Lora:
    """See the module's docstring."""

    factors: tuple[FactorPrecision, ...] = ("fp32", "fp16", "int8")

    def graft(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        layers, modules, rank = _sites(adapter)
        targets = parts(model, geometry, layers, modules, rank)
        depths = {part.linear: _factors(adapter, part.layer, part.blocks[0].module)[0].shape[0] for part in targets}
        for part in targets:
            for block in part.blocks:
                a, b = _factors(adapter, block.layer, block.module)
                if a.shape != (depths[part.linear], rank) or b.shape != (rank, block.width):
                    raise EdgeAdaptError(
                        f"layers.{block.layer}.{block.module}: factors {a.shape} and {b.shape} do not fit the graph's "
                        f"{depths[part.linear]} x {block.width} at rank {rank}; give the backbone it was trained on"
                    )
        apply(model, GraftLinear(targets, depths, adapter.factors))

    def merge(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        layers, modules, _ = _sites(adapter)
        for layer in layers:
            for module in modules:
                at = module_slice(model, geometry, layer, module)
                a, b = _factors(adapter, layer, module)
                weight = at.linear.node.inputs[1]
                matrix = float_matrix(weight)
                if weight is None or matrix is None or matrix.shape[0] != a.shape[0] or b.shape[1] != at.width:
                    raise EdgeAdaptError(f"layers.{layer}.{module}: the factors do not fit the graph's weight")
                merged = np.array(matrix)
                merged[:, at.offset : at.offset + at.width] += a.astype(np.float32) @ b.astype(np.float32)
                weight.const_value = ir.Tensor(merged, name=weight.name)

    def write(self, folder: Path, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> Deployed:
        layers, modules, rank = _sites(adapter)
        scaled = adapter.factors == "int8"
        made = tuple(_filled(part, scaled) for part in parts(model, geometry, layers, modules, rank))
        tensors, stored = adapter.tensors, None
        if scaled:
            tensors = _int8(adapter)
            terms = dict.fromkeys(modules, 0)
            for name, array in tensors.items():
                terms[name.split(".")[2]] += array.nbytes
            stored = replace(adapter.manifest.bytes, terms=terms, deployed=sum(terms.values()))
        (folder / WEIGHTS).write_bytes(serialise(tensors))
        return Deployed("lowrank", WEIGHTS, tuple(name for part in made for name in part.inputs), made, stored)

    @contextlib.contextmanager
    def attach(self, torch_model: Any, adapter: StoredAdapter, pool: NDArray[np.float32], task: int) -> Iterator[None]:
        """y + (x A) B in float32 at each site by a hook."""
        import torch

        layers, modules, _ = _sites(adapter)
        with contextlib.ExitStack() as hooks:
            for layer in layers:
                for module in modules:
                    a, b = (torch.from_numpy(f.astype(np.float32)) for f in _factors(adapter, layer, module))
                    target = torch_sites.linear(torch_sites.block(torch_model, layer), module)
                    hooks.enter_context(torch_sites.on_output(target, torch_sites.low_rank(a, b)))
            yield


def _filled(part: Part, scaled: bool) -> LowRankPart:
    """What fills a part's inputs, by the tensors' names."""
    names = [(f"layers.{block.layer}.{block.module}", block.offset) for block in part.blocks]
    blocks = tuple(
        LowRankBlock(f"{name}.A", f"{name}.B", offset, f"{name}.scales" if scaled else None) for name, offset in names
    )
    return LowRankPart(part.a_input, part.b_input, part.width, blocks, part.scales_input if scaled else None)


def _int8(adapter: StoredAdapter) -> dict[str, NDArray[Any]]:
    """The tensors of the bundle's file when the graph takes int8 factors."""
    layers, modules, _ = _sites(adapter)
    made: dict[str, NDArray[Any]] = {}
    for layer in layers:
        for module in modules:
            a, b, scales = int8_factors(*_factors(adapter, layer, module))
            name = f"layers.{layer}.{module}"
            made |= {f"{name}.A": a, f"{name}.B": b, f"{name}.scales": scales}
    return made


def _sites(adapter: StoredAdapter) -> tuple[tuple[int, ...], tuple[str, ...], int]:
    """(layers, modules, rank) of the run's `sites`."""
    sites = adapter.manifest.sites
    if sites.get("kind") != "linear" or not sites.get("modules") or not isinstance(sites.get("rank"), int):
        raise EdgeAdaptError(f"LoRA's sites must be linear, with modules and a rank; found {dict(sites)}")
    layers = tuple(int(layer) for layer in sites.get("layers", range(adapter.manifest.backbone.num_layers)))
    return layers, tuple(str(module) for module in sites["modules"]), int(sites["rank"])


def _factors(adapter: StoredAdapter, layer: int, module: str) -> tuple[NDArray[Any], NDArray[Any]]:
    name = f"layers.{layer}.{module}"
    try:
        return adapter.tensors[f"{name}.A"], adapter.tensors[f"{name}.B"]
    except KeyError as error:
        raise EdgeAdaptError(
            f"the adapter has no tensor {error.args[0]!r}, although its sites name it; train it again"
        ) from None
