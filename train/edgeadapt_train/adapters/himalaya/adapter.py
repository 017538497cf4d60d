"""HIMALAYA: HIerarchical Memory-Allocating LAyer-free Adapter.

Two tiers of atoms are shared by all layers; a tiny router opens at most three of them per sequence; the update is rank
one with a provable norm. The name and the idea come from a research design; this text is the definition we build.

    D [40, d]     24 core atoms (fixed) and 16 elastic ones (trained where active)        dictionary.py
    k [B, 40]     gates times coefficients, from the prompt's pooled embeddings            router.py
    r = D^T k / ||D^T k||,  r = 0 where no gate is open                                    one per sequence
    residual      h_l' = h_l + g_l r (r^T h_l)       at each block's output (default)
    square        y    = W x + g_l r (r^T x)         at each square projection
    g_l = tanh(rho_l) = s_l / sqrt(d), s_l = s_max tanh(rho_l), s_max = sqrt(d), rho = 0 at the start
        => ||dW||_2 = |g_l| <= 1 at every site; over depth the factors compose: prod_l (1 + |g_l|) is logged
    update, atoms other rows to read and to write, up to three at once, under the same bound    update.py
    `literal`: s = 1, so g = 1 / sqrt(d); square sites; pool = the first token's embedding; nothing protected

Trained: E and E_w (active, unprotected rows), W1, W2, the task's row of the task table, row_t, rho_t. Growth, eviction,
consolidation, protection, the split tree, the turning core: {growth,memory,consolidation,protection,tree,sketch}.py.

Stored bytes, term by term: footprint.py. At d = 576, L = 30: 54,944, the first task's row 82, every other task 142.

What the design leaves open, decided here
- A task's gates start with a strong prior (prior_logit, +-7): open on up to three active elastic atoms that no past
  task relies on, shut elsewhere. With a weaker one the gates' noise changes the direction at every step (40 steps,
  one seed, the demo's tasks, mean accuracy on 420 texts set aside for it: 0.819 at +-3, 0.848 at +-7; untrained 0.638).
  The price: in short runs the router shades the coefficients, and its gates hardly move.
- Hence an atom promoted within a task waits for a later task, which finds it among its free slots.
- 16 slots serve five tasks with three atoms each. A task that finds fewer free ones borrows past tasks' atoms, which do
  not move, and learns its row and gains over them: slowly, but without any its direction is zero and it learns nothing
  (docs/evidence.md).
- The coefficients start equal, the router's output layer small: at the start r is the same for all sequences.
- window and cooldown are 20 (the design's 200 is for runs of thousands of steps); the age that an atom must have before
  it may be evicted is the cooldown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Adapter, Card, Event, GradientBatches, Group, Host, Prompt
from edgeadapt_train.adapters.himalaya.config import ATOMS, CORE, OPEN, STATISTICS, TASKS, HimalayaConfig
from edgeadapt_train.adapters.himalaya.consolidation import DirectionFisher
from edgeadapt_train.adapters.himalaya.dictionary import Dictionary
from edgeadapt_train.adapters.himalaya.footprint import byte_terms
from edgeadapt_train.adapters.himalaya.growth import Growth, span_basis
from edgeadapt_train.adapters.himalaya.memory import Memory
from edgeadapt_train.adapters.himalaya.protection import RouterAnchor, TaskRows
from edgeadapt_train.adapters.himalaya.router import Router, concrete_gates, count_excess, hard_gates, pooled
from edgeadapt_train.adapters.himalaya.sites import Sites
from edgeadapt_train.adapters.himalaya.sketch import DirectionSketch
from edgeadapt_train.adapters.himalaya.tree import SplitTree
from edgeadapt_train.adapters.himalaya.update import Update, direction_row, term_rows


class Himalaya(Adapter):
    """One instance per run; its sites are hooks on `host`."""

    method = "himalaya"
    reads_task = True
    card = Card(
        "h_l + g_l r (r^T h_l), r = unit(D^T k), k = gates * coefficients of (prompt, task), at most 3 of 40",
        "router, free atoms, the task's row and gains",
        "decoder, r from a graph of its own once per prompt (HimalayaDirection, RankOneNorm)",
    )

    statistics: Tensor
    counts: Tensor

    def __init__(self, config: HimalayaConfig, host: Host, seed: int) -> None:
        super().__init__()
        self.config, self.variant = config, config.variant
        d, depth = host.hidden_size, len(host.layers)
        generator = torch.Generator().manual_seed(seed)
        self.unit_gain = d**-0.5
        self.dictionary = Dictionary(d, config.initial_active, generator, tied=config.atoms == "tied")
        self.router = Router(d, config.router_scale, generator)
        self.task_rows = TaskRows(depth, config)
        self.growth = Growth(depth, d, config)
        self.fisher = DirectionFisher(d, config.ewc_decay)
        self.tree = SplitTree(config.fan_out, seed)
        self.sketch = DirectionSketch(self.dictionary.core) if config.core_update == "frequent_directions" else None
        if config.protection == "ewc":
            self.anchor = RouterAnchor(self.router, config.ewc_strength, config.ewc_decay)
        self.register_buffer("statistics", torch.zeros(2, STATISTICS))
        self.register_buffer("counts", torch.tensor([0, -1, 0]))  # steps in all; current task; tasks begun
        self._noise = torch.Generator().manual_seed(seed + 1)
        self._sites = Sites(host, config.site or "residual", config.site_modules)
        self._stored: dict[str, Any] | None = None
        self._temperature, self._beta = config.temperature_start, 0.0
        self._rows = term_rows if config.update == "terms" else direction_row
        self._raws: list[Tensor] = []
        self._penalty: Tensor | None = None
        self._k: Tensor | None = None
        self._asked: tuple[Tensor, Tensor] | None = None
        self._place: tuple[int, int] | None = None
        self.tree.rebuild(self.dictionary.elastic)
        self._memory = Memory(
            config, self.dictionary, self.router, self.task_rows, self.growth, self.fisher, self.tree, self.sketch
        )

    # -- forward ------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        self._sites.attach()

    def detach(self) -> None:
        self._sites.detach()

    def pooled(self, prompt: Prompt) -> Tensor:
        """[B, d] float32."""
        return pooled(prompt, self.config.pool or "mean")

    def update(self, pool: Tensor, task: Tensor) -> Update:
        """The update while training: noisy gates, partly rounded atoms. Keeps what the hooks after it need."""
        both = self.router.trained().route(pool, task) + self.task_rows.trained_rows(task)
        a, c = both[:, :ATOMS], both[:, ATOMS:]
        slots = self.dictionary.open_slots()
        first, many = self._place or (0, len(a))
        uniform = torch.rand((many, ATOMS), generator=self._noise)[first : first + len(a)]
        uniform = uniform.clamp(1e-6, 1 - 1e-6).to(a.device)
        gates = concrete_gates(a, slots, self._temperature, torch.logit(uniform))
        k = gates * c
        raws, rows = self._read_and_write(k, self.dictionary.trained(self._beta))
        for raw in raws:
            if raw.requires_grad:
                raw.retain_grad()
        self._raws, self._k, self._asked = raws, k.detach(), (pool, task)
        self._penalty = self.config.count_penalty * count_excess(a, slots)
        return Update(rows[0], rows[-1], self.task_rows.spread(self.task_rows.gains(task, self.unit_gain)))

    def stored_update(self, pool: Tensor, task: Tensor) -> Update:
        """The update as the device computes it (`HimalayaDirection`, `HimalayaTerms`)."""
        stored = self._stored or self._harden()
        _, rows = self._read_and_write(self._stored_coefficients(pool, task, stored), stored["D"])
        gains = self.task_rows.stored_gains(task, self.unit_gain)
        return Update(rows[0], rows[-1], self.task_rows.spread(gains))

    def _read_and_write(self, k: Tensor, pair: tuple[Tensor, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What update.py calls raw, and V and W; one of each where atoms are tied."""
        made = [self._rows(k, D) for D in (pair[:1] if self.dictionary.written is None else pair)]
        return [raw for raw, _ in made], [rows for _, rows in made]

    def _stored_coefficients(self, pool: Tensor, task: Tensor, stored: dict[str, Any]) -> Tensor:
        both = stored["router"].route(pool, task) + stored["rows"][task]
        return hard_gates(both[:, :ATOMS], self.dictionary.open_slots()) * both[:, ATOMS:]

    def _push(self) -> Tensor | None:
        """dL/dr~ [B, d] of the forward last trained on: summed over the rows that are read and written."""
        found = [raw.grad.sum(dim=1) for raw in self._raws if raw.grad is not None]
        return torch.stack(found).sum(dim=0) if found else None

    def _opened(self) -> Tensor:
        """Bool [40]: gates that the stored form opens for any of the sequences last trained on."""
        assert self._asked is not None
        with torch.no_grad():
            k = self._stored_coefficients(*self._asked, self._harden())
        return (k != 0).any(dim=0)

    @contextmanager
    def conditioned(self, prompt: Prompt) -> Iterator[None]:
        pool, self._place = self.pooled(prompt), prompt.place
        make = self.update if self._stored is None else self.stored_update
        with self._sites.using(make(pool, prompt.task)):
            yield

    @contextmanager
    def hardened(self) -> Iterator[None]:
        before, self._stored = self._stored, self._harden()
        try:
            with torch.no_grad():
                yield
        finally:
            self._stored = before

    def _harden(self) -> dict[str, Any]:
        places = torch.arange(TASKS, device=self.task_rows.rows.device)
        with torch.no_grad():
            return {
                "D": self.dictionary.stored(),
                "router": self.router.stored(),
                "rows": self.task_rows.stored_rows(places),
            }

    # -- training -----------------------------------------------------------------------------------------------

    def groups(self) -> list[Group]:
        config = self.config
        atoms = tuple((f"dictionary.{name}", value) for name, value in self.dictionary.named_parameters())
        found = [Group("atoms", atoms, config.atom_lr_scale)]
        tasks = ("router.tasks", self.router.tasks)
        if config.protection == "frozen" and int(self.counts[2]) > 1:
            found.append(Group("router", (tasks,), config.router_lr_scale))
        else:
            network = (("router.w1", self.router.w1), ("router.w2", self.router.w2), tasks)
            found.append(Group("router", network, config.router_lr_scale))
        if config.protection != "none":
            found.append(Group("rows", (("task_rows.rows", self.task_rows.rows),), config.row_lr_scale))
        if config.gain != "unit":
            found.append(Group("gains", (("task_rows.rho", self.task_rows.rho),), config.gain_lr_scale))
        return found

    @torch.no_grad()
    def begin_task(self, index: int) -> list[Event]:
        """Give the task up to three active slots that no past task relies on, as its gates' prior."""
        if not 0 <= index < TASKS:
            raise EdgeAdaptError(f"task {index}: himalaya's tables hold {TASKS} tasks")
        self.counts[1], self.counts[2] = index, max(int(self.counts[2]), index + 1)
        self.growth.begin_task()
        self._set_trainable()
        unprotected = self.config.protection == "none"
        if unprotected and index > 0:
            return []
        dictionary = self.dictionary
        free = torch.nonzero(dictionary.active & ~dictionary.protected).flatten().tolist()
        slots = free[: self.config.atoms_per_task]
        borrowed = self._most_used(OPEN - len(slots)) if self.config.borrow else []
        prior = self.router.w2[:, -1] if unprotected else self.task_rows.rows[index]
        prior[:ATOMS] = -self.config.prior_logit
        prior[[CORE + slot for slot in (*slots, *borrowed)]] = self.config.prior_logit
        prior[ATOMS:] = OPEN**-0.5
        return [{"event": "allocate", "task": index, "slots": slots, "borrowed": borrowed}]

    def _most_used(self, count: int) -> list[int]:
        """Up to `count` slots that past tasks rely on, the most used first."""
        held = torch.nonzero(self.dictionary.active & self.dictionary.protected).flatten()
        order = self.dictionary.usage[held].argsort(descending=True, stable=True)
        return [int(slot) for slot in held[order][:count]]

    def _set_trainable(self) -> None:
        trained = {id(parameter) for group in self.groups() for _, parameter in group.parameters}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in trained)

    def schedule(self, progress: float) -> None:
        start, end = self.config.temperature_start, self.config.temperature_end
        self._temperature = start + (end - start) * progress
        self._beta = progress

    def penalty(self) -> Tensor | None:
        if self.config.protection == "ewc" and int(self.counts[2]) > 1 and self._penalty is not None:
            return self._penalty + self.anchor.penalty(self.router)
        return self._penalty

    def after_backward(self) -> None:
        current = int(self.counts[1])
        self.dictionary.mask_gradient()
        self.task_rows.mask_gradient(current)
        gradient = self.router.tasks.grad
        if gradient is not None:
            kept = gradient[current].clone()
            gradient.zero_()
            gradient[current] = kept

    @torch.no_grad()
    def after_step(self, optimiser: torch.optim.Optimizer, step: int) -> list[Event]:
        self.dictionary.renormalise()
        self.counts[0] += 1
        events: list[Event] = []
        if self._k is None:
            return events
        current = int(self.counts[1])
        opened = self._k != 0
        self.dictionary.usage.mul_(0.99).add_(0.01 * opened[:, CORE:].float().mean(dim=0))
        core = self._k[:, :CORE]
        self.statistics[0].mul_(0.99).add_(0.01 * core.mean(dim=0))
        self.statistics[1].mul_(0.99).add_(0.01 * core.square().mean(dim=0))
        push = self._push() if self.config.growth else None
        if push is not None:
            direction = self.growth.observe(push, span_basis(torch.cat(self.dictionary.trained(self._beta))))
            if self.sketch is not None and direction is not None:
                self.sketch.observe(direction)
            if self.growth.due(int(self.counts[0])):
                events += self._memory.grow(optimiser, int(self.counts[0]), current)
        self._raws, self._k = [], None
        return events

    def end_task(self, index: int, gradients: GradientBatches) -> list[Event]:
        """Fisher from `fisher_batches` mini-batches, then protect what the task relies on."""
        self.schedule(1.0)
        ewc = self.config.protection == "ewc"
        squares = torch.zeros_like(self.fisher.diagonal)
        router = {name: torch.zeros_like(value) for name, value in self.router.named_parameters()}
        sequences = batches = 0
        for _ in gradients(self.config.fisher_batches):
            self.task_rows.opened[index] |= self._opened()
            push = self._push()
            if push is not None:
                squares += push.square().sum(dim=0)
                sequences += len(push)
            batches += 1
            for name, parameter in self.router.named_parameters():
                if parameter.grad is not None:
                    router[name] += parameter.grad.square()
        self.fisher.update(squares / max(sequences, 1))
        if ewc:
            self.anchor.update(self.router, {name: value / max(batches, 1) for name, value in router.items()})
        if self.config.protection != "none":
            self.task_rows.close_unused(index, self.config.prior_logit, core=self.sketch is not None)
            used = self.task_rows.opened[index, CORE:]
            self.dictionary.protected |= used
        return [
            *self._turn_core(index),
            {"event": "end_task", "task": index, "composed_norm_bound": self._composed_norm_bound(index)},
        ]

    def _turn_core(self, index: int) -> list[Event]:
        if self.sketch is None:
            return []
        kept = self.task_rows.opened[:, :CORE].any(dim=0)
        self.dictionary.turn_core(self.sketch.turned(self.dictionary.core, kept), kept)
        return [{"event": "turn_core", "task": index, "kept": int(kept.sum())}]

    @torch.no_grad()
    def _composed_norm_bound(self, index: int) -> float:
        """prod_l (1 + max_j |g_lj|) of a task."""
        task = torch.tensor([index], device=self.task_rows.rho.device)
        gains = self.task_rows.spread(self.task_rows.gains(task, self.unit_gain))
        return float((1 + gains.abs().amax(dim=2)).prod())

    # -- files --------------------------------------------------------------------------------------------------

    def deployed(self) -> dict[str, np.ndarray]:
        count = max(1, int(self.counts[2]))
        return {
            **self.dictionary.to_file(),
            **self.router.to_file(),
            **self.task_rows.to_file(count, self.unit_gain),
            "statistics": self.statistics.cpu().numpy().astype(np.float16),
            **self.tree.to_file(),
        }

    def byte_terms(self) -> dict[str, int]:
        tasks, gains = max(1, int(self.counts[2])), self.task_rows.rho[0].numel()
        return byte_terms(self.dictionary.core.shape[1], tasks, gains, tied=self.dictionary.written is None)

    def sites(self) -> dict[str, Any]:
        config = self.config
        named = {name: getattr(config, name) for name in ("update", "atoms", "gain", "pool", "protection")}
        return {**self._sites.to_json(), **named}

    def own_state(self) -> dict[str, Tensor]:
        return {**super().own_state(), "noise": self._noise.get_state()}

    def load_own_state(self, tensors: Mapping[str, Tensor]) -> None:
        rest = dict(tensors)
        self._noise.set_state(rest.pop("noise").to(torch.uint8))
        super().load_own_state(rest)
        self._set_trainable()
