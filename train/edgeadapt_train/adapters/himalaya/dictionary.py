"""HIMALAYA's two tiers of atoms: what they are while training, and what is stored.

    C  [24, d]   core: orthonormal rows, Q of the QR decomposition of a Gaussian (transposed); fixed
    E  [16, d]   elastic: unit rows, trained where the slot is active and not protected
    E_w [16, d]  atoms=read_write: what slot j writes where it reads E_j; starts as a copy of E, trained like it
    Q(x)         3-bit codec, then one fp16 gain that restores ||Q(x)|| = 1          (edgeadapt.codecs.three_bit)
    D  = [ Q(C) ; active * (E + beta (Q(E) - E)) ]                                   beta: 0 -> 1 through a task
    D_w = the same with E_w in E's place; D where atoms are tied

Annealed rounding: beta mixes the rounded atoms in, with the gradient passing straight through to E; at beta = 1
training sees exactly what ships. A protected row (a past task relies on it) is at its stored value always. When d < 24
the core has only d orthogonal directions; its further rows are independent unit Gaussians (tiny test models only).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.codecs import three_bit
from edgeadapt.errors import CheckFailed
from edgeadapt_train.adapters.himalaya.config import CORE, ELASTIC


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

    def __init__(self, hidden_size: int, initial_active: int, generator: torch.Generator, *, tied: bool = True) -> None:
        super().__init__()
        gaussian = torch.randn(hidden_size, CORE, generator=generator)
        core = torch.nn.functional.normalize(gaussian.T, dim=1)
        orthogonal = torch.linalg.qr(gaussian).Q.T
        core[: len(orthogonal)] = orthogonal
        self.register_buffer("core", core.contiguous())
        self.register_buffer("core_stored", rounded(core))
        elastic = torch.nn.functional.normalize(torch.randn(ELASTIC, hidden_size, generator=generator), dim=1)
        self.elastic = nn.Parameter(elastic)
        self.written = None if tied else nn.Parameter(elastic.clone())
        self.register_buffer("active", torch.arange(ELASTIC) < initial_active)
        self.register_buffer("protected", torch.zeros(ELASTIC, dtype=torch.bool))
        self.register_buffer("usage", torch.zeros(ELASTIC))
        self.register_buffer("born", torch.zeros(ELASTIC, dtype=torch.int64))

    def open_slots(self) -> Tensor:
        """Bool [40]: atoms that a gate may open."""
        return torch.cat((torch.ones(CORE, dtype=torch.bool, device=self.active.device), self.active))

    def trained(self, beta: float) -> tuple[Tensor, Tensor]:
        """(D, D_w), each [40, d], for a training step; gradients reach active, unprotected rows of E and E_w only."""
        return self._pair(lambda atoms: self._annealed(atoms, beta))

    def stored(self) -> tuple[Tensor, Tensor]:
        """(D, D_w) as they ship."""
        return self._pair(rounded)

    def _annealed(self, atoms: Tensor, beta: float) -> Tensor:
        stored = rounded(atoms)
        return torch.where(self.protected[:, None], stored, atoms + beta * (stored - atoms.detach()))

    def _pair(self, view: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        D = torch.cat((self.core_stored, view(self.elastic) * self.active[:, None]))
        if self.written is None:
            return D, D
        return D, torch.cat((self.core_stored, view(self.written) * self.active[:, None]))

    def mask_gradient(self) -> None:
        """No gradient for rows that must not move."""
        for atoms in self.parameters():
            if atoms.grad is not None:
                atoms.grad[self.protected | ~self.active] = 0

    @torch.no_grad()
    def renormalise(self) -> None:
        """Unit rows again, after an optimiser step; a protected row keeps its bits."""
        free = ~self.protected & self.active
        for atoms in self.parameters():
            atoms[free] = torch.nn.functional.normalize(atoms[free], dim=1)

    @torch.no_grad()
    def place(self, slot: int, atom: Tensor, step: int) -> None:
        """Put a unit atom into a slot: active, unprotected, its usage the mean of the others'."""
        others = self.active.clone()
        others[slot] = False
        for atoms in self.parameters():
            atoms[slot] = torch.nn.functional.normalize(atom, dim=0)
        self.usage[slot] = self.usage[others].mean() if bool(others.any()) else 0.0
        self.active[slot], self.protected[slot], self.born[slot] = True, False, step

    @torch.no_grad()
    def turn_core(self, rows: Tensor, kept: Tensor) -> None:
        """Give the core rows [n, d] (orthonormal, and orthogonal to those kept) where `kept` [24] is false."""
        self.core[~kept] = rows
        self.core_stored[~kept] = rounded(rows)

    def to_file(self) -> dict[str, np.ndarray]:
        """atoms uint8 [40, 3d/8], atom_scales f16 [40, ceil(d/64)], atom_gains f16 [40] (0: an inactive slot); the same
        of E_w as write_atoms .. [16, ..].

        Raises CheckFailed when an active atom's stored norm is further than 1e-3 from 1.
        """
        names = ("atoms", "atom_scales", "atom_gains")
        files = dict(zip(names, _to_file(torch.cat((self.core, self.elastic)), self.open_slots()), strict=True))
        if self.written is not None:
            files |= {f"write_{n}": part for n, part in zip(names, _to_file(self.written, self.active), strict=True)}
        return files


def _to_file(atoms: Tensor, active: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    quantised, gains = stored_atoms(atoms)
    gains = np.where(active.cpu().numpy(), gains, np.float16(0))
    norms = np.linalg.norm(three_bit.dequantise(quantised) * gains.astype(np.float32)[:, None], axis=1)
    worst = float(np.abs(norms[gains > 0] - 1).max(initial=0.0))
    if not worst <= 1e-3:
        raise CheckFailed(f"stored atoms: a norm is off by {worst:.2e}; 1e-3 is allowed. Train with a smaller lr")
    return quantised.packed, quantised.scales, gains
