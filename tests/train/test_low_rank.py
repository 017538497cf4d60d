"""LILAC, COLTAS and GloDiS: what each has of its own, beside the contract that all adapters keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeadapt.codecs import int8
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Host
from edgeadapt_train.adapters.coltas import Coltas, truncated
from edgeadapt_train.adapters.glodis import Glodis, compose, longest_length, mixture
from edgeadapt_train.adapters.lilac import Lilac
from edgeadapt_train.adapters.quantised import int8_rows, int8_values, straight_through
from edgeadapt_train.methods import SHAPES, Shape, skeleton
from tests.contract.subjects import NAMED, build, learn


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_int8_rows_are_the_codecs_bits() -> None:
    values = draws(7, 33) * torch.logspace(-6, 3, 7)[:, None]
    values[3] = 0
    values[4, :] = 1e-9
    codes, scales = int8_rows(values)
    expected = int8.quantise(values.numpy())
    np.testing.assert_array_equal(codes.numpy(), expected.codes)
    np.testing.assert_array_equal(scales.numpy(), expected.scales)
    np.testing.assert_array_equal(int8_values(codes, scales).numpy(), int8.dequantise(expected))


def test_straight_through_gives_the_stored_value_and_the_gradient_of_the_number() -> None:
    values = draws(4, 9).requires_grad_()
    weights = draws(4, 9, seed=1)
    passed = straight_through(values)
    (passed * weights).sum().backward()
    np.testing.assert_allclose(passed.detach().numpy(), int8_values(*int8_rows(values)).numpy(), rtol=1e-6)
    assert values.grad is not None
    assert torch.equal(values.grad, weights)


def test_lilacs_published_bytes_are_weight_anchor_and_fisher() -> None:
    """557,056 numbers x (1 + 1 + 4) bytes = 3.34 MB at d = 4096 and 32 layers."""
    wide = Shape(layers=32, hidden=4096, kv=4096, inner=11008, family="decoder")
    adapter = registry.build({"method": "lilac"}, skeleton(wide), 0)
    state = adapter.own_state()

    def size(start: str) -> int:
        return sum(value.nbytes for name, value in state.items() if name.startswith(start))

    terms = adapter.byte_terms()
    numbers = terms["dictionaries"] + terms["coefficients"]
    assert numbers == size("anchor/") == 557_056
    assert size("fisher/") == 4 * numbers
    assert numbers + size("anchor/") + size("fisher/") == 3_342_336 <= adapter.budget
    scales = terms["dictionary_row_scales"] + terms["coefficient_row_scales"]
    assert sum(value.nbytes for value in adapter.deployed().values()) == numbers + scales


def test_lilac_shares_one_dictionary_per_width() -> None:
    adapter = registry.build({"method": "lilac", "ewc": {"strength": 0.0}}, skeleton(SHAPES["smollm2-135m"]), 0)
    assert isinstance(adapter, Lilac)
    assert {name: tuple(value.shape) for name, value in adapter.tables.items()} == {
        "in/576": (64, 576),
        "out/192": (64, 192),
        "out/576": (64, 576),
        **{f"{module}/{part}": (30, 4, 64) for module in ("q_proj", "v_proj") for part in "AB"},
    }


def test_lilacs_update_is_its_equation() -> None:
    bench = build(NAMED["lilac"], "decoder")
    bench.adapter.attach()
    learn(bench)
    files = bench.adapter.deployed()

    def table(name: str) -> np.ndarray:
        return files[name].astype(np.float32) * files[f"{name}.scales"].astype(np.float32)[..., None]

    inner: Any = bench.adapter
    for (layer, name), (A, B) in inner.inner.stored().items():
        reads, writes = inner.inner.widths[name]
        np.testing.assert_allclose(A.numpy(), (table(f"{name}.A")[layer] @ table(f"in.{reads}")).T, atol=1e-6)
        np.testing.assert_allclose(B.numpy(), table(f"{name}.B")[layer] @ table(f"out.{writes}"), atol=1e-6)


def test_truncation_is_the_best_approximation_and_says_what_it_loses() -> None:
    A, B = draws(2, 12, 20), draws(2, 16, 12, seed=1)
    down, up, lost = truncated(A, B, 5)
    product = (B @ A).double().numpy()
    U, S, Vh = np.linalg.svd(product)
    best = (U[:, :, :5] * S[:, None, :5]) @ Vh[:, :5]
    np.testing.assert_allclose((up @ down).numpy(), best, atol=1e-4)
    assert lost == pytest.approx(float((S[:, 5:] ** 2).sum() / (S**2).sum()), rel=1e-6)
    np.testing.assert_allclose((down @ down.transpose(1, 2)).numpy(), np.stack([np.eye(5)] * 2), atol=1e-5)


@pytest.mark.parametrize("merge", ["truncate", "keep"])
def test_coltas_folds_a_task_in_at_its_end(merge: str) -> None:
    """The first task fits into the rank, so nothing of it is lost in either form; the second does not."""
    bench = build(NAMED["coltas" if merge == "truncate" else "coltas keep"], "decoder")
    adapter: Any = bench.adapter
    adapter.attach()
    sums = []
    for task in range(2):
        before = {name: (B @ A).clone() for name in adapter.widths for A, B in [adapter._past(name)]}
        learn(bench, task=task, ended=False)
        whole = {n: before[n] + adapter.scale * adapter.B[n].detach() @ adapter.A[n].detach() for n in adapter.widths}
        (event,) = adapter.end_task(task, lambda *_, **__: [])
        sums.append((whole, event["discarded_energy"]))
        for name in adapter.widths:
            A, B = adapter._past(name)
            exact = merge == "keep" or task == 0
            difference = float((B @ A - whole[name]).norm() / whole[name].norm())
            assert difference < 1e-5 if exact else 0 < difference < 1
            assert A.shape[1] == (8 if merge == "truncate" else 8 * (task + 1))
    assert bool(sums[1][1]) == (merge == "truncate")


def test_coltas_penalty_keeps_a_task_away_from_past_ones() -> None:
    overlaps = []
    for eta in (0.0, 5.0):
        bench = build(NAMED["coltas"], "decoder")
        adapter: Any = bench.adapter
        object.__setattr__(adapter.config, "eta", eta)
        adapter.attach()
        learn(bench, task=0)
        learn(bench, task=1, steps=20, ended=False)
        overlaps.append(
            sum(float((adapter._past(n)[0] @ A.detach().transpose(1, 2)).abs().sum()) for n, A in adapter.A.items())
        )
    assert overlaps[1] < 0.5 * overlaps[0]


def test_coltas_and_ewc_exclude_each_other() -> None:
    with pytest.raises(EdgeAdaptError, match="nothing to hold"):
        registry.build({"method": "coltas", "ewc": {"strength": 1.0}}, skeleton(SHAPES["minilm"]), 0)


def test_glodis_is_vb_lora_of_peft() -> None:
    """An oracle of its own: peft's VB-LoRA with the same bank and logits gives the same delta of the weight."""
    from peft import VBLoRAConfig, get_peft_model

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = nn.Linear(48, 32, bias=False)

    options = VBLoRAConfig(r=4, topk=2, num_vectors=64, vector_length=16, target_modules=["q_proj"], vblora_dropout=0.0)
    with torch.random.fork_rng():
        theirs: Any = get_peft_model(Model(), options)
    layer = theirs.base_model.model.q_proj
    block = Model()
    host = Host(nn.ModuleList([block]), (block,), 48)
    ours: Any = registry.build({"method": "glodis", "vector_length": 16, "modules": ("q_proj",)}, host, 0)
    assert isinstance(ours, Glodis)
    with torch.no_grad():
        layer.vblora_vector_bank["default"].copy_(ours.bank)
        layer.vblora_logits_A["default"].copy_(ours.logits["q_proj/A"][0])
        layer.vblora_logits_B["default"].copy_(ours.logits["q_proj/B"][0])
        ours.gains["q_proj"].fill_(1.0)
        A, B = ours.trained()[0, "q_proj"]
        np.testing.assert_allclose((A @ B).T.numpy(), layer.get_delta_weight("default").numpy(), atol=1e-6)


