"""LoReFT: an edit of each block's output within a small subspace (Wu et al. 2024, pyreft; "ReFT-LoRe" in the design).

    h_l' = h_l + R_l^T (W_l h_l + b_l - R_l h_l)        R_l, W_l [r, d], b_l [r], R_l R_l^T = I; h_l [B, T, d]
         = h_l + (h_l D_l) R_l + b_l R_l                D_l = (W_l - R_l)^T [d, r]: an affine update of low rank

R_l = Q^T of the QR factors of a free X_l [d, r], signs such that the triangle's diagonal is positive: then R depends
smoothly on X while X has full rank. pyreft draws R and W apart; here W_l starts as R_l and b_l as 0, so that a new
adapter changes no bit (contract, rule 1). Every position is edited, generated ones too; pyreft edits chosen ones.
Trained: X, V = W - R (that is W, written as its distance from R), b; fp32. R turns only as far as X does.
Stored per layer: D^T and R [r, d] fp16, b [r] fp16. Bytes: L (2 * 2 r d + 2 r).
There is no static merge: h is a sum, not the output of a linear map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Adapter, Card, Event, Group, Host, Prompt


@dataclass(frozen=True)
class LoreftConfig:
    """Rank r of the subspace."""

    rank: int = 4

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise EdgeAdaptError(f"adapter.rank={self.rank}: give at least 1")


class Loreft(Adapter):
    """See the module's docstring. Stacks over layers: X [L, d, r], V [L, r, d], b [L, r]."""

    method = "loreft"
    card = Card(
        "h_l + R_l^T (W_l h_l + b_l - R_l h_l), R_l R_l^T = I",
        "R, W and b of every layer",
        "decoder, factors and bias from a graph of its own at loading (LowRankUpdate on the residual stream)",
    )

    def __init__(self, config: LoreftConfig, host: Host, seed: int) -> None:
        super().__init__()
        self.config, self._layers = config, host.layers
        depth, d, r = len(host.layers), host.hidden_size, config.rank
        if r > d:
            raise EdgeAdaptError(f"adapter.rank={r}: give at most the hidden size, {d}")
        generator = torch.Generator().manual_seed(seed)
        self.X = nn.Parameter(torch.randn(depth, d, r, generator=generator) * d**-0.5)
        self.V = nn.Parameter(torch.zeros(depth, r, d))
        self.b = nn.Parameter(torch.zeros(depth, r))
        self._handles: list[RemovableHandle] = []
        self._used: tuple[tuple[Tensor, Tensor, Tensor], ...] | None = None
        self._hard: tuple[tuple[Tensor, Tensor, Tensor], ...] | None = None

    def attach(self) -> None:
        if not self._handles:
            self._handles = [layer.register_forward_hook(self._hook(index)) for index, layer in enumerate(self._layers)]

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _hook(self, index: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            assert self._used is not None, "the host's forward pass runs inside `conditioned`"
            if isinstance(output, tuple):
                return (edited(output[0], *self._used[index]), *output[1:])
            return edited(output, *self._used[index])

        return hook

    def groups(self) -> list[Group]:
        return [Group("loreft", (("X", self.X), ("V", self.V), ("b", self.b)))]

    def begin_task(self, index: int) -> list[Event]:
        self.requires_grad_(True)
        return []

    @contextmanager
    def conditioned(self, prompt: Prompt) -> Iterator[None]:
        trained = _by_layer(self.V, orthonormal(self.X), self.b) if self._hard is None else self._hard
        self._used = trained
        try:
            yield
        finally:
            self._used = None

    def _stored(self) -> tuple[Tensor, Tensor, Tensor]:
        """V, R, b in fp16."""
        with torch.no_grad():
            return self.V.half(), orthonormal(self.X).half(), self.b.half()

    @contextmanager
    def hardened(self) -> Iterator[None]:
        with torch.no_grad():
            before, self._hard = self._hard, _by_layer(*(item.float() for item in self._stored()))
            try:
                yield
            finally:
                self._hard = before

    def merged(self) -> dict[tuple[int, str], Tensor]:
        raise EdgeAdaptError("loreft has no static merge: a block's output is a sum, not what a linear map gives")

    def sites(self) -> dict[str, Any]:
        return {"kind": "residual", "rank": self.config.rank, "layers": list(range(len(self._layers)))}

    def deployed(self) -> dict[str, np.ndarray]:
        return dict(zip("VRb", (item.cpu().numpy() for item in self._stored()), strict=True))

    def byte_terms(self) -> dict[str, int]:
        depth, r, d = self.V.shape
        return {"V": 2 * depth * r * d, "R": 2 * depth * r * d, "b": 2 * depth * r}


def orthonormal(X: Tensor) -> Tensor:
    """X [.., d, r] of full rank -> R [.., r, d] with orthonormal rows that span X's columns."""
    Q, triangle = torch.linalg.qr(X)
    signs = torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(X.dtype)
    return (Q * signs[..., None, :]).transpose(-1, -2)


def edited(h: Tensor, V: Tensor, R: Tensor, b: Tensor) -> Tensor:
    """h + R^T (V h + b), V = W - R; h [B, T, d], V and R [r, d], b [r] -> h's dtype."""
    return (h.float() + (h.float() @ V.T + b) @ R).to(h.dtype)


def _by_layer(V: Tensor, R: Tensor, b: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    return tuple(zip(V.unbind(0), R.unbind(0), b.unbind(0), strict=True))
