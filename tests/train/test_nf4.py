"""A frozen backbone in 4 bits: what it computes, what learns on top of it, and what rests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeadapt.errors import EdgeAdaptError, MissingExtra
from edgeadapt.tasks import TaskSpec
from edgeadapt.text import TextCodec
from edgeadapt_train import nf4
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Prompt
from edgeadapt_train.backbone import Backbone, CausalBackbone, load
from edgeadapt_train.batches import Encoded, Example
from edgeadapt_train.loop import Learner, LoopSettings
from edgeadapt_train.objectives import LanguageTargets
from edgeadapt_train.scoring import evaluate
from tests.support import tiny_backbone, tiny_encoder

pytest.importorskip("bitsandbytes")
IDS = torch.randint(3, 250, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["decoder", "encoder"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make = tiny_backbone if request.param == "decoder" else tiny_encoder
    return make(tmp_path_factory.mktemp("tiny") / request.param)


def quantised(folder: Path) -> Backbone:
    return load(folder, "tiny", "none", "fp32", "cpu", quantisation="4bit")


def dequantised(folder: Path) -> Backbone:
    """The ordinary backbone with the weights that the 4-bit one multiplies with."""
    plain, small = load(folder, "tiny", "none", "fp32", "cpu"), quantised(folder)
    maps = {path: module for path, module in plain.body.named_modules() if isinstance(module, nn.Linear)}
    for path, module in small.body.named_modules():
        if path in maps:
            maps[path].weight.data = nf4.weight(module)  # type: ignore[arg-type]
    return plain


def linears(backbone: Backbone) -> list[Any]:
    return [module for block in backbone.host.layers for module in block.modules() if isinstance(module, nn.Linear)]


def hidden(backbone: Backbone) -> torch.Tensor:
    found: torch.Tensor = backbone.hidden(backbone.embed(IDS), torch.ones_like(IDS)).last_hidden_state
    return found


def test_every_linear_map_of_the_blocks_takes_half_a_byte_a_weight(folder: Path) -> None:
    for module in linears(quantised(folder)):
        count = module.in_features * module.out_features
        assert module.weight.dtype == torch.uint8
        assert module.weight.numel() == count // 2
        assert module.weight.quant_state.absmax.numel() == count // 64


def test_it_computes_what_its_dequantised_weights_compute(folder: Path) -> None:
    with torch.no_grad():
        found, expected = hidden(quantised(folder)), hidden(dequantised(folder))
        plain = hidden(load(folder, "tiny", "none", "fp32", "cpu"))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-4)
    assert (found - plain).abs().max() > 1e-2


@pytest.mark.parametrize("method", ["himalaya", "lora"])
def test_gradients_of_an_adapter_are_those_on_the_dequantised_weights(folder: Path, method: str) -> None:
    gradients = []
    for make in (quantised, dequantised):
        backbone = make(folder)
        with torch.no_grad():
            hidden(backbone)  # as scoring does before any training
        adapter: Any = registry.build({"method": method}, backbone.host, 0)
        adapter.attach()
        adapter.begin_task(0)
        embeddings = backbone.embed(IDS)
        prompt = Prompt(embeddings, torch.ones_like(IDS), torch.zeros(3, dtype=torch.int64))
        with adapter.conditioned(prompt):
            backbone.hidden(embeddings, torch.ones_like(IDS)).last_hidden_state.square().sum().backward()
        adapter.detach()
        named = {name: value.grad for group in adapter.groups() for name, value in group.parameters}
        gradients.append({name: grad for name, grad in named.items() if grad is not None and grad.any()})
    assert gradients[0].keys() == gradients[1].keys() != set()
    for name, grad in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], grad, rtol=2e-3, atol=2e-3 * float(grad.abs().max()))


@pytest.mark.parametrize("method", ["himalaya", "lora"])
def test_an_adapter_learns_on_it_and_not_a_bit_of_it_moves(tmp_path: Path, method: str) -> None:
    folder = tiny_backbone(tmp_path / "backbone")
    backbone, text = quantised(folder), TextCodec.from_folder(folder)
    assert isinstance(backbone, CausalBackbone)
    before = [module.weight.clone() for module in linears(backbone)]
    adapter = registry.build({"method": method}, backbone.host, 0)
    adapter.attach()
    rng = np.random.default_rng(0)
    examples = [Encoded(tuple(rng.integers(4, 96, 6).tolist()), (3,)) for _ in range(16)]
    settings = LoopSettings(lr=2e-2, batch_size=4, epochs=10, steps=20)
    learner = Learner(backbone, adapter, examples, LanguageTargets(backbone.head, 2), settings=settings, index=0)
    learner.begin()
    losses = [learner.step().loss for _ in range(learner.total)]
    learner.finish()
    task = TaskSpec("t", "Q: {text}\nA:", ("a", "no"), max_prompt_tokens=40)
    evaluate(backbone, adapter, task, [Example("x", "no")], index=0, text=text)
    adapter.detach()
    assert losses[-1] < losses[0] - 0.3
    assert all(torch.equal(module.weight, kept) for module, kept in zip(linears(backbone), before, strict=True))


def test_a_merge_is_into_the_weights_that_it_multiplies_with(folder: Path) -> None:
    backbone = quantised(folder)
    adapter = registry.build({"method": "lora"}, backbone.host, 0)
    merged = adapter.merged()
    modules = dequantised(folder).host.layers[0].named_modules()
    own = next(module for path, module in modules if path.rsplit(".", 1)[-1] in ("q_proj", "query"))
    torch.testing.assert_close(merged[0, "q_proj"], own.weight.detach(), rtol=0, atol=0)


def test_full_fine_tuning_is_refused_on_it(folder: Path) -> None:
    with pytest.raises(EdgeAdaptError, match=r"packs into codes; give model\.quantisation=none"):
        registry.build({"method": "full"}, quantised(folder).host, 0)


def test_without_bitsandbytes_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtra, match=r"edgeadapt\[nf4\]"):
        quantised(folder)
