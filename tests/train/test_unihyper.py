"""UniHyperLoRA and its baselines: the formula, the bases, the gradients, the twin of the op, what one host hands on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeadapt.codecs import int8, nibbles
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import atom_mix_update, atom_route
from edgeadapt_export.methods import atom_tables
from edgeadapt_export.methods.contract import StoredAdapter
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Host
from edgeadapt_train.adapters.unihyper import basis, cost, gains, rounding, router
from edgeadapt_train.adapters.unihyper.atoms import projected, stretched
from edgeadapt_train.adapters.unihyper.update import atom_mix
from tests.contract.subjects import NAMED, Bench, build, learn

UNIHYPER_BYTES = 78_464


class Block(nn.Module):
    """A block's linear maps, shapes alone: nothing is allocated."""

    def __init__(self, d: int, kv: int, inner: int, *, gated: bool) -> None:
        super().__init__()
        maps = {"q_proj": (d, d), "k_proj": (d, kv), "v_proj": (d, kv), "o_proj": (d, d), "up_proj": (d, inner)}
        maps |= {"gate_proj": (d, inner)} if gated else {}
        for name, (reads, writes) in {**maps, "down_proj": (inner, d)}.items():
            self.add_module(name, nn.Linear(reads, writes, device="meta"))


HOSTS = {
    "MiniLM": (384, 384, 1536, 6, False),
    "SmolLM2-135M": (576, 192, 1536, 30, True),
    "BERT-base": (768, 768, 3072, 12, False),
    "BERT-large": (1024, 1024, 4096, 24, False),
    "Llama-7B": (4096, 4096, 11008, 32, True),
}


def shaped(name: str) -> Host:
    d, kv, inner, depth, gated = HOSTS[name]
    return Host(nn.Module(), tuple(Block(d, kv, inner, gated=gated) for _ in range(depth)), d, name)


@pytest.mark.parametrize("name", HOSTS)
def test_the_stored_bytes_do_not_depend_on_the_host(name: str) -> None:
    adapter = registry.build({"method": "unihyper"}, shaped(name), 0)
    measured = {key: value.shape for key, value in adapter.deployed().items()}
    assert sum(value.nbytes for value in adapter.deployed().values()) == UNIHYPER_BYTES
    assert sum(adapter.byte_terms().values()) == UNIHYPER_BYTES
    assert measured["U"] == measured["V"] == (128, 256)


def test_the_codes_are_the_published_77_8_kilobytes() -> None:
    terms = registry.build({"method": "unihyper"}, shaped("MiniLM"), 0).byte_terms()
    assert sum(size for name, size in terms.items() if "scale" not in name) == 77_846


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SmolLM2-135M", (30 * (16 * (576 + 128) + 2 * 10_176)) / (30 * 3_538_944)), ("BERT-base", None)],
)
def test_the_share_of_multiply_adds(name: str, expected: float | None) -> None:
    share = registry.build({"method": "unihyper"}, shaped(name), 0).sites()["flop_share"]
    assert share < 0.1
    if expected is not None:
        assert share == pytest.approx(expected, abs=1e-5)


def test_over_the_caps_is_refused_in_one_line() -> None:
    with pytest.raises(EdgeAdaptError, match=r"sat-lora on Llama-7B: .* over the budget of 1,000,000"):
        registry.build({"method": "sat-lora"}, shaped("Llama-7B"), 0)
    small = Host(nn.Module(), (Block(64, 16, 112, gated=True),), 64, "small")
    with pytest.raises(EdgeAdaptError, match=r"unihyper on small: 15\.6 % .* over the cap of 10 %"):
        registry.build({"method": "unihyper"}, small, 0)


@pytest.mark.parametrize("d", [64, 192, 256, 576, 1536])
def test_the_dct_basis_is_orthonormal(d: int) -> None:
    B = basis.dct(d).double()
    assert B.shape == (d, min(256, d))
    torch.testing.assert_close(B.T @ B, torch.eye(B.shape[1], dtype=torch.float64), atol=1e-5, rtol=0)


def test_the_vocab_basis_of_the_source_spans_its_embedding() -> None:
    embedding = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    B = basis.vocab(embedding, basis.anchors(embedding)).double()
    torch.testing.assert_close(B.T @ B, torch.eye(64, dtype=torch.float64), atol=1e-6, rtol=0)
    centred = (embedding - embedding.mean(dim=0)).double()
    products = B.T @ centred.T @ centred @ B  # diagonal: the right singular vectors
    assert (products - products.diagonal().diag()).abs().max() < 1e-4 * products.abs().max()


