"""What a method must offer to be exported."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.bundle import Device, FactorPrecision, LowRankPart
from edgeadapt.energy.envelope import EnergyEnvelope
from edgeadapt.heads import is_head
from edgeadapt.manifest import AdapterBytes
from edgeadapt.rundir import AdapterManifest, RunDir
from edgeadapt_export.graph_map import Geometry

Array = NDArray[Any]


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter as a run stores it: its description and its tensors.

    `factors`: how wide low-rank factors are to be in the graph; fp32 for every other adapter. `heads`: the tensors of
    the tasks' heads (edgeadapt.heads) where it is an encoder's; no method needs to know of them. `device` and
    `energy_budget` (None: the run's own) are for a method that plans its energy.
    """

    manifest: AdapterManifest
    tensors: dict[str, Array]
    factors: FactorPrecision = "fp32"
    heads: dict[str, Array] = field(default_factory=dict)
    device: Device = "generic"
    energy_budget: float | None = None

    @classmethod
    def of(
        cls,
        run: RunDir,
        factors: FactorPrecision = "fp32",
        device: Device = "generic",
        energy_budget: float | None = None,
    ) -> StoredAdapter:
        stored = run.tensors()
        own, heads = ({name: stored[name] for name in stored if is_head(name) is wanted} for wanted in (False, True))
        return cls(run.adapter, own, factors, heads, device, energy_budget)


@dataclass(frozen=True)
class Deployed:
    """The adapter's own file in a bundle and what it feeds. `bytes` if they are not those that the run stored."""

    kind: Literal["graph", "lowrank", "spectral", "merged"]
    file: str | None
    inputs: tuple[str, ...]
    parts: tuple[LowRankPart, ...] = ()
    bytes: AdapterBytes | None = None
    envelope: EnergyEnvelope | None = None


class Deployer(Protocol):
    """One method. All of these raise EdgeAdaptError when the tensors do not fit the sites or the graph.

    Linear layers have the same names in every family (graph_map.py); `Geometry.kind` says whether the graph is a
    decoder's or an encoder's, where it matters: at a block's output (decoder_map.py, encoder_map.py).
    factors: what `StoredAdapter.factors` may be.
    """

    factors: tuple[FactorPrecision, ...]

    def graft(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        """Put the method's sites into the base graph, the values being inputs of it."""
        ...

    def merge(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        """Fold the adapter into the fp32 weights. Raises EdgeAdaptError where the method has no static merge."""
        ...

    def write(self, folder: Path, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> Deployed:
        """Write the adapter's own file into `folder` (adapters/<name>)."""
        ...

    def attach(
        self, torch_model: Any, adapter: StoredAdapter, pool: NDArray[np.float32], task: int
    ) -> AbstractContextManager[None]:
        """Make the PyTorch model act as adapted for one prompt: `pool` [1, d], `task` its number. Undone on leaving."""
        ...
