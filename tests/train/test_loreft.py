"""LoReFT and full fine-tuning: what each has of its own, beside the contract that all adapters keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Host, Prompt
from edgeadapt_train.adapters.loreft import edited, orthonormal
from tests.contract.subjects import NAMED, build, learn


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_edit_is_pyrefts() -> None:
    """pyreft's LoreftIntervention, restated: base + (source(base) - rotate(base)) R, rotate(x) = x R^T."""
    rotate = nn.Linear(12, 3, bias=False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        nn.utils.parametrizations.orthogonal(rotate)
        source = nn.Linear(12, 3)
    base = draws(2, 5, 12)
    with torch.no_grad():
        expected = base + torch.matmul(source(base) - rotate(base), rotate.weight)
        found = edited(base, source.weight - rotate.weight, rotate.weight, source.bias)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)


def test_rotations_stay_orthonormal_while_they_turn() -> None:
    bench = build(NAMED["loreft"], "decoder")
    adapter: Any = bench.adapter
    start = orthonormal(adapter.X).detach().clone()
    adapter.attach()
    learn(bench, steps=10, lr=5e-2)
    R = orthonormal(adapter.X).detach()
    np.testing.assert_allclose((R @ R.transpose(1, 2)).numpy(), np.stack([np.eye(4)] * 3), atol=1e-5)
    assert float((R - start).norm()) > 0.1


def test_the_rotation_has_the_gradient_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(orthonormal, (draws(2, 7, 3).double().requires_grad_(),))


def test_the_rotation_does_not_jump_where_householder_reflections_do() -> None:
    """LAPACK's QR flips a column's sign as its leading entry crosses zero."""
    X = draws(7, 3).double()
    sides = []
    for entry in (1e-9, -1e-9):
        X[0, 0] = entry
        sides.append(orthonormal(X))
    np.testing.assert_allclose(sides[0].numpy(), sides[1].numpy(), atol=1e-7)


def test_full_fine_tuning_trains_a_bfloat16_host_in_float32() -> None:
    """A step too small for bfloat16's mantissa is not lost."""
    block = nn.Linear(8, 8, bias=False).to(torch.bfloat16).requires_grad_(False)
    before = block.weight.clone()
    host = Host(nn.ModuleList([block]), (block,), 8)
    adapter = registry.build({"method": "full"}, host, 0)
    adapter.attach()
    adapter.begin_task(0)
    (_, delta), *_ = adapter.groups()[0].parameters
    with torch.no_grad():
        delta.add_(1e-6)
    prompt = Prompt(torch.zeros(1, 1, 8), torch.ones(1, 1), torch.zeros(1, dtype=torch.int64))
    with adapter.conditioned(prompt):
        block(draws(2, 8).to(torch.bfloat16)).float().sum().backward()
    assert delta.grad is not None
    assert delta.grad.dtype == torch.float32
    assert float(delta.detach().min()) == pytest.approx(1e-6)
    assert torch.equal(block.weight, before)
    assert isinstance(block.weight, nn.Parameter)


def test_full_fine_tuning_puts_the_weights_back_when_a_forward_pass_fails() -> None:
    bench = build(NAMED["full"], "decoder")
    bench.adapter.attach()
    before = dict(bench.model.named_parameters())
    with pytest.raises(RuntimeError, match="stopped"), bench.adapter.conditioned(bench.prompt):
        raise RuntimeError("stopped")
    assert all(parameter is before[name] for name, parameter in bench.model.named_parameters())


def test_loreft_says_why_it_has_no_merge() -> None:
    with pytest.raises(EdgeAdaptError, match="a block's output is a sum"):
        build(NAMED["loreft"], "decoder").adapter.merged()
