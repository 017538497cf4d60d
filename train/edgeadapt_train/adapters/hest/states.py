"""A direction's states in training: what each computes, and which one is on.

    o_{t,j,state}   utilities (off, int8, fp16)
    g               Gumbel(0, 1) noise; y = softmax((o + g) / tau); forward: one-hot of its largest, backward: y's
    int8            x -> c round(x / c), c = max |x| / 127 per token, and so h; rows of U and V over scales of their
                    own: the device's numbers, with the gradient of what was rounded (straight through)
Jang et al. 2017 (Gumbel-softmax), Bengio et al. 2013 (straight through).
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-30


def relaxed(utilities: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """y = softmax((o + g) / tau) over the last axis: the smooth part."""
    return torch.softmax((utilities + noise) / temperature, dim=-1)


def hard(soft: Tensor) -> Tensor:
    """One-hot of the largest, with the gradient of `soft`."""
    chosen = torch.zeros_like(soft).scatter_(-1, soft.argmax(dim=-1, keepdim=True), 1.0)
    return chosen + (soft - soft.detach())


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise from the given generator alone."""
    uniform = torch.rand(shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    return -torch.log(-torch.log(uniform))


def rounded(values: Tensor) -> Tensor:
    """c round(v / c) with c = max |v| / 127 over the last axis; the gradient of v."""
    c = values.detach().abs().amax(dim=-1, keepdim=True).clamp_min(SMALLEST) / 127
    return values + ((values.detach() / c).round() * c - values.detach())


def int8_rows(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (as float32) of rows [n, d] and their scales [n] (edgeadapt.codecs.factors)."""
    wide = vectors.double()
    scale = wide.abs().amax(dim=-1) / 127
    codes = wide / torch.where(scale > 0, scale, torch.ones_like(scale))[:, None]
    return codes.round().float(), scale.float()


def spectral_delta(  # noqa: PLR0917 - the symbols of the equation
    x: Tensor, U: Tensor, V: Tensor, s: Tensor, int8: Tensor, fp16: Tensor
) -> Tensor:
    """What the directions add: x [B, T, d_in], U [16, d_out], V [16, d_in], s [16], the two states' gates
    [B, T, 16] -> [B, T, d_out]."""
    (V8, v), (U8, u) = int8_rows(V), int8_rows(U)
    wide = (x @ V.T) * s * fp16
    narrow = (rounded(x) @ V8.T) * (s * v * u) * int8
    return wide @ U + rounded(narrow) @ U8
