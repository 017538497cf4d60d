"""One LoRA per task: what forgets nothing where task ids are given, at the price of as many adapters as tasks.

    y = W x + s B_t A_t x          t: the sequence's task; s = alpha / r
    A_t [r, d_in] Kaiming-uniform, B_t [d_out, r] = 0 at the start of task t; the pairs of earlier tasks do not move
    a task that has not begun has no pair: W x

Trained: A_t, B_t of the current task, fp32. Stored per task and site: A_t^T [d_in, r] and s B_t^T [r, d_out], fp16.
Bytes: tasks begun (at least one) times sum over sites of 2 r (d_in + d_out); the budget is that of MOST_TASKS tasks.
A sequence chooses its pair by the id that it is told, so that a wrong id is a wrong adapter (continual/task_ids.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Adapter, Card, Event, Host, Prompt
from edgeadapt_train.adapters.linear_sites import LinearSite
from edgeadapt_train.adapters.lora import LoraConfig
from edgeadapt_train.adapters.low_rank import Factors, by_layer
from edgeadapt_train.adapters.task_pairs import MOST_TASKS, TaskPairs


class LoraPerTask(TaskPairs):
    """See the module's docstring. By module name: A [L, r, d_in], B [L, d_out, r]; past_A, past_B [n, L, ...]."""

    method = "lora-per-task"
    reads_task = True
    card = Card(
        "y = W x + s B_t A_t x, t the sequence's task",
        "the current task's A_t and B_t",
        "none: a bundle holds one LoRA",
    )

    def __init__(self, config: LoraConfig, host: Host, seed: int) -> None:
        super().__init__(host, config.modules, config.rank, config.alpha, seed)
        self.budget = MOST_TASKS * sum(self._pair_bytes().values())
        for name in self.widths:
            self._set_past(name, *(torch.zeros(0, *value[name].shape) for value in (self.A, self.B)))
        self._task: Tensor | None = None

    @property
    def learnt(self) -> int:
        """Tasks before the current one."""
        return len(self._past(next(iter(self.widths)))[0])

    @torch.no_grad()
    def begin_task(self, index: int) -> list[Event]:
        if not self.learnt <= index <= min(self.learnt + 1, MOST_TASKS - 1):
            raise EdgeAdaptError(f"task {index}: lora-per-task learns tasks in turn, at most {MOST_TASKS}")
        if index > self.learnt:
            for name in self.widths:
                ended = (self.A[name].detach()[None], self.B[name].detach()[None])
                self._set_past(name, *map(torch.cat, zip(self._past(name), ended, strict=True)))
        self._draw(index)
        return super().begin_task(index)

    def trained(self) -> Factors:
        """The current task's pair."""
        return by_layer(
            {name: (A.transpose(1, 2), self.scale * self.B[name].transpose(1, 2)) for name, A in self.A.items()}
        )

    def _files(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A^T [n, L, d_in, r] and s B^T [n, L, r, d_out] by module name, fp16, on the CPU."""
        made = {}
        for name in self.widths:
            past_A, past_B = self._past(name)
            A, B = torch.cat((past_A, self.A[name].detach()[None])), torch.cat((past_B, self.B[name].detach()[None]))
            made[name] = (A.transpose(2, 3).cpu().half(), (self.scale * B.transpose(2, 3)).cpu().half())
        return made

    def stored(self) -> Factors:
        """By site A [n + 1, d_in, r] and B [n + 1, r, d_out], float32; the last pair is zero: of tasks not begun."""
        place = next(self.parameters()).device

        def layers_first(stack: Tensor) -> Tensor:
            return torch.cat((stack, torch.zeros_like(stack[:1]))).transpose(0, 1).float().to(place)

        return by_layer({name: (layers_first(A), layers_first(B)) for name, (A, B) in self._files().items()})

    @contextmanager
    def conditioned(self, prompt: Prompt) -> Iterator[None]:
        self._task = prompt.task.clamp(max=self.learnt + 1)
        with super().conditioned(prompt):
            yield

    def _delta(self, site: LinearSite, x: Tensor) -> Tensor:
        if self._hard is None:
            return super()._delta(site, x)
        assert self._task is not None
        A, B = self._hard[site.layer, site.name]
        return (x.float() @ A[self._task]) @ B[self._task]

    def deployed(self) -> dict[str, np.ndarray]:
        made = {}
        for name, pair in self._files().items():
            for task, layers in enumerate(zip(*pair, strict=True)):
                for layer, (A, B) in enumerate(zip(*layers, strict=True)):
                    made[f"tasks.{task}.layers.{layer}.{name}.A"] = A.contiguous().numpy()
                    made[f"tasks.{task}.layers.{layer}.{name}.B"] = B.contiguous().numpy()
        return made

    def sites(self) -> dict[str, Any]:
        return {**super().sites(), "tasks": self.learnt + 1}

    def byte_terms(self) -> dict[str, int]:
        return {name: (self.learnt + 1) * size for name, size in self._pair_bytes().items()}

    def merged(self) -> dict[tuple[int, str], Tensor]:
        return Adapter.merged(self)
