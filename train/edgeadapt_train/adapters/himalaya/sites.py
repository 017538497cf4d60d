"""Where HIMALAYA's rank-one update acts: forward hooks on the host, nothing replaced.

    residual   output h [B, T, d] of block l:       h + g_l r (r^T h)
    square     output y of a projection of x:       y + g_l r (r^T x)         W is d x d, or the site is refused

r [B, d] and g [B, L] are set for the duration of one forward. Arithmetic is float32 whatever the host's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.families import module_name
from edgeadapt_train.adapters.base import Host


def rank_one(y: Tensor, x: Tensor, r: Tensor, g: Tensor) -> Tensor:
    """y + g r (r^T x): y, x [B, T, d], r [B, d], g [B] -> y's dtype."""
    weight = g[:, None, None] * (x.float() @ r[:, :, None])
    return (y.float() + weight * r[:, None, :]).to(y.dtype)


class RankOneSites:
    """The hooks, and the direction and gains that they currently use."""

    def __init__(self, host: Host, kind: str, modules: tuple[str, ...]) -> None:
        self._host, self.kind = host, kind
        self._handles: list[RemovableHandle] = []
        self._current: tuple[Tensor, Tensor] | None = None
        self._targets: list[list[tuple[str, nn.Linear]]] = []
        if kind == "square":
            wanted = tuple(map(module_name, modules))
            self._targets = [self._square(layer, wanted) for layer in host.layers]
            self.modules = [name for name in wanted if any(name == found for found, _ in self._targets[0])]

    def _square(self, layer: nn.Module, wanted: tuple[str, ...]) -> list[tuple[str, nn.Linear]]:
        """The square linear maps of a block among the wanted names. A name that is there but not square is left out
        only if another wanted one is square: the design says q_proj where square, o_proj."""
        d = self._host.hidden_size
        named = [(module_name(path), module) for path, module in layer.named_modules()]
        linears = [(name, module) for name, module in named if name in wanted and isinstance(module, nn.Linear)]
        square = [(name, module) for name, module in linears if (module.in_features, module.out_features) == (d, d)]
        if square:
            return square
        shapes = ", ".join(f"{name} {module.out_features} x {module.in_features}" for name, module in linears)
        raise EdgeAdaptError(
            f"adapter.site_modules: no square {d} x {d} projection among {', '.join(wanted)} "
            f"({shapes or 'no such module'}); use adapter.site=residual"
        )

    def attach(self) -> None:
        if self._handles:
            return
        for index, layer in enumerate(self._host.layers):
            if self.kind == "residual":
                self._handles.append(layer.register_forward_hook(self._residual_hook(index)))
            else:
                for _, module in self._targets[index]:
                    self._handles.append(module.register_forward_hook(self._square_hook(index)))

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextmanager
    def using(self, r: Tensor, g: Tensor) -> Iterator[None]:
        """r [B, d], g [B, L] for the forwards inside."""
        before, self._current = self._current, (r, g)
        try:
            yield
        finally:
            self._current = before

    def _residual_hook(self, index: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if self._current is None:
                return output
            r, g = self._current
            if isinstance(output, tuple):
                return (rank_one(output[0], output[0], r, g[:, index]), *output[1:])
            return rank_one(output, output, r, g[:, index])

        return hook

    def _square_hook(self, index: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            if self._current is None:
                return output
            r, g = self._current
            return rank_one(output, inputs[0], r, g[:, index])

        return hook

    def to_json(self) -> dict[str, Any]:
        if self.kind == "residual":
            return {"kind": "residual", "layers": list(range(len(self._host.layers)))}
        return {"kind": "square", "modules": self.modules, "layers": list(range(len(self._host.layers)))}
