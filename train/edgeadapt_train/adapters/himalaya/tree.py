"""HIMALAYA's split tree: a small index over the elastic atoms that proposes which could matter for a hidden state.

    P      [16, d]  orthonormal rows: QR of (seeded Gaussian S [16, 16]) times the atoms, so that span(P) = span(atoms)
    p_j    = P a_j,  q = P h                      <h, a_j> = <q, p_j> exactly, in 16 numbers
    key_j  = <u, p_j>, u a seeded unit vector; ordered thresholds theta_1 < .. < theta_{F-1} cut the keys into F nodes
    node b : centre m_b, radius rho_b of its members;  bound_b(q) = |<q, m_b>| + slack_{b mod 8} rho_b ||q||
             which is an upper bound of |<q, p_j>| in the node when slack = 1
    query  : open nodes by falling bound until the third best found beats the next bound
    soft   : weight of atom j in node b = sigma((key_j - theta_{b-1}) / T) - sigma((key_j - theta_b) / T)
    stored : F - 1 thresholds and 8 slacks, zero-padded to 23 fp16 numbers (F = 4, 8 or 16); 46 bytes

The thresholds are learnt where it costs nothing: `rebuild` starts from equal shares of the keys and takes gradient
steps on the soft spread within the nodes (small radii prune best), then orders them. The design leaves open what the 23
numbers are; this reading is ours. The deployed direction does not need the tree: with 40 atoms the op scores them all.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt_train.adapters.himalaya.config import ELASTIC, OPEN, TREE_NUMBERS

SLACKS = 8


class SplitTree(nn.Module):
    """Thresholds and slacks; everything else is derived from the atoms and the seed."""

    numbers: Tensor

    def __init__(self, fan_out: int, seed: int) -> None:
        super().__init__()
        self.fan_out, self.seed = fan_out, seed
        self.register_buffer("numbers", torch.zeros(TREE_NUMBERS))
        self.numbers[fan_out - 1 : fan_out - 1 + SLACKS] = 1.0

    @property
    def thresholds(self) -> Tensor:
        return self.numbers[: self.fan_out - 1]

    @property
    def slacks(self) -> Tensor:
        return self.numbers[self.fan_out - 1 : self.fan_out - 1 + SLACKS]

    def project(self, atoms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """atoms [16, d] -> P [16, d] (fewer rows where d < 16), p [16, k], keys [16]."""
        generator = torch.Generator().manual_seed(self.seed)
        mixed = torch.randn(ELASTIC, ELASTIC, generator=generator).to(atoms) @ atoms
        P = torch.linalg.qr(mixed.T).Q.T
        points = atoms @ P.T
        axis = torch.randn(points.shape[1], generator=generator).to(atoms)
        return P, points, points @ (axis / axis.norm())

    def soft_membership(self, keys: Tensor, thresholds: Tensor, temperature: float) -> Tensor:
        """[16, F]: rows sum to one."""
        edge = keys.new_full((1,), 1e4)
        cuts = torch.cat((-edge, thresholds, edge))
        below = torch.sigmoid((keys[:, None] - cuts[None, :]) / temperature)
        return below[:, :-1] - below[:, 1:]

    def rebuild(self, atoms: Tensor, steps: int = 20) -> None:
        """Fit the thresholds to atoms [16, d]."""
        with torch.no_grad():
            _, points, keys = self.project(atoms.detach())
            shares = torch.arange(1, self.fan_out, device=keys.device) / self.fan_out
            start = torch.quantile(keys, shares.to(keys))
            spread = float(keys.std()) + 1e-6
        thresholds = start.clone().requires_grad_(True)
        with torch.enable_grad():
            for _ in range(steps):
                member = self.soft_membership(keys, thresholds, 0.1 * spread)
                mass = member.sum(dim=0) + 1e-3
                centres = (member.T @ points) / mass[:, None]
                loss = (member * torch.cdist(points, centres).square()).sum()
                (slope,) = torch.autograd.grad(loss, thresholds)
                thresholds = (thresholds - 0.02 * spread * slope / (slope.norm() + 1e-9)).detach()
                thresholds = thresholds.sort().values.requires_grad_(True)
        self.numbers[: self.fan_out - 1] = thresholds.detach()

    @torch.no_grad()
    def propose(self, atoms: Tensor, active: Tensor, h: Tensor) -> list[int]:
        """Slots that the search looked at for hidden state h [d], best first; holds the three largest |<h, a_j>|."""
        P, points, keys = self.project(atoms)
        q = P @ h
        node = torch.bucketize(keys, self.thresholds)
        bounds: list[tuple[float, list[int]]] = []
        for b in range(self.fan_out):
            members = [j for j in range(ELASTIC) if int(node[j]) == b and bool(active[j])]
            if members:
                centre = points[members].mean(dim=0)
                radius = (points[members] - centre).norm(dim=1).max()
                bounds.append((float((q @ centre).abs() + self.slacks[b % SLACKS] * radius * q.norm()), members))
        found: list[tuple[float, int]] = []
        for bound, members in sorted(bounds, reverse=True):
            best = sorted(found, reverse=True)[:OPEN]
            if len(best) == OPEN and best[-1][0] >= bound:
                break
            found += [(float((q @ points[j]).abs()), j) for j in members]
        return [j for _, j in sorted(found, reverse=True)]

    def to_file(self) -> dict[str, np.ndarray]:
        return {"tree": self.numbers.cpu().numpy().astype(np.float16)}
