"""A frozen backbone in 4 bits, for training on top of it: NF4 (Dettmers et al. 2023, QLoRA) by bitsandbytes.

    W [N, K]  ->  q [N K / 2] uint8, two codes a byte;  m [N K / 64] float32, the largest |w| of each block of 64
    w ~ m_b NF4[q]        NF4: 16 quantiles of a Gaussian in [-1, 1]        4.5 bits per weight
Every linear map of the blocks; embeddings, norms, biases and the LM head stay as they are. The statistics m are not
quantised again (bitsandbytes' "double quantisation" would save 0.4 bits). Products run in the backbone's precision on
weights that are dequantised for them, and gradients pass through to what is adapted below.

A 4-bit backbone is a training device: what a run stores is the adapter, and export puts it on the weights as they were.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edgeadapt.errors import EdgeAdaptError, MissingExtra


@contextmanager
def without_remarks() -> Iterator[None]:
    """Inside: bitsandbytes, which peft imports where it is there, does not say which kernels it would rather fetch."""
    remarks = logging.getLogger("bitsandbytes")
    level = remarks.level
    remarks.setLevel(logging.ERROR)
    try:
        yield
    finally:
        remarks.setLevel(level)


def options(dtype: torch.dtype, place: torch.device) -> dict[str, Any]:
    """What `from_pretrained` has to be told. Raises MissingExtra without bitsandbytes, EdgeAdaptError on a device for
    which it has nothing."""
    try:
        with without_remarks():
            import bitsandbytes  # noqa: F401
    except ImportError:
        raise MissingExtra("nf4", "bitsandbytes") from None
    if place.type not in ("cpu", "cuda"):
        raise EdgeAdaptError(f"model.quantisation=4bit on device={place.type}: use cpu or cuda")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": config, "device_map": {"": str(place)}}


def keep_trainable(model: nn.Module) -> None:
    """In evaluation mode bitsandbytes repacks weights for CPUs with AVX-512 BF16, and no gradient passes through what
    it repacked. Nothing else in these maps depends on the mode."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and getattr(module.weight, "quant_state", None) is not None:
            module.train()


def weight(linear: nn.Linear) -> Tensor:
    """W [N, K] float32 of a linear map, dequantised if it is in 4 bits."""
    state = getattr(linear.weight, "quant_state", None)
    if state is None:
        return linear.weight.detach().float()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(linear.weight.data, state).float()
