"""The options of HEST, TABS and BHSP."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from edgeadapt.energy.costs import PROFILES
from edgeadapt.errors import EdgeAdaptError


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise EdgeAdaptError(f"adapter.{name}={getattr(config, name)}: give a positive number")


def _share(config: Any, name: str) -> None:
    if not 0 < getattr(config, name) <= 1:
        raise EdgeAdaptError(f"adapter.{name}={getattr(config, name)}: give a share of the energy, in (0, 1]")


def _device(name: str) -> None:
    if name not in PROFILES:
        raise EdgeAdaptError(f"adapter.device={name!r} has no energy profile; there are: {', '.join(PROFILES)}")


@dataclass(frozen=True)
class HestConfig:
    """`variant`: the whole method, or one of its three ablations. `energy_budget`: what plans may spend, as a share of
    the all-fp16 plan's direction energy; `relative_to`: a run of TABS, of whose average spending it is a share instead.
    `device`: the energy profile. `width`: k. Learning rates times the run's."""

    variant: Literal["default", "no-layer-score", "no-int8", "soft-budget"] = "default"
    modules: tuple[str, ...] = ("q_proj", "v_proj")
    energy_budget: float = 0.6
    relative_to: str | None = None
    device: str = "rpi4"
    width: int = 32
    kappa: float = 1.0
    temperature: float = 2 / 3
    dual_step: float = 0.05
    scale_lr_scale: float = 10.0
    controller_lr_scale: float = 1.0

    def __post_init__(self) -> None:
        _share(self, "energy_budget")
        _device(self.device)
        _positive(self, "width", "kappa", "temperature", "dual_step", "scale_lr_scale", "controller_lr_scale")


@dataclass(frozen=True)
class TabsConfig:
    """`flop_penalty`: lambda; `flop_target`: the share of the all-on plan above which an example pays it. `stretch`:
    gamma and zeta of the hard-concrete gates. Learning rates times the run's."""

    modules: tuple[str, ...] = ("q_proj", "v_proj")
    flop_penalty: float = 1.0
    flop_target: float = 0.6
    temperature: float = 2 / 3
    stretch: tuple[float, float] = (-0.1, 1.1)
    scale_lr_scale: float = 10.0
    gate_lr_scale: float = 1.0

    def __post_init__(self) -> None:
        _share(self, "flop_target")
        _positive(self, "temperature", "scale_lr_scale", "gate_lr_scale")
        if not 0 <= self.flop_penalty < math.inf:
            raise EdgeAdaptError(f"adapter.flop_penalty={self.flop_penalty}: give a number from 0 up")
        if len(self.stretch) != 2 or self.stretch[0] >= 0 or self.stretch[1] <= 1:
            raise EdgeAdaptError(f"adapter.stretch={self.stretch}: give two numbers, below 0 and above 1")
        strange = sorted(set(self.modules) - {"q_proj", "k_proj", "v_proj"})
        if strange:
            raise EdgeAdaptError(
                f"adapter.modules: {strange[0]} does not read what a layer's gate does; give q_proj, k_proj, v_proj"
            )


@dataclass(frozen=True)
class BhspConfig:
    """`keep`: share of the directions' multiply-adds that stays. `smoothing`: of the gradients' running mean. The
    budget falls from all to `keep` between `warm` and `settled`, shares of a task's steps. `scale_lr_scale`: the
    learning rate times the run's."""

    modules: tuple[str, ...] = ("q_proj", "v_proj")
    keep: float = 0.6
    smoothing: float = 0.85
    warm: float = 0.2
    settled: float = 0.7
    scale_lr_scale: float = 10.0

    def __post_init__(self) -> None:
        _share(self, "keep")
        _positive(self, "scale_lr_scale")
        if not 0 <= self.smoothing < 1:
            raise EdgeAdaptError(f"adapter.smoothing={self.smoothing}: give a number in [0, 1)")
        if not 0 <= self.warm < self.settled <= 1:
            raise EdgeAdaptError(
                f"adapter.warm={self.warm}, adapter.settled={self.settled}: give 0 <= warm < settled <= 1"
            )
