"""An adapter on a PyTorch decoder by forward hooks: where blocks and linear layers are, and how to change an output."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from edgeadapt.errors import EdgeAdaptError


def block(torch_model: Any, layer: int) -> Any:
    """Decoder block number `layer` of a transformers causal language model."""
    try:
        return torch_model.get_decoder().layers[layer]
    except (AttributeError, IndexError):
        raise EdgeAdaptError(
            f"the PyTorch model has no decoder block {layer}; parity cannot be measured on it"
        ) from None


def linear(decoder_block: Any, module: str) -> Any:
    """The linear layer called `module` (q_proj, ..., down_proj) of a block."""
    for name, found in decoder_block.named_modules():
        if name.rpartition(".")[2] == module:
            return found
    raise EdgeAdaptError(f"the PyTorch model's block has no {module}; parity cannot be measured on it")


Change = Callable[[Any, Any], Any]  # (x, y) -> the new y


def rank_one_on_output(r: Any, g: float) -> Change:
    """y + g r (r^T y): a residual site."""
    return lambda x, y: y + g * (y @ r)[..., None] * r


def rank_one_on_input(r: Any, g: float) -> Change:
    """y + g r (r^T x): a square site."""
    return lambda x, y: y + g * (x @ r)[..., None] * r


def low_rank(a: Any, b: Any) -> Change:
    """y + (x A) B."""
    return lambda x, y: y + (x @ a) @ b


@contextlib.contextmanager
def on_output(module: Any, change: Change) -> Iterator[None]:
    """Replace the module's output y by change(x, y), x its first input, until the context ends."""

    def hook(_: Any, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(args[0] if args else None, output[0]), *output[1:])
        return change(args[0] if args else None, output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
