"""Replay-free EWC around any adapter: what past tasks needed of its parameters resists being moved.

    loss + (lambda / 2) sum_i F_i (theta_i - theta*_i)^2          from the second task on
    end of a task:  F <- gamma F + mean over its examples of (d loss / d theta)^2       theta* <- theta
Diagonal online Fisher (Kirkpatrick et al. 2017; online form, Schwarz et al. 2018) from per-example gradients of the
unregularised loss on `batches` mini-batches of the task, of no task before: nothing is replayed or kept of any data.

theta are the parameters that the adapter says mean the same from task to task (`Adapter.held`). F is fp32; theta* fp32,
or int8 per row with fp16 scales (`anchor=int8`). Both are training state and never ship.
The wrapper sits at the contract's seams alone: `penalty`, `end_task`, and the state that a checkpoint holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Adapter, Event, GradientBatches
from edgeadapt_train.adapters.quantised import int8_rows, int8_values
from edgeadapt_train.adapters.wrapped import Wrapped


@dataclass(frozen=True)
class EwcConfig:
    """lambda (`strength`; 0: no EWC), gamma (`decay`), mini-batches behind the Fisher, how theta* is kept."""

    strength: float = 0.0
    decay: float = 0.95
    batches: int = 128
    anchor: Literal["fp32", "int8"] = "fp32"

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise EdgeAdaptError(f"adapter.ewc.strength={self.strength}: give 0 (none) or more")
        if not 0 < self.decay <= 1:
            raise EdgeAdaptError(f"adapter.ewc.decay={self.decay}: give a number in (0, 1]")
        if self.batches < 1:
            raise EdgeAdaptError(f"adapter.ewc.batches={self.batches}: give at least 1")


class Ewc(Wrapped):
    """`inner` under EWC."""

    learnt: Tensor

    def __init__(self, config: EwcConfig, inner: Adapter) -> None:
        super().__init__(inner)
        self.config = config
        self.variant = inner.variant if inner.default_ewc else f"{inner.variant}-ewc"
        if not inner.held():
            raise EdgeAdaptError(
                f"adapter.ewc: {inner.method} starts every task with new parameters, so there is nothing to hold"
            )
        self.register_buffer("learnt", torch.tensor(0))  # tasks that have ended
        for name, parameter in inner.held():
            self.register_buffer(f"fisher/{_flat(name)}", torch.zeros_like(parameter))
            self._set_anchor(name, parameter)
        self._measuring = False

    def _set_anchor(self, name: str, parameter: Tensor) -> None:
        if self.config.anchor == "int8":
            codes, scales = int8_rows(torch.atleast_1d(parameter))
            self.register_buffer(f"anchor/{_flat(name)}", codes)
            self.register_buffer(f"anchor_scales/{_flat(name)}", scales)
        else:
            self.register_buffer(f"anchor/{_flat(name)}", parameter.detach().clone())

    def _fisher(self, name: str) -> Tensor:
        return self.get_buffer(f"fisher/{_flat(name)}")

    def _anchor(self, name: str) -> Tensor:
        value = self.get_buffer(f"anchor/{_flat(name)}")
        if self.config.anchor == "fp32":
            return value
        return int8_values(value, self.get_buffer(f"anchor_scales/{_flat(name)}"))

    def penalty(self) -> Tensor | None:
        if self._measuring:
            return None
        own = super().penalty()
        if not int(self.learnt):
            return own
        total = torch.zeros((), device=self.learnt.device)
        for name, parameter in self.inner.held():
            away = parameter - self._anchor(name).view_as(parameter)
            total = total + (self._fisher(name) * away.square()).sum()
        held = self.config.strength / 2 * total
        return held if own is None else own + held

    def end_task(self, index: int, gradients: GradientBatches) -> list[Event]:
        squares = {name: torch.zeros_like(parameter) for name, parameter in self.inner.held()}
        examples = 0
        self._measuring = True
        try:
            for _ in gradients(self.config.batches, single=True):
                examples += 1
                for name, parameter in self.inner.held():
                    if parameter.grad is not None:
                        squares[name] += parameter.grad.square()
        finally:
            self._measuring = False
        events = super().end_task(index, gradients)
        with torch.no_grad():
            for name, parameter in self.inner.held():
                self._fisher(name).mul_(self.config.decay).add_(squares[name] / max(examples, 1))
                self._set_anchor(name, parameter)
            self.learnt += 1
            trace = sum(float(square.sum()) for square in squares.values()) / max(examples, 1)
        return [*events, {"event": "ewc", "task": index, "examples": examples, "fisher_trace": trace}]


def _flat(name: str) -> str:
    """A parameter's name without the dots that a buffer's may not have."""
    return name.replace(".", "/")
