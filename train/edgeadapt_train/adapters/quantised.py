"""int8 rows in PyTorch: the codec of edgeadapt.codecs.int8, to the bit, on any device and in training.

    s = fp16(max |row| / 127)      q = clip(round(x / s), -127, 127), half to even      value = q s
    straight through:  value in the forward pass, the gradient of x in the backward pass (Bengio et al. 2013)
Rows are along the last axis.
"""

from __future__ import annotations

import torch
from torch import Tensor


def int8_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """values [.., n] -> codes int8 [.., n] and scales float16 [..]. No gradient."""
    x = values.detach().float()
    scales = (x.abs().amax(dim=-1) / 127).half()
    s = scales.float()[..., None]
    codes = torch.where(s > 0, x / torch.where(s > 0, s, torch.ones_like(s)), torch.zeros_like(x))
    return codes.round().clamp(-127, 127).to(torch.int8), scales


def int8_values(codes: Tensor, scales: Tensor) -> Tensor:
    """What the rows are worth, float32."""
    return codes.float() * scales.float()[..., None]


def straight_through(values: Tensor) -> Tensor:
    """The stored value of every number, with the gradient of the number itself."""
    return values + (int8_values(*int8_rows(values)) - values).detach()
