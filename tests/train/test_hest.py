"""HEST, TABS and BHSP in training: their own definitions, gradients, budgets. What all adapters owe: tests/contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import spectral_update
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Host
from edgeadapt_train.adapters.hest.basis import DIRECTIONS, directions
from edgeadapt_train.adapters.hest.states import hard, relaxed, spectral_delta
from edgeadapt_train.backbone import blocks
from tests.contract.subjects import NAMED, Bench, build, decoder, learn


def adapted(name: str, **options: Any) -> Bench:
    bench = build(NAMED[name], "decoder")
    if options:
        host = Host(bench.model, blocks(bench.model), 64)
        bench.adapter = registry.build({**NAMED[name].options, **options}, host, 3)
    bench.adapter.attach()
    bench.adapter.begin_task(0)
    return bench


def draw(bench: Bench, size: float = 0.3) -> None:
    """Random values for all that is trained, so that states and plans differ."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in bench.adapter.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def test_directions_are_the_top_singular_vectors_with_signs_that_do_not_depend_on_chance() -> None:
    weight = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
    u, v = directions(weight)
    assert u.shape == (DIRECTIONS, 40)
    assert v.shape == (DIRECTIONS, 24)
    singular = torch.linalg.svdvals(weight)[:DIRECTIONS]
    torch.testing.assert_close((u @ weight * v).sum(dim=1), singular)
    assert (u.gather(1, u.abs().argmax(dim=1, keepdim=True)) > 0).all()
    again = directions(weight.clone())
    torch.testing.assert_close(again[0], u, rtol=0, atol=0)


def test_a_map_with_too_few_directions_is_refused() -> None:
    with pytest.raises(EdgeAdaptError, match="has no 16 directions"):
        directions(torch.ones(15, 40))


def test_training_adds_what_the_op_computes() -> None:
    """All three states, against the NumPy reference of SpectralUpdate: the same roundings."""
    rng = np.random.default_rng(0)
    x, U, V = rng.normal(size=(2, 3, 24)), rng.normal(size=(16, 40)), rng.normal(size=(16, 24))
    x, U, V = x.astype(np.float32), U.astype(np.float16), V.astype(np.float16)
    s = rng.normal(size=16).astype(np.float32)
    states = rng.integers(0, 3, (2, 3, 16)).astype(np.uint8)
    span = np.tile([0, 40], (16, 1))
    y = np.zeros((2, 3, 40), np.float32)
    expected, _ = spectral_update.reference(y, x, states, *spectral_update.stored(V, U, s), span, first=0, count=16)
    gates = (torch.from_numpy((states == state).astype(np.float32)) for state in (1, 2))
    parts = (torch.from_numpy(part).float() for part in (x, U, V, s))
    np.testing.assert_allclose(spectral_delta(*parts, *gates).numpy(), expected, atol=2e-5)


