"""HIMALAYA's router and gates: which atoms a sequence uses, and how strongly.

z      = [LN(pool); tasks[t]; 1]         LN without affine, eps 1e-5;  pool [B, d], tasks [32, 16]
[a; c] = W2 [SiLU(W1 z); 1] + row_t      40 gate logits and 40 coefficients; last columns of W1, W2 are b1, b2
training   u ~ logistic,  a~ = a + u
           hard_j = 1 iff slot j is active, a~_j > 0 and j is among the 3 largest a~
           soft_j = sigma(a~_j / T)      binary concrete (Maddison et al. 2017), T: T0 -> 0.1
           gate   = hard, with the gradient of soft (straight through)
inference  gate_j = 1 iff slot j is active, a_j > 0 and j is among the 3 largest a     (ops/himalaya_direction.py)
penalty    max(0, sum_j sigma(a_j) - 3), batch mean
stored     W1, W2 int8 per row with fp16 scales; tasks int8 in units of 1/32
bytes      w (d + 97) + 80 codes, 2 (w + 80) scales, 512 task table
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from edgeadapt.codecs import int8
from edgeadapt_train.adapters.base import Prompt
from edgeadapt_train.adapters.himalaya.config import ATOMS, OPEN, TASK_WIDTH, TASKS, router_width

TASK_UNIT = 1 / 32


@dataclass(frozen=True)
class RouterWeights:
    """W1 [w, d + 17], W2 [80, w + 1], tasks [32, 16]: trained ones or stored ones."""

    w1: Tensor
    w2: Tensor
    tasks: Tensor

    def route(self, pool: Tensor, task: Tensor) -> Tensor:
        """[a; c] without the task's row: float32 [B, 80]."""
        one = pool.new_ones(len(pool), 1)
        z = torch.cat((layer_norm(pool, pool.shape[-1:], eps=1e-5), self.tasks[task], one), dim=1)
        return torch.cat((silu(z @ self.w1.T), one), dim=1) @ self.w2.T


def pooled(prompt: Prompt, how: str) -> Tensor:
    """What the router sees of a prompt, [B, d] float32: the mean of its embedding outputs, or its first token's."""
    embeddings = prompt.embeddings.detach().float()
    if how == "first":
        first = prompt.mask.to(torch.int64).argmax(dim=1)
        return embeddings[torch.arange(len(first), device=first.device), first]
    mask = prompt.mask.to(embeddings.dtype)[:, :, None]
    return (embeddings * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def int8_rows(values: Tensor) -> Tensor:
    """Rows through the int8 codec and back, no gradient."""
    return torch.from_numpy(int8.dequantise(int8.quantise(values.detach().cpu().numpy()))).to(values.device)


def task_codes(tasks: Tensor) -> np.ndarray:
    """The task table in its int8 units."""
    return np.clip(np.rint(tasks.detach().cpu().numpy() / TASK_UNIT), -127, 127).astype(np.int8)


class Router(nn.Module):
    """The shared network H and the task table."""

    def __init__(self, hidden_size: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        width = router_width(hidden_size)
        w1 = torch.randn(width, hidden_size + TASK_WIDTH + 1, generator=generator) / hidden_size**0.5
        w1[:, -1] = 0
        w2 = scale * torch.randn(2 * ATOMS, width + 1, generator=generator) / width**0.5
        w2[:, -1] = 0
        self.w1, self.w2 = nn.Parameter(w1), nn.Parameter(w2)
        self.tasks = nn.Parameter(torch.randn(TASKS, TASK_WIDTH, generator=generator).clamp(-3.9, 3.9))

    def trained(self) -> RouterWeights:
        return RouterWeights(self.w1, self.w2, self.tasks)

    def stored(self) -> RouterWeights:
        table = torch.from_numpy(task_codes(self.tasks).astype(np.float32) * np.float32(TASK_UNIT))
        return RouterWeights(int8_rows(self.w1), int8_rows(self.w2), table.to(self.w1.device))

    def to_file(self) -> dict[str, np.ndarray]:
        w1, w2 = (int8.quantise(item.detach().cpu().numpy()) for item in (self.w1, self.w2))
        return {
            "w1": w1.codes,
            "w1_scales": w1.scales,
            "w2": w2.codes,
            "w2_scales": w2.scales,
            "tasks": task_codes(self.tasks),
        }


def hard_gates(a: Tensor, slots: Tensor) -> Tensor:
    """Open gates, float32 [B, 40]; at most three per row. Equal logits: the smaller index first.

    a [B, 40], slots bool [40]. An inactive slot among the three largest leaves its place empty, as in the op.
    """
    positive = torch.where(a > 0, a, torch.zeros_like(a))
    ranked = positive.argsort(dim=1, descending=True, stable=True)[:, :OPEN]
    chosen = torch.zeros_like(a).scatter_(1, ranked, 1.0)
    return chosen * (a > 0) * slots


def concrete_gates(a: Tensor, slots: Tensor, temperature: float, noise: Tensor) -> Tensor:
    """Training's gates [B, 40]: the hard ones of a + noise, with the gradient of sigma((a + noise) / T)."""
    noisy = a + noise
    soft = torch.sigmoid(noisy / temperature) * slots
    hard = hard_gates(noisy.detach(), slots)
    return hard + soft - soft.detach()


def count_excess(a: Tensor, slots: Tensor) -> Tensor:
    """max(0, expected open gates - 3), mean over the batch."""
    return torch.relu((torch.sigmoid(a) * slots).sum(dim=1) - OPEN).mean()
