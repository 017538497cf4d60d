"""The rules that every adapter owes (methods.md, section 0), for every method and variant on a decoder and an encoder.

A new method is one line in subjects.py. The device's side of rule 6 (function body, kernel) is in test_ops*.py and
test_deployment.py: here the PyTorch form meets the same NumPy references.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.families import module_name
from edgeadapt.ops import OPS
from edgeadapt.ops.himalaya_tables import Tables
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Host
from edgeadapt_train.backbone import blocks, wrap
from edgeadapt_train.batches import Encoded
from edgeadapt_train.loop import Learner, LoopSettings
from edgeadapt_train.objectives import LanguageTargets
from tests.contract.subjects import NAMED, SUBJECTS, Subject, build, decoder, learn

PAIRS = [pytest.param(s, host, id=f"{s.name}-{host}") for s in SUBJECTS for host in s.hosts]


@pytest.mark.parametrize(("subject", "kind"), PAIRS)
def test_rule_1_a_new_adapter_changes_no_bit_of_the_output(subject: Subject, kind: str) -> None:
    bench = build(subject, kind)
    bare = bench.model(input_ids=bench.ids)[0]
    bench.adapter.attach()
    bench.adapter.begin_task(0)
    assert torch.equal(bench.forward(), bare) == subject.inert
    assert torch.equal(bench.stored(), bare) == subject.inert


@pytest.mark.parametrize(("subject", "kind"), PAIRS)
def test_rule_2_training_moves_the_declared_parameters_and_nothing_of_the_base(subject: Subject, kind: str) -> None:
    bench = build(subject, kind)
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    bare = bench.model(input_ids=bench.ids)[0]
    bench.adapter.attach()
    start = bench.adapter.own_state()
    start = {name: value.clone() for name, value in start.items()}
    learn(bench)
    declared = {name for group in bench.adapter.groups() for name, _ in group.parameters}
    moved = {n for n, p in bench.adapter.named_parameters() if not torch.equal(p.detach(), start[n])}
    assert moved
    assert moved <= declared
    assert not torch.equal(bench.stored(), bare)
    bench.adapter.detach()
    after = bench.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(bench.model(input_ids=bench.ids)[0], bare)
    assert not any(parameter.grad is not None for parameter in bench.model.parameters())


@pytest.mark.parametrize(("subject", "kind"), PAIRS)
def test_rule_3_saved_and_loaded_it_computes_the_same(subject: Subject, kind: str) -> None:
    from safetensors.torch import load, save

    bench = build(subject, kind)
    bench.adapter.attach()
    learn(bench)
    expected, files = bench.stored(), bench.adapter.deployed()
    other = build(subject, kind, seed=77)
    other.adapter.attach()
    other.adapter.load_own_state(load(save(bench.adapter.own_state())))
    assert torch.equal(other.stored(), expected)
    for name, value in other.adapter.deployed().items():
        np.testing.assert_array_equal(value, files[name])


def test_rule_3_a_checkpoint_of_another_adapter_is_refused() -> None:
    lora, himalaya = build(NAMED["lora8"], "decoder").adapter, build(NAMED["himalaya"], "decoder").adapter
    with pytest.raises(EdgeAdaptError, match="does not fit"):
        himalaya.load_own_state({**lora.own_state(), "noise": himalaya.own_state()["noise"]})


@pytest.mark.parametrize(("subject", "kind"), PAIRS)
def test_rule_4_measured_bytes_equal_the_formula_and_keep_the_budget(subject: Subject, kind: str) -> None:
    bench = build(subject, kind)
    bench.adapter.attach()
    for task in range(2):
        learn(bench, steps=2, task=task)
        report = bench.adapter.byte_report()
        measured = sum(value.nbytes for value in bench.adapter.deployed().values())
        assert measured == report["deployed"] == sum(report["terms"].values()) <= report["budget"]
        assert measured < report["training_state"] < report["training_state_with_optimiser"]


@pytest.mark.parametrize(
    ("width", "depth", "expected"),
    [(4096, 32, 109_548), (768, 12, 57_695), (576, 30, 54_944), (384, 6, 52_145)],
)
def test_rule_4_himalayas_formula_gives_the_published_totals(width: int, depth: int, expected: int) -> None:
    host = Host(torch.nn.Module(), tuple(torch.nn.Identity() for _ in range(depth)), width)
    adapter = registry.build({"method": "himalaya"}, host, 0)
    terms = adapter.byte_terms()
    assert sum(terms.values()) - terms["protection"] == expected
    assert sum(value.nbytes for value in adapter.deployed().values()) == expected + terms["protection"]


@pytest.mark.parametrize(("subject", "kind"), PAIRS)
def test_rule_5_a_static_merge_computes_the_same_and_where_there_is_none_it_is_refused(
    subject: Subject, kind: str
) -> None:
    bench = build(subject, kind)
    bench.adapter.attach()
    for task in range(2):
        learn(bench, task=task)
    expected = bench.stored()
    if not subject.merges:
        with pytest.raises(EdgeAdaptError, match="no static merge"):
            bench.adapter.merged()
        return
    merged = bench.adapter.merged()
    bench.adapter.detach()
    put_in(bench.model, merged)
    np.testing.assert_allclose(bench.model(input_ids=bench.ids)[0].numpy(), expected.numpy(), atol=2e-5)


def put_in(model: Any, merged: dict[tuple[int, str], torch.Tensor]) -> None:
    """Give the model the merged weights: of a linear map by its name, of anything else by its path in the block."""
    for (index, name), weight in merged.items():
        block = blocks(model)[index]
        maps = {module_name(path): module for path, module in block.named_modules() if hasattr(module, "in_features")}
        target = maps[name].weight if name in maps else block.get_parameter(name)
        target.data.copy_(weight)


HIMALAYAS = [pair for pair in PAIRS if pair.values[0].options["method"] == "himalaya"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("subject", "kind"), HIMALAYAS)
def test_rule_6_himalayas_stored_update_is_the_numpy_reference(subject: Subject, kind: str) -> None:
    """What is read and what is written, by HimalayaDirection or HimalayaTerms on the atoms for either."""
    bench = build(subject, kind)
    bench.adapter.attach()
    for task in range(3):
        learn(bench, task=task)
    bench.task = torch.tensor([0, 1, 2, 1])
    adapter: Any = bench.adapter
    pool = adapter.pooled(bench.prompt)
    files = adapter.deployed()
    tables = Tables(**{name: files[name] for name in Tables.__dataclass_fields__})
    op = OPS["HimalayaTerms" if adapter.config.update == "terms" else "HimalayaDirection"]
    with adapter.hardened():
        found = adapter.stored_update(pool, bench.task)
    for rows, stored in ((found.read, tables), (found.write, tables.writing(files))):
        expected = op.reference(pool.numpy(), bench.task.numpy(), **stored.as_dict())
        terms = np.stack(expected if isinstance(expected, tuple) else (expected,), axis=1)
        np.testing.assert_allclose(rows.numpy(), terms, atol=2e-6)
        lengths = np.square(terms).sum(axis=(1, 2))
        assert np.allclose(lengths, 1, atol=1e-6) or not terms.any()
    gains = files["gains"].astype(np.float32)[bench.task.numpy()]
    np.testing.assert_array_equal(
        found.gains.numpy(), np.broadcast_to(gains.reshape(4, -1, terms.shape[1]), found.gains.shape)
    )


@pytest.mark.parametrize(("subject", "kind"), PAIRS)
def test_rule_7_the_same_seed_gives_the_same_bits_and_the_global_generator_rests(subject: Subject, kind: str) -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    states = []
    for _ in range(2):
        bench = build(subject, kind)
        bench.adapter.attach()
        learn(bench)
        states.append(bench.adapter.own_state())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    other = build(subject, kind, seed=4).adapter.own_state()
    first = build(subject, kind).adapter.own_state()
    assert any(not torch.equal(other[name], value) for name, value in first.items()) == subject.seeded


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_rule_8_it_learns_through_the_real_loop_on_a_gqa_decoder(subject: Subject) -> None:
    model = decoder()
    backbone = wrap(model)
    adapter = registry.build(subject.options, backbone.host, 0)
    adapter.attach()
    rng = np.random.default_rng(0)
    prompts = [tuple(rng.integers(4, 96, 6).tolist()) for _ in range(16)]
    examples = [Encoded(prompt, (3,)) for prompt in prompts]
    settings = LoopSettings(lr=2e-2, batch_size=4, epochs=10, steps=30)
    learner = Learner(backbone, adapter, examples, LanguageTargets(backbone.head, 2), settings=settings, index=0)
    learner.begin()
    losses = [learner.step().loss for _ in range(learner.total)]
    learner.finish()
    assert losses[-1] < (losses[0] - 0.3 if subject.inert else losses[0])


def test_a_projection_that_is_not_square_is_refused() -> None:
    options = {"method": "himalaya", "site": "square", "site_modules": ("k_proj", "up_proj")}
    with pytest.raises(EdgeAdaptError, match="no square 64 x 64"):
        registry.build(options, Host(decoder(), blocks(decoder()), 64), 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "nope"}, "adapter.method='nope'"),
        ({"method": "lora", "ranks": 8}, "adapter.ranks"),
        ({"method": "lora", "rank": 0}, "adapter.rank=0"),
        ({"method": "lora", "modules": ("nothing",)}, "no linear map named 'nothing'"),
        ({"method": "himalaya", "variant": "literal", "pool": "mean"}, "variant=literal"),
        ({"method": "himalaya", "protection": "hope"}, "protection='hope'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(EdgeAdaptError, match=said) as caught:
        registry.build(options, Host(decoder(), blocks(decoder()), 64), 0)
    assert "\n" not in str(caught.value)
