"""HIMALAYA over long streams: the norm bound at every step, and a run through the real loop that uses all it has."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.himalaya.adapter import Himalaya
from edgeadapt_train.adapters.himalaya.config import CORE, ELASTIC
from edgeadapt_train.adapters.himalaya.consolidation import project_on_core
from edgeadapt_train.adapters.himalaya.sketch import DirectionSketch
from edgeadapt_train.backbone import wrap
from edgeadapt_train.batches import Encoded
from edgeadapt_train.loop import Learner, LoopSettings
from edgeadapt_train.objectives import LanguageTargets
from tests.contract.subjects import decoder
from tests.train.himalaya_host import WIDTH, generator, himalaya, learn, stored_output

EAGER: dict[str, Any] = {"window": 2, "cooldown": 2, "similarity_threshold": 1.0, "promotions_per_task": 12}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "literal": {"variant": "literal", "site_modules": ("q_proj",)},
    "square": {"site": "square", "site_modules": ("q_proj",)},
    "shared gain": {"gain": "shared"},
    "terms": {"update": "terms"},
    "read and write": {"atoms": "read_write"},
    "terms, read and write": {"update": "terms", "atoms": "read_write"},
    "frequent directions": {"core_update": "frequent_directions"},
    "ewc": {"protection": "ewc"},
    "unprotected": {"protection": "none"},
}


def spectral_norms(adapter: Himalaya, pool: torch.Tensor, tasks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """||dW_l||_2 of the stored form, measured on the d x d matrices, and max_j |g_lj|; both [B, L]."""
    with torch.no_grad():
        update = adapter.stored_update(pool, tasks)
    V, W, g = update.read.double(), update.write.double(), update.gains.double()
    matrices = torch.einsum("bjo,blj,bji->bloi", W, g, V)
    return torch.linalg.matrix_norm(matrices, 2), g.abs().amax(dim=2)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("tasks", "steps"), [(4, 50), pytest.param(20, 500, marks=pytest.mark.slow)], ids=["200", "10000"]
)
def test_the_norm_bound_holds_at_every_step_of_a_stream(variant: str, tasks: int, steps: int) -> None:
    model, adapter = himalaya(evict_protected=True, **EAGER, **VARIANTS[variant])
    stream = generator(3)
    events: Counter[str] = Counter()
    worst = torch.zeros(())

    def watch() -> None:
        nonlocal worst
        pool = torch.randn(2, WIDTH, generator=stream)
        measured, allowed = spectral_norms(adapter, pool, torch.randint(0, max(1, task), (2,), generator=stream))
        assert (measured <= allowed * (1 + 1e-5)).all()  # ||r|| = 1 to float32's rounding
        assert (allowed <= 1).all()
        worst = torch.maximum(worst, measured.max())

    for task in range(tasks):
        events.update(event["event"] for event in learn(model, adapter, task, steps, watch=watch))
    assert worst > 0.1
    assert events["promote"] == 12 * tasks
    assert events["evict"] == 12 * tasks - 8


def run_through_the_loop(options: dict[str, Any], tasks: int = 4) -> tuple[Himalaya, list[dict[str, Any]]]:
    """A tiny GQA decoder learns `tasks` tasks in a row, each to answer any prompt with a token of its own."""
    backbone = wrap(decoder())
    adapter = registry.build({"method": "himalaya", "fisher_batches": 3, **options}, backbone.host, 0)
    assert isinstance(adapter, Himalaya)
    adapter.attach()
    rng = np.random.default_rng(0)
    events: list[dict[str, Any]] = []
    for index in range(tasks):
        examples = [Encoded(tuple(rng.integers(4, 96, 6).tolist()), (5 + index,)) for _ in range(16)]
        settings = LoopSettings(lr=2e-2, batch_size=4, epochs=10, steps=30)
        objective = LanguageTargets(backbone.head, 2)
        learner = Learner(backbone, adapter, examples, objective, settings=settings, index=index)
        events += learner.begin()
        losses = []
        while learner.done < learner.total:
            past = adapter.fisher.diagonal.clone()
            report = learner.step()
            losses.append(report.loss)
            events += [{**event, "in_task": index, "past": past} for event in report.events]
        assert losses[-1] < losses[0]
        events += learner.finish()
    return adapter, events


def test_a_run_through_the_real_loop_promotes_fills_its_slots_evicts_and_consolidates() -> None:
    adapter, events = run_through_the_loop({**EAGER, "promotions_per_task": 5, "evict_protected": True})
    names = [event["event"] for event in events]
    promoted = [event for event in events if event["event"] == "promote"]
    evicted = [event for event in events if event["event"] == "evict"]
    assert [event["slot"] for event in promoted[:8]] == list(range(8, ELASTIC))
    assert len(promoted) == 20
    assert len(evicted) == len(promoted) - 8
    assert all(names[at + 1] == "promote" for at, name in enumerate(names) if name == "evict")
    assert bool(adapter.dictionary.active.all())
    assert all(0 < event["captured_energy"] <= 1 for event in evicted)
    # What weighs a consolidation is the Fisher of past tasks: there, and the same for all of a task's evictions.
    for event in evicted:
        assert event["in_task"] > 0
        assert bool(event["past"].any())
    by_task = {event["in_task"]: event["past"] for event in evicted}
    assert all(torch.equal(event["past"], by_task[event["in_task"]]) for event in evicted)
    assert len({float(past.sum()) for past in by_task.values()}) == len(by_task)


def test_an_eviction_reports_the_energy_that_the_past_tasks_fisher_gives() -> None:
    _, adapter = himalaya(window=1, cooldown=1, evict_protected=True)
    adapter.begin_task(0)
    dictionary = adapter.dictionary
    dictionary.active.fill_(True)
    adapter.fisher.diagonal.copy_(torch.linspace(1, 0, WIDTH) ** 4)
    atom = dictionary.elastic[3].detach().clone()
    dictionary.usage.copy_(torch.ones(ELASTIC))
    dictionary.usage[3] = 0
    adapter.growth.ring[0] = torch.nn.functional.normalize(torch.ones(WIDTH), dim=0)
    adapter.growth.counters[0] = 1
    evict, _ = adapter._memory.grow(torch.optim.AdamW([dictionary.elastic]), 50, 0)
    F, C = adapter.fisher.diagonal, dictionary.core_stored
    c, expected = project_on_core(F, C, atom)
    assert evict["captured_energy"] == pytest.approx(expected)
    assert expected != pytest.approx(project_on_core(torch.ones(WIDTH), C, atom)[1], rel=0.05)
    # c* is the ridge regression of F^.5 e on the core's F^.5 C^T: no other c of that size leaves a smaller rest.
    assert expected == pytest.approx(float((F * (C.T @ c).square()).sum() / (F * atom.square()).sum()))


def test_a_core_that_turns_captures_more_of_what_is_evicted() -> None:
    options = {**EAGER, "promotions_per_task": 5, "evict_protected": True, "core_update": "frequent_directions"}
    adapter, events = run_through_the_loop(options)
    evicted = [event for event in events if event["event"] == "evict"]
    turned = [event for event in events if event["event"] == "turn_core"]
    assert [event["task"] for event in turned] == [0, 1, 2, 3]
    better = [event["captured_energy"] - event["captured_energy_fixed"] for event in evicted]
    assert np.mean(better) > 0.05
    torch.testing.assert_close(adapter.dictionary.core @ adapter.dictionary.core.T, torch.eye(CORE), atol=1e-4, rtol=0)


def test_the_sketch_keeps_liberty_s_bound() -> None:
    sketch = DirectionSketch(torch.eye(WIDTH)[:CORE])
    A = torch.randn(300, WIDTH, generator=generator()) * torch.linspace(2, 0.1, WIDTH)
    for row in A:
        sketch.observe(row)
    gap = (A.T @ A - sketch.rows.T @ sketch.rows).double()
    assert float(torch.linalg.eigvalsh(gap)[0]) > -1e-3
    assert float(torch.linalg.matrix_norm(gap, 2)) <= float(A.square().sum()) / (CORE + 1)


def test_turning_keeps_the_atoms_that_a_task_opens_and_takes_the_strongest_directions() -> None:
    core = torch.linalg.qr(torch.randn(WIDTH, CORE, generator=generator())).Q.T
    sketch = DirectionSketch(core)
    strong = torch.linalg.qr(torch.randn(WIDTH, 2, generator=generator(1))).Q.T
    for _ in range(30):
        sketch.observe(strong[0])
        sketch.observe(0.5 * strong[1])
    kept = torch.arange(CORE) < 5
    rows = sketch.turned(core, kept)
    whole = torch.cat((core[kept], rows))
    torch.testing.assert_close(whole @ whole.T, torch.eye(CORE), atol=1e-5, rtol=0)
    torch.testing.assert_close((whole @ strong.T).norm(dim=0), torch.ones(2), atol=1e-5, rtol=0)


def test_what_a_task_answers_does_not_change_when_the_core_turns() -> None:
    model, adapter = himalaya(core_update="frequent_directions", window=3, cooldown=3)
    learn(model, adapter, 0, 25)
    before, core = stored_output(model, adapter, 0), adapter.dictionary.core.clone()
    for task in (1, 2):
        learn(model, adapter, task, 25)
    assert not torch.equal(adapter.dictionary.core, core)
    assert torch.equal(stored_output(model, adapter, 0), before)
