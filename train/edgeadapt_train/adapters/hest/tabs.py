"""TABS: the same spectral directions, switched by gates per layer and token under a soft penalty; fp16 only.

    y = W0 x + g_{l,t} sum over i < 16 of s_i u_i (v_i^T x)         (u_i, v_i) as HEST's (basis.py)
    log alpha = a_l^T h + c_l                                       h: what the layer's q, k and v read (normalised h_l)
    training    g = clip(sigma((log alpha + logistic noise) / tau) (zeta - gamma) + gamma, 0, 1)        hard concrete
    afterwards  g = clip(sigma(log alpha) (zeta - gamma) + gamma, 0, 1)
    penalty     lambda * mean over examples of max(0, mean over its prompt tokens and layers of P(g > 0) - target),
                P(g > 0) = sigma(log alpha - tau log(-gamma / zeta))
(Louizos et al. 2018 for the gates.) The gate needs h_l, so there is no plan before layer l runs, and no bound.

`mean_gate`, in adapter.json, is the running mean of g over prompt tokens and layers while training: the average
spending that HEST's `relative_to` counts in, as a share of the all-on plan.
Trained: s [sites, 16], a [L, d], c [L]. Stored by module: V [L, 16, d_in], B = s U [L, 16, d_out]; a, c; all fp16.
Bytes: 32 (d_in + d_out) per site | 2 L (d + 1). The gate depends on the token, so there is no static merge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Adapter, Card, Event, Group, Host, Prompt
from edgeadapt_train.adapters.hest.basis import DIRECTIONS, SpectralBasis
from edgeadapt_train.adapters.hest.config import TabsConfig
from edgeadapt_train.adapters.hest.embedding_output import EmbeddingOutput
from edgeadapt_train.adapters.linear_sites import LinearHooks, LinearSite

OPEN = 2.0
SMOOTHING = 0.95


class Tabs(Adapter):
    """See the module's docstring."""

    method = "tabs"
    recomputable = False  # its gates draw noise inside of the blocks
    card = Card(
        "y = W x + g_t sum_i s_i u_i (v_i^T x), g_t a hard-concrete gate of the layer's input",
        "s, the gates' a and c",
        "decoder, gates in the graph (LowRankUpdate)",
    )
    mean_gate: Tensor

    def __init__(self, config: TabsConfig, host: Host, seed: int) -> None:
        super().__init__()
        self.config = config
        self.basis = SpectralBasis(host, config.modules)
        self._noise = torch.Generator().manual_seed(seed)
        depth, width = self.basis.depth, self.basis.sites[0].d_in
        self.s = nn.Parameter(torch.zeros(len(self.basis.sites), DIRECTIONS))
        self.a = nn.Parameter(torch.zeros(depth, width))
        self.c = nn.Parameter(torch.full((depth,), OPEN))
        self.register_buffer("mean_gate", torch.ones(()))
        self._hooks = LinearHooks(self.basis.sites, self._delta)
        self._embedding = EmbeddingOutput(host, self._begin)
        self._prompt: Prompt | None = None
        self._gates: dict[int, Tensor] = {}  # by layer, of the forward pass at hand
        self._open: list[Tensor] = []  # P(g > 0) of every layer, [B, T]
        self._penalty: Tensor | None = None
        self._hard: dict[str, Tensor] | None = None

    def attach(self) -> None:
        self._embedding.attach()
        self._hooks.attach()

    def detach(self) -> None:
        self._embedding.detach()
        self._hooks.detach()

    def groups(self) -> list[Group]:
        return [
            Group("scales", (("s", self.s),), self.config.scale_lr_scale),
            Group("gates", (("a", self.a), ("c", self.c)), self.config.gate_lr_scale),
        ]

    def begin_task(self, index: int) -> list[Event]:
        self.requires_grad_(True)
        return []

    @contextmanager
    def conditioned(self, prompt: Prompt) -> Iterator[None]:
        self._prompt = prompt
        try:
            yield
            self._account()
        finally:
            self._prompt, self._gates, self._open = None, {}, []

    def penalty(self) -> Tensor | None:
        self._account()
        return self._penalty

    def after_step(self, optimiser: torch.optim.Optimizer, step: int) -> list[Event]:
        return [{"event": "energy", "source": "modelled", "step": step, "share": float(self.mean_gate)}]

    def log_alpha(self, layer: int, h: Tensor) -> Tensor:
        """[B, T] of the layer's input [B, T, d]."""
        a, c = (self.a, self.c) if self._hard is None else (self._hard["a"], self._hard["c"])
        return h @ a[layer] + c[layer]

    def stretched(self, share: Tensor) -> Tensor:
        """g of sigma(...)."""
        gamma, zeta = self.config.stretch
        return (share * (zeta - gamma) + gamma).clamp(0, 1)

    def is_open(self, log_alpha: Tensor) -> Tensor:
        """P(g > 0): smooth in log alpha."""
        gamma, zeta = self.config.stretch
        return torch.sigmoid(log_alpha - self.config.temperature * math.log(-gamma / zeta))

    def _begin(self, h0: Tensor) -> None:
        self._gates, self._open = {}, []

    def _gate(self, layer: int, h: Tensor) -> Tensor:
        if layer not in self._gates:
            log_alpha = self.log_alpha(layer, h)
            if self._hard is None:
                uniform = torch.rand(log_alpha.shape, generator=self._noise).clamp(1e-6, 1 - 1e-6).to(h.device)
                share = torch.sigmoid((log_alpha + torch.logit(uniform)) / self.config.temperature)
                self._open.append(torch.stack((self.is_open(log_alpha), self.stretched(torch.sigmoid(log_alpha)))))
            else:
                share = torch.sigmoid(log_alpha)
            self._gates[layer] = self.stretched(share)
        return self._gates[layer]

    def _account(self) -> None:
        """Once a forward pass, the penalty and the running mean: of P(g > 0) and the later gate, [L, 2, B, T]."""
        if not self._open or self._prompt is None:
            return
        seen, mask = torch.stack(self._open), self._prompt.mask.float()
        self._open = []
        per_example = (seen * mask).sum(dim=-1) / mask.sum(dim=-1).clamp_min(1)  # [L, 2, B]
        opened, later = per_example.mean(dim=0)
        self._penalty = self.config.flop_penalty * (opened - self.config.flop_target).clamp_min(0).mean()
        self.mean_gate.mul_(SMOOTHING).add_((1 - SMOOTHING) * later.detach().mean())

    def _delta(self, site: LinearSite, x: Tensor) -> Tensor:
        x = x.float()
        U, V = self.basis.of(site)
        s = self.s[self.basis.place[site.layer, site.name]]
        B = s[:, None] * U if self._hard is None else self._hard[f"{site.name}.B"][site.layer]
        return ((self._gate(site.layer, x)[..., None] * x) @ V.T) @ B

    def _stored(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {"a": self.a, "c": self.c}
        scales = self.s.unflatten(0, (self.basis.depth, len(self.basis.names)))  # sites by layer, then by module
        for at, name in enumerate(self.basis.names):
            tensors[f"{name}.V"] = self.basis.read(name)
            tensors[f"{name}.B"] = scales[:, at, :, None] * self.basis.written(name).float()
        return {name: value.detach().half() for name, value in tensors.items()}

    @contextmanager
    def hardened(self) -> Iterator[None]:
        before = self._hard
        with torch.no_grad():
            self._hard = {name: value.float() for name, value in self._stored().items()}
            try:
                yield
            finally:
                self._hard = before

    def deployed(self) -> dict[str, np.ndarray]:
        return {name: np.ascontiguousarray(value.cpu().numpy()) for name, value in self._stored().items()}

    def sites(self) -> dict[str, Any]:
        return {
            "kind": "linear",
            "modules": list(self.basis.names),
            "rank": DIRECTIONS,
            "layers": list(range(self.basis.depth)),
            "stretch": list(self.config.stretch),
            "mean_gate": float(self.mean_gate),
        }

    def byte_terms(self) -> dict[str, int]:
        return {"factors": self.basis.bytes, "gates": 2 * (self.a.numel() + self.c.numel())}

    def own_state(self) -> dict[str, Tensor]:
        return {**super().own_state(), "noise": self._noise.get_state()}

    def load_own_state(self, tensors: Mapping[str, Tensor]) -> None:
        rest = dict(tensors)
        if "noise" not in rest:
            raise EdgeAdaptError("checkpoint does not fit adapter tabs: it has no noise")
        self._noise.set_state(rest.pop("noise").to(torch.uint8))
        super().load_own_state(rest)
