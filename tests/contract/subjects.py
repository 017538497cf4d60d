"""Every method and variant that the contract suites walk, on tiny hosts; a new one is one line in SUBJECTS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Adapter, Host, Prompt
from edgeadapt_train.backbone import blocks


@dataclass(frozen=True)
class Subject:
    """A method with its options, and on which hosts it is defined.

    inert: at the start it changes no bit of the outputs. merges: it has a static merge. merged_only: it reaches a
    device in no other way. seeded: it starts from random numbers. rounding: what its integer arithmetic may move a
    logit by, where two views' last bits fall to different sides of a rounding.
    """

    name: str
    options: dict[str, Any]
    hosts: tuple[str, ...] = ("decoder", "encoder")
    inert: bool = True
    merges: bool = False
    merged_only: bool = False
    seeded: bool = True
    rounding: float = 0.0
    encoder_options: dict[str, Any] = field(default_factory=dict)


EWC = {"ewc": {"strength": 10.0, "batches": 2}}
SMALL = {"fisher_batches": 2, "window": 2, "cooldown": 2}
TINY = {"flop_cap": 1.0}  # a router of 128 atoms is much beside a host 64 numbers wide
SUBJECTS = (
    Subject("himalaya", {"method": "himalaya", **SMALL}),
    Subject(
        "himalaya square",
        {"method": "himalaya", "site": "square", **SMALL},
        encoder_options={"site_modules": ("query", "key")},
    ),
    Subject("himalaya first token", {"method": "himalaya", "pool": "first", **SMALL}),
    Subject("himalaya ewc", {"method": "himalaya", "protection": "ewc", **SMALL}),
    Subject("himalaya unprotected", {"method": "himalaya", "protection": "none", **SMALL}),
    Subject("himalaya shared gain", {"method": "himalaya", "gain": "shared", **SMALL}),
    Subject("himalaya terms", {"method": "himalaya", "update": "terms", **SMALL}),
    Subject("himalaya read-write", {"method": "himalaya", "atoms": "read_write", **SMALL}),
    Subject("himalaya read-write terms", {"method": "himalaya", "update": "terms", "atoms": "read_write", **SMALL}),
    Subject("himalaya turning core", {"method": "himalaya", "core_update": "frequent_directions", **SMALL}),
    Subject(
        "himalaya literal",
        {"method": "himalaya", "variant": "literal", **SMALL},
        inert=False,
        encoder_options={"site_modules": ("query", "key")},
    ),
    Subject("lora8", {"method": "lora"}, merges=True),
    Subject("lora8 ewc", {"method": "lora", **EWC}, merges=True),
    Subject("lora8 per task", {"method": "lora-per-task"}),
    Subject("lilac", {"method": "lilac", "ewc": {"batches": 2}}, merges=True),
    Subject("coltas", {"method": "coltas"}, merges=True),
    Subject("coltas keep", {"method": "coltas", "merge": "keep"}, merges=True),
    Subject("glodis", {"method": "glodis"}, merges=True),
    Subject("loreft", {"method": "loreft"}),
    Subject("loreft ewc", {"method": "loreft", **EWC}),
    Subject("full", {"method": "full"}, merges=True, merged_only=True, seeded=False),
    Subject("unihyper", {"method": "unihyper", **TINY}),
    Subject("unihyper vocab", {"method": "unihyper", "basis": "vocab", **TINY}),
    Subject("unihyper top-3", {"method": "unihyper", "top_k": 3, **TINY}),
    Subject("sat-lora", {"method": "sat-lora", **TINY}),
    Subject("hf-sat-lora", {"method": "hf-sat-lora", **TINY}),
    Subject("hest", {"method": "hest"}, rounding=0.3),
    Subject("hest no layer score", {"method": "hest", "variant": "no-layer-score"}, rounding=0.3),
    Subject("hest no int8", {"method": "hest", "variant": "no-int8"}),
    Subject("hest soft budget", {"method": "hest", "variant": "soft-budget"}, rounding=0.3),
    Subject("tabs", {"method": "tabs"}),
    Subject("bhsp", {"method": "bhsp"}, merges=True, seeded=False),
)
NAMED = {subject.name: subject for subject in SUBJECTS}


def decoder() -> Any:
    """Grouped-query Llama: d = 64, 8 heads, 2 key-value heads, 3 layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=112, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2, tie_word_embeddings=True,
        attn_implementation="eager",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return LlamaForCausalLM(config).eval().requires_grad_(False)


def encoder() -> Any:
    """BERT: d = 64, 4 heads, 2 layers."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)


MODELS: dict[str, Callable[[], Any]] = {"decoder": decoder, "encoder": encoder}


@dataclass
class Bench:
    """A model, an adapter on it, and some input."""

    model: Any
    adapter: Adapter
    ids: Any
    task: Any

    @property
    def prompt(self) -> Prompt:
        with torch.no_grad():
            embeddings = self.model.get_input_embeddings()(self.ids)
        mask = torch.ones_like(self.ids)
        mask[0, -3:] = 0
        return Prompt(embeddings, mask, self.task)

    def forward(self, rows: slice = slice(None)) -> Any:
        whole = self.prompt
        with self.adapter.conditioned(Prompt(whole.embeddings[rows], whole.mask[rows], whole.task[rows])):
            return self.model(input_ids=self.ids[rows])[0]

    def stored(self) -> Any:
        with self.adapter.hardened():
            return self.forward()


def build(subject: Subject, kind: str, seed: int = 3) -> Bench:
    model = MODELS[kind]()
    host = Host(model, blocks(model), model.config.hidden_size)
    options = {**subject.options, **(subject.encoder_options if kind == "encoder" else {})}
    ids = torch.randint(3, 96, (4, 11), generator=torch.Generator().manual_seed(1))
    return Bench(model, registry.build(options, host, seed), ids, torch.tensor([0, 0, 0, 0]))


def learn(bench: Bench, steps: int = 4, task: int = 0, lr: float = 5e-3, *, ended: bool = True) -> None:
    """A few steps of AdamW on an arbitrary smooth loss; the task is ended, or left open."""
    adapter = bench.adapter
    adapter.begin_task(task)
    bench.task = torch.full((4,), task)
    groups = [{"params": [p for _, p in g.parameters], "lr": lr * g.scale} for g in adapter.groups()]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)

    def backward(rows: slice = slice(None)) -> None:
        optimiser.zero_grad()
        output = bench.forward(rows)
        loss = (output - output.detach().roll(1, dims=-1)).square().mean()
        penalty = adapter.penalty()
        (loss if penalty is None else loss + penalty).backward()

    def gradients(count: int, *, single: bool = False) -> Any:
        for _ in range(count):
            for rows in [slice(row, row + 1) for row in range(len(bench.ids))] if single else [slice(None)]:
                backward(rows)
                yield

    for step in range(steps):
        adapter.schedule(step / (steps - 1))
        backward()
        adapter.after_backward()
        optimiser.step()
        adapter.after_step(optimiser, step + 1)
    if ended:
        adapter.end_task(task, gradients)
