"""HEST on the device: directions as inputs of the base graph, planned by the runtime within the bundle's envelope.

    adapter.safetensors  what training stored: U, V, s, b by module, the controller's W and G
    envelope             in the manifest: the device's energy profile, the budget, which graph inputs the directions are
    base graph           SpectralUpdate beside each adapted linear layer         (passes/graft_spectral.py)

`--energy-budget` replaces the run's own ratio; the profile is that of `--device`. Parity is measured with the plan of
the whole sequence, made from PyTorch's own embeddings. Which directions run depends on the token: no static merge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.bundle import FactorPrecision
from edgeadapt.energy.costs import PROFILES
from edgeadapt.energy.envelope import (
    EnergyEnvelope,
    SpectralGroup,
    check_tensors,
    constants,
    planner_of,
    spans,
    states_of,
    tensor,
)
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import OPS
from edgeadapt.tensors import serialise
from edgeadapt_export.graph_map import Geometry, module_slice, output_width
from edgeadapt_export.methods import torch_sites
from edgeadapt_export.methods.contract import Deployed, StoredAdapter
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.graft_spectral import GraftSpectral

WEIGHTS = "adapter.safetensors"


class Hest:
    """See the module's docstring."""

    factors: tuple[FactorPrecision, ...] = ("fp32",)

    def graft(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        envelope = envelope_of(model, geometry, adapter)
        made = {name: one for group in envelope.groups for name, one in constants(group, adapter.tensors).items()}
        shapes = {name: one.shape for name, one in made.items()}
        layers, directions, _ = tensor(adapter.tensors, f"{envelope.modules[0]}.b").shape
        columns = [spans(group, adapter.tensors) for group in envelope.groups]
        apply(model, GraftSpectral(envelope.groups, layers, directions, shapes, columns))

    def merge(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        raise EdgeAdaptError("--merge: HEST's plans depend on the tokens, so it has no static merge; leave it out")

    def write(self, folder: Path, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> Deployed:
        envelope = envelope_of(model, geometry, adapter)
        (folder / WEIGHTS).write_bytes(serialise(adapter.tensors))
        return Deployed("spectral", WEIGHTS, envelope.inputs, envelope=envelope)

    @contextlib.contextmanager
    def attach(self, torch_model: Any, adapter: StoredAdapter, pool: NDArray[np.float32], task: int) -> Iterator[None]:
        """The op's NumPy reference at every site by a hook; the plan from PyTorch's embeddings."""
        modules, layers = _modules(adapter), adapter.manifest.backbone.num_layers
        groups = tuple(
            SpectralGroup(name, tensor(adapter.tensors, f"{name}.U").shape[2], (name,), (0,)) for name in modules
        )
        envelope = _envelope(adapter, groups)
        planner = planner_of(envelope, adapter.tensors)
        states: dict[str, NDArray[np.uint8]] = {}

        def plan(x: Any, embeddings: Any) -> Any:
            h0 = embeddings[0].detach().float().numpy()
            states.update(states_of(envelope, planner.plan(h0).states, layers))
            return embeddings

        with contextlib.ExitStack() as hooks:
            hooks.enter_context(torch_sites.on_output(torch_model.get_input_embeddings(), plan))
            for group in groups:
                inputs = [*constants(group, adapter.tensors).values(), spans(group, adapter.tensors)]
                for layer in range(layers):
                    change = _updated(states, group.input("states"), inputs, layer, len(inputs[0]) // layers)
                    target = torch_sites.linear(torch_sites.block(torch_model, layer), group.linear)
                    hooks.enter_context(torch_sites.on_output(target, change))
            yield


def _updated(
    states: Mapping[str, NDArray[np.uint8]], planned: str, inputs: Sequence[NDArray[Any]], layer: int, count: int
) -> torch_sites.Change:
    """(x, y) -> SpectralUpdate's reference for one layer, with the states that the plan has put there by then."""
    import torch

    def change(x: Any, y: Any) -> Any:
        rows = {"first": layer * count, "count": count}
        z, _ = OPS["SpectralUpdate"].reference(y.numpy(), x.numpy(), states[planned], *inputs, **rows)
        return torch.from_numpy(z)

    return change


def envelope_of(model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> EnergyEnvelope:
    """The adapter's envelope on the adapter's device, its modules grouped by the graph's linear layers."""
    if geometry.kind != "decoder":
        raise EdgeAdaptError("HEST is planned token by token, which encoders' bundles do not offer; train a decoder")
    grouped: dict[str, list[tuple[int, str]]] = {}
    widths: dict[str, int] = {}
    for name in _modules(adapter):
        at = module_slice(model, geometry, 0, name)
        reads, writes = tensor(adapter.tensors, f"{name}.V").shape[2], tensor(adapter.tensors, f"{name}.U").shape[2]
        if writes != at.width:
            raise EdgeAdaptError(
                f"{name}: directions from {reads} to {writes} do not fit the graph's {at.width} columns; "
                "give the backbone it was trained on"
            )
        grouped.setdefault(at.linear.name, []).append((at.offset, name))
        widths[at.linear.name] = output_width(at.linear)
    groups = []
    for linear, found in grouped.items():
        offsets, names = zip(*sorted(found), strict=True)
        groups.append(SpectralGroup(linear, widths[linear], names, offsets))
    envelope = _envelope(adapter, tuple(groups))
    check_tensors(envelope, adapter.tensors)
    return envelope


def _envelope(adapter: StoredAdapter, groups: tuple[SpectralGroup, ...]) -> EnergyEnvelope:
    sites = adapter.manifest.sites
    ratio = adapter.energy_budget if adapter.energy_budget is not None else sites.get("energy_budget")
    profile = PROFILES[adapter.device]
    return EnergyEnvelope(profile, float(sites["kappa"]), _modules(adapter), groups, ratio)


def _modules(adapter: StoredAdapter) -> tuple[str, ...]:
    sites = adapter.manifest.sites
    if sites.get("kind") != "spectral" or not sites.get("modules") or not isinstance(sites.get("kappa"), float):
        raise EdgeAdaptError(f"HEST's sites must be spectral, with modules and kappa; found {dict(sites)}")
    return tuple(str(name) for name in sites["modules"])
