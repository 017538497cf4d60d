"""Full fine-tuning: every parameter of every block, as its distance from what it was.

    theta' = theta + delta        delta = 0 at the start; theta the host's own, which stays as it is
Linear maps, their biases and the norms of the blocks; not the embedding, the final norm and the head, which the loop
applies outside of the adapted body (embedding and head are one matrix in small decoders).

Trained: delta, fp32, whatever the host's dtype. Inside `conditioned` the blocks compute with theta + delta in the
host's dtype, as ordinary tensors in the parameters' places; outside they hold their own parameters.
Stored: delta fp16, `layers.{l}.{path}`. Bytes: 2 per parameter; the budget is that, since no smaller one is meant.
It is merged or nothing: there is no unmerged form on a device, and a run's file is as large as its model. A backbone in
4 bits is refused: its weights are codes, to which nothing can be added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.families import module_name
from edgeadapt_train.adapters.base import Adapter, Card, Event, Group, Host, Prompt


@dataclass(frozen=True)
class FullConfig:
    """Nothing to choose but the run's learning rate."""


@dataclass(frozen=True)
class _Place:
    """Where a parameter lives: attribute `name` of `owner`, `path` in block `layer`."""

    layer: int
    path: str
    owner: nn.Module
    name: str
    parameter: nn.Parameter

    @property
    def key(self) -> str:
        return f"layers/{self.layer}/{self.path.replace('.', '/')}"


class Full(Adapter):
    """See the module's docstring."""

    method = "full"
    card = Card(
        "theta + delta, for every parameter of every block",
        "delta of all blocks' weights, biases and norms",
        "decoder, merged only",
    )

    def __init__(self, config: FullConfig, host: Host, seed: int) -> None:
        super().__init__()
        self._places: tuple[_Place, ...] = tuple(_places(host))
        if any(getattr(place.parameter, "quant_state", None) is not None for place in self._places):
            raise EdgeAdaptError(
                "adapter=full: it trains the backbone's own weights, which model.quantisation=4bit packs into codes; "
                "give model.quantisation=none"
            )
        self._depth = len(host.layers)
        self.deltas = nn.ParameterDict(
            {place.key: nn.Parameter(torch.zeros_like(place.parameter, dtype=torch.float32)) for place in self._places}
        )
        self.budget = 2 * sum(place.parameter.numel() for place in self._places)
        self._attached = self._hard = False

    def attach(self) -> None:
        self._attached = True

    def detach(self) -> None:
        self._attached = False

    def groups(self) -> list[Group]:
        return [Group("deltas", tuple((f"deltas.{name}", value) for name, value in self.deltas.items()))]

    def begin_task(self, index: int) -> list[Event]:
        self.requires_grad_(True)
        return []

    @contextmanager
    def conditioned(self, prompt: Prompt) -> Iterator[None]:
        if not self._attached:
            yield
            return
        try:
            for place in self._places:
                place.owner._parameters[place.name] = self._value(place)  # type: ignore[assignment]
            yield
        finally:
            for place in self._places:
                place.owner._parameters[place.name] = place.parameter

    def _value(self, place: _Place) -> Tensor:
        delta = self.deltas[place.key]
        delta = delta.half().float() if self._hard else delta
        return (place.parameter.detach().float() + delta).to(place.parameter.dtype)

    @contextmanager
    def hardened(self) -> Iterator[None]:
        before, self._hard = self._hard, True
        try:
            with torch.no_grad():
                yield
        finally:
            self._hard = before

    def merged(self) -> dict[tuple[int, str], Tensor]:
        found = {}
        with self.hardened():
            for place in self._places:
                linear = isinstance(place.owner, nn.Linear) and place.name == "weight"
                name = module_name(place.path.rpartition(".")[0]) if linear else place.path
                found[place.layer, name] = place.parameter.detach().float() + self.deltas[place.key].half().float()
        return found

    def sites(self) -> dict[str, Any]:
        return {"kind": "weights", "layers": list(range(self._depth))}

    def deployed(self) -> dict[str, np.ndarray]:
        return {name.replace("/", "."): value.detach().cpu().half().numpy() for name, value in self.deltas.items()}

    def byte_terms(self) -> dict[str, int]:
        terms = {"linear": 0, "rest": 0}
        for place in self._places:
            kind = "linear" if isinstance(place.owner, nn.Linear) and place.name == "weight" else "rest"
            terms[kind] += 2 * place.parameter.numel()
        return terms


def _places(host: Host) -> Iterator[_Place]:
    for layer, block in enumerate(host.layers):
        for prefix, owner in block.named_modules():
            for name, parameter in owner.named_parameters(recurse=False):
                yield _Place(layer, f"{prefix}.{name}" if prefix else name, owner, name, parameter)
