"""The frozen backbone as the training stage sees it: embeddings in, hidden states out, logits where they are wanted.

The weights never need a gradient. A language model's head is applied to chosen positions only: over a vocabulary of
49,152 it would otherwise cost more than all blocks together.

precision   fp32   everything in float32
            bf16   the backbone's weights and activations in bfloat16; adapters, losses and scores stay in float32
            auto   bf16 where the device multiplies it natively (CUDA, or a CPU with AMX or AVX-512 BF16), else fp32
Measured on a Xeon with AMX, one thread, SmolLM2-135M, forward and backward of 8 x 72 tokens: 1.05 s in bf16 and 2.8 s
in fp32 with eager attention; 1.6 s in bf16 with SDPA, whose bf16 backward is slow on CPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.families import is_encoder
from edgeadapt.records import read_json
from edgeadapt_train import nf4
from edgeadapt_train.adapters.base import Host

Precision = Literal["fp32", "bf16"]
Quantisation = Literal["none", "4bit"]


@dataclass(frozen=True)
class Backbone:
    """A frozen transformer: `body` gives hidden states. An encoder is this; a language model is a CausalBackbone."""

    host: Host
    body: nn.Module
    embedding: nn.Module
    precision: Precision
    checkpointed: bool = field(default=False, kw_only=True)

    @property
    def device(self) -> torch.device:
        return next(self.body.parameters()).device

    def embed(self, ids: Tensor) -> Tensor:
        """ids [B, T] -> [B, T, d]."""
        embedded: Tensor = self.embedding(ids)
        return embedded

    def hidden(self, embeddings: Tensor, mask: Tensor) -> Any:
        """embeddings [B, T, d], mask [B, T] -> the body's output; `last_hidden_state` [B, T, d]."""
        return self.body(inputs_embeds=embeddings, attention_mask=mask)

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Inside, with gradient checkpointing: forward keeps what enters each block, and backward runs the block again.

        The blocks alone are told that they are being trained: what is in them (dropout) rests.
        """
        for block in self.host.layers:
            block.training = self.checkpointed
        try:
            yield
        finally:
            for block in self.host.layers:
                block.training = False


@dataclass(frozen=True)
class CausalBackbone(Backbone):
    """A causal language model: `head` maps hidden states to the vocabulary."""

    head: nn.Module

    def hidden(self, embeddings: Tensor, mask: Tensor, cache: Any = None, positions: Tensor | None = None) -> Any:
        """embeddings [B, T, d], mask [B, past + T] -> the body's output; `last_hidden_state` [B, T, d]."""
        return self.body(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )

    def log_probs(self, hidden: Tensor) -> Tensor:
        """hidden [N, d] -> float32 log-probabilities [N, V]."""
        return torch.log_softmax(self.head(hidden).float(), dim=-1)


def blocks(model: nn.Module) -> tuple[nn.Module, ...]:
    """The repeated blocks of a decoder or an encoder, by depth.

    They are the longest ModuleList whose members are all of one type: `layers` of the Llama family, `layer` of BERT's.
    """
    lists = [tuple(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    uniform = [found for found in lists if len({type(item) for item in found}) == 1]
    if not uniform:
        raise EdgeAdaptError(
            f"{type(model).__name__}: no list of equal blocks found; this architecture is not supported"
        )
    return max(uniform, key=len)


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """Resolve `auto`. Raises EdgeAdaptError for anything but auto, fp32 and bf16."""
    if wanted not in ("auto", "fp32", "bf16"):
        raise EdgeAdaptError(f"precision={wanted}: choose auto, fp32 or bf16")
    if wanted != "auto":
        return "fp32" if wanted == "fp32" else "bf16"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    capabilities = torch.backends.cpu.get_cpu_capability()
    native = bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)()) or bool(
        getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    )
    return "bf16" if native and capabilities.startswith("AVX512") else "fp32"


def load(
    folder: Path,
    backbone_id: str,
    revision: str,
    precision: str,
    device: str = "auto",
    *,
    quantisation: Quantisation = "none",
    checkpointed: bool = False,
) -> Backbone:
    """Read a Hugging Face folder: an encoder by its config.json, or else a causal language model. On CPUs attention is
    transformers' eager form (see the figures above). `quantisation`: of the blocks' frozen weights (nf4.py).
    `checkpointed`: train with gradient checkpointing."""
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    encodes = is_encoder(read_json(folder / "config.json"))
    reader: Any = AutoModel if encodes else AutoModelForCausalLM
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    chosen = choose_precision(precision, place)
    dtype = torch.bfloat16 if chosen == "bf16" else torch.float32
    attention = "eager" if place.type == "cpu" else "sdpa"
    try:
        quantised = nf4.options(dtype, place) if quantisation == "4bit" else {}
        model: Any = reader.from_pretrained(folder, dtype=dtype, attn_implementation=attention, **quantised)
    except (ValueError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        kind = "an encoder" if encodes else "a causal language model"
        raise EdgeAdaptError(f"{folder}: not {kind} that transformers can load ({reason})") from None
    found = wrap(model if quantised else model.to(place), backbone_id, revision, chosen)
    if quantised:
        nf4.keep_trainable(model)
    if not checkpointed:
        return found
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return replace(found, checkpointed=True)


def wrap(model: Any, backbone_id: str = "unnamed", revision: str = "none", precision: Precision = "fp32") -> Backbone:
    """A model of transformers, frozen and in evaluation mode, as a Backbone: a CausalBackbone if it has an LM head."""
    model.eval().requires_grad_(False)
    body = model.base_model
    host = Host(model, blocks(body), int(model.config.hidden_size), backbone_id, revision)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return (
        Backbone(host, body, embedding, precision)
        if head is None
        else CausalBackbone(host, body, embedding, precision, head)
    )


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run with `count` threads (None: as it is), and put the number back."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
