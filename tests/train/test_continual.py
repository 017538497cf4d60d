"""A stream taught in turn or jointly; task ids withheld; one LoRA per task. On tiny random backbones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.tasks import TaskSpec
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Host, Prompt
from edgeadapt_train.backbone import Backbone, CausalBackbone, blocks, load, wrap
from edgeadapt_train.batches import Encoded, Example
from edgeadapt_train.continual import lessons
from edgeadapt_train.continual.lessons import Lesson
from edgeadapt_train.continual.scoreboard import Scoreboard
from edgeadapt_train.continual.task_ids import EXAMPLES, Guessing, Prototypes, points, spread
from edgeadapt_train.loop import LoopSettings
from edgeadapt_train.streams import Task
from tests.contract.subjects import NAMED, build, decoder, encoder, learn
from tests.support import tiny_backbone


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> CausalBackbone:
    found = load(tiny_backbone(tmp_path_factory.mktemp("continual") / "backbone"), "tiny", "none", "fp32", "cpu")
    assert isinstance(found, CausalBackbone)
    return found


def prompts(low: int, high: int, count: int = 12, seed: int = 0) -> list[Encoded]:
    """Prompts of tokens from [low, high)."""
    rng = np.random.default_rng(seed)
    return [Encoded(tuple(rng.integers(low, high, rng.integers(6, 14)).tolist()), (5,)) for _ in range(count)]


def test_in_turn_every_task_so_far_and_the_next_one_are_scored() -> None:
    found = lessons.lessons("in-turn", ["a", "b", "c"])
    assert [(lesson.name, lesson.tasks, lesson.row) for lesson in found] == [
        ("a", (0,), 0),
        ("b", (1,), 1),
        ("c", (2,), 2),
    ]
    assert [lesson.scored for lesson in found] == [(0, 1), (0, 1, 2), (0, 1, 2)]
    assert [found[1].asked(task) for task in range(3)] == [0, 1, 2]


def test_jointly_one_lesson_has_the_steps_of_all_and_fills_the_last_row() -> None:
    (found,) = lessons.lessons("joint", ["a", "b", "c"])
    assert found == Lesson("joint", 0, (0, 1, 2), 2, (0, 1, 2))
    assert [found.asked(task) for task in range(3)] == [0, 0, 0]
    assert found.loop(LoopSettings(steps=10)).steps == 30
    assert found.loop(LoopSettings(steps=None)).steps is None


@pytest.mark.parametrize(
    ("method", "host"), [("himalaya", "decoder"), ("lora-per-task", "decoder"), ("lora", "encoder")]
)
def test_what_has_no_joint_form_is_refused(method: str, host: str) -> None:
    backbone = wrap(decoder() if host == "decoder" else encoder())
    adapter = registry.build({"method": method}, backbone.host, 0)
    with pytest.raises(EdgeAdaptError, match="strategy=joint"):
        lessons.check("joint", backbone, adapter)
    lessons.check("in-turn", backbone, adapter)


def test_points_have_unit_length_and_do_not_see_what_is_masked() -> None:
    embeddings = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    found = points(embeddings, mask)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2), atol=1e-4, rtol=0)
    embeddings[0, 3:] = 100
    assert torch.equal(points(embeddings, mask)[0], found[0])


def test_the_nearest_prototype_is_the_guess(backbone: CausalBackbone) -> None:
    prototypes = Prototypes()
    prototypes.learn(backbone, prompts(3, 20))
    prototypes.learn(backbone, prompts(120, 140))
    assert prototypes.share_right(backbone, prompts(3, 20, seed=1), 0) == 1
    assert prototypes.share_right(backbone, prompts(120, 140, seed=1), 1) == 1
    assert prototypes.share_right(backbone, prompts(120, 140, seed=1), 0) == 0
    assert prototypes.nbytes == 2 * 2 * 64


def test_a_prototype_is_of_texts_spread_over_the_split() -> None:
    many = [Example(str(n), "x") for n in range(2 * EXAMPLES + 2)]
    assert spread(many[:7]) == many[:7]
    assert spread(many) == many[::3]


def test_the_adapter_is_told_the_guess_only_where_ids_are_withheld() -> None:
    bench = build(NAMED["lora8 per task"], "decoder")
    bench.adapter.attach()
    for task in range(2):
        learn(bench, task=task, lr=5e-2)
    bench.task = torch.tensor([0, 0, 0, 0])
    told_first = bench.stored()
    bench.task = torch.tensor([1, 1, 1, 1])
    told_second = bench.stored()
    assert not torch.equal(told_first, told_second)
    prototypes = Prototypes()
    with torch.no_grad():
        first, others = (
            points(bench.prompt.embeddings[:1], bench.prompt.mask[:1]),
            points(bench.prompt.embeddings[1:], bench.prompt.mask[1:]),
        )
    prototypes._rows = [first[0], others.mean(dim=0)]
    bench.adapter = Guessing(bench.adapter, prototypes)
    assert torch.equal(bench.stored(), told_second)
    with prototypes.guessing():
        guessed = bench.stored()
    torch.testing.assert_close(guessed[0], told_first[0])
    torch.testing.assert_close(guessed[1:], told_second[1:])


def test_a_task_has_its_own_lora_and_keeps_it() -> None:
    bench = build(NAMED["lora8 per task"], "decoder")
    bare = bench.model(input_ids=bench.ids)[0]
    bench.adapter.attach()
    learn(bench, task=0, lr=5e-2)
    first = bench.stored()
    bench.task = torch.tensor([1, 1, 1, 1])
    assert torch.equal(bench.stored(), bare)  # of a task that has not begun there is none
    learn(bench, task=1, lr=5e-2)
    bench.task = torch.tensor([0, 1, 0, 7])
    mixed = bench.stored()
    torch.testing.assert_close(mixed[0], first[0])
    assert not torch.allclose(mixed[1], first[1], atol=1e-3)
    torch.testing.assert_close(mixed[3], bare[3])
    pair = 3 * 2 * 8 * ((64 + 64) + (64 + 16))
    assert sum(bench.adapter.byte_terms().values()) == 2 * pair


def test_tasks_out_of_turn_are_refused() -> None:
    with pytest.raises(EdgeAdaptError, match="in turn"):
        build(NAMED["lora8 per task"], "decoder").adapter.begin_task(2)


def test_a_scoreboard_is_restored_from_its_json() -> None:
    import json

    from edgeadapt.scores import Confusion

    board = Scoreboard(2)
    board.baseline[:] = (0.5, np.nan)
    board.matrix[0, 0], board.withheld[0, 0] = 0.75, 0.25
    board.confusion["a"] = Confusion(("x", "y"), ((1, 0), (2, 3)))
    other = Scoreboard(2)
    other.restore(json.loads(json.dumps(board.state())))
    for name in ("baseline", "matrix", "withheld"):
        np.testing.assert_array_equal(getattr(other, name), getattr(board, name))
    assert other.confusion == board.confusion


def test_scores_say_what_the_tasks_are() -> None:
    spec = TaskSpec("a", "{text}", ("x", "y"), language="fr")
    rows = {name: tuple(Example(f"{name} {n}", "x" if n else "y") for n in range(3)) for name in ("v", "e")}
    task = Task(spec, (Example("t", "x"),), rows["v"], rows["e"], topic="mood")
    found = Scoreboard(1).scores([task], "evaluation", 64)
    assert (found.counts, found.metrics, found.languages, found.topics) == ((3,), ("accuracy",), ("fr",), ("mood",))
    assert found.majorities == (pytest.approx(2 / 3),)
    assert (found.withheld, found.withheld_bytes) == (None, 64)
    assert Scoreboard(1).scores([task], "validation", 0).majorities == ()


REPEATABLE = ["himalaya", "himalaya square", "lora8", "lilac", "glodis", "loreft", "unihyper", "hest", "bhsp"]


def checkpointed(kind: str) -> Backbone:
    from dataclasses import replace

    model = decoder() if kind == "decoder" else encoder()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return replace(wrap(model), checkpointed=True)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
@pytest.mark.parametrize("name", REPEATABLE)
def test_with_gradient_checkpointing_the_gradients_are_the_same(name: str, kind: str) -> None:
    subject, gradients = NAMED[name], []
    options = {**subject.options, **(subject.encoder_options if kind == "encoder" else {})}
    for plain in (True, False):
        backbone = wrap(decoder() if kind == "decoder" else encoder()) if plain else checkpointed(kind)
        adapter = registry.build(options, Host(backbone.host.model, blocks(backbone.body), 64), 3)
        assert adapter.recomputable
        adapter.attach()
        adapter.begin_task(0)
        moved(adapter)
        ids = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(1))
        embeddings, mask = backbone.embed(ids), torch.ones_like(ids)
        blocks_run = count_blocks(backbone)
        with adapter.conditioned(Prompt(embeddings, mask, torch.zeros(2, dtype=torch.int64))):
            with backbone.recomputing():
                hidden = backbone.hidden(embeddings, mask).last_hidden_state
            hidden.square().mean().backward()
        assert len(blocks_run) == len(backbone.host.layers) * (1 if plain else 2)
        gradients.append({n: p.grad.clone() for n, p in adapter.named_parameters() if p.grad is not None})
        adapter.detach()
    assert gradients[0].keys() == gradients[1].keys() != set()
    for key, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], value, atol=1e-6, rtol=1e-5)


def moved(adapter: Any) -> None:
    """Away from the start, where most gradients are zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def count_blocks(backbone: Backbone) -> list[int]:
    """Grows by one whenever a block begins to run; backward stops it as soon as it has what it needs."""
    seen: list[int] = []
    for block in backbone.host.layers:
        block.register_forward_pre_hook(lambda *_: seen.append(1))
    return seen


def test_scoring_with_gradient_checkpointing_keeps_its_cache() -> None:
    from edgeadapt_train.language_scoring import choice_scores

    plain, saving = wrap(decoder()), checkpointed("decoder")
    assert isinstance(plain, CausalBackbone)
    assert isinstance(saving, CausalBackbone)
    given: Any = (None, 0, [[5, 6, 7], [8, 9]], [[[11, 12], [13]]] * 2)
    for found, expected in zip(choice_scores(saving, *given), choice_scores(plain, *given), strict=True):
        np.testing.assert_array_equal(found, expected)
