"""Learning one task: the plain loop, one optimiser step at a time, so that whoever drives it may stop anywhere.

    loss    = 1/M sum over the step's M targets of -log p(target)  + adapter.penalty()      targets: objectives.py
    lr(s)   = lr * (s + 1) / W            s < W = ceil(warmup * N), or warmup_steps      linear warm-up over N steps,
              lr * (N - s) / (N - W)      after that                                     then linear decay towards 0
    AdamW; gradients are accumulated over `accumulation` batches and clipped by their global norm.
    theta  <- theta (1 - lr(s) weight_decay)       only where the gradient is not zero

A fresh optimiser per task: nothing of a past task's momentum moves what is protected now, and since decay moves only
what the loss moves, a past task's rows in a table of all tasks keep their bits. All order and noise comes from the
seed, so a learner restored from `state()` goes on to the same bits (on one kind of CPU, with one number of threads).
Several processes may share every batch (parallel.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Adapter, Event, Prompt
from edgeadapt_train.backbone import Backbone
from edgeadapt_train.batches import IGNORED, Batch, Encoded, epoch_batches
from edgeadapt_train.objectives import Objective
from edgeadapt_train.parallel import Alone, Team, own_rows, sum_gradients

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class LoopSettings:
    """How a task is learnt. `steps` caps what `epochs` would give; None: no cap. `warmup` is a share of the steps;
    `warmup_steps`, if given, takes its place."""

    lr: float = 2e-3
    batch_size: int = 8
    accumulation: int = 1
    epochs: int = 1
    steps: int | None = None
    warmup: float = 0.1
    warmup_steps: int | None = None
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise EdgeAdaptError(f"{name}={getattr(self, name)}: give a positive number")
        for name in ("batch_size", "accumulation", "epochs"):
            if getattr(self, name) < 1:
                raise EdgeAdaptError(f"{name}={getattr(self, name)}: give at least 1")
        if self.steps is not None and self.steps < 1:
            raise EdgeAdaptError(f"steps={self.steps}: give at least 1, or null for no cap")
        if not 0 <= self.warmup < 1:
            raise EdgeAdaptError(f"warmup={self.warmup}: give a share of the steps, in [0, 1)")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise EdgeAdaptError(f"warmup_steps={self.warmup_steps}: give 0 or more, or null for warmup's share")
        if not 0 <= self.weight_decay < math.inf:
            raise EdgeAdaptError(f"weight_decay={self.weight_decay}: give 0 (none) or more")

    def rising(self, total: int) -> int:
        """W, the steps of the warm-up."""
        return math.ceil(self.warmup * total) if self.warmup_steps is None else self.warmup_steps


@dataclass(frozen=True)
class StepReport:
    """One optimiser step: `step` counts from 1; `loss` per target token, without penalties."""

    step: int
    loss: float
    lr: float
    gradient_norm: float
    tokens: int
    events: tuple[Event, ...]


@dataclass(frozen=True)
class _Share:
    """A process's rows of a batch: `place` is its first row and the rows of the whole, `weight` its part of the step.

    With fewer rows than processes some have none: they run another's first row, which then weighs nothing there, so
    that what is drawn for a batch is drawn in all processes.
    """

    batch: Batch
    place: tuple[int, int]
    weight: float

    @property
    def counted(self) -> int:
        return int(self.weight > 0)


def rate(step: int, total: int, rising: int) -> float:
    """The learning rate's factor at step 0 .. total-1, after a warm-up of `rising` steps."""
    if step < rising:
        return (step + 1) / rising
    return (total - step) / (total - rising)


