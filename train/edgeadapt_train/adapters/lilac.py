"""LILAC: LoRA whose factors are combinations of rows that all layers share, in int8, under online EWC.

    A_l = C^A_l D_in(d_in)       [4, d_in]     D_in(w)  [64, w], one per distinct input width w
    B_l^T = C^B_l D_out(d_out)   [4, d_out]    D_out(w) [64, w], one per distinct output width
    y = W x + B_l A_l x                        C^A, C^B [4, 64] per adapted linear map; C^B = 0 at the start

The name comes from a research design; this text is the definition we build. Everything trained is fake-quantised to
int8 per row in the forward pass (straight through) and stored so: training sees what ships.
Trained: all D and C, fp32 masters. Start: D_in ~ N(0, 1/w), C^A ~ N(0, 1/64), so that A's entries have variance 1/w;
D_out ~ N(0, 1/64), so that a step of C^B moves B as far as a step of LoRA moves its own.

Stored bytes (n sites, K = 64, r = 4)
    dictionaries K * (sum of distinct widths, of inputs and of outputs)   | their row scales 2 K per dictionary
    coefficients n * 2 r K                                                | their row scales n * 2 r * 2
Training state beside the masters: EWC's anchor (int8, like the stored form) and its Fisher diagonal (fp32). The
published 3.34 MB at d = 4096 and 32 layers are 557,056 numbers x (1 B weight + 1 B anchor + 4 B Fisher); of these six
bytes only the first reaches a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Card, Group, Host
from edgeadapt_train.adapters.low_rank import Factors, LowRank, by_layer, check_modules
from edgeadapt_train.adapters.quantised import int8_rows, int8_values, straight_through


@dataclass(frozen=True)
class LilacConfig:
    """Rank r, rows K of each dictionary, and the names of the linear maps that are adapted."""

    rank: int = 4
    atoms: int = 64
    modules: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        if self.atoms < self.rank:
            raise EdgeAdaptError(f"adapter.atoms={self.atoms}: give at least the rank, {self.rank}")
        check_modules(self.modules)


class Lilac(LowRank):
    """See the module's docstring. Tensors: `in.W` and `out.W` [K, W]; `MODULE.A`, `MODULE.B` [L, r, K]."""

    method = "lilac"
    card = Card(
        "y = W x + B_l A_l x, A_l = C^A_l D_in, B_l^T = C^B_l D_out, D shared by all layers, int8",
        "dictionaries D and coefficients C (fake-quantised), under EWC",
        "decoder, factors from a graph of its own at loading (LowRankUpdate), or merged",
    )
    budget = 3_500_000
    default_ewc: ClassVar[Mapping[str, Any]] = {"strength": 0.4, "anchor": "int8"}

    def __init__(self, config: LilacConfig, host: Host, seed: int) -> None:
        super().__init__(host, config.modules, config.rank)
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        K, r = config.atoms, config.rank
        made: dict[str, Tensor] = {}
        for d_in in sorted({widths[0] for widths in self.widths.values()}):
            made[f"in/{d_in}"] = torch.randn(K, d_in, generator=generator) / d_in**0.5
        for d_out in sorted({widths[1] for widths in self.widths.values()}):
            made[f"out/{d_out}"] = torch.randn(K, d_out, generator=generator) / K**0.5
        for name in self.widths:
            made[f"{name}/A"] = torch.randn(self.depth, r, K, generator=generator) / K**0.5
            made[f"{name}/B"] = torch.zeros(self.depth, r, K)
        self.tables = nn.ParameterDict({name: nn.Parameter(value) for name, value in made.items()})

    def groups(self) -> list[Group]:
        return [Group("lilac", tuple((f"tables.{name}", value) for name, value in self.tables.items()))]

    def trained(self) -> Factors:
        return self.factors({name: straight_through(value) for name, value in self.tables.items()})

    def stored(self) -> Factors:
        return self.factors({name: int8_values(*int8_rows(value)) for name, value in self.tables.items()})

    def factors(self, tables: dict[str, Tensor]) -> Factors:
        """A^T and B^T of every site from the values of the tables."""
        return by_layer(
            {
                name: (
                    (tables[f"{name}/A"] @ tables[f"in/{d_in}"]).transpose(1, 2),
                    tables[f"{name}/B"] @ tables[f"out/{d_out}"],
                )
                for name, (d_in, d_out) in self.widths.items()
            }
        )

    def sites(self) -> dict[str, Any]:
        return {**super().sites(), "widths": {name: list(pair) for name, pair in self.widths.items()}}

    def deployed(self) -> dict[str, np.ndarray]:
        """Every table as codes int8 and `.scales` float16."""
        made = {}
        for key, value in self.tables.items():
            codes, scales = int8_rows(value.cpu())
            name = key.replace("/", ".")
            made[name], made[f"{name}.scales"] = codes.numpy(), scales.numpy()
        return made

    def byte_terms(self) -> dict[str, int]:
        K, r, sites = self.config.atoms, self.rank, self.depth * len(self.widths)
        inputs, outputs = ({pair[side] for pair in self.widths.values()} for side in (0, 1))
        return {
            "dictionaries": K * (sum(inputs) + sum(outputs)),
            "dictionary_row_scales": 2 * K * (len(inputs) + len(outputs)),
            "coefficients": sites * 2 * r * K,
            "coefficient_row_scales": sites * 2 * r * 2,
        }
