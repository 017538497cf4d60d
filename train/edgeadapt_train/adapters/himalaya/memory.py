"""HIMALAYA's memory management: a promotion, from the choice of the slot to the new atom's first gate.

slot    the first vacant one; when all 16 are in use, the least-used that is older than the cooldown and may go
        (a past task's atom may go only with evict_protected), after the core has taken over what it can of it
atom    the growth ring's candidate, of unit norm
then    the optimiser's moments of that row are zero, its usage is the mean of the others', the tree is rebuilt
gate    on the edge of opening, with a small positive coefficient: the candidate points downhill
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgeadapt_train.adapters.base import Event
from edgeadapt_train.adapters.himalaya.config import ATOMS, CORE, HimalayaConfig
from edgeadapt_train.adapters.himalaya.consolidation import DirectionFisher, hand_over, project_on_core
from edgeadapt_train.adapters.himalaya.dictionary import Dictionary
from edgeadapt_train.adapters.himalaya.growth import Growth
from edgeadapt_train.adapters.himalaya.protection import TaskRows
from edgeadapt_train.adapters.himalaya.router import Router
from edgeadapt_train.adapters.himalaya.sketch import DirectionSketch
from edgeadapt_train.adapters.himalaya.tree import SplitTree


@dataclass(frozen=True)
class Memory:
    """The parts of one adapter that a promotion touches."""

    config: HimalayaConfig
    dictionary: Dictionary
    router: Router
    task_rows: TaskRows
    growth: Growth
    fisher: DirectionFisher
    tree: SplitTree
    sketch: DirectionSketch | None

    @torch.no_grad()
    def grow(self, optimiser: torch.optim.Optimizer, step: int, current: int) -> list[Event]:
        """Promote the candidate at `step` (counted over all tasks) of task `current`; the events to log."""
        dictionary = self.dictionary
        slot = self._slot(step)
        if slot is None:
            return [{"event": "full", "step": step, "why": "every slot is young or held by a past task"}]
        events = [self._consolidate(slot, step, current)] if bool(dictionary.active[slot]) else []
        similarity = float(self.growth.similarities.mean())
        dictionary.place(slot, self.growth.candidate(), step)
        self._open_prior(slot, current)
        for atoms in dictionary.parameters():
            state = optimiser.state.get(atoms, {})
            for name in ("exp_avg", "exp_avg_sq"):
                if name in state:
                    state[name][slot] = 0
        self.growth.promoted(step)
        self.tree.rebuild(dictionary.elastic)
        return [*events, {"event": "promote", "step": step, "slot": slot, "similarity": similarity}]

    def _slot(self, step: int) -> int | None:
        dictionary = self.dictionary
        vacant = torch.nonzero(~dictionary.active).flatten().tolist()
        if vacant:
            return int(vacant[0])
        old = step - dictionary.born >= self.config.cooldown
        allowed = old if self.config.evict_protected else old & ~dictionary.protected
        if not bool(allowed.any()):
            return None
        return int(torch.where(allowed, dictionary.usage, torch.inf).argmin())

    def _consolidate(self, slot: int, step: int, current: int) -> Event:
        e = self.dictionary.elastic[slot]
        c, captured = project_on_core(self.fisher.diagonal, self.dictionary.core_stored, e)
        relying = self.task_rows.opened[:, CORE + slot].clone()
        affected = relying.index_fill(0, torch.tensor(current, device=relying.device), True)
        rows = self.task_rows.rows[affected].T.contiguous()
        heirs = hand_over(c, slot, [self.router.w2, rows])
        self.task_rows.rows[affected] = rows.T
        if self.config.protection != "none":  # the past tasks' gates must not meet the atom that comes
            self.task_rows.rows[relying, CORE + slot] = -2 * self.config.prior_logit
            self.task_rows.opened[relying, CORE + slot] = False
            self.task_rows.opened[relying.nonzero(), heirs] = True
        event: Event = {"event": "evict", "step": step, "slot": slot, "captured_energy": captured}
        if self.sketch is not None:
            event["captured_energy_fixed"] = project_on_core(self.fisher.diagonal, self.sketch.start, e)[1]
        return event

    def _open_prior(self, slot: int, current: int) -> None:
        shared = self.config.protection == "none"
        table = self.router.w2[:, -1] if shared else self.task_rows.rows[current]
        table[CORE + slot] = 0.0
        table[ATOMS + CORE + slot] = 0.1
