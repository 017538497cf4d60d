"""What methods have in common whose update of a linear map is a low-rank product.

    y = W x + b + (x A) B      A [d_in, r], B [r, d_out] per site, float32; x [B, T, d_in]

A method says how A and B come from what it trains (`trained`) and from what it stores (`stored`), once per forward pass
for all sites. Everything else follows: hooks, the hardened form, the static merge W' = W + (A B)^T.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Adapter, Event, Host, Prompt
from edgeadapt_train.adapters.linear_sites import LinearHooks, LinearSite, linear_sites

Factors = Mapping[tuple[int, str], tuple[Tensor, Tensor]]


def check_modules(modules: Sequence[str]) -> None:
    """Refuse an empty list of linear maps."""
    if not modules:
        raise EdgeAdaptError("adapter.modules is empty: name at least one linear map, such as q_proj")


class LowRank(Adapter):
    """See the module's docstring. `widths`: (d_in, d_out) by module name; a module is as wide in every layer."""

    def __init__(self, host: Host, modules: Sequence[str], rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise EdgeAdaptError(f"adapter.rank={rank}: give at least 1")
        self.linears = linear_sites(host, modules)
        self.depth, self.rank = len(host.layers), rank
        self.widths: dict[str, tuple[int, int]] = {}
        for site in self.linears:
            if self.widths.setdefault(site.name, (site.d_in, site.d_out)) != (site.d_in, site.d_out):
                raise EdgeAdaptError(f"adapter.modules: {site.name} is not as wide in every layer of {host.id}")
        self._hooks = LinearHooks(self.linears, self._delta)
        self._factors: Factors | None = None
        self._hard: Factors | None = None

    @abstractmethod
    def trained(self) -> Factors:
        """A and B of every site (layer, name), with their gradients."""

    @abstractmethod
    def stored(self) -> Factors:
        """The same from the stored form."""

    def attach(self) -> None:
        self._hooks.attach()

    def detach(self) -> None:
        self._hooks.detach()

    def begin_task(self, index: int) -> list[Event]:
        self.requires_grad_(True)
        return []

    @contextmanager
    def conditioned(self, prompt: Prompt) -> Iterator[None]:
        self._factors = self.trained() if self._hard is None else self._hard
        try:
            yield
        finally:
            self._factors = None

    @contextmanager
    def hardened(self) -> Iterator[None]:
        with torch.no_grad():
            before, self._hard = self._hard, self.stored()
            try:
                yield
            finally:
                self._hard = before

    def _delta(self, site: LinearSite, x: Tensor) -> Tensor:
        assert self._factors is not None, "the host's forward pass runs inside `conditioned`"
        A, B = self._factors[site.layer, site.name]
        return (x.float() @ A) @ B

    def sites(self) -> dict[str, Any]:
        return {
            "kind": "linear",
            "modules": list(self.widths),
            "rank": self.rank,
            "layers": list(range(self.depth)),
        }

    @torch.no_grad()
    def merged(self) -> dict[tuple[int, str], Tensor]:
        stored = self.stored()
        found = {}
        for site in self.linears:
            A, B = stored[site.layer, site.name]
            found[site.layer, site.name] = site.weight + (A @ B).T
        return found


def by_layer(stacks: Mapping[str, tuple[Tensor, Tensor]]) -> Factors:
    """A [L, d_in, r] and B [L, r, d_out] by module name -> A and B by (layer, name)."""
    return {
        (layer, name): pair
        for name, (down, up) in stacks.items()
        for layer, pair in enumerate(zip(down.unbind(0), up.unbind(0), strict=True))
    }
