"""LoRA (Hu et al. 2021) by peft, on the query and value projections.

    y = W x + (alpha / r) B A x        A [r, d_in] Kaiming-uniform, B [d_out, r] = 0 at the start; W frozen

Trained: A, B in fp32. Stored per layer and module: A^T [d_in, r] and (alpha / r) B^T [r, d_out], fp16.
Bytes: sum over sites of 2 r (d_in + d_out). A static merge exists: W' = W + (alpha / r) B A.
peft puts its own layer in the place of each linear; `detach` puts the linears back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train import nf4
from edgeadapt_train.adapters.base import Adapter, Card, Group, Host
from edgeadapt_train.adapters.linear_sites import linear_sites


@dataclass(frozen=True)
class LoraConfig:
    """Rank r, alpha, and the names of the linear maps that are adapted."""

    rank: int = 8
    alpha: int = 16
    modules: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise EdgeAdaptError(f"adapter.rank={self.rank}: give at least 1")
        if self.alpha <= 0:
            raise EdgeAdaptError(f"adapter.alpha={self.alpha}: give a positive number")
        if not self.modules:
            raise EdgeAdaptError("adapter.modules is empty: name at least one linear map, such as q_proj")


class Lora(Adapter):
    """peft's LoRA behind the contract."""

    method = "lora"
    card = Card(
        "y = W x + (alpha / r) B A x",
        "A and B of every site",
        "decoder, as inputs in fp32, fp16 or int8 (LowRankUpdate), or merged",
    )

    def __init__(self, config: LoraConfig, host: Host, seed: int) -> None:
        with nf4.without_remarks():
            from peft import LoraConfig as PeftConfig
            from peft import inject_adapter_in_model

        super().__init__()
        self.config = config
        self._scale = config.alpha / config.rank
        self._layer_count = len(host.layers)
        self._peft: list[tuple[int, str, nn.Module, str, Any]] = []
        self._attached = False
        found = self._find(host)
        with torch.random.fork_rng(devices=[]):  # peft draws from the global generator; ours are drawn below
            peft_config = PeftConfig(
                r=config.rank, lora_alpha=config.alpha, target_modules=_paths(host.model, found), lora_dropout=0.0
            )
            frozen = [(parameter, parameter.requires_grad) for parameter in host.model.parameters()]
            inject_adapter_in_model(peft_config, host.model)
            for parameter, flag in frozen:
                parameter.requires_grad_(flag)
            del host.model.peft_config  # peft's note of its layers; they are ours to put in and take out
        generator = torch.Generator().manual_seed(seed)
        self.factors = nn.ParameterDict()
        for index, name, parent, attribute in found:
            layer = getattr(parent, attribute)
            down, up = layer.lora_A["default"], layer.lora_B["default"]
            for part in (down, up):
                part.weight = nn.Parameter(torch.empty(part.weight.shape))  # drawn on the CPU: the same on all devices
            nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5), generator=generator)
            nn.init.zeros_(up.weight)
            self.factors[f"{index}/{name}/A"], self.factors[f"{index}/{name}/B"] = down.weight, up.weight
            self._peft.append((index, name, parent, attribute, layer))
            setattr(parent, attribute, layer.get_base_layer())

    def _find(self, host: Host) -> list[tuple[int, str, nn.Module, str]]:
        """(layer, name, the module that holds the linear map, its attribute there) of every site."""
        found = []
        for site in linear_sites(host, self.config.modules):
            parents = host.layers[site.layer].modules()
            places = (
                (parent, at) for parent in parents for at, child in parent.named_children() if child is site.module
            )
            found.append((site.layer, site.name, *next(places)))
        return found

    def attach(self) -> None:
        for _, _, parent, attribute, layer in self._peft:
            setattr(parent, attribute, layer)
        self._attached = True

    def detach(self) -> None:
        for _, _, parent, attribute, layer in self._peft:
            setattr(parent, attribute, layer.get_base_layer())
        self._attached = False

    def groups(self) -> list[Group]:
        return [Group("lora", tuple((f"factors.{name}", value) for name, value in self.factors.items()))]

    def begin_task(self, index: int) -> list[dict[str, Any]]:
        self.requires_grad_(True)
        return []

    def _stored(self) -> dict[str, Tensor]:
        """A^T and (alpha / r) B^T by file name, fp16."""
        tensors: dict[str, Tensor] = {}
        for index, name, *_ in self._peft:
            down, up = (self.factors[f"{index}/{name}/{part}"].detach().cpu() for part in "AB")
            tensors[f"layers.{index}.{name}.A"] = down.T.contiguous().to(torch.float16)
            tensors[f"layers.{index}.{name}.B"] = (self._scale * up).T.contiguous().to(torch.float16)
        return tensors

    def deployed(self) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self._stored().items()}

    @contextmanager
    def hardened(self) -> Iterator[None]:
        stored = self._stored()
        masters = {name: value.detach().clone() for name, value in self.factors.items()}
        with torch.no_grad():
            for index, name, *_ in self._peft:
                down, up = self.factors[f"{index}/{name}/A"], self.factors[f"{index}/{name}/B"]
                down.copy_(stored[f"layers.{index}.{name}.A"].float().T)
                up.copy_(stored[f"layers.{index}.{name}.B"].float().T / self._scale)
        try:
            with torch.no_grad():
                yield
        finally:
            with torch.no_grad():
                for key, value in masters.items():
                    self.factors[key].copy_(value)

    def sites(self) -> dict[str, Any]:
        return {
            "kind": "linear",
            "modules": list(self.config.modules),
            "rank": self.config.rank,
            "layers": list(range(self._layer_count)),
        }

    def byte_terms(self) -> dict[str, int]:
        terms: dict[str, int] = {}
        for _, name, _, _, layer in self._peft:
            base = layer.get_base_layer()
            size = 2 * self.config.rank * (base.in_features + base.out_features)
            terms[name] = terms.get(name, 0) + size
        return terms

    def merged(self) -> dict[tuple[int, str], Tensor]:
        """W + (stored B)(stored A) of every site, float32, by (layer, module): the static merge."""
        stored = self._stored()
        return {
            (index, name): nf4.weight(layer.get_base_layer())
            + (stored[f"layers.{index}.{name}.A"].float() @ stored[f"layers.{index}.{name}.B"].float()).T
            for index, name, _, _, layer in self._peft
        }


def _paths(model: nn.Module, sites: list[tuple[int, str, nn.Module, str]]) -> list[str]:
    """The sites' linear maps by their whole paths in the model: what they are called alone need not be unique."""
    wanted = {id(getattr(parent, attribute)) for _, _, parent, attribute in sites}
    return [path for path, module in model.named_modules() if id(module) in wanted]
