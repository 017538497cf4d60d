"""An adapter on an encoder, and the heads of its tasks: any method behind the contract, with a linear map per task.

    f [B, d]     mean of the hidden states of a sequence's tokens, or the first one's (pooling cls)
    classification   logits = W_t f + b_t             tokens   logits_i = W_t h_i + b_t         W_t [C_t, d], b_t [C_t]

Trained: the current task's W_t and b_t in fp32, zero at the start, beside what the method trains; earlier tasks' heads
rest. Stored: float16, named and counted by edgeadapt.heads; the term `heads` joins the method's byte formula.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.heads import TERM, Pooling, bias_name, weight_name
from edgeadapt.tasks import TaskSpec
from edgeadapt_train.adapters.base import Adapter, Event, Group
from edgeadapt_train.adapters.wrapped import Wrapped


class Heads(nn.Module):
    """W_t and b_t of all tasks."""

    def __init__(self, tasks: Sequence[TaskSpec], width: int, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(len(task.choices), width)) for task in tasks)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(len(task.choices))) for task in tasks)
        self._stored = False

    def of(self, task: int) -> tuple[tuple[str, nn.Parameter], ...]:
        """The parameters of one task's head by name."""
        return (weight_name(task), self.weights[task]), (bias_name(task), self.biases[task])

    def pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """hidden [B, T, d], mask [B, T] -> f [B, d] float32."""
        if self.pooling == "cls":
            return hidden[:, 0].float()
        weights = mask.float()[:, :, None]
        return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1)

    def logits(self, task: int, features: Tensor) -> Tensor:
        """features [n, d] -> [n, C_t] float32."""
        (_, weight), (_, bias) = self.of(task)
        if self._stored:
            return features.float() @ weight.half().float().T + bias.half().float()
        return features.float() @ weight.T + bias

    @contextmanager
    def stored(self) -> Iterator[None]:
        """Inside: the numbers that ship."""
        before, self._stored = self._stored, True
        try:
            yield
        finally:
            self._stored = before

    def to_file(self) -> dict[str, np.ndarray]:
        named = (item for task in range(len(self.weights)) for item in self.of(task))
        return {name: value.detach().half().cpu().numpy() for name, value in named}


class Headed(Wrapped):
    """`inner` and the heads; everything that is not a head is the inner adapter's own."""

    current: Tensor

    def __init__(
        self, inner: Adapter, tasks: Sequence[TaskSpec], width: int, pooling: Pooling, lr_scale: float
    ) -> None:
        """`lr_scale`: the heads' learning rate over the run's."""
        super().__init__(inner)
        self.heads = Heads(tasks, width, pooling)
        self._lr_scale = lr_scale
        self.register_buffer("current", torch.zeros((), dtype=torch.int64))

    def groups(self) -> list[Group]:
        return [*super().groups(), Group("heads", self.heads.of(int(self.current)), self._lr_scale)]

    def deployed(self) -> dict[str, np.ndarray]:
        return {**super().deployed(), **self.heads.to_file()}

    def byte_terms(self) -> dict[str, int]:
        return {**super().byte_terms(), TERM: 2 * sum(value.numel() for value in self.heads.parameters())}

    @contextmanager
    def hardened(self) -> Iterator[None]:
        with super().hardened(), self.heads.stored():
            yield

    def begin_task(self, index: int) -> list[Event]:
        events = super().begin_task(index)
        self.current.fill_(index)
        self._rest()
        return events

    def load_own_state(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_own_state(tensors)
        self._rest()

    def _rest(self) -> None:
        """Only the current task's head learns."""
        self.heads.requires_grad_(False)
        for _, parameter in self.heads.of(int(self.current)):
            parameter.requires_grad_(True)
