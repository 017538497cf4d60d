"""What both manifests (a run's adapter.json, a bundle's edgeadapt.json) have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeadapt.errors import EdgeAdaptError

PROTECTION = "protection"


@dataclass(frozen=True)
class AdapterBytes:
    """The byte formula of an adapter, term by term.

    deployed = sum of the terms = bytes of the tensors shipped. The term `protection`, if there, is what keeps earlier
    tasks from being overwritten; `method` is the sum without it. Training state counts what training holds besides the
    deployed form, without and with the optimiser's own. `budget` is the most that `deployed` may be.
    """

    terms: Mapping[str, int]
    deployed: int
    training_state: int
    training_state_with_optimiser: int
    budget: int

    def __post_init__(self) -> None:
        for name, size in self.terms.items():
            if size < 0:
                raise EdgeAdaptError(f"byte term {name!r} is {size}; it cannot be negative")
        if sum(self.terms.values()) != self.deployed:
            raise EdgeAdaptError(f"the byte terms sum to {sum(self.terms.values())}, not to deployed = {self.deployed}")
        if self.deployed > self.budget:
            raise EdgeAdaptError(f"the adapter has {self.deployed:,} bytes, over its budget of {self.budget:,}")
        if not 0 <= self.training_state <= self.training_state_with_optimiser:
            raise EdgeAdaptError("training state: the figure with the optimiser must be at least the one without")

    @property
    def method(self) -> int:
        """Bytes of the method's own formula, protection of earlier tasks left out."""
        return self.deployed - self.terms.get(PROTECTION, 0)


def check_format(found: Any, known: int, where: str = "") -> None:
    """Refuse a format version that this edgeadapt does not read."""
    if isinstance(found, bool) or not isinstance(found, int):
        raise EdgeAdaptError(f"{where}has no format version, so it is not a manifest of edgeadapt")
    if found != known:
        remedy = "update edgeadapt" if found > known else "make it again with this edgeadapt"
        raise EdgeAdaptError(f"{where}format version {found}; this edgeadapt reads version {known}: {remedy}")


def check_hash(value: str, where: str = "") -> None:
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise EdgeAdaptError(f"{where}{value[:80]!r} is not a SHA-256 in small hexadecimal digits")


def check_name(what: str, value: str) -> None:
    """Names that become part of a path or of a tensor's name: letters, digits, '_', '-', '.', not first '.' or '-'."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", value):
        raise EdgeAdaptError(f"{what} {value[:100]!r}: use letters, digits, '_', '-' and '.', at most 100 of them")


def check_positive(what: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise EdgeAdaptError(f"{what}: {name} is {value}; it must be at least 1")
