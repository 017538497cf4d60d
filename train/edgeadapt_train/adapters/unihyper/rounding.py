"""Training with the stored numbers: rounding to int8 rows or to int4, with the gradient of no rounding at all.

    forward    the value that the codec stores       codecs/int8.py (per row), codecs/nibbles.py (per matrix)
    backward   the identity                          straight through: d rounded / d master = 1

What is trained and what ships is then the same function, at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor


def int8_rows(x: Tensor) -> Tensor:
    """Matrix [rows, columns] through the int8 codec and back."""
    return _straight(x, x.detach().abs().amax(dim=1, keepdim=True), 127)


def int4(x: Tensor) -> Tensor:
    """Matrix through the int4 codec and back."""
    return _straight(x, x.detach().abs().amax(), 7)


def fixed(x: Tensor, unit: float) -> Tensor:
    """int8 codes in units of `unit`, no scale stored."""
    value = (x.detach() / unit).round().clamp(-127, 127) * unit
    return value + (x - x.detach())


def _straight(x: Tensor, largest: Tensor, most: int) -> Tensor:
    scale = (largest.float() / most).to(torch.float16).float()
    codes = torch.where(scale > 0, x.detach() / torch.where(scale > 0, scale, 1.0), 0.0).round().clamp(-most, most)
    return codes * scale + (x - x.detach())
