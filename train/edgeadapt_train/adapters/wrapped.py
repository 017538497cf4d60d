"""An adapter around another one, at the contract's seams: everything is the inner adapter's until a subclass says more.

Names of the inner adapter's parameters and state begin with `inner.`; the wrapper's own state is what its modules hold
beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt_train.adapters.base import Adapter, Event, GradientBatches, Group, Prompt

INNER = "inner."


class Wrapped(Adapter):
    """`inner`, as it is."""

    def __init__(self, inner: Adapter) -> None:
        super().__init__()
        self.inner = inner
        self.method, self.variant, self.budget = inner.method, inner.variant, inner.budget
        self.reads_task, self.recomputable = inner.reads_task, inner.recomputable

    def attach(self) -> None:
        self.inner.attach()

    def detach(self) -> None:
        self.inner.detach()

    def groups(self) -> list[Group]:
        return [
            Group(group.name, tuple((INNER + name, value) for name, value in group.parameters), group.scale)
            for group in self.inner.groups()
        ]

    def held(self) -> list[tuple[str, nn.Parameter]]:
        return [(INNER + name, parameter) for name, parameter in self.inner.held()]

    def deployed(self) -> dict[str, np.ndarray]:
        return self.inner.deployed()

    def sites(self) -> dict[str, Any]:
        return self.inner.sites()

    def byte_terms(self) -> dict[str, int]:
        return self.inner.byte_terms()

    def hardened(self) -> AbstractContextManager[None]:
        return self.inner.hardened()

    def merged(self) -> dict[tuple[int, str], Tensor]:
        return self.inner.merged()

    @contextmanager
    def conditioned(self, prompt: Prompt) -> Iterator[None]:
        with self.inner.conditioned(prompt):
            yield

    def begin_task(self, index: int) -> list[Event]:
        return self.inner.begin_task(index)

    def end_task(self, index: int, gradients: GradientBatches) -> list[Event]:
        return self.inner.end_task(index, gradients)

    def schedule(self, progress: float) -> None:
        self.inner.schedule(progress)

    def penalty(self) -> Tensor | None:
        return self.inner.penalty()

    def after_backward(self) -> None:
        self.inner.after_backward()

    def after_step(self, optimiser: torch.optim.Optimizer, step: int) -> list[Event]:
        return self.inner.after_step(optimiser, step)

    def own_state(self) -> dict[str, Tensor]:
        own = {name: value for name, value in super().own_state().items() if not name.startswith(INNER)}
        return {**own, **{INNER + name: value for name, value in self.inner.own_state().items()}}

    def load_own_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.inner.load_own_state(
            {name.removeprefix(INNER): value for name, value in tensors.items() if name.startswith(INNER)}
        )
        own = {name: value for name, value in tensors.items() if not name.startswith(INNER)}
        super().load_own_state({**own, **{INNER + name: value for name, value in self.inner.state_dict().items()}})
