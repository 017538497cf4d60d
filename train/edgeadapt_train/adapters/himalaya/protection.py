"""HIMALAYA's protection: what each task has of its own, and what happens to what tasks share.

    row_t   [80]   logits and coefficients of task t, added to the router's;  int8 with one fp16 scale    80 + 2 bytes
    rho_t   [G]    gains g = tanh(rho_t) of task t, 0 at the start; fp16; 2 G bytes: one per block (G = L; gain=shared:
                   G = 1), or three, a term each (update=terms: G = 3 L or 3)
    frozen         after the first task the router no longer moves; atoms that a past task opened no longer move; a past
                   task's gates on all other elastic slots are closed for good (a slot that fills later cannot enter
                   it). A past task's direction is then the same bits for ever: its scores cannot fall.
    ewc            the router goes on learning under (lambda/2) sum_i F_i (theta_i - theta*_i)^2, F the online Fisher
                   diagonal of the router (decay gamma); rows, gains and atoms as above
    none           one row of zeros and one gain vector for all; nothing is held

Bytes of the protection of n tasks: 82 n + 2 G (n - 1); the first gain vector belongs to the unprotected form.
Kirkpatrick et al. 2017 (EWC); online form, Schwarz et al. 2018.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.codecs import int8
from edgeadapt_train.adapters.himalaya.config import ATOMS, CORE, OPEN, TASKS, HimalayaConfig
from edgeadapt_train.adapters.himalaya.router import Router, int8_rows


class TaskRows(nn.Module):
    """row_t and rho_t for all 32 tasks, pre-allocated; only the current task's move."""

    opened: Tensor

    def __init__(self, layers: int, config: HimalayaConfig) -> None:
        super().__init__()
        self.shared = config.protection == "none"
        self.layers, self.unit = layers, config.gain == "unit"
        blocks = 1 if config.gain == "shared" else layers
        shape = (blocks, OPEN) if config.update == "terms" else (blocks,)
        self.rows = nn.Parameter(torch.zeros(TASKS, 2 * ATOMS))
        self.rho = nn.Parameter(torch.zeros(TASKS, *shape))
        self.register_buffer("opened", torch.zeros(TASKS, ATOMS, dtype=torch.bool))

    def place(self, task: Tensor) -> Tensor:
        """Where task ids [B] find their row: all in place 0 if nothing is kept apart."""
        return torch.zeros_like(task) if self.shared else task

    def trained_rows(self, task: Tensor) -> Tensor:
        return self.rows[self.place(task)]

    def stored_rows(self, task: Tensor) -> Tensor:
        return int8_rows(self.rows)[self.place(task)]

    def gains(self, task: Tensor, unit_gain: float) -> Tensor:
        """g [B, L], or [B, L, 3] of terms, while training; a shared one is [B, 1] or [B, 1, 3]."""
        rho = self.rho[self.place(task)]
        return torch.full_like(rho, unit_gain) if self.unit else torch.tanh(rho)

    def stored_gains(self, task: Tensor, unit_gain: float) -> Tensor:
        """The same after fp16."""
        return self.gains(task, unit_gain).detach().to(torch.float16).float()

    def spread(self, gains: Tensor) -> Tensor:
        """Gains of either function above as the sites take them: [B, L, R]."""
        wide = gains if gains.dim() == 3 else gains[:, :, None]
        return wide.expand(-1, self.layers, -1)

    def mask_gradient(self, current: int) -> None:
        """Only the current task's row and gains move."""
        place = 0 if self.shared else current
        for parameter in (self.rows, self.rho):
            if parameter.grad is not None:
                kept = parameter.grad[place].clone()
                parameter.grad.zero_()
                parameter.grad[place] = kept

    @torch.no_grad()
    def close_unused(self, task: int, prior: float, *, core: bool) -> None:
        """Task `task` is learnt: its gates on elastic slots that it never opened shut for good; the core's too, if
        `core`."""
        unused = ~self.opened[task]
        unused[:CORE] &= core
        logits = self.rows[task, :ATOMS]
        logits[unused] = logits[unused].clamp(max=-2 * prior)

    def to_file(self, count: int, unit_gain: float) -> dict[str, np.ndarray]:
        """rows int8 [n, 80], row_scales f16 [n], gains f16 [n, L] (see `gains` for other shapes)."""
        place = self.place(torch.arange(count))
        stored = int8.quantise(self.rows.detach().cpu().numpy()[place.numpy()])
        gains = self.gains(place.to(self.rho.device), unit_gain).detach().to(torch.float16)
        return {"rows": stored.codes, "row_scales": stored.scales, "gains": gains.cpu().numpy()}


class RouterAnchor(nn.Module):
    """EWC on the router: its Fisher diagonal and the values it is held to. Training state, twice the router."""

    def __init__(self, router: Router, strength: float, decay: float) -> None:
        super().__init__()
        self.strength, self.decay = strength, decay
        for name, parameter in router.named_parameters():
            self.register_buffer(f"fisher_{name}", torch.zeros_like(parameter))
            self.register_buffer(f"anchor_{name}", parameter.detach().clone())

    @torch.no_grad()
    def update(self, router: Router, mean_squares: dict[str, Tensor]) -> None:
        """At a task's end: F <- gamma F + mean squared gradient; the anchor moves to where the router is."""
        for name, parameter in router.named_parameters():
            fisher, anchor = self._of(name)
            fisher.mul_(self.decay).add_(mean_squares[name])
            anchor.copy_(parameter)

    def penalty(self, router: Router) -> Tensor:
        """(lambda / 2) sum F (theta - theta*)^2."""
        total = router.w1.new_zeros(())
        for name, parameter in router.named_parameters():
            fisher, anchor = self._of(name)
            total = total + (fisher * (parameter - anchor).square()).sum()
        return self.strength / 2 * total

    def _of(self, name: str) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"fisher_{name}"), self.get_buffer(f"anchor_{name}")
