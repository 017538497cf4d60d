"""BHSP: the same spectral directions behind static gates, kept by importance under a global budget.

    y = W0 x + sum over i < 16 of m_i s_i u_i (v_i^T x)             (u_i, v_i) as HEST's (basis.py), m_i in {0, 1}
    importance I_i = |s_i| * G_i        G <- smoothing G + (1 - smoothing) |dL/ds|, per step
    budget     share of the directions' multiply-adds that may stay, t = progress through the task (AdaLoRA's schedule):
               1 for t < warm;  keep + (1 - keep) (1 - (t - warm) / (settled - warm))^3;  keep for t >= settled
    m          after every step: the most important directions of all sites, in (importance, index) order, while their
               multiply-adds fit; what is left out has s_i = 0 and goes on learning, as in AdaLoRA (Zhang et al. 2023)

There is nothing to draw: the seed changes nothing.
Trained: s [sites, 16]. Stored per site: A = V^T [d_in, 16] and B = m s U [16, d_out], fp16, as LoRA's.
Bytes: 32 (d_in + d_out) per site. A static merge exists: W' = W0 + U^T diag(m s) V.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt_train.adapters.base import Card, Event, Group, Host
from edgeadapt_train.adapters.hest.basis import DIRECTIONS, SpectralBasis
from edgeadapt_train.adapters.hest.config import BhspConfig
from edgeadapt_train.adapters.low_rank import Factors, LowRank


class Bhsp(LowRank):
    """See the module's docstring."""

    method = "bhsp"
    card = Card(
        "y = W x + sum_i m_i s_i u_i (v_i^T x), m_i kept by |s| EMA|grad| under a global budget",
        "s",
        "decoder, as inputs in fp32, fp16 or int8 (LowRankUpdate), or merged",
    )
    gradient: Tensor
    macs: Tensor

    def __init__(self, config: BhspConfig, host: Host, seed: int) -> None:
        super().__init__(host, config.modules, DIRECTIONS)
        self.config = config
        self.basis = SpectralBasis(host, config.modules)
        count = len(self.basis.sites)
        self.s = nn.Parameter(torch.zeros(count, DIRECTIONS))
        self.register_buffer("gradient", torch.zeros(count, DIRECTIONS))
        macs = torch.tensor([site.d_in + site.d_out for site in self.basis.sites])
        self.register_buffer("macs", macs[:, None].expand(count, DIRECTIONS).contiguous(), persistent=False)
        self._progress = 0.0

    def groups(self) -> list[Group]:
        return [Group("scales", (("s", self.s),), self.config.scale_lr_scale)]

    def schedule(self, progress: float) -> None:
        self._progress = progress

    def budget_share(self, progress: float) -> float:
        """What may stay at this progress through the task."""
        keep, warm, settled = self.config.keep, self.config.warm, self.config.settled
        if progress < warm:
            return 1.0
        if progress >= settled:
            return keep
        return keep + (1 - keep) * (1 - (progress - warm) / (settled - warm)) ** 3

    def kept(self, share: float) -> Tensor:
        """m [sites, 16] bool."""
        importance = (self.s.detach().abs() * self.gradient).flatten()
        order = torch.argsort(importance, descending=True, stable=True)
        spent = self.macs.flatten()[order].cumsum(0)
        mask = torch.zeros_like(importance, dtype=torch.bool)
        mask[order[spent <= share * float(self.macs.sum())]] = True
        return mask.view_as(self.s)

    def after_backward(self) -> None:
        if self.s.grad is not None:
            weight = self.config.smoothing
            self.gradient.mul_(weight).add_((1 - weight) * self.s.grad.abs())

    def after_step(self, optimiser: torch.optim.Optimizer, step: int) -> list[Event]:
        share = self.budget_share(self._progress)
        with torch.no_grad():
            self.s.mul_(self.kept(share))
        spent = float((self.macs * (self.s != 0)).sum() / self.macs.sum())
        return [{"event": "energy", "source": "modelled", "step": step, "share": spent}]

    def trained(self) -> Factors:
        return self._factors_of(self.s)

    def stored(self) -> Factors:
        return {key: (A, B.half().float()) for key, (A, B) in self._factors_of(self.s.detach()).items()}

    def _factors_of(self, s: Tensor) -> Factors:
        made = {}
        for at, site in enumerate(self.basis.sites):
            U, V = self.basis.of(site)
            made[site.layer, site.name] = (V.T, s[at][:, None] * U)
        return made

    def deployed(self) -> dict[str, np.ndarray]:
        tensors: dict[str, np.ndarray] = {}
        for (layer, name), pair in self.stored().items():
            for part, value in zip("AB", pair, strict=True):
                tensors[f"layers.{layer}.{name}.{part}"] = value.half().cpu().contiguous().numpy()
        return tensors

    def byte_terms(self) -> dict[str, int]:
        terms = dict.fromkeys(self.widths, 0)
        for site in self.basis.sites:
            terms[site.name] += 2 * DIRECTIONS * (site.d_in + site.d_out)
        return terms
