"""HIMALAYA's parts: routing, rounding, growth, eviction, consolidation, protection, the split tree."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from edgeadapt.codecs import three_bit
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops.himalaya_direction import gates as reference_gates
from edgeadapt_train.adapters.himalaya.config import CORE, ELASTIC, HimalayaConfig, router_width
from edgeadapt_train.adapters.himalaya.consolidation import hand_over, project_on_core
from edgeadapt_train.adapters.himalaya.dictionary import Dictionary, rounded
from edgeadapt_train.adapters.himalaya.growth import Growth, span_basis
from edgeadapt_train.adapters.himalaya.router import concrete_gates, hard_gates
from edgeadapt_train.adapters.himalaya.tree import SplitTree
from tests.train.himalaya_host import DEPTH, WIDTH, generator, himalaya, learn, stored_output


def test_the_core_is_orthonormal_and_the_elastic_atoms_are_unit() -> None:
    dictionary = Dictionary(WIDTH, 8, generator())
    torch.testing.assert_close(dictionary.core @ dictionary.core.T, torch.eye(CORE), atol=1e-5, rtol=0)
    torch.testing.assert_close(dictionary.elastic.norm(dim=1), torch.ones(ELASTIC), atol=1e-5, rtol=0)
    assert int(dictionary.active.sum()) == 8


@pytest.mark.parametrize(("width", "expected"), [(4096, 10), (768, 51), (576, 66), (384, 93)])
def test_the_router_is_as_wide_as_its_budget_allows(width: int, expected: int) -> None:
    assert router_width(width) == expected


def test_atoms_are_trained_towards_their_stored_value_and_end_at_it() -> None:
    dictionary = Dictionary(WIDTH, ELASTIC, generator())
    stored = rounded(dictionary.elastic)
    torch.testing.assert_close(dictionary.trained(0.0)[0][CORE:], dictionary.elastic.detach())
    torch.testing.assert_close(dictionary.trained(1.0)[0][CORE:], stored)
    halfway = dictionary.trained(0.5)[0][CORE:]
    torch.testing.assert_close(halfway, (dictionary.elastic.detach() + stored) / 2)
    halfway.sum().backward()
    torch.testing.assert_close(dictionary.elastic.grad, torch.ones(ELASTIC, WIDTH))


def test_stored_atoms_keep_unit_norm_to_a_thousandth() -> None:
    files = Dictionary(576, 8, generator()).to_file()
    values = three_bit.dequantise(three_bit.ThreeBit(files["atoms"], files["atom_scales"]))
    norms = np.linalg.norm(values * files["atom_gains"].astype(np.float32)[:, None], axis=1)
    assert np.abs(norms[:32] - 1).max() <= 1e-3
    assert not norms[32:].any()


def test_gates_are_those_of_the_reference_ties_and_inactive_slots_included() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(-3, 4, (200, 40)).astype(np.float32)
    gains = (rng.random(40) < 0.7).astype(np.float16)
    expected = reference_gates(a.astype(np.float64), gains)
    found = hard_gates(torch.from_numpy(a), torch.from_numpy(gains) > 0)
    np.testing.assert_array_equal(found.numpy() > 0, expected)
    assert found.sum(dim=1).max() <= 3


def test_training_gates_take_hard_values_and_the_soft_gates_gradient() -> None:
    a = torch.randn(5, 40, generator=generator(), requires_grad=True)
    noise = torch.randn(5, 40, generator=generator(1))
    slots = torch.arange(40) % 5 != 0
    gates = concrete_gates(a, slots, 0.5, noise)
    torch.testing.assert_close(gates.detach(), hard_gates((a + noise).detach(), slots))
    weight = torch.randn(5, 40, generator=generator(2))
    (found,) = torch.autograd.grad((gates * weight).sum(), a)
    smooth = (torch.sigmoid((a + noise) / 0.5) * slots * weight).sum()
    (expected,) = torch.autograd.grad(smooth, a)
    torch.testing.assert_close(found, expected)


def test_growth_measures_the_span_waits_for_its_window_and_keeps_its_cap() -> None:
    config = HimalayaConfig(window=3, cooldown=4, promotions_per_task=2)
    growth = Growth(DEPTH, WIDTH, config)
    D = torch.eye(WIDTH)[:10]
    inside, outside = torch.eye(WIDTH)[3], torch.eye(WIDTH)[30]
    assert growth.observe(torch.zeros(2, WIDTH), span_basis(D)) is None
    torch.testing.assert_close(growth.observe(inside[None], span_basis(D)), -inside)
    growth.observe(2 * outside[None], span_basis(D))
    torch.testing.assert_close(growth.similarities, torch.tensor([1.0, 0.0, 0.0]))
    assert not growth.due(100)
    growth.observe(outside[None], span_basis(D))
    assert growth.due(100)
    candidate = growth.candidate()
    torch.testing.assert_close(candidate, -outside, atol=1e-4, rtol=0)
    growth.promoted(100)
    assert not growth.due(103)
    assert growth.due(104)
    growth.promoted(104)
    assert not growth.due(200)
    growth.begin_task()
    assert growth.due(200)


def test_a_dictionary_that_spans_the_gradients_does_not_grow() -> None:
    growth = Growth(DEPTH, WIDTH, HimalayaConfig(window=2, cooldown=1))
    basis = span_basis(torch.eye(WIDTH)[:10])
    for axis in (1, 2, 3):
        growth.observe(torch.eye(WIDTH)[axis][None], basis)
    assert not growth.due(100)


def test_consolidation_recovers_what_the_core_can_express_and_says_how_much() -> None:
    core = torch.linalg.qr(torch.randn(WIDTH, CORE, generator=generator())).Q.T
    inside = core[3] * 0.6 - core[9] * 0.8
    c, captured = project_on_core(torch.zeros(WIDTH), core, inside)
    torch.testing.assert_close(core.T @ c, inside, atol=2e-3, rtol=0)
    assert captured > 0.99
    random = torch.nn.functional.normalize(torch.randn(200, WIDTH, generator=generator(1)), dim=1)
    captures = [project_on_core(torch.zeros(WIDTH), core, e)[1] for e in random]
    assert np.mean(captures) == pytest.approx(CORE / WIDTH, abs=0.05)


def test_handing_over_moves_coefficients_and_opens_two_gates() -> None:
    table = torch.zeros(80, 2)
    slot = 5
    table[CORE + slot], table[40 + CORE + slot] = torch.tensor([2.0, 3.0]), torch.tensor([0.5, -1.0])
    c = torch.zeros(CORE)
    c[2], c[7], c[11] = 0.9, -0.8, 0.1
    hand_over(c, slot, [table])
    torch.testing.assert_close(table[40 + 2], 0.9 * torch.tensor([0.5, -1.0]))
    torch.testing.assert_close(table[40 + 11], 0.1 * torch.tensor([0.5, -1.0]))
    torch.testing.assert_close(table[[2, 7]], torch.tensor([[2.0, 3.0], [2.0, 3.0]]))
    assert not table[11].any()


def test_a_long_run_promotes_fills_its_slots_then_evicts_and_consolidates() -> None:
    options = {"window": 3, "cooldown": 3, "similarity_threshold": 0.999, "promotions_per_task": 12}
    model, adapter = himalaya(evict_protected=True, **options)
    events = [event for task in range(2) for event in learn(model, adapter, task, 45)]
    promoted = [event for event in events if event["event"] == "promote"]
    evicted = [event for event in events if event["event"] == "evict"]
    assert len(promoted) == 24
    assert [event["slot"] for event in promoted[:8]] == list(range(8, 16))
    assert len(evicted) == 16
    assert all(0 <= event["captured_energy"] <= 1 + 1e-5 for event in evicted)
    assert bool(adapter.dictionary.active.all())
    assert json.dumps(events)
    steps = [event["step"] for event in promoted]
    assert all(later - earlier >= 3 for earlier, later in pairwise(steps))


def test_an_eviction_resets_the_slots_moments_and_takes_the_mean_usage() -> None:
    _, adapter = himalaya(window=1, cooldown=1)
    adapter.begin_task(0)
    dictionary = adapter.dictionary
    dictionary.active.fill_(True)
    dictionary.usage.copy_(torch.arange(ELASTIC) + 1.0)
    optimiser = torch.optim.AdamW([dictionary.elastic])
    moments = {name: torch.ones(ELASTIC, WIDTH) for name in ("exp_avg", "exp_avg_sq")}
    optimiser.state[dictionary.elastic] = {"step": torch.tensor(1.0), **moments}
    adapter.growth.observe(torch.ones(1, WIDTH), span_basis(dictionary.trained(0.0)[0]))
    events = adapter._memory.grow(optimiser, 50, 0)
    assert [event["event"] for event in events] == ["evict", "promote"]
    assert events[1]["slot"] == 0
    assert not moments["exp_avg"][0].any()
    assert moments["exp_avg"][1:].all()
    assert float(dictionary.usage[0]) == pytest.approx(np.mean(np.arange(2, ELASTIC + 1)))


def test_protected_atoms_are_never_evicted_unless_it_is_asked_for() -> None:
    _, adapter = himalaya(window=1, cooldown=1)
    adapter.begin_task(0)
    adapter.dictionary.active.fill_(True)
    adapter.dictionary.protected.fill_(True)
    events = adapter._memory.grow(torch.optim.AdamW([adapter.dictionary.elastic]), 50, 0)
    assert [event["event"] for event in events] == ["full"]


@pytest.mark.parametrize("protection", ["frozen", "ewc", "none"])
def test_what_a_past_task_answers_after_three_more(protection: str) -> None:
    model, adapter = himalaya(protection=protection, window=3, cooldown=3)
    learn(model, adapter, 0, 25)
    before = stored_output(model, adapter, 0)
    bare = stored_output(model, himalaya()[1], 0)
    for task in (1, 2, 3):
        learn(model, adapter, task, 25)
    after = stored_output(model, adapter, 0)
    learnt = float((before - bare).norm())
    drift = float((after - before).norm()) / learnt
    assert learnt > 1
    if protection == "frozen":
        assert torch.equal(after, before)
    else:
        assert drift > 0
        assert (drift < 1) == (protection == "ewc")


def test_later_tasks_still_learn_when_the_shared_parts_are_frozen() -> None:
    model, adapter = himalaya(window=3, cooldown=3)
    for task in range(6):
        bare = stored_output(model, himalaya()[1], 0)
        learn(model, adapter, task, 25)
        assert float((stored_output(model, adapter, task) - bare).norm()) > 1


@pytest.mark.parametrize("borrow", [True, False])
def test_a_task_that_finds_no_free_atom_learns_with_borrowed_ones_and_moves_none_of_them(borrow: bool) -> None:
    model, adapter = himalaya(initial_active=3, growth=False, borrow=borrow)
    bare = stored_output(model, adapter, 1)
    learn(model, adapter, 0, 25)
    before = stored_output(model, adapter, 0)
    allocated = learn(model, adapter, 1, 25)[0]
    assert allocated["slots"] == []
    assert sorted(allocated["borrowed"]) == ([0, 1, 2] if borrow else [])
    learnt = float((stored_output(model, adapter, 1) - bare).norm())
    assert learnt > 1 if borrow else learnt == 0
    assert torch.equal(stored_output(model, adapter, 0), before)


def test_borrowed_atoms_fill_up_what_lacks_of_three() -> None:
    model, adapter = himalaya(atoms_per_task=1, growth=False, borrow=True)
    allocated = [learn(model, adapter, task, 5)[0] for task in range(4)]
    assert [(len(event["slots"]), len(event["borrowed"])) for event in allocated] == [(1, 0), (1, 1), (1, 2), (1, 2)]
    assert set(allocated[3]["borrowed"]) <= {0, 1, 2}


def test_more_tasks_than_the_tables_hold_are_refused() -> None:
    _, adapter = himalaya()
    with pytest.raises(EdgeAdaptError, match="32 tasks"):
        adapter.begin_task(32)


@pytest.mark.parametrize("fan_out", [4, 8, 16])
def test_the_tree_finds_the_three_atoms_nearest_to_a_state(fan_out: int) -> None:
    atoms = torch.nn.functional.normalize(torch.randn(ELASTIC, 576, generator=generator()), dim=1)
    active = torch.ones(ELASTIC, dtype=torch.bool)
    tree = SplitTree(fan_out, 0)
    tree.rebuild(atoms)
    assert bool((tree.thresholds[1:] >= tree.thresholds[:-1]).all())
    assert tree.to_file()["tree"].nbytes == 46
    states = torch.randn(200, 576, generator=generator(1)) + 3 * atoms.repeat(13, 1)[:200]
    found = looked = 0
    for h in states:
        best = set((atoms @ h).abs().topk(3).indices.tolist())
        proposed = tree.propose(atoms, active, h)
        looked += len(proposed)
        found += len(best & set(proposed[:3]))
    assert found / (3 * len(states)) >= 0.95
    assert looked <= ELASTIC * len(states)


def test_the_tree_never_proposes_an_inactive_slot() -> None:
    atoms = torch.nn.functional.normalize(torch.randn(ELASTIC, WIDTH, generator=generator()), dim=1)
    active = torch.arange(ELASTIC) < 8
    tree = SplitTree(8, 0)
    tree.rebuild(atoms)
    for h in torch.randn(20, WIDTH, generator=generator(1)):
        assert set(tree.propose(atoms, active, h)) <= set(range(8))


def test_the_trees_soft_membership_is_a_partition_that_hardens() -> None:
    tree = SplitTree(4, 0)
    keys, cuts = torch.tensor([-2.0, -0.5, 0.5, 2.0]), torch.tensor([-1.0, 0.0, 1.0])
    soft = tree.soft_membership(keys, cuts, 0.5)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(tree.soft_membership(keys, cuts, 1e-3), torch.eye(4))
