"""An adapter on a PyTorch model by forward hooks: where blocks and linear layers are, and how to change an output."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.families import is_encoder, module_name


def block(torch_model: Any, layer: int) -> Any:
    """Block number `layer` of a transformers model: a causal language model, or an encoder of BERT's kind."""
    try:
        if is_encoder(torch_model.config.to_dict()):
            body = getattr(torch_model, "encoder", None) or torch_model.transformer
            return body.layer[layer]
        return torch_model.get_decoder().layers[layer]
    except (AttributeError, IndexError):
        raise EdgeAdaptError(f"the PyTorch model has no block {layer}; parity cannot be measured on it") from None


def linear(torch_block: Any, module: str) -> Any:
    """The linear layer called `module` (q_proj, ..., down_proj: edgeadapt.families) of a block."""
    for name, found in torch_block.named_modules():
        if module_name(name) == module and hasattr(found, "in_features"):
            return found
    raise EdgeAdaptError(f"the PyTorch model's block has no {module}; parity cannot be measured on it")


Change = Callable[[Any, Any], Any]  # (x, y) -> the new y


def low_rank(a: Any, b: Any) -> Change:
    """y + (x A) B."""
    return lambda x, y: y + (x @ a) @ b


def affine_on_output(a: Any, b: Any, c: Any) -> Change:
    """y + (y A + c) B: an affine edit of the residual stream."""
    return lambda x, y: y + (y @ a + c) @ b


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
