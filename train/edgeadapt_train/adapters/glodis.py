"""GloDiS-64: LoRA's factors put together from 64 short vectors that all sites share (VB-LoRA, Li et al. 2024).

    bank V [64, b]; a row of A [r, d_in] is d_in / b sub-vectors, a column of B [d_out, r] is d_out / b of them; each is
        v = w_1 V[i_1] + w_2 V[i_2]      i_1, i_2: the two largest of its 64 logits, w = softmax of those two
    y = W x + g B A x                    g one gain per site, 0 at the start

b divides every adapted width: by default their greatest common divisor's largest divisor up to 256. The name comes
from a research design; the maths is VB-LoRA's, with one thing added: there B A is not zero at the start, and an
adapter must change nothing before it has learnt (contract, rule 1), hence g. The bank starts uniform within
+-b^-1/2, so that sub-vectors have about unit length; VB-LoRA's +-0.02 would leave g a long way to go.

Trained: V, all logits [L, r, d / b, 64], g; relative learning rates 1, 10 and 50 (VB-LoRA: 1 and 10).
Stored: V fp16; per sub-vector i_1, i_2 uint8 and w_1 fp16 (w_2 = 1 - w_1); g fp16.
Bytes: 64 * b * 2 | 2 S | 2 S | 2 n, S = sum over the n sites of r (d_in + d_out) / b sub-vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Card, Group, Host
from edgeadapt_train.adapters.low_rank import Factors, LowRank, by_layer, check_modules

TOP = 2
LONGEST = 256


@dataclass(frozen=True)
class GlodisConfig:
    """Rank r, vectors in the bank, their length b (None: as long as the widths allow), and the adapted linear maps."""

    rank: int = 4
    vectors: int = 64
    vector_length: int | None = None
    logit_std: float = 0.1
    logit_lr_scale: float = 10.0
    gain_lr_scale: float = 50.0
    modules: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        if not TOP <= self.vectors <= 256:
            raise EdgeAdaptError(f"adapter.vectors={self.vectors}: give 2 to 256, an index is one byte")
        for name in ("logit_std", "logit_lr_scale", "gain_lr_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise EdgeAdaptError(f"adapter.{name}={getattr(self, name)}: give a positive number")
        check_modules(self.modules)


def longest_length(common: int) -> int:
    """The largest divisor of `common` up to LONGEST."""
    return max(length for length in range(1, min(common, LONGEST) + 1) if common % length == 0)


class Glodis(LowRank):
    """See the module's docstring. Logits by module name: A [L, r, d_in / b, 64], B [L, d_out / b, r, 64]."""

    method = "glodis"
    card = Card(
        "y = W x + g B A x, rows of A and columns of B made of sub-vectors w V[i] + (1 - w) V[j] of one bank (VB-LoRA)",
        "bank V, logits, gains g",
        "decoder, factors from a graph of its own at loading (LowRankUpdate), or merged",
    )

    def __init__(self, config: GlodisConfig, host: Host, seed: int) -> None:
        super().__init__(host, config.modules, config.rank)
        self.config = config
        common = math.gcd(*(width for pair in self.widths.values() for width in pair))
        b = longest_length(common) if config.vector_length is None else config.vector_length
        if b < 1 or common % b:
            raise EdgeAdaptError(f"adapter.vector_length={b}: give a divisor of every adapted width, of {common}")
        generator = torch.Generator().manual_seed(seed)
        self.bank = nn.Parameter((2 * torch.rand(config.vectors, b, generator=generator) - 1) * b**-0.5)
        self.logits = nn.ParameterDict()
        self.gains = nn.ParameterDict()
        for name, (d_in, d_out) in self.widths.items():
            for part, shape in (("A", (config.rank, d_in // b)), ("B", (d_out // b, config.rank))):
                drawn = torch.randn(self.depth, *shape, config.vectors, generator=generator)
                self.logits[f"{name}/{part}"] = nn.Parameter(config.logit_std * drawn)
            self.gains[name] = nn.Parameter(torch.zeros(self.depth))

    def groups(self) -> list[Group]:
        logits = tuple((f"logits.{name}", value) for name, value in self.logits.items())
        gains = tuple((f"gains.{name}", value) for name, value in self.gains.items())
        return [
            Group("bank", (("bank", self.bank),)),
            Group("logits", logits, self.config.logit_lr_scale),
            Group("gains", gains, self.config.gain_lr_scale),
        ]

    def trained(self) -> Factors:
        chosen = {name: mixture(value) for name, value in self.logits.items()}
        return self._factors_of(self.bank, chosen, dict(self.gains.items()))

    def stored(self) -> Factors:
        chosen = {}
        for name, value in self.logits.items():
            index, w = mixture(value)
            first = w[..., 0].half().float()
            chosen[name] = (index, torch.stack((first, 1 - first), dim=-1))
        gains = {name: value.half().float() for name, value in self.gains.items()}
        return self._factors_of(self.bank.half().float(), chosen, gains)

    def _factors_of(self, bank: Tensor, chosen: dict[str, tuple[Tensor, Tensor]], gains: dict[str, Tensor]) -> Factors:
        """A^T and g B^T of every site from the bank, the (indices, weights) of every sub-vector, and the gains."""
        made = {}
        for name in self.widths:
            A = compose(bank, *chosen[f"{name}/A"]).flatten(2)  # [L, r, d_in]
            B = compose(bank, *chosen[f"{name}/B"]).transpose(1, 2).flatten(2)  # [L, r, d_out]
            made[name] = (A.transpose(1, 2), gains[name][:, None, None] * B)
        return by_layer(made)

    def deployed(self) -> dict[str, np.ndarray]:
        made = {"bank": self.bank.detach().cpu().half().numpy()}
        for key, value in self.logits.items():
            index, w = mixture(value.detach().cpu())
            name = key.replace("/", ".")
            made[f"{name}.index"] = index.to(torch.uint8).numpy()
            made[f"{name}.weight"] = w[..., 0].half().numpy()
        for name, value in self.gains.items():
            made[f"{name}.gain"] = value.detach().cpu().half().numpy()
        return made

    def byte_terms(self) -> dict[str, int]:
        vectors, b = self.bank.shape
        pieces = sum(self.depth * self.rank * (d_in + d_out) // b for d_in, d_out in self.widths.values())
        return {
            "bank": 2 * vectors * b,
            "indices": TOP * pieces,
            "weights": 2 * pieces,
            "gains": 2 * self.depth * len(self.widths),
        }


def mixture(logits: Tensor) -> tuple[Tensor, Tensor]:
    """logits [.., 64] -> indices [.., 2] of the two largest and their softmax [.., 2]."""
    best, index = logits.topk(TOP, dim=-1)
    return index, best.softmax(dim=-1)


def compose(bank: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """sum_k weights[.., k] bank[index[.., k]]: [.., b]."""
    return (weights[..., None] * bank[index]).sum(dim=-2)