def test_glodis_mixture_has_the_gradient_of_finite_differences() -> None:
    """The choice of the two vectors is piecewise constant; around it everything is smooth."""
    bank = draws(6, 5).double().requires_grad_()
    logits = (3 * draws(2, 3, 6, seed=1)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda bank, logits: compose(bank, *mixture(logits)), (bank, logits))


@pytest.mark.parametrize(("common", "length"), [(4096, 256), (192, 192), (384, 192), (576, 192), (7, 7)])
def test_vectors_are_as_long_as_the_widths_allow(common: int, length: int) -> None:
    assert longest_length(common) == length


def test_a_vector_length_that_divides_no_width_is_refused() -> None:
    with pytest.raises(EdgeAdaptError, match=r"adapter.vector_length=100: give a divisor .* 192"):
        registry.build({"method": "glodis", "vector_length": 100}, skeleton(SHAPES["smollm2-135m"]), 0)


def test_coltas_starts_every_task_with_a_pair_of_its_own() -> None:
    adapter: Any = build(NAMED["coltas"], "decoder").adapter
    assert isinstance(adapter, Coltas)
    drawn = []
    for task in range(2):
        adapter.begin_task(task)
        drawn.append(adapter.A["q_proj"].detach().clone())
        assert not adapter.B["q_proj"].any()
    assert not torch.equal(*drawn)
