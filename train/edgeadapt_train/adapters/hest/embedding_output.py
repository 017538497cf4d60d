"""What enters the first block: the tokens of the forward pass at hand, prompt or not, before any plan is needed.

h0 [B, T, d]      `see(h0)` is called before block 0 runs, for every forward pass of the host
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgeadapt_train.adapters.base import Host


class EmbeddingOutput:
    """A hook before the host's first block."""

    def __init__(self, host: Host, see: Callable[[Tensor], None]) -> None:
        self._block, self._see = host.layers[0], see
        self._handle: RemovableHandle | None = None

    def attach(self) -> None:
        if self._handle is None:
            self._handle = self._block.register_forward_pre_hook(self._hook, with_kwargs=True)

    def detach(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    def _hook(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._see(inputs[0] if inputs else named["hidden_states"])
