"""HIMALAYA's growth: when the dictionary cannot express where the loss wants to go, it gets a new atom.

    g_t    = -dL/dr~ / ||dL/dr~||          one per step (summed over the batch); a zero gradient is skipped
    ring   = the last 4 L of them, [4L, d]: gradients, never data
    sim_t  = || P g_t ||, P the projection on span(rows of D)
    grow   iff mean(sim over the window) < tau and >= cooldown steps since the last promotion
           and fewer than 4 promotions in this task
    atom   = top right singular vector of the ring, signed so that the mean of the ring points along it

Storing the adapter's own output would never grow: it lies in span(D). Training state only: 4 L d + d + window numbers,
nothing of it ships.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeadapt_train.adapters.himalaya.config import HimalayaConfig


def span_basis(D: Tensor) -> Tensor:
    """Orthonormal rows that span the non-zero rows of D [40, d] -> [rank, d]."""
    rows = D[D.norm(dim=1) > 0]
    _, singular, right = torch.linalg.svd(rows, full_matrices=False)
    return right[singular > 1e-4 * singular[0]]


class Growth(nn.Module):
    """Ring, similarity window and the counters that limit promotions."""

    ring: Tensor
    similarities: Tensor
    counters: Tensor

    def __init__(self, layers: int, hidden_size: int, config: HimalayaConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("ring", torch.zeros(4 * layers, hidden_size))
        self.register_buffer("similarities", torch.zeros(config.window))
        # gradients seen; similarities seen; step of the last promotion (any task); promotions in this task
        self.register_buffer("counters", torch.tensor([0, 0, 0, 0]))

    def begin_task(self) -> None:
        self.counters[3] = 0

    @torch.no_grad()
    def observe(self, gradient: Tensor, basis: Tensor) -> Tensor | None:
        """Take dL/dr~ [B, d] of one step; returns g_t [d], or None for a zero gradient."""
        push = -gradient.sum(dim=0)
        norm = push.norm()
        if not bool(norm > 0):
            return None
        unit = push / norm
        self.ring[int(self.counters[0]) % len(self.ring)] = unit
        self.similarities[int(self.counters[1]) % len(self.similarities)] = (basis @ unit).norm()
        self.counters[:2] += 1
        return unit

    def due(self, step: int) -> bool:
        """Whether to promote now; `step` counts over all tasks."""
        seen, last, promoted = (int(value) for value in self.counters[1:])
        return (
            seen >= len(self.similarities)
            and step - last >= self.config.cooldown
            and promoted < self.config.promotions_per_task
            and float(self.similarities.mean()) < self.config.similarity_threshold
        )

    @torch.no_grad()
    def candidate(self) -> Tensor:
        """The new atom: unit, [d]."""
        filled = self.ring[: min(int(self.counters[0]), len(self.ring))]
        top = torch.linalg.svd(filled, full_matrices=False).Vh[0]
        return top if float(filled.mean(dim=0) @ top) >= 0 else -top

    def promoted(self, step: int) -> None:
        self.counters[2] = step
        self.counters[3] += 1
