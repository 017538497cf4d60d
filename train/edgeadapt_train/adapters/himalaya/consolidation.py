"""HIMALAYA's consolidation: before an atom is evicted, the core takes over what it can of it.

    F   = online Fisher diagonal of past tasks in the space of r~, [d]:  F <- gamma F + mean (dL/dr~)^2  at a task's end
    c*  = (C F C^T + lambda I)^-1 C F e            e [d]: the evicted atom; C [24, d]: the core; lambda = 1e-3 tr / 24
    router, with j the evicted slot, i over the core and t over the current task and those that open slot j:
        W2[c_i] += c*_i W2[c_j],  row_t[c_i] += c*_i row_t[c_j]     coefficient rows, bias columns included
        W2[a_i]  = W2[a_j],       row_t[a_i]  = row_t[a_j]          gate rows, for the two largest |c*_i|
    captured_energy = || F^.5 C^T c* ||^2 / || F^.5 e ||^2          in [0, 1]; about 24/d for a random atom and F = I

A past task's row is changed here, and only here: the atom that it relied on is about to go.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeadapt_train.adapters.himalaya.config import ATOMS, CORE


class DirectionFisher(nn.Module):
    """The Fisher diagonal F. Training state, d numbers."""

    diagonal: Tensor

    def __init__(self, hidden_size: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("diagonal", torch.zeros(hidden_size))

    @torch.no_grad()
    def update(self, mean_square: Tensor) -> None:
        """mean_square [d]: the mean of (dL/dr~)^2 over the sequences of a task just learnt."""
        self.diagonal.mul_(self.decay).add_(mean_square)


def project_on_core(F: Tensor, C: Tensor, e: Tensor) -> tuple[Tensor, float]:
    """c* [24] and captured_energy. An F of zeros (no past task) counts as the identity."""
    weights = F if bool(F.sum() > 0) else torch.ones_like(F)
    weighted = C * weights
    gram = weighted @ C.T
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(C), device=C.device)
    c = torch.linalg.solve(gram + ridge, weighted @ e)
    whole = (weights * e.square()).sum()
    return c, float((weights * (C.T @ c).square()).sum() / whole)


@torch.no_grad()
def hand_over(c: Tensor, slot: int, tables: list[Tensor]) -> Tensor:
    """Write c* [24] into the router: `tables` are views [80, anything] of W2 and of the tasks' rows (transposed).
    Returns the two core atoms whose gates open for it."""
    gate, coefficient = CORE + slot, ATOMS + CORE + slot
    heirs = c.abs().topk(2).indices
    for table in tables:
        table[ATOMS : ATOMS + CORE] += c[:, None] * table[coefficient]
        table[heirs] = table[gate].expand(2, -1)
    return heirs
