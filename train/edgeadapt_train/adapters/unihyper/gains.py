"""How strongly each atom acts at each site: g [L, 6, 128], by depth and type of linear map.

mixer   g(depth, type) = 1 + W2 [sin(W1 [depth; onehot(type); 1]); 1]         W1 [14, 8], W2 [128, 15]: 2,032 numbers
        depth = l / (L - 1) in [0, 1]: one function for hosts of any depth. int4, one scale per matrix
        Bytes 56 + 960 + 4
delta   + delta[bucket], bucket = min(7, floor(8 depth))                      [8, 128]: 1,024 numbers, all types alike
        0 in stage 1; what `retarget` trains. int4. Bytes 512 + 2
table   g[l, type] = 1 + table[l, type]                                       6 L x 128 numbers (SAT-LoRA). int8 per row
        Bytes 6 L (128 + 2)

Gains start near 1 (the design says only that the mixer is a sine MLP): storing the difference from 1 keeps the few
levels of int4 for what depth and type change.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.codecs import int8, nibbles
from edgeadapt_train.adapters.unihyper.config import ATOMS, BUCKETS, TYPES
from edgeadapt_train.adapters.unihyper.rounding import int4, int8_rows

HIDDEN = 14


def depths(layers: int) -> Tensor:
    """[L] in [0, 1]."""
    return torch.linspace(0, 1, layers) if layers > 1 else torch.zeros(1)


def buckets(layers: int) -> Tensor:
    """int64 [L]; in integers, min(7, floor(8 l / (L - 1))), so that every view agrees."""
    return (BUCKETS * torch.arange(layers) // max(1, layers - 1)).clamp(max=BUCKETS - 1)


def places(layers: int) -> Tensor:
    """The mixer's inputs [6 L, 8]: depth, type as a one-hot, 1; by layer, then by type."""
    depth = depths(layers).repeat_interleave(TYPES)[:, None]
    return torch.cat((depth, torch.eye(TYPES).repeat(layers, 1), torch.ones(TYPES * layers, 1)), dim=1)


def mixed(W1: Tensor, W2: Tensor, inputs: Tensor) -> Tensor:
    """g [L, 6, 128]."""
    hidden = torch.sin(inputs @ W1.T)
    return (1 + torch.cat((hidden, hidden.new_ones(len(hidden), 1)), dim=1) @ W2.T).view(-1, TYPES, ATOMS)


class Mixer(nn.Module):
    """The functional form."""

    inputs: Tensor

    def __init__(self, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(HIDDEN, TYPES + 2, generator=generator))
        w2 = 0.1 * torch.randn(ATOMS, HIDDEN + 1, generator=generator)
        w2[:, -1] = 0
        self.w2 = nn.Parameter(w2)
        self.register_buffer("inputs", places(layers), persistent=False)

    def forward(self) -> Tensor:
        return mixed(int4(self.w1), int4(self.w2), self.inputs)

    def to_file(self) -> dict[str, np.ndarray]:
        return {**_nibbles("mixer1", self.w1), **_nibbles("mixer2", self.w2)}

    def byte_terms(self) -> dict[str, int]:
        return {"mixer": (self.w1.numel() + self.w2.numel()) // 2, "mixer_scales": 4}


class Correction(nn.Module):
    """delta."""

    places: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.delta = nn.Parameter(torch.zeros(BUCKETS, ATOMS))
        self.register_buffer("places", buckets(layers), persistent=False)

    def forward(self) -> Tensor:
        """[L, 1, 128], to be added to g."""
        return int4(self.delta)[self.places][:, None]

    def to_file(self) -> dict[str, np.ndarray]:
        return _nibbles("delta", self.delta)

    def byte_terms(self) -> dict[str, int]:
        return {"delta": self.delta.numel() // 2, "delta_scale": 2}


class Table(nn.Module):
    """A row for every site."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(TYPES * layers, ATOMS))

    def forward(self) -> Tensor:
        return 1 + int8_rows(self.table).view(-1, TYPES, ATOMS)

    def to_file(self) -> dict[str, np.ndarray]:
        stored = int8.quantise(self.table.detach().cpu().numpy())
        return {"table": stored.codes, "table_scales": stored.scales}

    def byte_terms(self) -> dict[str, int]:
        return {"table": self.table.numel(), "table_scales": 2 * len(self.table)}


def _nibbles(name: str, value: Tensor) -> dict[str, np.ndarray]:
    codes, scale = nibbles.quantise(value.detach().cpu().numpy())
    return {name: codes, f"{name}_scale": scale}