def test_a_host_whose_embedding_is_the_source_s_turned_gets_the_turned_basis() -> None:
    """E_t = E_s Q: the anchor of a vocabulary is found in both, whatever axes a model writes it in."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(300, 48, generator=generator).double()
    Q = torch.linalg.qr(torch.randn(48, 48, generator=generator).double()).Q
    A = basis.anchors(source)
    np.testing.assert_allclose(basis.vocab(source @ Q, A), Q.T @ basis.vocab(source, A).double(), atol=1e-5)


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(EdgeAdaptError, match="hold 7 and 8 tokens"):
        basis.vocab(torch.zeros(7, 8), torch.zeros(8, 8))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 6), columns=st.integers(1, 33), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 999))
def test_rounding_is_the_codecs(rows: int, columns: int, scale: float, seed: int) -> None:
    x = scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    np.testing.assert_array_equal(rounding.int8_rows(x), int8.dequantise(int8.quantise(x.numpy())))
    codes, unit = nibbles.quantise(x.numpy())
    assert codes.nbytes == math.ceil(rows * columns / 2)
    np.testing.assert_array_equal(rounding.int4(x), nibbles.dequantise(codes, unit, x.shape))
    again = rounding.int8_rows(rounding.int8_rows(x))
    np.testing.assert_array_equal(int8.quantise(again.numpy()).codes, int8.quantise(x.numpy()).codes)


def test_rounding_passes_the_gradient_straight_through() -> None:
    for rounded in (rounding.int8_rows, rounding.int4, lambda x: rounding.fixed(x, 1 / 32)):
        x = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), requires_grad=True)
        weights = torch.randn(3, 5, generator=torch.Generator().manual_seed(3))
        (rounded(x) * weights).sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad, weights)


def doubles(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def test_the_update_s_own_backward_is_its_derivative() -> None:
    index = torch.tensor([[0, 3], [2, 1], [3, 2], [0, 1]])
    given = doubles(4, 5, seed=0), doubles(4, 7, seed=1), doubles(4, 5, seed=2), doubles(4, seed=3)
    weight = doubles(4, 2, seed=4)
    assert torch.autograd.gradcheck(lambda x, U, V, g, w: atom_mix(x, U, V, g, index, w), (*given, weight))


def test_the_smooth_parts_of_routing_and_projection_are_differentiable() -> None:
    h, W, keys, bias = doubles(1, 3, 6, seed=0), doubles(6, 4, seed=1), doubles(4, 9, seed=2), doubles(1, 1, 9, seed=3)

    def weights(*given: torch.Tensor) -> torch.Tensor:
        h, W, keys, bias = given
        return router.top(router.Routing(W, keys, bias).scores(h), 2)[1]

    assert torch.autograd.gradcheck(weights, (h, W, keys, bias))
    assert torch.autograd.gradcheck(router.soft_count, (doubles(2, 3, 5, seed=4),))
    W1, W2, U = doubles(2, 3, seed=5), doubles(4, 256, seed=6), doubles(2, 256, seed=7)
    B = basis.dct(40).double()
    assert torch.autograd.gradcheck(lambda W1, W2, U: projected(U, stretched(W1, W2, 40), B), (W1, W2, U), nondet_tol=0)
    inputs = gains.places(2).double()
    mixer = doubles(14, 8, seed=8), doubles(128, 15, seed=9)
    assert torch.autograd.gradcheck(lambda W1, W2: gains.mixed(W1, W2, inputs)[:, :, ::40], mixer)


def test_the_soft_count_lies_between_one_atom_and_all() -> None:
    scores = torch.zeros(1, 1, 128)
    assert float(router.soft_count(scores)) == pytest.approx(128)
    scores[0, 0, 5] = 100
    assert float(router.soft_count(scores)) == pytest.approx(1)


@pytest.mark.parametrize("name", ["unihyper", "unihyper vocab", "sat-lora", "hf-sat-lora"])
def test_the_stored_form_is_the_ops_references_on_the_exporter_s_tables(name: str) -> None:
    """Training's hardened forward against AtomRoute and AtomMixUpdate fed from the stored tensors, on one block."""
    bench = build(NAMED[name], "decoder")
    bench.adapter.attach()
    for task in range(2):
        learn(bench, task=task)
    seen: dict[str, np.ndarray] = {}
    block = bench.model.model.layers[1]

    def keep(what: str) -> Any:
        return lambda module, args, output: seen.update({f"{what} in": args[0].numpy(), f"{what} out": output.numpy()})

    hooks = [block.mlp.down_proj.register_forward_hook(keep("down"))]
    hooks.append(
        block.register_forward_pre_hook(lambda _, args, named: seen.update(h=args[0].numpy()), with_kwargs=True)
    )
    bench.stored()
    for hook in hooks:
        hook.remove()
    stored = atom_tables.Stored(StoredAdapter(described(bench), bench.adapter.deployed()))
    W, K, e = atom_tables.router(stored, 64)
    bias = np.repeat((e[1] @ K)[None, None], 4, axis=0)
    index, weight = atom_route.reference(seen["h"], W, K, bias, k=2)
    U, V = (atom_tables.atoms(stored, part, (64, 112), 64) for part in "UV")
    g = atom_tables.gains(stored, 3)[:, 5, :, None]
    base = seen["down in"] @ block.mlp.down_proj.weight.numpy().T
    table, columns = atom_mix_update.table(U, V[:, None], g), np.array([[0, 64]])
    expected = atom_mix_update.reference(base, seen["down in"], table, columns, index, weight, row=1, reads=1)
    assert np.abs(expected - base).max() > 1e-4
    np.testing.assert_allclose(seen["down out"], expected, atol=2e-5)


