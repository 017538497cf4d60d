"""HEST's controller and its plans: from the embeddings of tokens to the state of every direction, before layer 1 runs.

    p_{l,t} = mean over k of sigma(W h0_t)_k G_{l,k}      h0 [T, d] embedding output, W [k, d], G = sigma(w) [L, k]
    z_{l,t} = log p - log(1 - p)                          p clipped to [1e-6, 1 - 1e-6]
    utilities, costs and the allocation: allocation.py

    fixed   = (d + L) k MACs in fp32 for every token: what the controller itself costs, in femtojoules
    e_token = fixed + floor(ratio * the cost of all directions in fp16)
A sequence of T prompt tokens and G declared new ones may spend E_max = (T + G) e_token. The prompt is planned as a
whole
under E_max - G e_token = T e_token, so that its tokens share; each new token then runs the same allocator under
e_token.
What is charged are the directions' and the controller's multiply-adds. Modelled energy, never measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeadapt.energy.allocation import F64, Allocator, Plan
from edgeadapt.energy.costs import DeviceProfile, check_ratio, share
from edgeadapt.errors import EdgeAdaptError

SMALLEST = 1e-6


@dataclass(frozen=True)
class PlannedSite:
    """A linear map of block `layer`, d_in to d_out."""

    layer: int
    d_in: int
    d_out: int


class Planner:
    """Plans of one adapter on one device.

    Args:
        sites: the linear maps, in the order of the plan's directions.
        W: token part of the controller [k, d].
        G: layer part [L, k].
        b: offsets of the states [sites, directions, 3].
        kappa: weight of the scores in the utilities.
        ratio: share of the all-fp16 plan's direction energy that a plan may spend; None: no bound (ablation `soft`).
    """

    def __init__(
        self,
        sites: Sequence[PlannedSite],
        W: NDArray[np.floating],
        G: NDArray[np.floating],
        b: NDArray[np.floating],
        *,
        kappa: float,
        profile: DeviceProfile,
        ratio: float | None,
    ) -> None:
        if ratio is not None:
            check_ratio(ratio)
        if W.ndim != 2 or G.ndim != 2 or G.shape[1] != len(W) or b.ndim != 3 or (len(b), b.shape[2]) != (len(sites), 3):
            raise EdgeAdaptError(
                f"controller: W {W.shape}, G {G.shape} and b {b.shape} of {len(sites)} sites do not fit"
            )
        self.profile, self.ratio, self.layers = profile, ratio, len(G)
        self._W, self._G = W.astype(np.float32), G.astype(np.float32) / np.float32(len(W))
        count = b.shape[1]
        layer = np.repeat(np.array([site.layer for site in sites], np.int64), count)
        if layer.min(initial=0) < 0 or layer.max(initial=0) >= len(G):
            raise EdgeAdaptError(f"controller: a site lies outside the {len(G)} layers")
        self.macs = np.repeat(np.array([site.d_in + site.d_out for site in sites], np.int64), count)
        costs = np.stack([self.macs * profile.int8, self.macs * profile.wide], axis=1)
        self.allocator = Allocator(layer, b.reshape(-1, 3).astype(np.float64), costs, kappa)
        self.fixed: int = (W.shape[1] + len(G)) * len(W) * profile.fp32

    @cached_property
    def token_budget(self) -> int:
        """e_token in femtojoules."""
        full = self.allocator.full_cost
        return self.fixed + (full if self.ratio is None else share(self.ratio, full))

    def scores(self, h0: NDArray[np.float32]) -> F64:
        """z [T, L] of embeddings [T, d]."""
        token = 1 / (1 + np.exp(-(h0 @ self._W.T)))
        p = np.clip((token @ self._G.T).astype(np.float64), SMALLEST, 1 - SMALLEST)
        return np.asarray(np.log(p / (1 - p)))

    def plan(self, h0: NDArray[np.float32], budget: int | None = None) -> Plan:
        """One plan for tokens [T, d] that share their budget: T e_token, or E_max given.

        Raises BudgetInfeasibleError where E_max does not even pay for the controller.
        """
        limit = len(h0) * self.token_budget if budget is None else budget
        return self.allocator.allocate(self.scores(h0), limit - len(h0) * self.fixed)

    def each(self, h0: NDArray[np.float32]) -> NDArray[np.uint8]:
        """States [T, J] of new tokens, every one under e_token."""
        plans = [self.plan(h0[at : at + 1]).states for at in range(len(h0))]
        return np.concatenate(plans) if plans else np.zeros((0, len(self.macs)), np.uint8)

    def counts(self, states: NDArray[np.uint8]) -> tuple[int, int]:
        """Multiply-adds of states [T, J] in int8 and in fp16."""
        return int(((states == 1) * self.macs).sum()), int(((states == 2) * self.macs).sum())

    def energy(self, counts: tuple[int, int], tokens: int) -> int:
        """Femtojoules of so many multiply-adds in int8 and fp16, and of the controller."""
        return counts[0] * self.profile.int8 + counts[1] * self.profile.wide + tokens * self.fixed
