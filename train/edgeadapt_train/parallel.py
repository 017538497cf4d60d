"""Several processes that train one adapter together: data-parallel, on Hugging Face Accelerate.

    accelerate launch --multi_gpu --num_processes 8 -m edgeadapt train run=...             GPUs of one machine
    accelerate launch --multi_gpu --num_machines 4 --machine_rank R ... -m edgeadapt train run=...
                                                                                           results_dir is shared by all
    torchrun --nproc_per_node 2 -m edgeadapt train run=... device=cpu                      CPUs, by gloo

batch      process r of P takes rows [r B / P, (r + 1) B / P) of every batch: `batch_size` is the whole batch's, and the
           number of processes changes what a step computes by no more than rounding (methods that draw noise take
           their rows' part of the batch's by Prompt.place; HEST and TABS draw their own in every process)
gradient   the sum of the processes' own, since the loss is divided by the targets of all
adapter    after each step every process takes the tensors of process 0, as DistributedDataParallel does with buffers:
           statistics that a method gathers beside the gradient (HIMALAYA's growth) are of process 0's rows
Fisher passes at a task's end and scores are computed by every process alike; process 0 alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from edgeadapt.errors import EdgeAdaptError

T = TypeVar("T")


class Team(Protocol):
    """The processes of a run."""

    rank: int
    size: int

    def total(self, values: Tensor) -> Tensor:
        """The sum of what all processes have, the same in each."""
        ...

    def follow(self, values: Iterable[Tensor]) -> None:
        """Every process takes process 0's values, in place."""
        ...


class Alone:
    """One process."""

    rank, size = 0, 1

    def total(self, values: Tensor) -> Tensor:
        return values

    def follow(self, values: Iterable[Tensor]) -> None:
        pass


class Together:
    """The processes that `accelerate launch` (or torchrun) has started."""

    def __init__(self, *, cpu: bool) -> None:
        from accelerate import PartialState

        state = PartialState(cpu=cpu)
        self.rank, self.size = state.process_index, state.num_processes

    def total(self, values: Tensor) -> Tensor:
        from accelerate.utils import reduce

        summed: Tensor = reduce(values, reduction="sum")
        return summed

    @torch.no_grad()
    def follow(self, values: Iterable[Tensor]) -> None:
        from accelerate.utils import broadcast

        places = list(values)
        # One message of bytes, whatever the types.
        sent = torch.cat([place.detach().contiguous().flatten().view(torch.uint8) for place in places])
        received = broadcast(sent).split([place.numel() * place.element_size() for place in places])
        for place, part in zip(places, received, strict=True):
            place.copy_(part.clone().view(place.dtype).view(place.shape))


def team(*, cpu: bool) -> Team:
    """The processes of this run, by the environment that its launcher has set."""
    return Together(cpu=cpu) if _launched() else Alone()


def check_alone(option: str, remedy: str) -> None:
    """Raise EdgeAdaptError if a launcher has started several processes."""
    if _launched():
        raise EdgeAdaptError(f"{option}: not with several processes under one launcher; {remedy}")


def _launched() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def first_row(rank: int, size: int, rows: int) -> int:
    """Where the rows of process `rank` begin; those of the last end at first_row(size, size, rows)."""
    return rank * rows // size


def own_rows(members: Team, rows: Sequence[T]) -> tuple[int, Sequence[T]]:
    """This process's rows of a batch, and the number of the first."""
    first = first_row(members.rank, members.size, len(rows))
    return first, rows[first : first_row(members.rank + 1, members.size, len(rows))]


@torch.no_grad()
def sum_gradients(members: Team, parameters: Sequence[nn.Parameter]) -> None:
    """Gradients become the sum over all processes. A parameter that has none anywhere has none afterwards."""
    if members.size == 1:
        return
    there = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=parameters[0].device)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    summed = members.total(torch.cat([there, *(part.float().flatten() for part in parts)]))
    rest = summed[len(parameters) :].split([parameter.numel() for parameter in parameters])
    for parameter, count, gradient in zip(parameters, summed.tolist(), rest, strict=False):
        parameter.grad = gradient.view_as(parameter).to(parameter.dtype).clone() if count else None
