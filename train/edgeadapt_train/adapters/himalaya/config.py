"""HIMALAYA's options, and the two named variants that fix most of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeadapt.errors import EdgeAdaptError

CORE = 24
ELASTIC = 16
ATOMS = CORE + ELASTIC
OPEN = 3
TASKS = 32
TASK_WIDTH = 16
STATISTICS = 24
TREE_NUMBERS = 23


@dataclass(frozen=True)
class HimalayaConfig:
    """`variant=literal` is the design to the letter: site=square, gain=unit (s = 1), pool=first, protection=none.

    An option left at None takes the variant's value. Learning rates are `*_scale` times the run's.
    gain         depth: one per block (and term); shared: one for all blocks (and term)
    update       direction: rank one, of the open atoms' sum; terms: rank three, one term per open atom     update.py
    atoms        tied: a term writes what it reads; read_write: atoms of its own to write                   update.py
    core_update  fixed, or frequent_directions: the core turns at a task's end                              sketch.py
    borrow       a task with fewer than three atoms of its own opens its other gates on the most used atoms of past
                 tasks, which do not move
    """

    variant: Literal["default", "literal"] = "default"
    site: Literal["residual", "square"] | None = None
    gain: Literal["depth", "shared", "unit"] | None = None
    pool: Literal["mean", "first"] | None = None
    protection: Literal["frozen", "ewc", "none"] | None = None
    update: Literal["direction", "terms"] = "direction"
    atoms: Literal["tied", "read_write"] = "tied"
    core_update: Literal["fixed", "frequent_directions"] = "fixed"
    initial_active: int = 8
    atoms_per_task: int = 3
    borrow: bool = True
    prior_logit: float = 7.0
    router_scale: float = 0.1
    temperature_start: float = 1.0
    temperature_end: float = 0.1
    count_penalty: float = 0.01
    growth: bool = True
    window: int = 20
    cooldown: int = 20
    promotions_per_task: int = 4
    similarity_threshold: float = 0.8
    evict_protected: bool = False
    fisher_batches: int = 20
    ewc_strength: float = 100.0
    ewc_decay: float = 0.95
    fan_out: Literal[4, 8, 16] = 8
    gain_lr_scale: float = 1.0
    atom_lr_scale: float = 1.0
    router_lr_scale: float = 0.25
    row_lr_scale: float = 0.5
    site_modules: tuple[str, ...] = ("q_proj", "o_proj")

    def __post_init__(self) -> None:
        literal = self.variant == "literal"
        defaults = {
            "site": "square" if literal else "residual",
            "gain": "unit" if literal else "depth",
            "pool": "first" if literal else "mean",
            "protection": "none" if literal else "frozen",
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
            elif literal and getattr(self, name) != value:
                raise EdgeAdaptError(
                    f"adapter.{name}={getattr(self, name)!r} with variant=literal, which is {name}={value}; "
                    "use variant=default to change it"
                )
        for name in ("update", "atoms", "core_update"):
            if literal and (chosen := getattr(self, name)) != HimalayaConfig.__dataclass_fields__[name].default:
                raise EdgeAdaptError(f"adapter.{name}={chosen} with variant=literal; use variant=default to change it")
        if self.update == "terms" and (self.site == "square" or self.gain == "unit"):
            raise EdgeAdaptError("adapter.update=terms needs site=residual and gain=depth or shared")
        if not 0 <= self.initial_active <= ELASTIC:
            raise EdgeAdaptError(f"adapter.initial_active={self.initial_active}: give 0..{ELASTIC}")
        if not 1 <= self.atoms_per_task <= OPEN:
            raise EdgeAdaptError(f"adapter.atoms_per_task={self.atoms_per_task}: give 1..{OPEN}")
        if not 0 < self.temperature_end <= self.temperature_start:
            raise EdgeAdaptError("adapter.temperature_end must be above 0 and not above temperature_start")
        if not 0 < self.similarity_threshold <= 1:
            raise EdgeAdaptError(f"adapter.similarity_threshold={self.similarity_threshold}: give a value in (0, 1]")
        for name in ("window", "cooldown", "promotions_per_task", "fisher_batches"):
            if getattr(self, name) < 1:
                raise EdgeAdaptError(f"adapter.{name}={getattr(self, name)}: give at least 1")


def router_width(hidden_size: int) -> int:
    """w = floor((45000 - 80) / (d + 97)): 10, 51, 66, 93 for d = 4096, 768, 576, 384; at least 1."""
    return max(1, (45_000 - 80) // (hidden_size + 97))
