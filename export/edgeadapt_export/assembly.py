"""What putting a bundle together asks of a backbone: the steps in assemble.py are one for all families."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import onnx_ir as ir

from edgeadapt.bundle import BundleBackbone, Device, Precision
from edgeadapt.progress import Progress
from edgeadapt_export.built import Built
from edgeadapt_export.graph_map import Geometry, linears
from edgeadapt_export.methods import Deployed, Deployer, StoredAdapter
from edgeadapt_export.parity import Parity
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.graft_linear import GraftLinear, parts

BASELINE_MODULES, BASELINE_RANK = ("q_proj", "v_proj"), 8


class Source(Protocol):
    """A backbone that graphs can be made of."""

    shape: Geometry

    def identity(self) -> BundleBackbone:
        """What the manifest says of it."""
        ...

    def opset(self) -> int: ...

    def minimum_onnxruntime(self, precision: Precision) -> str: ...

    def base(
        self,
        precision: Precision,
        device: Device,
        adapter: StoredAdapter,
        *,
        merging: Deployer | None,
        progress: Progress,
    ) -> ir.Model:
        """The graph, ready to be grafted with the adapter; or with it in the weights, put there by `merging`."""
        ...

    def embed(self, base: ir.Model) -> ir.Model:
        """The graph of the prompt's pool, from a copy of `base`."""
        ...

    def baselines(self, base: ir.Model, deployed: Deployed) -> dict[str, ir.Model]:
        """What a bench compares the adapted graph with, by role, from copies of `base`."""
        ...

    def write_files(self, out: Path) -> None:
        """Tokenizer and configurations."""
        ...

    def parity(self, built: Built, method: Deployer, adapter: StoredAdapter, progress: Progress) -> Parity:
        """The exported files against PyTorch."""
        ...


def lora_baseline(model: ir.Model, shape: Geometry, *, tables: bool = False) -> ir.Model:
    """LoRA of rank 8 on q and v: what bench compares an adapter with. Its factors are inputs, as for a real one;
    `tables` of them, for batches that mix adapters."""
    targets = parts(model, shape, tuple(range(shape.num_layers)), BASELINE_MODULES, BASELINE_RANK)
    depths = {name: shape.hidden_size for _, name in linears(model)}
    return apply(model, GraftLinear(targets, depths, tables=tables))
