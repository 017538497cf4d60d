"""HIMALAYA's core_update=frequent_directions: a core that turns towards where the loss has been going.

    B  [2 l, d]   l = 24: Frequent Directions (Liberty 2013) of the growth ring's rows g_t = -dL/dr~ / ||dL/dr~||, of
                  all tasks: a new row goes where a zero row is; when none is left
                      B = U S V^T,  S <- sqrt(max(S^2 - S_l^2, 0)),  B <- S V^T          (S_l: the (l+1)th largest)
                  so that 0 <= sum_t g_t g_t^T - B^T B <= (1 / (l + 1)) sum_t ||g_t||^2 in the order of matrices
    turn          at a task's end, K [m, d] being the core atoms that a task so far opens (their gates or an heir's):
                  the other 24 - m become the top right singular vectors of B (I - K^T K), made orthonormal; directions
                  that B lacks are filled from the core as it was

No stored byte more: the core's 24 rows ship as before. Training state: 2 l d for B and 24 d for the core of the start,
against which every consolidation's captured energy is logged too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeadapt_train.adapters.himalaya.config import CORE


class DirectionSketch(nn.Module):
    """B, and the core of the start."""

    rows: Tensor
    filled: Tensor
    start: Tensor

    def __init__(self, core: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(2 * CORE, core.shape[1]))
        self.register_buffer("filled", torch.tensor(0))
        self.register_buffer("start", core.clone())

    @torch.no_grad()
    def observe(self, direction: Tensor) -> None:
        """Take one direction [d]."""
        if int(self.filled) == len(self.rows):
            self._shrink()
        self.rows[int(self.filled)] = direction
        self.filled += 1

    def _shrink(self) -> None:
        _, S, Vh = torch.linalg.svd(self.rows, full_matrices=False)
        S = (S.square() - S[CORE].square()).clamp(min=0).sqrt()
        self.rows.zero_()
        self.rows[:CORE] = S[:CORE, None] * Vh[:CORE]
        self.filled.fill_(CORE)

    @torch.no_grad()
    def turned(self, core: Tensor, kept: Tensor) -> Tensor:
        """The new rows [24 - m, d] in the places of core [24, d] where `kept` [24] is false."""
        K = core[kept]
        rest = self.rows - self.rows @ K.T @ K
        _, S, Vh = torch.linalg.svd(rest, full_matrices=False)
        top = Vh[1e-4 * S[0] < S][: CORE - len(K)]
        # Householder QR keeps the order: after m columns for K come those for the top directions, then the old core's.
        Q = torch.linalg.qr(torch.cat((K, top, core[~kept])).T).Q.T
        return Q[len(K) : CORE].contiguous()
