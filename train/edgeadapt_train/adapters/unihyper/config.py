"""The options of the three methods, and the numbers that define them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeadapt.errors import EdgeAdaptError

ATOMS = 128
ROUTER_WIDTH = 16
TASKS = 32
TASK_UNIT = 1 / 32
BUCKETS = 8
TYPES = 6
MODULES = {"q_proj": 0, "k_proj": 1, "v_proj": 2, "o_proj": 3, "gate_proj": 4, "up_proj": 4, "down_proj": 5}
"""The type of each linear map of a block: q, k, v, o, up, down. A SwiGLU gate counts as up, and may be absent."""
BUDGET = 1_000_000


@dataclass(frozen=True)
class AtomMixConfig:
    """`top_k` atoms a token (3 for ablations). Penalties are lambda_F and lambda_Q; learning rates times the run's.

    `flop_cap`: the most that the adapter's multiply-adds may be of those of the linear maps beside it.
    """

    top_k: Literal[1, 2, 3] = 2
    count_penalty: float = 1e-4
    delta_penalty: float = 1e-3
    flop_cap: float = 0.1
    atom_lr_scale: float = 1.0
    gain_lr_scale: float = 1.0
    router_lr_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("count_penalty", "delta_penalty"):
            if not 0 <= getattr(self, name) < 1e6:
                raise EdgeAdaptError(f"adapter.{name}={getattr(self, name)}: give a number from 0 up")
        for name in ("flop_cap", "atom_lr_scale", "gain_lr_scale", "router_lr_scale"):
            if not 0 < getattr(self, name) < 1e6:
                raise EdgeAdaptError(f"adapter.{name}={getattr(self, name)}: give a positive number")


@dataclass(frozen=True)
class UniHyperConfig(AtomMixConfig):
    """`source`: a run of UniHyperLoRA whose atoms, gains and router are taken over, frozen (stage 2); null: stage 1."""

    basis: Literal["dct", "vocab"] = "dct"
    source: str | None = None


@dataclass(frozen=True)
class SatConfig(AtomMixConfig):
    """SAT-LoRA's and HF-SAT-LoRA's."""
