"""The router: which atoms a token mixes in a block, from what enters the block (ops/atom_route.py, differentiable).

    u       = h / ||h||                                     h [B, T, d], the block's input
    s       = keys (sqrt(d) W_r B_d^T u + E_t)              s [B, T, 128]; W_r [16, 256], keys [16, 128], E [32, 16]
    index   = the k largest s;  weight = softmax over them
    count   = 1 / sum_m p_m^2,  p = softmax(s) over all atoms: 1 when one has all the mass, 128 when all are equal.
              Its mean over tokens and blocks is the soft count that lambda_F weighs
One set of weights for all blocks, so that it fits hosts of any depth; evaluated in each. In a host's own width
(SAT-LoRA) B_d is the identity and W_r [16, d].

Deviation: the design scores h itself. The residual stream of a decoder grows with depth (SmolLM2-135M, one sentence:
root mean square 0.11 where the first block begins, 31 where the last one does, and 987 in the first token from block 12
on) and differs between models, so that softmax and E would mean something else in every block and on every host. Hence
the direction of h at a fixed length, sqrt(d); an encoder's block input, which a LayerNorm wrote, is about that long.

What a task has of its own: its row of E (only that row moves while the task is learnt). Everything else is shared.
Stored: W_r and keys int8 per row, E int8 in units of 1/32. Bytes 16 * 256 + 32, 16 * 128 + 32, 512.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.codecs import int8
from edgeadapt_train.adapters.unihyper.config import ATOMS, ROUTER_WIDTH, TASK_UNIT, TASKS
from edgeadapt_train.adapters.unihyper.rounding import fixed, int8_rows


@dataclass(frozen=True)
class Routing:
    """What one forward needs: W [d, 16], keys [16, 128], bias [B, 1, 128]."""

    W: Tensor
    keys: Tensor
    bias: Tensor

    def scores(self, h: Tensor) -> Tensor:
        """s [B, T, 128]."""
        return torch.nn.functional.normalize(h, dim=-1, eps=1e-30) @ self.W @ self.keys + self.bias


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(index [..., k], weight [..., k])."""
    best, index = scores.topk(k, dim=-1)
    return index, torch.softmax(best, dim=-1)


def soft_count(scores: Tensor) -> Tensor:
    """Mean of 1 / sum_m p_m^2, a scalar in [1, M]."""
    return (1 / torch.softmax(scores, dim=-1).square().sum(dim=-1)).mean()


class Router(nn.Module):
    """W_r [16, width], keys and the task table; `width` is 256, or the host's."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(ROUTER_WIDTH, width, generator=generator) / width**0.5)
        self.keys = nn.Parameter(torch.randn(ROUTER_WIDTH, ATOMS, generator=generator) / ROUTER_WIDTH**0.5)
        self.tasks = nn.Parameter(torch.randn(TASKS, ROUTER_WIDTH, generator=generator).clamp(-3.9, 3.9))

    def routing(self, task: Tensor, basis: Tensor | None, d: int) -> Routing:
        """For sequences of these tasks [B], on a host of width d with this B_d (None: W_r is as wide as the host)."""
        weight, keys = int8_rows(self.weight), int8_rows(self.keys)
        folded = weight.T if basis is None else basis @ weight.T[: basis.shape[1]]
        return Routing(d**0.5 * folded, keys, (fixed(self.tasks, TASK_UNIT)[task] @ keys)[:, None])

    def hold_other_tasks(self, current: int) -> None:
        """Clear the gradients of all rows of E but the current task's."""
        gradient = self.tasks.grad
        if gradient is not None:
            kept = gradient[current].clone()
            gradient.zero_()
            gradient[current] = kept

    def to_file(self) -> dict[str, np.ndarray]:
        weight, keys = (int8.quantise(item.detach().cpu().numpy()) for item in (self.weight, self.keys))
        codes = np.clip(np.rint(self.tasks.detach().cpu().numpy() / TASK_UNIT), -127, 127).astype(np.int8)
        return {
            "router": weight.codes,
            "router_scales": weight.scales,
            "keys": keys.codes,
            "keys_scales": keys.scales,
            "tasks": codes,
        }

    def byte_terms(self) -> dict[str, int]:
        return {
            "router": ROUTER_WIDTH * self.weight.shape[1],
            "keys": ROUTER_WIDTH * ATOMS,
            "router_scales": 2 * 2 * ROUTER_WIDTH,
            "task_table": TASKS * ROUTER_WIDTH,
        }
