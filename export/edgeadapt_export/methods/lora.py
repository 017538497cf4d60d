"""LoRA on the device, and COLTAS, which is stored like one: factors that are inputs of the base graph, or merged.

unmerged   adapters/<name>/adapter.safetensors holds the stored float16 factors, layers.{l}.{module}.A [d_in, r] and
           .B [r, d_out], the scale folded into B; or int8 ones and their .scales [r] (codecs/factors.py). The graph
           takes them as fp32, fp16 or int8
Everything else is low_rank.py's.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.bundle import FactorPrecision, LowRankBlock, LowRankPart
from edgeadapt.codecs.factors import int8_factors
from edgeadapt.tensors import serialise
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.methods import low_rank
from edgeadapt_export.methods.contract import Deployed, StoredAdapter
from edgeadapt_export.passes.graft_linear import Part, parts

WEIGHTS = "adapter.safetensors"


class Lora:
    """See the module's docstring."""

    factors: tuple[FactorPrecision, ...] = ("fp32", "fp16", "int8")

    def graft(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        low_rank.graft(model, geometry, adapter, _factors(adapter))

    def merge(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        low_rank.merge(model, geometry, _factors(adapter))

    def write(self, folder: Path, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> Deployed:
        layers, modules, rank = low_rank.sites(adapter)
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

    def attach(
        self, torch_model: Any, adapter: StoredAdapter, pool: NDArray[np.float32], task: int
    ) -> AbstractContextManager[None]:
        return low_rank.attached(torch_model, _factors(adapter))


def _filled(part: Part, scaled: bool) -> LowRankPart:
    """What fills a part's inputs, by the tensors' names."""
    names = [(f"layers.{block.layer}.{block.module}", block.offset) for block in part.blocks]
    blocks = tuple(
        LowRankBlock(f"{name}.A", f"{name}.B", offset, f"{name}.scales" if scaled else None) for name, offset in names
    )
    return LowRankPart(part.a_input, part.b_input, part.width, blocks, part.scales_input if scaled else None)


def _int8(adapter: StoredAdapter) -> dict[str, NDArray[Any]]:
    """The tensors of the bundle's file when the graph takes int8 factors."""
    made: dict[str, NDArray[Any]] = {}
    for (layer, module), factors in _factors(adapter).items():
        a, b, scales = int8_factors(*factors)
        name = f"layers.{layer}.{module}"
        made |= {f"{name}.A": a, f"{name}.B": b, f"{name}.scales": scales}
    return made


def _factors(adapter: StoredAdapter) -> low_rank.Factors:
    """The stored factors of every site."""
    layers, modules, _ = low_rank.sites(adapter)
    return {
        (layer, module): (
            low_rank.tensor(adapter, f"layers.{layer}.{module}.A"),
            low_rank.tensor(adapter, f"layers.{layer}.{module}.B"),
        )
        for layer in layers
        for module in modules
    }
