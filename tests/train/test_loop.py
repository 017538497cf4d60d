"""Batches, the loss, the schedule, and that a learner goes on to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.tasks import TaskSpec
from edgeadapt_train import checkpoint
from edgeadapt_train.adapters import registry
from edgeadapt_train.backbone import CausalBackbone, blocks, choose_precision, load, wrap
from edgeadapt_train.batches import Encoded, Example, collate, encode_examples, epoch_batches
from edgeadapt_train.loop import Learner, LoopSettings, rate
from edgeadapt_train.objectives import LanguageTargets
from tests.support import tiny_backbone

EOS = 2


def examples(count: int, seed: int = 0) -> list[Encoded]:
    rng = np.random.default_rng(seed)
    return [
        Encoded(tuple(rng.integers(3, 250, rng.integers(4, 12)).tolist()), (int(rng.integers(3, 6)),))
        for _ in range(count)
    ]


@pytest.fixture
def backbone(tmp_path: Path) -> CausalBackbone:
    found = load(tiny_backbone(tmp_path / "backbone"), "tiny", "none", "fp32", "cpu")
    assert isinstance(found, CausalBackbone)
    return found


def learner(backbone: CausalBackbone, adapter: Any, **settings: Any) -> Learner:
    chosen = LoopSettings(**{"lr": 1e-2, "batch_size": 4, "epochs": 2, **settings})
    return Learner(backbone, adapter, examples(21), LanguageTargets(backbone.head, EOS), settings=chosen, index=0)


def attached(backbone: CausalBackbone, method: str = "himalaya", **options: Any) -> Any:
    adapter = registry.build({"method": method, **options}, backbone.host, 0)
    adapter.attach()
    return adapter


def test_a_batch_predicts_the_target_and_the_end_and_nothing_else() -> None:
    batch = collate([Encoded((5, 6, 7), (8, 9)), Encoded((4,), (3,))], EOS, torch.device("cpu"))
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9], [4, 3, 0, 0, 0]]
    assert batch.mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch.prompt_mask.tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert batch.labels.tolist() == [[-100, -100, 8, 9, EOS], [3, EOS, -100, -100, -100]]
    assert (batch.targets, batch.tokens) == (5, 7)


def test_an_epoch_holds_every_example_once_in_batches_of_like_lengths() -> None:
    items = examples(200)
    first, again, other = (epoch_batches(items, 8, (0, 0, epoch)) for epoch in (0, 0, 1))
    assert first == again != other
    assert sorted(index for batch in first for index in batch) == list(range(200))
    spread = np.mean([np.ptp([items[i].length for i in batch]) for batch in first])
    shuffled = np.random.default_rng(0).permutation(200).reshape(25, 8)
    assert spread < 0.5 * np.mean([np.ptp([items[i].length for i in batch]) for batch in shuffled])


def test_prompts_are_cut_and_targets_follow_a_space() -> None:
    task = TaskSpec("t", "Say {text} now:", ("yes", "no"), max_prompt_tokens=20)
    (item,) = encode_examples(task, [Example("x" * 100, "yes")], lambda text: list(text.encode()))
    assert bytes(item.prompt) == b"Say " + b"x" * 11 + b" now:"
    assert bytes(item.target) == b" yes"


def test_the_rate_warms_up_linearly_and_then_falls_linearly() -> None:
    factors = [rate(step, 10, 2) for step in range(10)]
    assert factors == [0.5, 1.0, *[pytest.approx((10 - step) / 8) for step in range(2, 10)]]
    assert [rate(step, 2, 0) for step in range(2)] == [1.0, 0.5]


def test_the_warm_up_is_a_share_of_the_steps_or_so_many_of_them() -> None:
    assert LoopSettings(warmup=0.1).rising(25) == 3
    assert LoopSettings(warmup=0.1, warmup_steps=500).rising(25) == 500
    assert rate(1, 2, 500) == 2 / 500  # a warm-up that is longer than the task never ends in it


def test_weight_decay_is_that_of_adamw_where_there_is_a_gradient(backbone: CausalBackbone) -> None:
    adapter = attached(backbone, "lora")
    made = learner(backbone, adapter, weight_decay=0.5, warmup=0.0)
    made.begin()
    before = {name: value.detach().clone() for name, value in adapter.named_parameters()}
    made.step()
    gradients = {name: value.grad for name, value in adapter.named_parameters()}
    expected = {name: torch.nn.Parameter(value.clone()) for name, value in before.items()}
    for name, value in expected.items():
        value.grad = gradients[name]
    torch.optim.AdamW(expected.values(), lr=1e-2, weight_decay=0.5, foreach=False).step()
    for name, value in adapter.named_parameters():
        moved = gradients[name] != 0
        torch.testing.assert_close(value[moved], expected[name][moved], rtol=0, atol=1e-7)
        assert torch.equal(value[~moved], before[name][~moved])


def test_weight_decay_leaves_what_past_tasks_rely_on(backbone: CausalBackbone) -> None:
    adapter = attached(backbone)
    kept = {}
    for index in range(2):
        task = LoopSettings(lr=1e-2, batch_size=4, weight_decay=0.9)
        taught = LanguageTargets(backbone.head, EOS)
        made = Learner(backbone, adapter, examples(21), taught, settings=task, index=index)
        made.begin()
        while made.done < made.total:
            made.step()
        made.finish()
        if index == 0:
            kept = {"rows": adapter.task_rows.rows[0].clone(), "rho": adapter.task_rows.rho[0].clone()}
            kept |= {"w1": adapter.router.w1.clone(), "used": adapter.dictionary.elastic.clone()}
            used = adapter.dictionary.protected.clone()
    assert torch.equal(adapter.task_rows.rows[0], kept["rows"])
    assert torch.equal(adapter.task_rows.rho[0], kept["rho"])
    assert torch.equal(adapter.router.w1, kept["w1"])
    assert used.any()
    assert torch.equal(adapter.dictionary.elastic[used], kept["used"][used])


def test_the_loss_is_the_mean_over_target_tokens(backbone: CausalBackbone) -> None:
    adapter = attached(backbone, "lora")
    made = learner(backbone, adapter, batch_size=21)
    made.begin()
    found = made.step().loss
    logs = []
    for item in examples(21):
        ids = torch.tensor([[*item.prompt, *item.target]])
        with torch.no_grad():
            logits = backbone.host.model(input_ids=ids).logits[0].log_softmax(dim=-1)
        start = len(item.prompt) - 1
        logs += [float(logits[start + i, token]) for i, token in enumerate((*item.target, EOS))]
    adapter.detach()
    # the adapter has stepped once: only its first forward, from B = 0, is the bare model's
    with pytest.raises(AssertionError):
        assert found == pytest.approx(-np.mean(logs), abs=1e-4)
    fresh = attached(backbone, "lora")
    fresh.detach()
    bare = [
        float(backbone.host.model(input_ids=torch.tensor([[*item.prompt, *item.target]])).logits[0].log_softmax(-1)[
            len(item.prompt) - 1 + i, token
        ])
        for item in examples(21)
        for i, token in enumerate((*item.target, EOS))
    ]  # fmt: skip
    assert found == pytest.approx(-np.mean(bare), abs=1e-4)


def test_accumulated_batches_are_one_large_batch(backbone: CausalBackbone) -> None:
    weights = []
    for size, parts in ((4, 1), (2, 2)):
        adapter = attached(backbone, "lora")
        made = Learner(
            backbone,
            adapter,
            examples(4),
            LanguageTargets(backbone.head, EOS),
            settings=LoopSettings(batch_size=size, accumulation=parts),
            index=0,
        )
        made.begin()
        made.step()
        weights.append(adapter.own_state())
        adapter.detach()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=2e-5, rtol=0)


@pytest.mark.parametrize("method", ["himalaya", "lora"])
def test_a_learner_restored_from_a_checkpoint_goes_on_to_the_same_bits(
    backbone: CausalBackbone, method: str, tmp_path: Path
) -> None:
    options = {"window": 2, "cooldown": 2} if method == "himalaya" else {}
    whole = learner(backbone, attached(backbone, method, **options))
    whole.begin()
    for _ in range(5):
        whole.step()
    position = checkpoint.Position(0, whole.done, 5, 7, {"baseline": [0.5]})
    checkpoint.write(tmp_path, position, whole.state())
    losses = [whole.step().loss for _ in range(whole.total - 5)]
    expected = whole.state()
    whole._adapter.detach()

    found = checkpoint.read(tmp_path)
    assert found is not None
    assert found[0] == position
    resumed = learner(backbone, attached(backbone, method, **options))
    resumed.restore(found[1], found[0].done)
    assert [resumed.step().loss for _ in range(resumed.total - 5)] == losses
    assert checkpoint.bit_equal(resumed.state(), expected)


def test_a_loss_that_is_not_a_number_stops_with_advice(backbone: CausalBackbone) -> None:
    adapter = attached(backbone, "lora")
    made = learner(backbone, adapter)
    made.begin()
    with torch.no_grad():
        next(iter(adapter.factors.values())).fill_(float("nan"))
    with pytest.raises(EdgeAdaptError, match="smaller lr"):
        made.step()


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    assert checkpoint.read(tmp_path) is None
    path = tmp_path / "checkpoints" / checkpoint.FILE
    path.parent.mkdir()
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(EdgeAdaptError, match="not a checkpoint"):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", 0.0), ("lr", float("nan")), ("batch_size", 0), ("warmup", 1.0), ("steps", 0), ("weight_decay", -0.1)],
)
def test_settings_that_cannot_work_are_refused(name: str, value: Any) -> None:
    with pytest.raises(EdgeAdaptError, match=f"{name}="):
        LoopSettings(**{name: value})


def test_precision_is_chosen_by_what_the_device_can_do() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("fp32", cpu) == "fp32"
    assert choose_precision("bf16", cpu) == "bf16"
    assert choose_precision("auto", cpu) in ("fp32", "bf16")
    with pytest.raises(EdgeAdaptError, match="precision=fp16"):
        choose_precision("fp16", cpu)


def test_blocks_of_llama_and_bert_are_found_by_depth(backbone: CausalBackbone) -> None:
    from transformers import BertConfig, BertModel

    assert [type(block).__name__ for block in backbone.host.layers] == ["LlamaDecoderLayer"] * 3
    bert = BertModel(BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=4, num_attention_heads=2))
    assert [type(block).__name__ for block in blocks(bert)] == ["BertLayer"] * 4
    with pytest.raises(EdgeAdaptError, match="not supported"):
        blocks(torch.nn.Linear(2, 2))


def test_bf16_training_keeps_the_adapter_in_fp32(backbone: CausalBackbone) -> None:
    half = wrap(backbone.host.model.to(torch.bfloat16), precision="bf16")
    for method in ("himalaya", "lora"):
        adapter = attached(half, method)
        made = learner(half, adapter, lr=3e-2, epochs=6)
        made.begin()
        losses = [made.step().loss for _ in range(made.total)]
        assert all(parameter.dtype == torch.float32 for parameter in adapter.parameters())
        assert np.mean(losses[-5:]) < np.mean(losses[:5])
        adapter.detach()


def test_unusable_backbones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EdgeAdaptError, match="not a causal language model"):
        load(tmp_path, "x", "y", "fp32", "cpu")