def test_the_relaxed_states_have_the_gradient_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    o = torch.randn(3, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    g = torch.randn(3, 5, 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda o: relaxed(o, g, 2 / 3), o)


def test_a_hard_choice_is_one_hot_and_has_the_relaxed_gradient() -> None:
    o = torch.tensor([[0.3, 1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    chosen = hard(relaxed(o, torch.zeros_like(o), 0.5))
    torch.testing.assert_close(chosen.detach(), torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))
    (found,) = torch.autograd.grad((chosen * weight).sum(), o)
    (wanted,) = torch.autograd.grad((relaxed(o, torch.zeros_like(o), 0.5) * weight).sum(), o)
    torch.testing.assert_close(found, wanted)


def test_hests_utilities_and_expected_energy_have_the_gradient_of_finite_differences() -> None:
    bench = adapted("hest")
    adapter: Any = bench.adapter.double()
    draw(bench)
    h0 = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mask = torch.tensor([[1.0, 1, 0], [1, 1, 1]], dtype=torch.float64)

    def energy(W: Any, w: Any, b: Any) -> Any:
        values = {"W": W, "w": w, "b": b}
        old = {name: getattr(adapter, name) for name in values}
        for name, value in values.items():
            del adapter._parameters[name]
            setattr(adapter, name, value)
        try:
            return adapter.energy(adapter.utilities(h0), mask)
        finally:
            for name, value in old.items():
                delattr(adapter, name)
                adapter.register_parameter(name, value)

    parts = [getattr(adapter, name).detach().clone().requires_grad_(True) for name in ("W", "w", "b")]
    assert torch.autograd.gradcheck(energy, parts, fast_mode=True)


def test_tabs_probability_of_an_open_gate_has_the_gradient_of_finite_differences() -> None:
    adapter: Any = adapted("tabs").adapter
    alpha = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(adapter.is_open, alpha)


def test_dual_ascent_raises_the_price_above_the_envelope_and_lowers_it_below() -> None:
    dear = adapted("hest", energy_budget=0.05)
    learn(dear, steps=2)
    assert float(dear.adapter.price) > 0  # type: ignore[arg-type]
    cheap = adapted("hest", energy_budget=1.0)
    learn(cheap, steps=2)
    assert float(cheap.adapter.price) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", ["default", "no-layer-score", "no-int8"])
def test_what_the_host_computes_hardened_keeps_the_envelope(variant: str) -> None:
    bench = adapted("hest", variant=variant, energy_budget=0.3)
    draw(bench, 1.0)
    adapter: Any = bench.adapter
    planner = adapter.planner()
    mask = bench.prompt.mask.numpy().astype(bool)
    h0 = bench.prompt.embeddings.numpy()
    for row, chosen in enumerate(mask):
        states = planner.plan(h0[row, chosen]).states
        assert planner.energy(planner.counts(states), chosen.sum()) <= chosen.sum() * planner.token_budget
        assert states.any()
        assert variant != "no-int8" or not (states == 1).any()


def test_the_soft_budget_takes_every_directions_best_state_whatever_it_costs() -> None:
    bench = adapted("hest", variant="soft-budget", energy_budget=0.01)
    planner = bench.adapter.planner()  # type: ignore[operator]
    h0 = bench.prompt.embeddings.numpy()[1]
    scores = planner.scores(h0)
    np.testing.assert_array_equal(planner.plan(h0).states, planner.allocator.unbounded(scores).states)
    assert planner.allocator.cost(planner.plan(h0).states) > 0.01 * len(h0) * planner.allocator.full_cost
    assert bench.adapter.sites()["energy_budget"] is None


def test_without_a_layer_score_all_layers_see_the_same_token_score() -> None:
    bench = adapted("hest", variant="no-layer-score")
    scores = bench.adapter.planner().scores(bench.prompt.embeddings.numpy()[0])  # type: ignore[operator]
    np.testing.assert_allclose(scores, np.repeat(scores[:, :1], scores.shape[1], axis=1))


@pytest.mark.parametrize(
    ("name", "rest"),
    [("hest", 3 * 2 * 160 + 2 * 32 * (64 + 3)), ("tabs", 2 * 3 * (64 + 1)), ("bhsp", 0)],
)
def test_formula_totals(name: str, rest: int) -> None:
    """d = 64, 3 layers, q 64 -> 64 and v 64 -> 16: the basis, and what else a method stores."""
    basis = 3 * 32 * ((64 + 64) + (64 + 16))
    assert sum(adapted(name).adapter.byte_terms().values()) == basis + rest


def test_tabs_spends_less_when_its_penalty_bites() -> None:
    spent = []
    for penalty in (0.0, 20.0):
        bench = adapted("tabs", flop_penalty=penalty, flop_target=0.1, gate_lr_scale=50.0)
        learn(bench, steps=12)
        spent.append(bench.adapter.sites()["mean_gate"])
    assert spent[1] < spent[0]


def test_bhsps_budget_falls_as_adaloras() -> None:
    from peft.tuners.adalora.config import AdaLoraConfig
    from peft.tuners.adalora.layer import RankAllocator

    config = AdaLoraConfig(init_r=10, target_r=6, tinit=20, tfinal=30, total_step=100, peft_type="ADALORA")
    allocator = RankAllocator.__new__(RankAllocator)
    allocator.peft_config, allocator.init_bgt, allocator.target_bgt = config, 1000, 600
    adapter: Any = adapted("bhsp", keep=0.6, warm=0.2, settled=0.7).adapter
    for step in range(0, 101, 5):
        theirs, _ = allocator.budget_schedule(step)
        ours = 1000 * adapter.budget_share(step / 100)
        assert ours == pytest.approx(theirs, abs=1)  # theirs is rounded down


def test_bhsp_keeps_the_most_important_directions_within_its_budget() -> None:
    adapter: Any = adapted("bhsp").adapter
    with torch.no_grad():
        adapter.s.copy_(torch.arange(adapter.s.numel()).view_as(adapter.s).float())
        adapter.gradient.fill_(1.0)
    kept = adapter.kept(0.5)
    assert int((adapter.macs * kept).sum()) <= 0.5 * int(adapter.macs.sum())
    assert adapter.s[kept].min() >= adapter.s[~kept].max()


def test_hests_budget_may_be_a_share_of_what_tabs_spent(tmp_path: Path) -> None:
    from tests.energy_runs import make_energy_run
    from tests.support import tiny_backbone

    backbone = tiny_backbone(tmp_path / "backbone")
    run = make_energy_run(tmp_path / "tabs", backbone, method="tabs")
    host = Host(decoder(), blocks(decoder()), 64)
    adapter: Any = registry.build({"method": "hest", "relative_to": str(run.path)}, host, 0)
    assert adapter.ratio == pytest.approx(0.6 * run.adapter.sites["mean_gate"])
    other = make_energy_run(tmp_path / "bhsp", backbone, method="bhsp")
    with pytest.raises(EdgeAdaptError, match="give one of tabs"):
        registry.build({"method": "hest", "relative_to": str(other.path)}, host, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "hest", "energy_budget": 0.0}, "adapter.energy_budget=0.0"),
        ({"method": "hest", "device": "toaster"}, "adapter.device='toaster'"),
        ({"method": "hest", "temperature": 0.0}, "adapter.temperature=0.0"),
        ({"method": "tabs", "modules": ("o_proj",)}, "does not read what a layer's gate does"),
        ({"method": "tabs", "stretch": (0.1, 1.1)}, "adapter.stretch="),
        ({"method": "bhsp", "warm": 0.8}, "adapter.warm=0.8"),
        ({"method": "bhsp", "keep": 1.5}, "adapter.keep=1.5"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(EdgeAdaptError, match=said):
        registry.build(options, Host(decoder(), blocks(decoder()), 64), 0)
