"""Where HIMALAYA's update acts: forward hooks on the host, nothing replaced.

    residual   output h [B, T, d] of block l:       h + dW_l h
    square     output y of a projection of x:       y + dW_l x                W is d x d, or the site is refused

The update's factors are set for the duration of one forward (update.py).
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
from edgeadapt_train.adapters.himalaya.update import Update, apply_update


class Sites:
    """The hooks, and the update that they currently make."""

    def __init__(self, host: Host, kind: str, modules: tuple[str, ...]) -> None:
        self._host, self.kind = host, kind
        self._handles: list[RemovableHandle] = []
        self._current: tuple[Update, tuple[Tensor, ...]] | None = None
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
    def using(self, update: Update) -> Iterator[None]:
        """Make this update in the forwards inside."""
        before, self._current = self._current, (update, update.gains.unbind(dim=1))
        try:
            yield
        finally:
            self._current = before

    def _residual_hook(self, index: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (self._updated(output[0], output[0], index), *output[1:])
            return self._updated(output, output, index)

        return hook

    def _square_hook(self, index: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return self._updated(output, inputs[0], index)

        return hook

    def _updated(self, y: Tensor, x: Tensor, index: int) -> Tensor:
        if self._current is None:
            return y
        update, gains = self._current
        return apply_update(y, x, update.read, update.write, gains[index])

    def to_json(self) -> dict[str, Any]:
        if self.kind == "residual":
            return {"kind": "residual", "layers": list(range(len(self._host.layers)))}
        return {"kind": "square", "modules": self.modules, "layers": list(range(len(self._host.layers)))}