class Learner:
    """One task being learnt by one adapter on one backbone."""

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter,
        examples: Sequence[Encoded],
        objective: Objective,
        *,
        settings: LoopSettings,
        index: int,
        team: Team | None = None,
    ) -> None:
        self._backbone, self._adapter, self._examples, self._objective = backbone, adapter, examples, objective
        self.settings, self.index, self.done = settings, index, 0
        self._team: Team = team or Alone()
        self._epochs: dict[int, list[list[int]]] = {}
        per_epoch = math.ceil(len(self._epoch(0)) / settings.accumulation)
        whole = per_epoch * settings.epochs
        self.total = whole if settings.steps is None else min(whole, settings.steps)
        self._optimiser: torch.optim.AdamW

    def begin(self) -> list[Event]:
        """Start the task."""
        events = self._adapter.begin_task(self.index)
        self._make_optimiser()
        return events

    def step(self) -> StepReport:
        """One optimiser step. Raises EdgeAdaptError when the loss is no longer a number."""
        adapter, settings, team = self._adapter, self.settings, self._team
        factor = rate(self.done, self.total, settings.rising(self.total))
        for group in self._optimiser.param_groups:
            group["lr"] = settings.lr * group["scale"] * factor
        adapter.schedule(self.done / max(1, self.total - 1))
        first = self.done * settings.accumulation
        shares = [self._share(self._chosen(first + offset)) for offset in range(settings.accumulation)]
        counts = torch.tensor([[share.batch.targets, share.batch.tokens] for share in shares if share.counted])
        whole = team.total(counts.to(torch.int64).view(-1, 2).sum(dim=0).to(self._backbone.device))
        targets, tokens = whole.tolist()
        self._optimiser.zero_grad(set_to_none=True)
        own = sum(self._backward(share, targets) for share in shares)
        loss = float(team.total(torch.tensor(own, dtype=torch.float64, device=self._backbone.device)))
        if not math.isfinite(loss):
            raise EdgeAdaptError(
                f"lr={settings.lr}: the loss of step {self.done + 1} is not a number; use a smaller lr"
            )
        sum_gradients(team, self._parameters())
        adapter.after_backward()
        norm = nn.utils.clip_grad_norm_(self._parameters(), settings.clip)
        self._decay()
        self._optimiser.step()
        self.done += 1
        events = tuple(adapter.after_step(self._optimiser, self.done))
        if team.size > 1:
            team.follow(adapter.state_dict().values())
        return StepReport(self.done, loss, settings.lr * factor, float(norm), tokens, events)

    def finish(self) -> list[Event]:
        """Close the task: the adapter may look at gradients of it once more."""
        events = self._adapter.end_task(self.index, self._gradients)
        self._optimiser.zero_grad(set_to_none=True)
        return events

    def state(self) -> dict[str, Tensor]:
        """The adapter's and the optimiser's tensors by name."""
        tensors = {f"adapter.{name}": value for name, value in self._adapter.own_state().items()}
        for name, parameter in self._named():
            for moment in _MOMENTS:
                if moment in self._optimiser.state.get(parameter, {}):
                    tensors[f"optimiser.{name}.{moment}"] = self._optimiser.state[parameter][moment].cpu().contiguous()
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], done: int) -> None:
        """Go on after `done` steps from what `state` returned."""
        restore_adapter(self._adapter, tensors)
        self._make_optimiser()
        for name, parameter in self._named():
            prefix = f"optimiser.{name}."
            found = {m: tensors[prefix + m].clone() for m in _MOMENTS if prefix + m in tensors}
            if found:
                moved = {m: v if m == "step" else v.to(parameter.device) for m, v in found.items()}
                self._optimiser.state[parameter] = moved
        self.done = done

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return [item for group in self._adapter.groups() for item in group.parameters]

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for _, parameter in self._named()]

    def _make_optimiser(self) -> None:
        groups = [
            {"params": [parameter for _, parameter in group.parameters], "scale": group.scale}
            for group in self._adapter.groups()
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=self.settings.lr, weight_decay=0.0, foreach=False)

    @torch.no_grad()
    def _decay(self) -> None:
        if self.settings.weight_decay:
            for group in self._optimiser.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.mul_(1 - group["lr"] * self.settings.weight_decay * (parameter.grad != 0))

    def _epoch(self, epoch: int) -> list[list[int]]:
        if epoch not in self._epochs:
            key = (self.settings.seed, self.index, epoch)
            self._epochs = {epoch: epoch_batches(self._examples, self.settings.batch_size, key)}
        return self._epochs[epoch]

    def _chosen(self, number: int) -> list[int]:
        """The examples of batch `number` of the task, epochs in a row (every epoch has as many batches)."""
        epoch, place = divmod(number, math.ceil(len(self._examples) / self.settings.batch_size))
        return self._epoch(epoch)[place]

    def _collate(self, indices: Sequence[int]) -> Batch:
        return self._objective.collate([self._examples[index] for index in indices], self._backbone.device)

    def _share(self, indices: Sequence[int]) -> _Share:
        """This process's share of a batch of the step."""
        first, rows = own_rows(self._team, indices)
        weight = len(rows) / len(indices) / self.settings.accumulation
        if not rows:
            first, rows = 0, indices[:1]
        return _Share(self._collate(rows), (first, len(indices)), weight)

    def _backward(self, share: _Share, targets: int) -> float:
        """Backward of a share's part of the step's loss, which is that of `targets` targets; returns it."""
        batch = share.batch
        task = torch.full((len(batch.ids),), self.index, device=batch.ids.device)
        with torch.no_grad():
            embeddings = self._backbone.embed(batch.ids)
        # Backward, too, runs under these conditions: with gradient checkpointing it runs the blocks again.
        with self._adapter.conditioned(Prompt(embeddings, batch.prompt_mask, task, share.place)):
            with self._backbone.recomputing():
                hidden = self._backbone.hidden(embeddings, batch.mask).last_hidden_state
            logits, labels = self._objective.logits(hidden, batch), batch.labels[batch.labels != IGNORED]
            loss = share.counted * cross_entropy(logits, labels, reduction="sum") / targets
            penalty = self._adapter.penalty()
            whole = loss if penalty is None else loss + penalty * share.weight
            whole.backward()
        return float(loss.detach())

    def _gradients(self, count: int, *, single: bool = False) -> Iterator[None]:
        """Mini-batches of the task with their gradients, without a step: for Fisher diagonals. No more of them than the
        task was trained on. `single`: one example at a time."""
        for number in range(min(count, self.total * self.settings.accumulation)):
            chosen = self._chosen(number)
            for indices in [[index] for index in chosen] if single else [chosen]:
                self._adapter.zero_grad(set_to_none=True)
                batch = self._collate(indices)
                self._backward(_Share(batch, (0, len(indices)), 1.0), batch.targets)
                yield


def restore_adapter(adapter: Adapter, tensors: Mapping[str, Tensor]) -> None:
    """Put a checkpoint's tensors into the adapter."""
    own = {name.removeprefix("adapter."): value for name, value in tensors.items() if name.startswith("adapter.")}
    adapter.load_own_state(own)
