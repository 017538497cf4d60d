"""PyTorch eager, by transformers: the same backbone from its safetensors, with LoRA by peft.

    pytorch               fp32
    pytorch lora8         fp32, peft's LoRA of rank 8 on q and v, not merged; random factors
    pytorch bf16 [lora8]  the same in bfloat16, where the processor has instructions for it

Eager, as it is installed: no torch.compile, the attention that transformers chooses (PyTorch's scaled dot product), a
cache that grows by concatenation. Logits of a prompt's last position only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt import backbones
from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.baselines.competitor import Competitor
from edgeadapt_bench.baselines.greedy import GreedySubject
from edgeadapt_bench.baselines.variant import BARE, Variant

NAME = "pytorch"
PACKAGES = ("torch", "transformers", "peft")
RANK = 8


def variants(bundle: Bundle) -> list[Variant]:
    weights = safetensors_of(bundle)
    common: dict[str, Any] = {"worker": __name__, "packages": PACKAGES, "files": (weights,)}
    found = []
    for dtype in ("fp32", "bf16") if has_bf16() else ("fp32",):
        name = NAME if dtype == "fp32" else f"{NAME} {dtype}"
        note = f"eager, {dtype}"
        found.append(Variant(name, bundle.root, BARE, precision=dtype, note=note, **common))
        note, options = f"eager, {dtype}, peft's LoRA-8 on q,v, unmerged; random factors", {"lora": "yes"}
        found.append(Variant(f"{name} lora8", bundle.root, BARE, precision=dtype, note=note, options=options, **common))
    return found


COMPETITOR = Competitor(NAME, "bench-torch", PACKAGES, variants)


def safetensors_of(bundle: Bundle) -> Path:
    """The weights that the bundle was made from. Raises EdgeAdaptError if they cannot be had, or are others."""
    wanted = bundle.manifest.backbone
    backbone = backbones.resolve(wanted.id)
    if backbone.revision != wanted.revision:
        raise EdgeAdaptError(f"{wanted.id} is {backbone.revision} here; the bundle was made of {wanted.revision}")
    weights = backbone.path / "model.safetensors"
    if not weights.is_file():
        raise EdgeAdaptError(f"{backbone.path} has no model.safetensors in one piece")
    return weights


def has_bf16() -> bool:
    """Whether this processor computes in bfloat16; emulated, it would only be slower."""
    import torch

    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


class Subject(GreedySubject):
    def __init__(self, variant: dict[str, Any], threads: int) -> None:
        import torch
        import transformers

        super().__init__()
        self._torch: Any = torch
        torch.set_num_threads(threads)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[variant["precision"]]
        load: Any = transformers.AutoModelForCausalLM
        with self.load.one():
            self._model = load.from_pretrained(Path(variant["files"][0]).parent, dtype=dtype).eval()
        if variant["options"].get("lora"):
            self._model = with_lora(self._model)
        self.vocabulary_size = int(self._model.config.vocab_size)
        self._cache: Any = transformers.DynamicCache()
        self._new_cache = transformers.DynamicCache

    def rewind(self, length: int) -> None:
        if length:
            self._cache.crop(length)
        else:
            self._cache = self._new_cache()

    def append(self, ids: Sequence[int]) -> int:
        with self._torch.inference_mode():
            tokens = self._torch.tensor([list(ids)])
            out = self._model(input_ids=tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            self._logits = out.logits[0, -1]
            return int(self._logits.argmax())

    def logits(self) -> np.ndarray:
        return np.asarray(self._logits.float())


def with_lora(model: Any) -> Any:
    """peft's LoRA around the query and value projections, neither of its factors zero."""
    import peft
    import torch

    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(RANK)
        return peft.get_peft_model(model, config).to(model.dtype).eval()
