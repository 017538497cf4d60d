"""Replay-free EWC around an adapter: its Fisher, its penalty, what it does to a second task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.ewc import Ewc
from edgeadapt_train.backbone import wrap
from edgeadapt_train.batches import Encoded
from edgeadapt_train.loop import Learner, LoopSettings
from edgeadapt_train.methods import SHAPES, skeleton
from edgeadapt_train.objectives import LanguageTargets
from tests.contract.subjects import decoder

EXAMPLES = [Encoded((5 + i, 20, 30 + i), (3,)) for i in range(8)]


def learner(options: dict[str, Any], index: int = 0, adapter: Any = None) -> tuple[Learner, Any]:
    backbone = wrap(decoder())
    made = registry.build({"method": "lora", **options}, backbone.host, 0) if adapter is None else adapter
    made.attach()
    settings = LoopSettings(lr=1e-2, batch_size=4, epochs=2)
    return Learner(backbone, made, EXAMPLES, LanguageTargets(backbone.head, 2), settings=settings, index=index), made


def run(taught: Learner) -> list[Any]:
    taught.begin()
    while taught.done < taught.total:
        taught.step()
    return taught.finish()


def test_the_fisher_is_the_mean_of_squared_gradients_of_single_examples() -> None:
    taught, adapter = learner({"ewc": {"strength": 1.0, "batches": 2}})
    taught.begin()
    taught.step()
    squares: dict[str, Any] = {}
    count = 0
    for _ in taught._gradients(2, single=True):
        count += 1
        for name, parameter in adapter.inner.held():
            squares[name] = squares.get(name, 0) + parameter.grad.square()
    (event,) = taught.finish()
    assert event["examples"] == count == len(EXAMPLES)
    for name, square in squares.items():
        np.testing.assert_allclose(adapter._fisher(name).numpy(), (square / count).numpy(), rtol=1e-5, atol=1e-12)
    # A batch's mean gradient squared is another thing, and smaller.
    batch = sum(float(p.grad.square().sum()) for _ in taught._gradients(1) for _, p in adapter.inner.held())
    assert batch < sum(float(square.sum()) for square in squares.values()) / count


def test_the_fisher_decays_and_the_anchor_follows() -> None:
    taught, adapter = learner({"ewc": {"strength": 1.0, "batches": 1, "decay": 0.5}})
    run(taught)
    first = {name: adapter._fisher(name).clone() for name, _ in adapter.inner.held()}
    adapter.end_task(1, lambda *_, **__: iter(()))
    for name, parameter in adapter.inner.held():
        assert torch.equal(adapter._fisher(name), 0.5 * first[name])
        assert torch.equal(adapter._anchor(name), parameter)


def test_the_penalty_is_half_lambda_f_times_the_square_and_starts_with_the_second_task() -> None:
    taught, adapter = learner({"ewc": {"strength": 3.0, "batches": 1}})
    assert adapter.penalty() is None
    run(taught)
    assert float(adapter.penalty().detach()) == 0
    expected = 0.0
    with torch.no_grad():
        for name, parameter in adapter.inner.held():
            parameter.add_(0.1)
            expected += 1.5 * 0.01 * float(adapter._fisher(name).sum())
    assert float(adapter.penalty()) == pytest.approx(expected, rel=1e-4)


def test_a_second_task_moves_less_of_what_the_first_one_needed() -> None:
    moved = []
    for strength in (1e-12, 1e5):
        taught, adapter = learner({"ewc": {"strength": strength, "batches": 2}})
        run(taught)
        anchors = {name: parameter.detach().clone() for name, parameter in adapter.inner.held()}
        fisher = {name: adapter._fisher(name).clone() for name in anchors}
        second = Learner(
            taught._backbone, adapter, [Encoded(e.prompt, (40,)) for e in EXAMPLES], taught._objective,
            settings=taught.settings, index=1,
        )  # fmt: skip
        second.begin()
        while second.done < second.total:
            second.step()
        with torch.no_grad():
            moved.append(sum(float((fisher[n] * (p - anchors[n]).square()).sum()) for n, p in adapter.inner.held()))
    assert moved[1] < 0.3 * moved[0]


def test_lilac_brings_its_own_ewc_and_a_run_may_switch_it_off() -> None:
    host = skeleton(SHAPES["minilm"])
    own = registry.build({"method": "lilac"}, host, 0)
    assert isinstance(own, Ewc)
    assert (own.config.strength, own.config.anchor, own.variant) == (0.4, "int8", "default")
    assert not isinstance(registry.build({"method": "lilac", "ewc": {"strength": 0.0}}, host, 0), Ewc)
    assert registry.build({"method": "loreft", "ewc": {"strength": 1.0}}, host, 0).variant == "default-ewc"


@pytest.mark.parametrize(
    ("options", "said"),
    [({"strength": -1.0}, "adapter.ewc.strength=-1"), ({"decay": 0.0}, "adapter.ewc.decay=0"),
     ({"batches": 0}, "adapter.ewc.batches=0"), ({"lambda": 1.0}, "adapter.ewc.lambda")],
)  # fmt: skip
def test_wrong_settings_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(EdgeAdaptError, match=said):
        registry.build({"method": "lora", "ewc": options}, skeleton(SHAPES["minilm"]), 0)
