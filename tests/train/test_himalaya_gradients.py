"""HIMALAYA's custom backward, and the smooth parts behind its straight-through ones, against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.autograd import gradcheck

from edgeadapt_train.adapters.himalaya.config import CORE, ELASTIC
from edgeadapt_train.adapters.himalaya.dictionary import Dictionary, rounded
from edgeadapt_train.adapters.himalaya.router import RouterWeights, concrete_gates, count_excess, hard_gates
from edgeadapt_train.adapters.himalaya.update import apply_update, direction_row, term_rows
from tests.train.himalaya_host import generator


def double(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).requires_grad_(True)


def opened(rows: int = 2) -> torch.Tensor:
    """Coefficients [rows, 40] behind three open gates, of either sign; the last row opens two."""
    k = torch.zeros(rows, 40, dtype=torch.float64)
    k[:, [1, 30, 37]] = torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64)
    k[-1, 30] = 0
    return k


@pytest.mark.parametrize("rank", [1, 3])
def test_a_site_s_backward_is_the_finite_difference(rank: int) -> None:
    y, x, V, W = double(2, 3, 8), double(2, 3, 8, seed=1), double(2, rank, 8, seed=2), double(2, rank, 8, seed=3)
    g = double(2, rank, seed=4)
    assert gradcheck(lambda y, V, W, g: apply_update(y, y, V, W, g), (y, V, W, g))
    assert gradcheck(apply_update, (y, x, V, W, g))
    assert gradcheck(lambda y, V, g: apply_update(y, y, V, V, g), (y, V, g))


def test_a_site_on_a_bfloat16_host_rounds_once() -> None:
    y, V, W = (torch.randn(2, n, 8, generator=generator(n)) for n in (3, 1, 1))
    g = torch.tensor([[0.5], [-0.3]])
    found = apply_update(y.bfloat16(), y.bfloat16(), V, W, g)
    wide = y.bfloat16().float()
    assert torch.equal(found, (wide + (wide @ V.transpose(1, 2) * g[:, None]) @ W).bfloat16())


@pytest.mark.parametrize("rows", [direction_row, term_rows])
def test_the_rows_depend_smoothly_on_atoms_and_coefficients(rows: Callable[..., tuple[torch.Tensor, ...]]) -> None:
    """Of the coefficients, those behind open gates; a term's weight has no slope where its gate is shut."""
    k, D = opened(), double(40, 16)
    at = (k != 0).nonzero(as_tuple=True)

    def of(values: torch.Tensor, D: torch.Tensor) -> torch.Tensor:
        return rows(k.index_put(at, values), D)[1]

    assert gradcheck(of, (k[at].clone().requires_grad_(True), D))


def test_a_direction_is_unit_or_zero_and_feels_the_gates_that_are_shut() -> None:
    k, D = opened(3), double(40, 16)
    k[2] = 0
    v = direction_row(k, D)[1][:, 0]
    torch.testing.assert_close(v.norm(dim=1), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    assert gradcheck(lambda k: direction_row(k, D)[1], (k[:2].clone().requires_grad_(True),))


def test_terms_are_the_open_atoms_by_index_and_their_squares_sum_to_one() -> None:
    k, D = opened(), double(40, 16)
    rows = term_rows(k, D)[1]
    torch.testing.assert_close(rows.square().sum(dim=(1, 2)), torch.ones(2, dtype=torch.float64))
    shares = k[0, [1, 30, 37]].abs() / (k[0].abs() * D.square().sum(dim=1)).sum()
    torch.testing.assert_close(rows[0], shares.sqrt()[:, None] * D[[1, 30, 37]])
    assert not rows[1, 2].any()


def test_the_gates_slope_is_that_of_the_concrete_relaxation() -> None:
    a, noise = double(5, 40), torch.randn(5, 40, generator=generator(1), dtype=torch.float64)
    slots = torch.arange(40) % 5 != 0

    def soft(a: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((a + noise) / 0.5) * slots

    assert gradcheck(soft, (a,))
    gates = concrete_gates(a, slots, 0.5, noise)
    torch.testing.assert_close(gates.detach(), hard_gates((a + noise).detach(), slots))
    weight = torch.randn(5, 40, generator=generator(2), dtype=torch.float64)
    (found,) = torch.autograd.grad((gates * weight).sum(), a)
    (expected,) = torch.autograd.grad((soft(a) * weight).sum(), a)
    torch.testing.assert_close(found, expected)


def test_the_router_and_the_penalty_are_smooth() -> None:
    w1, w2, tasks, pool = double(5, 16 + 17), double(80, 6, seed=1), double(32, 16, seed=2), double(3, 16, seed=3)
    task, slots = torch.tensor([0, 3, 31]), torch.ones(40, dtype=torch.bool)
    assert gradcheck(lambda *parts: RouterWeights(*parts).route(pool, task), (w1, w2, tasks))
    assert gradcheck(lambda a: count_excess(a, slots), (double(3, 40, seed=4),))


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_annealed_rounding_has_the_slope_of_what_is_not_rounded(beta: float) -> None:
    """Between the codec's jumps Q is constant, so D(E) = E + beta (Q - E') moves as E does when E' is held."""
    dictionary = Dictionary(64, ELASTIC, generator())
    weight = torch.randn(40, 64, generator=generator(1))
    D, _ = dictionary.trained(beta)
    torch.testing.assert_close(D[CORE:], torch.lerp(dictionary.elastic.detach(), rounded(dictionary.elastic), beta))
    (found,) = torch.autograd.grad((D * weight).sum(), dictionary.elastic)
    torch.testing.assert_close(found, weight[CORE:])
