"""A host with the shape of a decoder for HIMALAYA's tests, and a task that is learnt on it in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Host, Prompt
from edgeadapt_train.adapters.himalaya.adapter import Himalaya

WIDTH, DEPTH = 64, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Residual(torch.nn.Module):
    """Blocks that add a fixed map of their input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH))
        for index, layer in enumerate(self.layers):
            layer.weight.data = torch.eye(WIDTH) + 0.1 * torch.randn(WIDTH, WIDTH, generator=generator(index))
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def himalaya(**options: Any) -> tuple[Residual, Himalaya]:
    model = Residual()
    blocks = tuple(model.layers)
    if options.get("site") == "square" or options.get("variant") == "literal":
        blocks = tuple(torch.nn.ModuleDict({"q_proj": layer}) for layer in blocks)
    adapter = registry.build({"method": "himalaya", "fisher_batches": 4, **options}, Host(model, blocks, WIDTH), 0)
    assert isinstance(adapter, Himalaya)
    adapter.attach()
    return model, adapter


def learn(
    model: Residual, adapter: Himalaya, task: int, steps: int, *, watch: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Pull the output of random inputs towards a task's own fixed vector; `watch` is called after every step."""
    events = adapter.begin_task(task)
    groups = [{"params": [p for _, p in g.parameters], "lr": 2e-2 * g.scale} for g in adapter.groups()]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    target = torch.randn(WIDTH, generator=generator(100 + task))
    stream = generator(200 + task)

    def backward() -> None:
        optimiser.zero_grad()
        x = torch.randn(8, 5, WIDTH, generator=stream) + target
        prompt = Prompt(x, torch.ones(8, 5), torch.full((8,), task))
        with adapter.conditioned(prompt):
            loss = -(model(x) @ target).mean() / WIDTH
        penalty = adapter.penalty()
        (loss if penalty is None else loss + penalty).backward()

    def gradients(count: int, *, single: bool = False) -> Any:
        for _ in range(count):
            backward()
            yield

    for step in range(steps):
        adapter.schedule(step / max(1, steps - 1))
        backward()
        adapter.after_backward()
        optimiser.step()
        events += adapter.after_step(optimiser, step + 1)
        watch()
    return events + adapter.end_task(task, gradients)


def stored_output(model: Residual, adapter: Himalaya, task: int) -> torch.Tensor:
    x = torch.randn(6, 5, WIDTH, generator=generator(9))
    with adapter.hardened(), adapter.conditioned(Prompt(x, torch.ones(6, 5), torch.full((6,), task))):
        return model(x)
