"""What methods have in common that learn a low-rank pair of its own for every task, beside what past tasks left.

    s B_t A_t            A_t [r, d_in] Kaiming-uniform, B_t [d_out, r] = 0 at a task's start;  s = alpha / r
    past_A, past_B       what past tasks left, in the method's own shapes; they do not move, and may grow with the tasks

Trained: A_t, B_t of the current task, fp32. Bytes of a pair in fp16: sum over sites of 2 r (d_in + d_out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgeadapt_train.adapters.base import Group, Host
from edgeadapt_train.adapters.low_rank import LowRank

MOST_TASKS = 32


class TaskPairs(LowRank):
    """See the module's docstring. By module name: A [L, r, d_in], B [L, d_out, r]."""

    def __init__(self, host: Host, modules: Sequence[str], rank: int, alpha: int, seed: int) -> None:
        super().__init__(host, modules, rank)
        self.scale, self._seed = alpha / rank, seed
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for name, (d_in, d_out) in self.widths.items():
            self.A[name] = nn.Parameter(torch.empty(self.depth, rank, d_in))
            self.B[name] = nn.Parameter(torch.empty(self.depth, d_out, rank))
        self._draw(0)

    @torch.no_grad()
    def _draw(self, task: int) -> None:
        """A fresh pair: B_t A_t = 0."""
        generator = torch.Generator().manual_seed(self._seed * (MOST_TASKS + 1) + task)
        for name, A in self.A.items():
            fresh = torch.empty(A.shape)
            nn.init.uniform_(fresh, -(A.shape[-1] ** -0.5), A.shape[-1] ** -0.5, generator=generator)
            A.copy_(fresh)  # drawn on the CPU: the same on all devices
            self.B[name].zero_()

    def _past(self, name: str) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"past_A_{name}"), self.get_buffer(f"past_B_{name}")

    def _set_past(self, name: str, A: Tensor, B: Tensor) -> None:
        self.register_buffer(f"past_A_{name}", A)
        self.register_buffer(f"past_B_{name}", B)

    def groups(self) -> list[Group]:
        pairs = [(f"{part}.{name}", value) for part in "AB" for name, value in getattr(self, part).items()]
        return [Group("pair", tuple(pairs))]

    def held(self) -> list[tuple[str, nn.Parameter]]:
        """Nothing: every task starts with a new pair."""
        return []

    def _pair_bytes(self) -> dict[str, int]:
        return {name: 2 * self.depth * self.rank * sum(widths) for name, widths in self.widths.items()}

    def load_own_state(self, tensors: Mapping[str, Tensor]) -> None:
        place = next(self.parameters()).device
        for name in self.widths:
            pair = [tensors.get(f"past_{part}_{name}") for part in "AB"]
            if pair[0] is not None and pair[1] is not None:  # as much of the past as the checkpoint has
                self._set_past(name, *(torch.empty_like(one, device=place) for one in pair if one is not None))
        super().load_own_state(tensors)
