"""HIMALAYA's two tiers of atoms: what they are while training, and what is stored.

    C  [24, d]   core: orthonormal rows, Q of the QR decomposition of a Gaussian (transposed); fixed
    E  [16, d]   elastic: unit rows, trained where the slot is active and not protected
    Q(x)         3-bit codec, then one fp16 gain that restores ||Q(x)|| = 1          (edgeadapt.codecs.three_bit)
    D  = [ Q(C) ; active * (E + beta (Q(E) - E)) ]                                   beta: 0 -> 1 through a task
    G  = D D^T                                                                        Gram matrix, [40, 40]

Annealed rounding: beta mixes the rounded atoms in, with the gradient passing straight through to E; at beta = 1
training sees exactly what ships. A protected row (a past task relies on it) is at its stored value always. When d < 24
the core has only d orthogonal directions; its further rows are independent unit Gaussians (tiny test models only).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.codecs import three_bit
from edgeadapt.errors import CheckFailed
from edgeadapt_train.adapters.himalaya.config import ATOMS, CORE, ELASTIC


def stored_atoms(atoms: Tensor) -> tuple[three_bit.ThreeBit, np.ndarray]:
    """Rows [n, d] -> 3-bit rows and their fp16 gains."""
    quantised = three_bit.quantise(atoms.detach().cpu().numpy())
    return quantised, three_bit.unit_gains(quantised)


def rounded(atoms: Tensor) -> Tensor:
    """Q: rows [n, d] -> what the device will see of them, float32 [n, d], no gradient."""
    quantised, gains = stored_atoms(atoms)
    values = three_bit.dequantise(quantised) * gains.astype(np.float32)[:, None]
    return torch.from_numpy(values).to(atoms.device)


class Dictionary(nn.Module):
    """Atoms, which slots are active, and which may be trained."""

    core: Tensor
    core_stored: Tensor
    active: Tensor
    protected: Tensor
    usage: Tensor
    born: Tensor

    def __init__(self, hidden_size: int, initial_active: int, generator: torch.Generator) -> None:
        super().__init__()
        gaussian = torch.randn(hidden_size, CORE, generator=generator)
        core = torch.nn.functional.normalize(gaussian.T, dim=1)
        orthogonal = torch.linalg.qr(gaussian).Q.T
        core[: len(orthogonal)] = orthogonal
        self.register_buffer("core", core.contiguous())
        self.register_buffer("core_stored", rounded(core))
        elastic = torch.nn.functional.normalize(torch.randn(ELASTIC, hidden_size, generator=generator), dim=1)
        self.elastic = nn.Parameter(elastic)
        self.register_buffer("active", torch.arange(ELASTIC) < initial_active)
        self.register_buffer("protected", torch.zeros(ELASTIC, dtype=torch.bool))
        self.register_buffer("usage", torch.zeros(ELASTIC))
        self.register_buffer("born", torch.zeros(ELASTIC, dtype=torch.int64))

    def open_slots(self) -> Tensor:
        """Bool [40]: atoms that a gate may open."""
        return torch.cat((torch.ones(CORE, dtype=torch.bool, device=self.active.device), self.active))

    def trained(self, beta: float) -> Tensor:
        """D [40, d] for a training step; gradients reach active, unprotected rows of E only."""
        stored = rounded(self.elastic)
        mixed = self.elastic + beta * (stored - self.elastic.detach())
        elastic = torch.where(self.protected[:, None], stored, mixed) * self.active[:, None]
        return torch.cat((self.core_stored, elastic))

    def stored(self) -> Tensor:
        """D [40, d] as it ships."""
        return torch.cat((self.core_stored, rounded(self.elastic) * self.active[:, None]))

    def mask_gradient(self) -> None:
        """No gradient for rows that must not move."""
        if self.elastic.grad is not None:
            self.elastic.grad[self.protected | ~self.active] = 0

    @torch.no_grad()
    def renormalise(self) -> None:
        """Unit rows again, after an optimiser step; a protected row keeps its bits."""
        free = ~self.protected & self.active
        self.elastic[free] = torch.nn.functional.normalize(self.elastic[free], dim=1)

    @torch.no_grad()
    def place(self, slot: int, atom: Tensor, step: int) -> None:
        """Put a unit atom into a slot: active, unprotected, its usage the mean of the others'."""
        others = self.active.clone()
        others[slot] = False
        self.elastic[slot] = torch.nn.functional.normalize(atom, dim=0)
        self.usage[slot] = self.usage[others].mean() if bool(others.any()) else 0.0
        self.active[slot], self.protected[slot], self.born[slot] = True, False, step

    def to_file(self) -> dict[str, np.ndarray]:
        """atoms uint8 [40, 3d/8], atom_scales f16 [40, ceil(d/64)], atom_gains f16 [40] (0: an inactive slot).

        Raises CheckFailed when an active atom's stored norm is further than 1e-3 from 1.
        """
        quantised, gains = stored_atoms(torch.cat((self.core, self.elastic)))
        gains = np.where(self.open_slots().cpu().numpy(), gains, np.float16(0))
        norms = np.linalg.norm(three_bit.dequantise(quantised) * gains.astype(np.float32)[:, None], axis=1)
        worst = float(np.abs(norms[gains > 0] - 1).max())
        if not worst <= 1e-3:
            raise CheckFailed(f"stored atoms: a norm is off by {worst:.2e}; 1e-3 is allowed. Train with a smaller lr")
        assert len(gains) == ATOMS
        return {"atoms": quantised.packed, "atom_scales": quantised.scales, "atom_gains": gains}
