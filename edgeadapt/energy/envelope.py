"""How a bundle says what an adapter may spend, and which inputs of the base graph its directions are.

A group is one linear layer of the graph at all depths. Its directions stand in the order (layer, module, direction), so
that a node takes a run of rows; a plan's directions stand in the order (layer, module of all groups, direction).
    hest.{linear}.states  uint8 [B, T, N]           hest.{linear}.wide, narrow, scales: as SpectralUpdate has them
    hest.macs             output of the graph, float32 [B, T, 2 per node]: the multiply-adds that ran, int8 and fp16
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.energy.costs import DeviceProfile, check_ratio
from edgeadapt.energy.planner import PlannedSite, Planner
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.manifest import check_positive
from edgeadapt.ops import spectral_update
from edgeadapt.ops.registry import Array

MACS = "hest.macs"
STATES = "states"
PARTS = ("wide", "narrow", "scales")


@dataclass(frozen=True)
class SpectralGroup:
    """The modules that one linear layer of `width` columns computes, and where each one's columns begin."""

    linear: str
    width: int
    modules: tuple[str, ...]
    offsets: tuple[int, ...]

    def __post_init__(self) -> None:
        check_positive(self.linear, width=self.width, modules=len(self.modules))
        if len(self.modules) != len(self.offsets) or not all(0 <= at < self.width for at in self.offsets):
            raise EdgeAdaptError(f"{self.linear}: offsets {list(self.offsets)} are not those of its modules")

    def input(self, part: str) -> str:
        """The graph input that takes a part."""
        return f"hest.{self.linear}.{part}"


@dataclass(frozen=True)
class EnergyEnvelope:
    """What an adapter may spend on this device. `ratio`: share of the all-fp16 plan's direction energy; None: no bound.
    `modules` in the plan's order."""

    profile: DeviceProfile
    kappa: float
    modules: tuple[str, ...]
    groups: tuple[SpectralGroup, ...]
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None:
            check_ratio(self.ratio, "the energy budget")
        if sorted(self.modules) != sorted(name for group in self.groups for name in group.modules):
            raise EdgeAdaptError(f"the envelope's groups are not those of its modules {', '.join(self.modules)}")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph inputs."""
        return tuple(group.input(part) for group in self.groups for part in (STATES, *PARTS))


def planner_of(envelope: EnergyEnvelope, tensors: Mapping[str, Array]) -> Planner:
    """The plans of an adapter, from its stored tensors (adapters/hest of the training stage).

    Raises EdgeAdaptError where they are not of one adapter, or not this envelope's.
    """
    check_tensors(envelope, tensors)
    offsets = np.stack([tensor(tensors, f"{name}.b") for name in envelope.modules], axis=1)  # [L, M, 16, 3]
    widths = [
        (tensor(tensors, f"{name}.V").shape[2], tensor(tensors, f"{name}.U").shape[2]) for name in envelope.modules
    ]
    sites = [PlannedSite(layer, *width) for layer in range(len(offsets)) for width in widths]
    return Planner(
        sites,
        tensor(tensors, "W"),
        tensor(tensors, "G"),
        offsets.reshape(-1, *offsets.shape[2:]),
        kappa=envelope.kappa,
        profile=envelope.profile,
        ratio=envelope.ratio,
    )


def constants(group: SpectralGroup, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs of a group but its states, of tensors that `check_tensors` let pass."""
    parts: dict[str, list[Array]] = {part: [] for part in PARTS}
    for name, offset in zip(group.modules, group.offsets, strict=True):
        V, U, s = (tensor(tensors, f"{name}.{part}") for part in "VUs")
        layers, count, columns = U.shape
        placed = np.zeros((layers * count, group.width), U.dtype)
        placed[:, offset : offset + columns] = U.reshape(-1, columns)
        made: tuple[Array, ...] = spectral_update.stored(V.reshape(-1, V.shape[2]), placed, s.reshape(-1))
        for part, rows in zip(PARTS, made, strict=True):
            parts[part].append(rows.reshape(layers, count, -1))
    return {group.input(part): _by_layer(stacks) for part, stacks in parts.items()}


def spans(group: SpectralGroup, tensors: Mapping[str, Array]) -> NDArray[np.int64]:
    """The columns [N, 2] that each direction of a group writes: what the graph itself knows."""
    stacks = []
    for name, offset in zip(group.modules, group.offsets, strict=True):
        layers, count, columns = tensor(tensors, f"{name}.U").shape
        stacks.append(np.broadcast_to(np.array([offset, offset + columns], np.int64), (layers, count, 2)))
    return _by_layer(stacks)


def _by_layer(stacks: Sequence[Array]) -> Array:
    """Rows of modules, each [L, directions, ..], in the order (layer, module, direction): [N, ..]."""
    rows = np.stack(stacks, axis=1)
    return rows.reshape(-1, rows.shape[3])


def states_of(envelope: EnergyEnvelope, states: NDArray[np.uint8], layers: int) -> dict[str, NDArray[np.uint8]]:
    """A plan's states [T, J] as the groups' inputs [1, T, N]."""
    places = states.reshape(len(states), layers, len(envelope.modules), -1)
    found = {}
    for group in envelope.groups:
        if group.modules == envelope.modules:
            chosen = places
        else:
            chosen = places[:, :, [envelope.modules.index(name) for name in group.modules]]
        found[group.input(STATES)] = np.ascontiguousarray(chosen.reshape(1, len(states), -1))
    return found


def check_tensors(envelope: EnergyEnvelope, tensors: Mapping[str, Array]) -> None:
    """U, V float16, b [L, n, 3] and s [L, n] of every module, W [k, d] and G [L, k]: names, ranks and sizes."""
    layers, k = tensor(tensors, "G", 2).shape
    directions = tensor(tensors, f"{envelope.modules[0]}.s", 2).shape[1]
    wanted: dict[str, tuple[int, ...]] = {"W": (k, -1), "G": (layers, k)}
    for group in envelope.groups:
        depth = tensor(tensors, f"{group.modules[0]}.V", 3).shape[2]
        for name, offset in zip(group.modules, group.offsets, strict=True):
            wanted |= {f"{name}.V": (layers, directions, depth), f"{name}.U": (layers, directions, -1)}
            wanted |= {f"{name}.s": (layers, directions), f"{name}.b": (layers, directions, 3)}
            columns = tensor(tensors, f"{name}.U", 3).shape[2]
            if offset + columns > group.width:
                raise EdgeAdaptError(f"{name}: {columns} columns from {offset} on do not fit {group.width}")
    for name, shape in wanted.items():
        found = tensor(tensors, name, len(shape))
        kind = np.float32 if name.endswith(".s") else np.float16
        if found.dtype != kind or any(size not in (-1, has) for size, has in zip(shape, found.shape, strict=True)):
            raise EdgeAdaptError(f"tensor {name!r} is {found.dtype} {list(found.shape)}, not {np.dtype(kind)} {shape}")
        if not np.isfinite(found).all():
            raise EdgeAdaptError(f"tensor {name!r} holds a NaN or an infinity; train the adapter again")


def tensor(tensors: Mapping[str, Array], name: str, rank: int | None = None) -> Array:
    """A stored tensor. Raises EdgeAdaptError where there is none of that name, or one of another rank."""
    if name not in tensors:
        raise EdgeAdaptError(f"the adapter has no tensor {name!r}, so it is not a HEST adapter; train it again")
    found = tensors[name]
    if rank is not None and (found.ndim != rank or not found.size):
        raise EdgeAdaptError(
            f"tensor {name!r} has shape {list(found.shape)}; it must have {rank} dimensions, none empty"
        )
    return found
