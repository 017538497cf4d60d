"""HEST: spectral directions of frozen linear maps, switched per token under one energy envelope.

    y = W0 x + sum over i < 16 of s_i q_state[u_i (v_i^T x)]        (u_i, v_i): top singular vectors of W0 (basis.py)
    p_{l,t} = mean over k of sigma(W h0_t)_k sigma(w_l)_k           h0 = EMBEDDING output: only then is the whole plan
                                                                    there before layer 1 runs, at O((T + L) k)
    o_{l,t,i,state} = beta_state kappa logit(p_{l,t}) + b_{l,i,state}      states (off, int8, fp16), beta = (-1, 0, 1)
Training: Gumbel-softmax over the states, straight through (states.py). The energy E of a batch is the mean over its
prompt tokens of sum p_state c_state, p = softmax(o); it is held near the envelope by dual ascent after every step:
    loss + lambda (E / E_max - 1)        lambda <- max(0, lambda + alpha (E / E_max - 1))
Hardened: edgeadapt.energy.planner, the same lines as on the device; prompt tokens share their budget, every later token
has its own. The plan's bound holds by construction; training's lambda only makes it cheap to keep.

variants   default            as above
           no-layer-score     sigma(w_l) = 1: tokens alone decide
           no-int8            states off and fp16: b_int8 = -30,000
           soft-budget        no envelope at run time: every direction takes its best state, whatever it costs

methods.md leaves the controller's start open: W ~ N(0, 1/d), w_l = 2 (p about 0.44), b = (0, 1, 2): most directions
begin in fp16, at about 0.6 of the energy, and have to earn nothing before they learn; s = 0 changes nothing.
Trained: s, W, w, b (fp32). Stored by module: U [L, 16, d_out], V [L, 16, d_in], b [L, 16, 3] fp16; s [L, 16] fp32;
and W [k, d], G = sigma(w) [L, k] fp16.
Bytes: 32 (d_in + d_out) + 64 + 96 per site | 2 k d | 2 L k.
Which directions run depends on the token, so there is no static merge. It is modelled energy that is bounded, not what
a meter shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.energy.costs import PROFILES
from edgeadapt.energy.planner import PlannedSite, Planner
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.rundir import RunDir
from edgeadapt_train.adapters.base import Adapter, Card, Event, Group, Host, Prompt
from edgeadapt_train.adapters.hest.basis import DIRECTIONS, SpectralBasis
from edgeadapt_train.adapters.hest.config import HestConfig
from edgeadapt_train.adapters.hest.embedding_output import EmbeddingOutput
from edgeadapt_train.adapters.hest.states import gumbel, hard, relaxed, spectral_delta
from edgeadapt_train.adapters.linear_sites import LinearHooks, LinearSite

NEVER = -30_000.0  # within fp16
START = 2.0
BETA = (-1.0, 0.0, 1.0)
OFFSETS = (0.0, 1.0, 2.0)


class Hest(Adapter):
    """See the module's docstring."""

    method = "hest"
    card = Card(
        "y = W x + sum_i s_i q_state[u_i (v_i^T x)], state in off, int8, fp16 per token and direction, within a budget",
        "s, the controller's W and w, the states' offsets b",
        "decoder, planned at run time from the embeddings (SpectralUpdate)",
    )
    price: Tensor
    costs: Tensor
    layer: Tensor

    def __init__(self, config: HestConfig, host: Host, seed: int) -> None:
        super().__init__()
        self.config, self.variant = config, config.variant
        self.basis = SpectralBasis(host, config.modules)
        self.ratio = config.energy_budget * average_of(config.relative_to)
        self.profile = PROFILES[config.device]
        generator = torch.Generator().manual_seed(seed)
        self._noise = torch.Generator().manual_seed(seed + 1)
        count, depth = len(self.basis.sites), self.basis.depth
        W = torch.randn(config.width, host.hidden_size, generator=generator) * host.hidden_size**-0.5
        self.W = nn.Parameter(W)
        self.w = nn.Parameter(torch.full((depth, config.width), START))
        self.b = nn.Parameter(torch.tensor(OFFSETS).repeat(count, DIRECTIONS, 1))
        self.s = nn.Parameter(torch.zeros(count, DIRECTIONS))
        self.register_buffer("price", torch.zeros(()))
        macs = torch.tensor([site.d_in + site.d_out for site in self.basis.sites], dtype=torch.float32)
        costs = torch.stack((torch.zeros_like(macs), macs * self.profile.int8, macs * self.profile.wide), dim=1)
        self.register_buffer("costs", costs[:, None], persistent=False)  # [sites, 1, 3], femtojoules
        self.register_buffer("layer", torch.tensor([site.layer for site in self.basis.sites]), persistent=False)
        self._hooks = LinearHooks(self.basis.sites, self._delta)
        self._embedding = EmbeddingOutput(host, self._see)
        self._prompt: Prompt | None = None
        self._gates: Tensor | None = None  # [B, T, sites, 16, 3]
        self._excess: Tensor | None = None
        self._hard: dict[str, Tensor] | None = None
        self._planner: Planner | None = None

    def attach(self) -> None:
        self._embedding.attach()
        self._hooks.attach()

    def detach(self) -> None:
        self._embedding.detach()
        self._hooks.detach()

    def groups(self) -> list[Group]:
        layers = () if self.variant == "no-layer-score" else (("w", self.w),)
        return [
            Group("scales", (("s", self.s),), self.config.scale_lr_scale),
            Group("controller", (("W", self.W), *layers, ("b", self.b)), self.config.controller_lr_scale),
        ]

    def begin_task(self, index: int) -> list[Event]:
        self.requires_grad_(True)
        self.w.requires_grad_(self.variant != "no-layer-score")
        return []

    @contextmanager
    def conditioned(self, prompt: Prompt) -> Iterator[None]:
        self._prompt = prompt
        try:
            yield
        finally:
            self._prompt = self._gates = None

    def layer_part(self) -> Tensor:
        """G [L, k]."""
        return torch.ones_like(self.w) if self.variant == "no-layer-score" else torch.sigmoid(self.w)

    def offsets(self) -> Tensor:
        """b [sites, 16, 3], the int8 state shut in the variant that has none."""
        if self.variant != "no-int8":
            return self.b
        shut = torch.tensor([0.0, 1.0, 0.0], device=self.b.device)
        return self.b * (1 - shut) + NEVER * shut

    def utilities(self, h0: Tensor) -> Tensor:
        """o [B, T, sites, 16, 3] of embeddings [B, T, d]."""
        p = (torch.sigmoid(h0 @ self.W.T) @ self.layer_part().T / self.config.width).clamp(1e-6, 1 - 1e-6)
        z = self.config.kappa * torch.logit(p)[..., self.layer]
        beta = torch.tensor(BETA, device=z.device)
        return z[..., None, None] * beta + self.offsets()

    def energy(self, utilities: Tensor, mask: Tensor) -> Tensor:
        """Expected direction energy per token, as a share of the all-fp16 plan's; mask [B, T]."""
        spent = (torch.softmax(utilities, dim=-1) * self.costs).sum(dim=(-3, -2, -1))
        full = DIRECTIONS * self.costs[..., 2].sum()
        return (spent * mask).sum() / mask.sum() / full

    def penalty(self) -> Tensor | None:
        return None if self._excess is None else self.price * self._excess

    def after_step(self, optimiser: torch.optim.Optimizer, step: int) -> list[Event]:
        if self._excess is None:
            return []
        excess = float(self._excess.detach())
        self.price.copy_((self.price + self.config.dual_step * excess).clamp_min(0))
        energy = (excess + 1) * self.ratio
        return [{"event": "energy", "source": "modelled", "step": step, "share": energy, "price": float(self.price)}]

    def _see(self, h0: Tensor) -> None:
        """Choose the states of the tokens that enter the first block."""
        assert self._prompt is not None, "the host's forward pass runs inside `conditioned`"
        embeddings = h0.detach().float()
        whole = embeddings.shape[:2] == self._prompt.mask.shape
        mask = self._prompt.mask if whole else torch.zeros(embeddings.shape[:2], device=h0.device)
        if self._planner is not None:
            states = plan_batch(self._planner, embeddings.cpu().numpy(), mask.cpu().numpy().astype(bool))
            shaped = torch.from_numpy(states).to(h0.device).long().unflatten(-1, (-1, DIRECTIONS))
            self._gates = nn.functional.one_hot(shaped, 3).float()
            return
        utilities = self.utilities(embeddings)
        noise = gumbel(tuple(utilities.shape), self._noise).to(h0.device)
        self._gates = hard(relaxed(utilities, noise, self.config.temperature))
        counted = mask.float() if whole else torch.ones_like(mask)
        self._excess = self.energy(utilities, counted) / self.ratio - 1

    def _delta(self, site: LinearSite, x: Tensor) -> Tensor:
        assert self._gates is not None, "the host's first block runs first"
        at = self.basis.place[site.layer, site.name]
        U, V = self.basis.of(site)
        s = self.s[at] if self._hard is None else self._hard["s"][at]
        return spectral_delta(x.float(), U, V, s, *self._gates[:, :, at, :, 1:].unbind(-1))

    def planner(self) -> Planner:
        """The plans of the stored form."""
        sites = [PlannedSite(site.layer, site.d_in, site.d_out) for site in self.basis.sites]
        W, G, b = (part.detach().half().cpu().numpy() for part in (self.W, self.layer_part(), self.offsets()))
        ratio = None if self.variant == "soft-budget" else self.ratio
        return Planner(sites, W, G, b, kappa=self.config.kappa, profile=self.profile, ratio=ratio)

    @contextmanager
    def hardened(self) -> Iterator[None]:
        before = self._planner, self._hard
        with torch.no_grad():
            self._planner, self._hard = self.planner(), {"s": self.s.detach().clone()}
            try:
                yield
            finally:
                self._planner, self._hard = before

    def deployed(self) -> dict[str, np.ndarray]:
        depth, names = self.basis.depth, self.basis.names
        tensors: dict[str, Tensor] = {"W": self.W.half(), "G": self.layer_part().half()}
        by_module = {"b": self.offsets().half(), "s": self.s}
        for part, value in by_module.items():
            stacked = value.unflatten(0, (depth, len(names)))  # sites by layer, then by module
            tensors |= {f"{name}.{part}": stacked[:, at] for at, name in enumerate(names)}
        for name in names:
            tensors |= {f"{name}.U": self.basis.written(name), f"{name}.V": self.basis.read(name)}
        return {name: np.ascontiguousarray(value.detach().cpu().numpy()) for name, value in tensors.items()}

    def sites(self) -> dict[str, Any]:
        return {
            "kind": "spectral",
            "modules": list(self.basis.names),
            "layers": list(range(self.basis.depth)),
            "directions": DIRECTIONS,
            "kappa": self.config.kappa,
            "energy_budget": None if self.variant == "soft-budget" else self.ratio,
        }

    def byte_terms(self) -> dict[str, int]:
        count = len(self.basis.sites)
        return {
            "basis": self.basis.bytes,
            "scales": 4 * DIRECTIONS * count,
            "offsets": 2 * 3 * DIRECTIONS * count,
            "controller": 2 * self.config.width * (self.W.shape[1] + self.basis.depth),
        }

    def own_state(self) -> dict[str, Tensor]:
        return {**super().own_state(), "noise": self._noise.get_state()}

    def load_own_state(self, tensors: Mapping[str, Tensor]) -> None:
        rest = dict(tensors)
        if "noise" not in rest:
            raise EdgeAdaptError("checkpoint does not fit adapter hest: it has no noise")
        self._noise.set_state(rest.pop("noise").to(torch.uint8))
        super().load_own_state(rest)


def plan_batch(planner: Planner, h0: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """States uint8 [B, T, J]: in every row the tokens of the mask share a plan, the others have one each."""
    states = np.zeros((*mask.shape, len(planner.macs)), np.uint8)
    for row, chosen in enumerate(mask):
        if chosen.any():
            states[row, chosen] = planner.plan(h0[row, chosen]).states
        states[row, ~chosen] = planner.each(h0[row, ~chosen])
    return states


def average_of(run: str | None) -> float:
    """What a run of TABS spends on average, as a share of its all-on plan; 1 without a run."""
    if run is None:
        return 1.0
    manifest = RunDir.open(Path(run)).adapter
    if manifest.method != "tabs" or not isinstance(manifest.sites.get("mean_gate"), float):
        raise EdgeAdaptError(f"adapter.relative_to={run}: is a run of {manifest.method}; give one of tabs")
    return float(manifest.sites["mean_gate"])
