"""What an adapter owes to the rest: the one contract behind which every method trains, is saved and is deployed.

Life of an adapter
    adapter = registry.build(config, host, seed)        a no-op on the host's outputs (HIMALAYA `literal` excepted)
    adapter.attach()                                     forward hooks; never a replaced `forward`
    adapter.begin_task(t) .. training steps .. adapter.end_task(t, gradients)
        one step:  schedule(progress) -> conditioned(prompt): forward, loss + penalty() -> backward
                   -> after_backward() -> optimiser step -> after_step(optimiser)
    with adapter.hardened(): ...                         computes with the stored form (what ships), not the trained one
    adapter.deployed()                                   the tensors of adapter.safetensors
    adapter.detach()                                     the host as it was

Training state is everything that is needed to go on training (masters, buffers, rings, anchors); the optimiser's
moments are counted beside it. `own_state()` returns all of it as named tensors, so that a checkpoint is one safetensors
file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.errors import EdgeAdaptError

Event = dict[str, Any]


class GradientBatches(Protocol):
    """The task's own data once more, gradients only."""

    def __call__(self, count: int, *, single: bool = False) -> Iterable[None]:
        """Run up to `count` mini-batches, backward included (with `penalty()`), one per item.

        `single`: their examples one by one, each with the mean loss of its own target tokens.
        """
        ...


@dataclass(frozen=True)
class Card:
    """What `edgeadapt methods` says of a method, a few words each: its equation, what is trained, where it runs."""

    equation: str
    trained: str
    device: str


@dataclass(frozen=True)
class Host:
    """The frozen model as an adapter sees it. `layers`: one block per depth, first to last; `model`: all of it."""

    model: nn.Module
    layers: tuple[nn.Module, ...]
    hidden_size: int
    id: str = "unnamed"
    revision: str = "none"

    def __post_init__(self) -> None:
        if not self.layers:
            raise EdgeAdaptError(f"backbone {self.id}: no layers found that an adapter could be put on")
        if self.hidden_size % 8:
            raise EdgeAdaptError(f"backbone {self.id}: hidden size {self.hidden_size} is not a multiple of 8")

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "revision": self.revision,
            "hidden_size": self.hidden_size,
            "num_layers": len(self.layers),
        }


@dataclass(frozen=True)
class Prompt:
    """What an adapter may look at before the first layer: embeddings [B, T, d], mask [B, T] (1 on prompt tokens),
    task int64 [B]. `place`: of rows that are part of a batch of several processes, the first one's number and how many
    there are in all, so that noise can be drawn as for the whole batch."""

    embeddings: Tensor
    mask: Tensor
    task: Tensor
    place: tuple[int, int] | None = None


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate: `scale` times the run's."""

    name: str
    parameters: tuple[tuple[str, nn.Parameter], ...]
    scale: float = 1.0


class Adapter(nn.Module, ABC):
    """Base of all methods. Its own parameters are the declared ones; the host's stay frozen and bit-identical."""

    method: str
    card: ClassVar[Card]
    variant: str = "default"
    budget: int = 2_500_000
    reads_task: bool = False
    """Whether what it computes depends on the task that it is told (Prompt.task)."""
    recomputable: bool = True
    """Whether a block, run twice under the same conditions, computes the same: gradient checkpointing needs it."""
    default_ewc: ClassVar[Mapping[str, Any]] = {}
    """Options of the EWC (ewc.py) that belongs to the method itself: it is there unless a run says otherwise."""

    @abstractmethod
    def attach(self) -> None:
        """Put the hooks on the host."""

    @abstractmethod
    def detach(self) -> None:
        """Take them off: the host computes what it did before."""

    @abstractmethod
    def groups(self) -> list[Group]:
        """What the optimiser may change in the current task."""

    @abstractmethod
    def deployed(self) -> dict[str, np.ndarray]:
        """The stored tensors, in the file format of the adapter's method."""

    @abstractmethod
    def sites(self) -> dict[str, Any]:
        """Where the adapter acts, in words of adapter.json."""

    @abstractmethod
    def byte_terms(self) -> dict[str, int]:
        """The byte formula of the method, term by term; their sum is what `deployed` must measure."""

    @abstractmethod
    def hardened(self) -> AbstractContextManager[None]:
        """Inside: forward computes with the stored, dequantised tensors, without noise."""

    def merged(self) -> dict[tuple[int, str], Tensor]:
        """The static merge: the host's weights with the stored adapter in them, float32 [d_out, d_in], by (layer, name
        of the linear map; a parameter's path in the block, if that is no linear map's weight).

        Raises EdgeAdaptError where the method has none.
        """
        raise EdgeAdaptError(f"{self.method} has no static merge: what it adds depends on the input")

    @contextmanager
    def conditioned(self, prompt: Prompt) -> Iterator[None]:
        """Inside: the host's forward runs for these sequences. Methods that look at the prompt override this."""
        yield

    def begin_task(self, index: int) -> list[Event]:
        """Task `index` starts: allocate, freeze."""
        return []

    def end_task(self, index: int, gradients: GradientBatches) -> list[Event]:
        """Task `index` is learnt."""
        return []

    def held(self) -> list[tuple[str, nn.Parameter]]:
        """What EWC may hold (ewc.py): parameters that mean in the next task what they meant in this one."""
        return [item for group in self.groups() for item in group.parameters]

    def schedule(self, progress: float) -> None:
        """Anneal: progress in [0, 1] through the task."""

    def penalty(self) -> Tensor | None:
        """A term to add to the loss of the forward just done, or None."""
        return None

    def after_backward(self) -> None:
        """Gradients are complete, the optimiser has not moved yet."""

    def after_step(self, optimiser: torch.optim.Optimizer, step: int) -> list[Event]:
        """The optimiser has moved; `step` counts from 1 within the task. Returns events to log."""
        return []

    def own_state(self) -> dict[str, Tensor]:
        """Every tensor of the training state by name, on the CPU."""
        return {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}

    def load_own_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo `own_state`; raises EdgeAdaptError when names or shapes differ."""
        try:
            self.load_state_dict(dict(tensors), strict=True)
        except RuntimeError as error:
            first = str(error).splitlines()[1:2] or [str(error)]
            raise EdgeAdaptError(f"checkpoint does not fit adapter {self.method}: {first[0].strip()}") from None

    def training_state_bytes(self) -> int:
        """Bytes of the training state without the optimiser's moments."""
        return sum(value.numel() * value.element_size() for value in self.own_state().values())

    def optimiser_state_bytes(self) -> int:
        """Bytes of AdamW's two moments, as many numbers again each as are trained, in fp32."""
        return sum(8 * parameter.numel() for group in self.groups() for _, parameter in group.parameters)

    def byte_report(self) -> dict[str, Any]:
        """The three numbers that are always reported, and the terms of the first."""
        terms = self.byte_terms()
        state = self.training_state_bytes()
        return {
            "terms": terms,
            "deployed": sum(terms.values()),
            "training_state": state,
            "training_state_with_optimiser": state + self.optimiser_state_bytes(),
            "budget": self.budget,
        }
