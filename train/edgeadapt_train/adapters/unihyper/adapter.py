"""UniHyperLoRA, and the two baselines it is compared with. Names and idea come from a research design; this text is the
definition that we build.

    dW_{l,site} x = sum_{m in top_k} alpha_m g_{l,type,m} u_m (v_m^T x)      at every linear map of every block
    u, v      128 atoms in the site's widths                                 atoms.py, basis.py
    g         gains by depth and type (q, k, v, o, up, down; a SwiGLU gate is an up)    gains.py
    alpha     softmax over the k = 2 best of 128 scores, per token and block, for all of its sites    router.py
    loss      task + lambda_F soft count (router.py) + lambda_Q ||delta||^2

    method       atoms                          gains               trained
    unihyper     one dictionary, 256 anchors    sine MLP + delta    stage 1: U, V, h, mixer, router, E
                 wide, for all widths                               stage 2 (`source`; `edgeadapt retarget`): delta and
                                                                    E on another host, the rest as the source stored it
    sat-lora     a pair per weight shape        table [6 L, 128]    all
    hf-sat-lora  a pair per weight shape        sine MLP            all

unihyper: the stored bytes do not depend on the host:
    atoms 2 * 128 * 256 | stretch 4,126 | mixer 1,016 | delta 512 | router 4,096 | keys 2,048 | task table 512   77,846
    scales: atoms 512, stretch 36, router 64, mixer 4, delta 2                                                      618
                                                                                                                 78,464
    basis=vocab ships its basis as well (basis.py). Budget 1,000,000 bytes; 10 % of the host's multiply-adds (cost.py).
Every number is trained as it is stored (rounding.py), so the hardened form is the trained one.

What forgets: E's row is a task's own, and nothing else is. Atoms, gains and router are shared and go on learning, so
what a past task computed changes. EWC (adapter.ewc) can hold them; in stage 2 only delta is shared.

There is no static merge: the atoms depend on the token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.families import module_name
from edgeadapt_train.adapters.base import Adapter, Card, Event, Group, Host, Prompt
from edgeadapt_train.adapters.linear_sites import LinearHooks, LinearSite, linear_sites
from edgeadapt_train.adapters.unihyper import cost
from edgeadapt_train.adapters.unihyper.atoms import NativeAtoms, Pairs, SharedAtoms
from edgeadapt_train.adapters.unihyper.config import (
    BUDGET,
    MODULES,
    TASKS,
    AtomMixConfig,
    SatConfig,
    UniHyperConfig,
)
from edgeadapt_train.adapters.unihyper.gains import Correction, Mixer, Table
from edgeadapt_train.adapters.unihyper.router import Router, Routing, soft_count, top
from edgeadapt_train.adapters.unihyper.source import Source
from edgeadapt_train.adapters.unihyper.update import atom_mix


@dataclass(frozen=True)
class _Numbers:
    """What a forward computes with, whatever the tasks: atoms by shape, gains [L, 6, 128]."""

    pairs: Pairs
    gains: Tensor


class AtomMix(Adapter):
    """What the three share: sites, routing, tasks. `gains` are summed."""

    budget = BUDGET
    reads_task = True

    def __init__(self, config: AtomMixConfig, host: Host) -> None:
        super().__init__()
        self.config = config
        self._host = host
        there = {module_name(path) for path, _ in host.layers[0].named_modules()}
        self._names = tuple(name for name in MODULES if name in there or name != "gate_proj")
        self._linears = linear_sites(host, self._names)
        self.share = cost.flop_share(self._linears, host, config.top_k)
        self._sites = LinearHooks(self._linears, self._delta)
        self._handles: list[RemovableHandle] = []
        self._numbers: _Numbers | None = None  # while hardened
        self._current: tuple[_Numbers, Routing] | None = None
        self._chosen: dict[int, tuple[Tensor, Tensor]] = {}
        self._counts: list[Tensor] = []
        self._task = 0
        self.atoms: SharedAtoms | NativeAtoms
        self.gains: nn.ModuleList
        self.router: Router

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Every (d_out, d_in) among the sites, in the order of their first site."""
        return list(dict.fromkeys((site.d_out, site.d_in) for site in self._linears))

    # -- forward ------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        if self._handles:
            return
        for index, layer in enumerate(self._host.layers):
            self._handles.append(layer.register_forward_pre_hook(self._route(index), with_kwargs=True))
        self._sites.attach()

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._sites.detach()

    def hidden_basis(self) -> Tensor | None:
        """B_d of the host's width, where the router reads in anchor space."""
        return None

    def _compute(self) -> _Numbers:
        parts = [part() for part in self.gains]
        return _Numbers(self.atoms(), sum(parts[1:], parts[0]))

    @contextmanager
    def conditioned(self, prompt: Prompt) -> Iterator[None]:
        before = self._current
        numbers = self._numbers or self._compute()
        routing = self.router.routing(prompt.task, self.hidden_basis(), self._host.hidden_size)
        self._current, self._counts = (numbers, routing), []
        try:
            yield
        finally:
            self._current = before
            self._chosen.clear()

    def _route(self, index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            if self._current is None:
                return
            h = args[0] if args else named["hidden_states"]
            scores = self._current[1].scores(h.float())
            self._chosen[index] = top(scores, self.config.top_k)
            if torch.is_grad_enabled():
                self._counts.append(soft_count(scores))

        return hook

    def _delta(self, site: LinearSite, x: Tensor) -> Tensor:
        if self._current is None:
            return x.new_zeros((), dtype=torch.float32)
        numbers, _ = self._current
        U, V = numbers.pairs[site.d_out, site.d_in]
        return atom_mix(x.float(), U, V, numbers.gains[site.layer, MODULES[site.name]], *self._chosen[site.layer])

    @contextmanager
    def hardened(self) -> Iterator[None]:
        before = self._numbers
        with torch.no_grad():
            self._numbers = self._compute()
            try:
                yield
            finally:
                self._numbers = before

    # -- training -----------------------------------------------------------------------------------------------

    def groups(self) -> list[Group]:
        config = self.config
        tasks = ("router.tasks", self.router.tasks)
        shared = (("router.weight", self.router.weight), ("router.keys", self.router.keys))
        return [
            Group("atoms", _named(self.atoms, "atoms"), config.atom_lr_scale),
            Group("gains", _named(self.gains, "gains"), config.gain_lr_scale),
            Group("router", (*shared, tasks), config.router_lr_scale),
        ]

    def held(self) -> list[tuple[str, nn.Parameter]]:
        return [item for item in super().held() if item[1] is not self.router.tasks]

    def begin_task(self, index: int) -> list[Event]:
        if not 0 <= index < TASKS:
            raise EdgeAdaptError(f"task {index}: {self.method}'s table holds {TASKS} tasks")
        self._task = index
        trained = {id(parameter) for group in self.groups() for _, parameter in group.parameters}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        return []

    def penalty(self) -> Tensor | None:
        """lambda_F times the mean soft count of the forward just done."""
        return self.config.count_penalty * torch.stack(self._counts).mean() if self._counts else None

    def after_backward(self) -> None:
        self.router.hold_other_tasks(self._task)

    # -- files --------------------------------------------------------------------------------------------------

    def deployed(self) -> dict[str, np.ndarray]:
        made = {**self.atoms.to_file(), **self.router.to_file()}
        for part in self.gains:
            made |= part.to_file()  # type: ignore[operator]
        return made

    def byte_terms(self) -> dict[str, int]:
        terms = self.atoms.byte_terms()
        for part in self.gains:
            terms |= part.byte_terms()  # type: ignore[operator]
        return {**terms, **self.router.byte_terms()}

    def sites(self) -> dict[str, Any]:
        return {
            "kind": "atoms",
            "modules": list(self._names),
            "layers": list(range(len(self._host.layers))),
            "top_k": self.config.top_k,
            "flop_share": round(self.share, 5),
        }

    def load_own_state(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_own_state(tensors)
        self.begin_task(self._task)

    def _check(self) -> None:
        """Called when all parts are there."""
        what = f"{self.method} on {self._host.id}"
        cost.check_share(what, self.share, self.config.flop_cap)
        cost.check_size(what, sum(self.byte_terms().values()), self.budget)


class UniHyper(AtomMix):
    """UniHyperLoRA."""

    method = "unihyper"
    card: ClassVar[Card] = Card(
        "y + sum over top-2 atoms of alpha g u^ (v^ . x); u^ = u P(d)^T", "atoms, mixer, router; delta", "AtomMixUpdate"
    )

    def __init__(self, config: UniHyperConfig, host: Host, seed: int) -> None:
        super().__init__(config, host)
        self.variant = "default" if config.basis == "dct" else config.basis
        generator = torch.Generator().manual_seed(seed)
        source = None if config.source is None else Source.open(Path(config.source), config)
        hidden_basis = None if config.basis == "dct" else vocab_basis(host, source)
        self.atoms = SharedAtoms(self.shapes, host.hidden_size, generator, hidden_basis)
        self.gains = nn.ModuleList([Mixer(len(host.layers), generator), Correction(len(host.layers))])
        self.router = Router(self.atoms.U.shape[1], generator)
        self.stage = 1 if source is None else 2
        self._source = source
        if source is not None:
            mixer = self.gains[0]
            assert isinstance(mixer, Mixer)
            source.fill(self.atoms, mixer, self.router)
        self._check()

    @property
    def delta(self) -> nn.Parameter:
        """[8, 128], trained in stage 2."""
        correction = self.gains[1]
        assert isinstance(correction, Correction)
        return correction.delta

    def hidden_basis(self) -> Tensor | None:
        assert isinstance(self.atoms, SharedAtoms)
        return self.atoms.basis(self._host.hidden_size)

    def groups(self) -> list[Group]:
        config = self.config
        if self.stage == 2:
            return [
                Group("gains", (("gains.1.delta", self.delta),), config.gain_lr_scale),
                Group("router", (("router.tasks", self.router.tasks),), config.router_lr_scale),
            ]
        atoms, gains, router = super().groups()
        mixer = tuple(item for item in gains.parameters if item[1] is not self.delta)
        return [atoms, Group("gains", mixer, config.gain_lr_scale), router]

    def penalty(self) -> Tensor | None:
        found = super().penalty()
        if self.stage == 1 or found is None:
            return found
        return found + self.config.delta_penalty * self.delta.square().sum()

    def sites(self) -> dict[str, Any]:
        more = {} if self._source is None else {"source": self._source.to_json()}
        return {
            **super().sites(),
            "basis": self.variant if self.variant == "vocab" else "dct",
            "stage": self.stage,
            **more,
        }


class Sat(AtomMix):
    """SAT-LoRA: native widths, learned table."""

    method = "sat-lora"
    card: ClassVar[Card] = Card(
        "y + sum over top-2 atoms of alpha g[l, type] u_s (v_s . x)", "all of it", "AtomMixUpdate"
    )

    def __init__(self, config: SatConfig, host: Host, seed: int) -> None:
        super().__init__(config, host)
        generator = torch.Generator().manual_seed(seed)
        self.atoms = NativeAtoms(self.shapes, generator)
        self.gains = nn.ModuleList([self._gains(len(host.layers), generator)])
        self.router = Router(host.hidden_size, generator)
        self._check()

    def _gains(self, layers: int, generator: torch.Generator) -> nn.Module:
        return Table(layers)


class HfSat(Sat):
    """HF-SAT-LoRA: the table is a function of depth and type."""

    method = "hf-sat-lora"
    card: ClassVar[Card] = Card(
        "y + sum over top-2 atoms of alpha g(depth, type) u_s (v_s . x)", "all of it", "AtomMixUpdate"
    )

    def _gains(self, layers: int, generator: torch.Generator) -> nn.Module:
        return Mixer(layers, generator)


def vocab_basis(host: Host, source: Source | None) -> Tensor:
    """B_d of the host's embedding, anchored in the source's (its own in stage 1)."""
    from edgeadapt_train.adapters.unihyper import basis

    get = getattr(host.model, "get_input_embeddings", None)
    if get is None:
        raise EdgeAdaptError(f"adapter.basis=vocab: backbone {host.id} shows no embedding; use adapter.basis=dct")
    own = get().weight.detach().float().cpu()
    return basis.vocab(own, basis.anchors(own if source is None else source.embedding()))


def _named(part: nn.Module, prefix: str) -> tuple[tuple[str, nn.Parameter], ...]:
    return tuple((f"{prefix}.{name}", parameter) for name, parameter in part.named_parameters())
