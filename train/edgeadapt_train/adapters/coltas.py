"""COLTAS: one LoRA for all tasks; each learns a pair of its own, away from what is there, and is folded in.

    y = W x + B~ A~ x + s B_t A_t x            s = alpha / r,  A_t [r, d_in] Kaiming-uniform, B_t [d_out, r] = 0
    loss + eta * mean over sites of sum |A~ A_t^T|                   A~, B~ hold what past tasks learnt and do not move
    end of a task, `truncate`   B~ A~ <- the best rank-r approximation of B~ A~ + s B_t A_t     (truncated SVD)
                   `keep`       A~ <- [A~; A_t],  B~ <- [B~, s B_t]: nothing is lost and the rank grows (O-LoRA)

The name comes from a research design; this text is the definition we build. The penalty and `keep` are those of O-LoRA
(Wang et al. 2023), which sums over sites where we take the mean: its gradient would outweigh the task's at 60 sites.
After an SVD, A~'s rows are orthonormal and B~ carries the sizes. The share of the energy ||B~ A~ + s B_t A_t||^2 that a
truncation discards is logged: what past tasks lose, and there is no bound on it.

Trained: A_t, B_t of the current task, fp32. Stored per site: A^T [d_in, R] and B^T [R, d_out], fp16, in LoRA's format,
R = r (truncate) or r times the tasks so far (keep); while a task is being learnt its pair is in it.
Bytes: sum over sites of 2 R (d_in + d_out). `keep` holds MOST_TASKS tasks; its budget is that many pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Card, Event, GradientBatches, Host
from edgeadapt_train.adapters.low_rank import Factors, by_layer, check_modules
from edgeadapt_train.adapters.task_pairs import MOST_TASKS, TaskPairs


@dataclass(frozen=True)
class ColtasConfig:
    """Rank r, alpha, what happens at a task's end, and the penalty's weight eta."""

    rank: int = 8
    alpha: int = 16
    merge: Literal["truncate", "keep"] = "truncate"
    eta: float = 0.5
    modules: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise EdgeAdaptError(f"adapter.alpha={self.alpha}: give a positive number")
        if self.eta < 0:
            raise EdgeAdaptError(f"adapter.eta={self.eta}: give 0 (no penalty) or more")
        check_modules(self.modules)


class Coltas(TaskPairs):
    """See the module's docstring. By module name: A_t [L, r, d_in], B_t [L, d_out, r]; past_A, past_B likewise."""

    method = "coltas"
    card = Card(
        "y = W x + B A x + s B_t A_t x, |A A_t^T| small; then B A <- rank-8 SVD of the sum (or all pairs kept)",
        "the current task's A_t and B_t",
        "decoder, as inputs in fp32, fp16 or int8 (LowRankUpdate), or merged",
    )

    begun: Tensor

    def __init__(self, config: ColtasConfig, host: Host, seed: int) -> None:
        super().__init__(host, config.modules, config.rank, config.alpha, seed)
        self.config, self.variant = config, _VARIANTS[config.merge]
        if config.merge == "keep":
            self.budget = MOST_TASKS * sum(self._pair_bytes().values())
        start = config.rank if config.merge == "truncate" else 0
        for name, (d_in, d_out) in self.widths.items():
            self._set_past(name, torch.zeros(self.depth, start, d_in), torch.zeros(self.depth, d_out, start))
        self.register_buffer("begun", torch.tensor(False))  # a task's own pair is being learnt

    def begin_task(self, index: int) -> list[Event]:
        if not 0 <= index < MOST_TASKS:
            raise EdgeAdaptError(f"task {index}: coltas takes at most {MOST_TASKS} tasks")
        self._draw(index)
        self.begun.fill_(True)
        return super().begin_task(index)

    def trained(self) -> Factors:
        made = {}
        for name in self.widths:
            past_A, past_B = self._past(name)
            A = torch.cat((past_A, self.A[name]), dim=1)
            B = torch.cat((past_B, self.scale * self.B[name]), dim=2)
            made[name] = (A.transpose(1, 2), B.transpose(1, 2))
        return by_layer(made)

    def penalty(self) -> Tensor | None:
        """eta times the mean over sites of sum |A~ A_t^T|."""
        sums = [(self._past(name)[0] @ A.transpose(1, 2)).abs().sum(dim=(1, 2)) for name, A in self.A.items()]
        return self.config.eta * torch.cat(sums).mean() if self.config.eta else None

    @torch.no_grad()
    def _folded(self) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float]]:
        """(A~, B~) with the current pair in them, by module name; the share of energy that was discarded."""
        made, lost = {}, {}
        for name in self.widths:
            A, B = self._past(name)
            if not bool(self.begun):
                made[name] = (A, B)
                continue
            A = torch.cat((A, self.A[name]), dim=1)
            B = torch.cat((B, self.scale * self.B[name]), dim=2)
            if self.config.merge == "truncate":
                A, B, lost[name] = truncated(A, B, self.rank)
            made[name] = (A, B)
        return made, lost

    def end_task(self, index: int, gradients: GradientBatches) -> list[Event]:
        folded, lost = self._folded()
        for name, (A, B) in folded.items():
            self._set_past(name, A, B)
        self._draw(index + 1)
        self.begun.fill_(False)
        return [{"event": "fold", "task": index, "discarded_energy": lost}]

    def _files(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A^T [L, d_in, R] and B^T [L, R, d_out] by module name, fp16, on the CPU."""
        return {
            name: (A.transpose(1, 2).cpu().half(), B.transpose(1, 2).cpu().half())
            for name, (A, B) in self._folded()[0].items()
        }

    def stored(self) -> Factors:
        place = self.begun.device
        return by_layer({n: (A.float().to(place), B.float().to(place)) for n, (A, B) in self._files().items()})

    def deployed(self) -> dict[str, np.ndarray]:
        made = {}
        for (layer, name), (A, B) in by_layer(self._files()).items():
            made[f"layers.{layer}.{name}.A"] = A.contiguous().numpy()
            made[f"layers.{layer}.{name}.B"] = B.contiguous().numpy()
        return made

    def _stored_rank(self) -> int:
        if self.config.merge == "truncate":
            return self.rank
        past = self._past(next(iter(self.widths)))[0].shape[1]
        return past + (self.rank if bool(self.begun) else 0)

    def sites(self) -> dict[str, object]:
        return {**super().sites(), "rank": self._stored_rank()}

    def byte_terms(self) -> dict[str, int]:
        return {name: 2 * self.depth * self._stored_rank() * sum(widths) for name, widths in self.widths.items()}


_VARIANTS = {"truncate": "default", "keep": "keep"}


def truncated(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """A [L, R, d_in], B [L, d_out, R] -> A' [L, rank, d_in], B' [L, d_out, rank], the best approximation of B A.

    QR of both factors, then the SVD of an R x R core, in float64: A' = V^T (orthonormal rows), B' = U S. Also the share
    of the energy sum ||B A||^2 that is discarded (0 where there is none).
    """
    left, right = torch.linalg.qr(B.double()), torch.linalg.qr(A.double().transpose(1, 2))
    U, S, Vh = torch.linalg.svd(left.R @ right.R.transpose(1, 2))
    whole, kept = float(S.square().sum()), float(S[:, :rank].square().sum())
    down = Vh[:, :rank] @ right.Q.transpose(1, 2)
    up = left.Q @ (U[:, :, :rank] * S[:, None, :rank])
    return down.to(A.dtype), up.to(B.dtype), 1 - kept / whole if whole else 0.0