def described(bench: Bench) -> Any:
    """As much of the run's description as the tables ask for."""

    class Description:
        method = bench.adapter.method

    return Description()


def test_only_the_current_task_s_row_moves() -> None:
    bench = build(NAMED["unihyper"], "decoder")
    bench.adapter.attach()
    learn(bench, task=0)
    before = bench.adapter.own_state()["router.tasks"].clone()
    learn(bench, task=1)
    moved = (bench.adapter.own_state()["router.tasks"] != before).any(dim=1)
    assert moved.tolist() == [index == 1 for index in range(32)]


def test_a_task_beyond_the_table_is_refused() -> None:
    adapter = build(NAMED["unihyper"], "decoder").adapter
    with pytest.raises(EdgeAdaptError, match="table holds 32 tasks"):
        adapter.begin_task(32)


def test_delta_rests_in_stage_one() -> None:
    bench = build(NAMED["unihyper"], "decoder")
    bench.adapter.attach()
    learn(bench)
    assert not bench.adapter.own_state()["gains.1.delta"].any()
    assert "gains.1.delta" not in {name for group in bench.adapter.groups() for name, _ in group.parameters}


def test_the_mixer_gives_any_depth_the_same_ends() -> None:
    shallow, deep = (gains.mixed(torch.ones(14, 8), torch.ones(128, 15), gains.places(layers)) for layers in (6, 30))
    torch.testing.assert_close(shallow[0], deep[0])
    torch.testing.assert_close(shallow[-1], deep[-1])
    assert gains.buckets(30).tolist()[0::29] == [0, 7]
    assert sorted(set(gains.buckets(30).tolist())) == list(range(8))


def test_the_flop_share_counts_the_router_and_every_site() -> None:
    host = Host(nn.Module(), (Block(8, 8, 16, gated=False),), 8, "tiny")
    sites = registry.build({"method": "unihyper", "flop_cap": 1e5}, host, 0)._linears  # type: ignore[attr-defined]
    spent = 16 * (8 + 128) + 2 * (4 * 16 + 2 * 24)
    assert cost.flop_share(sites, host, 2) == pytest.approx(spent / (4 * 64 + 2 * 128))


def saved(bench: Bench, folder: Path) -> Path:
    """A finished run of the adapter, as training writes it."""
    from edgeadapt_train.backbone import wrap
    from edgeadapt_train.run import write_adapter

    write_adapter(folder, bench.adapter, wrap(bench.model), [])
    return folder


@pytest.mark.parametrize(("source", "target"), [("encoder", "decoder"), ("decoder", "encoder")])
def test_an_adapter_of_one_family_loads_runs_and_tunes_on_the_other(source: str, target: str, tmp_path: Path) -> None:
    first = build(NAMED["unihyper"], source)
    first.adapter.attach()
    learn(first)
    run = saved(first, tmp_path / "run")
    subject = NAMED["unihyper"]
    again = type(subject)("stage 2", {**subject.options, "source": str(run)})
    second = build(again, target, seed=9)
    bare = second.model(input_ids=second.ids)[0]
    second.adapter.attach()
    assert not torch.equal(second.stored(), bare)  # zero-shot: it acts at once
    learn(second)
    before, after = first.adapter.deployed(), second.adapter.deployed()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert "delta" in changed
    assert changed <= {"delta", "delta_scale", "tasks"}
    assert sum(value.nbytes for value in after.values()) == UNIHYPER_BYTES
    assert second.adapter.sites()["stage"] == 2


def test_a_source_of_another_method_or_basis_is_refused(tmp_path: Path) -> None:
    bench = build(NAMED["sat-lora"], "decoder")
    run = saved(bench, tmp_path / "sat")
    with pytest.raises(EdgeAdaptError, match="only UniHyperLoRA's atoms fit other backbones"):
        registry.build({"method": "unihyper", "source": str(run)}, shaped("MiniLM"), 0)
    run = saved(build(NAMED["unihyper vocab"], "decoder"), tmp_path / "vocab")
    with pytest.raises(EdgeAdaptError, match=r"its basis is vocab; give adapter\.basis=vocab"):
        registry.build({"method": "unihyper", "source": str(run)}, shaped("MiniLM"), 0)
