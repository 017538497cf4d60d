"""Linear maps of the host as sites of an adapter: finding them by name, and adding to what they give by hooks.

    y = W x + b  ->  y + delta(site, x)       x [B, T, d_in], y [B, T, d_out]

Nothing of the host is replaced, and its weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.families import module_name
from edgeadapt_train import nf4
from edgeadapt_train.adapters.base import Host


@dataclass(frozen=True)
class LinearSite:
    """The linear map called `name` (q_proj, ..., in every family: edgeadapt.families) of block `layer`."""

    layer: int
    name: str
    module: nn.Linear

    @property
    def d_in(self) -> int:
        return self.module.in_features

    @property
    def d_out(self) -> int:
        return self.module.out_features

    @property
    def weight(self) -> Tensor:
        """W [d_out, d_in] float32, dequantised if the host is in 4 bits."""
        return nf4.weight(self.module)


Delta = Callable[[LinearSite, Tensor], Tensor]


def linear_sites(host: Host, modules: Sequence[str]) -> tuple[LinearSite, ...]:
    """Every linear map so named, by depth and within a block in the order of `modules`.

    Raises EdgeAdaptError for a name that some block lacks.
    """
    found = []
    for index, block in enumerate(host.layers):
        linears = {path: module for path, module in block.named_modules() if isinstance(module, nn.Linear)}
        named = {module_name(path): module for path, module in linears.items()}
        for name in map(module_name, modules):
            module = named.get(name)
            if module is None:
                raise EdgeAdaptError(f"adapter.modules: backbone {host.id} has no linear map named {name!r}")
            found.append(LinearSite(index, name, module))
    return tuple(found)


class LinearHooks:
    """`delta` added to the output of every site while attached. The sum is taken in float32, in the output's dtype."""

    def __init__(self, sites: Sequence[LinearSite], delta: Delta) -> None:
        self._sites, self._delta = tuple(sites), delta
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        if not self._handles:
            self._handles = [site.module.register_forward_hook(self._hook(site)) for site in self._sites]

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _hook(self, site: LinearSite) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return (output.float() + self._delta(site, inputs[0])).to(output.dtype)

        return hook
