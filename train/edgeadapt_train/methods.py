"""`edgeadapt methods`: every adapter that a run can name, with its equation and its bytes, without loading a model.

What is said of a method is its `Card`; bytes are its own formula, evaluated for a new adapter on a host that has the
shapes of a backbone and no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Host

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Shape:
    """A backbone's widths: hidden, all key-value heads together, MLP."""

    layers: int
    hidden: int
    kv: int
    inner: int
    family: Literal["decoder", "encoder"]


SHAPES = {
    "smollm2-135m": Shape(30, 576, 192, 1536, "decoder"),
    "minilm": Shape(6, 384, 384, 1536, "encoder"),
}


@dataclass(frozen=True)
class MethodRow:
    """A line: `name` is what `adapter=NAME` takes. `bytes` by shape, None where the shape alone does not
    make the method (a basis that comes of the weights)."""

    name: str
    method: str
    equation: str
    trained: str
    device: str
    bytes: Mapping[str, int | None]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rows() -> list[MethodRow]:
    """One row per packaged configuration of an adapter, in alphabetical order."""
    return [_row(name, options) for name, options in sorted(configurations().items())]


def configurations() -> dict[str, dict[str, Any]]:
    """The options of every `adapter=NAME`, as `registry.build` takes them."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    folder = files("edgeadapt_train.configs") / "adapter"
    names = [item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")]
    found = {}
    with initialize_config_module("edgeadapt_train.configs", version_base="1.3"):
        for name in names:
            values = OmegaConf.to_container(compose(overrides=[f"+adapter={name}"]))
            assert isinstance(values, dict)
            found[name] = {str(key): value for key, value in values["adapter"].items() if key != "lr"}
    return found


def _row(name: str, options: Mapping[str, Any]) -> MethodRow:
    card = registry.card(options["method"])
    sizes = {key: _bytes(options, shape) for key, shape in SHAPES.items()}
    return MethodRow(name, options["method"], card.equation, card.trained, card.device, sizes)


def _bytes(options: Mapping[str, Any], shape: Shape) -> int | None:
    try:
        return sum(registry.build(options, skeleton(shape), 0).byte_terms().values())
    except EdgeAdaptError:
        return None


def skeleton(shape: Shape) -> Host:
    """A host of this shape without weights: every linear map and norm of its blocks, on the meta device."""
    layers = nn.ModuleList(_block(shape) for _ in range(shape.layers))
    return Host(layers, tuple(layers), shape.hidden)


def _block(shape: Shape) -> nn.Module:
    d, kv, inner = shape.hidden, shape.kv, shape.inner
    if shape.family == "decoder":
        linears = {
            "self_attn.q_proj": (d, d), "self_attn.k_proj": (d, kv), "self_attn.v_proj": (d, kv),
            "self_attn.o_proj": (d, d), "mlp.gate_proj": (d, inner), "mlp.up_proj": (d, inner),
            "mlp.down_proj": (inner, d),
        }  # fmt: skip
        norms: dict[str, nn.Module] = {
            name: nn.RMSNorm(d, device="meta") for name in ("input_layernorm", "post_attention_layernorm")
        }
    else:
        linears = {
            "attention.self.query": (d, d), "attention.self.key": (d, kv), "attention.self.value": (d, kv),
            "attention.output.dense": (d, d), "intermediate.dense": (d, inner), "output.dense": (inner, d),
        }  # fmt: skip
        norms = {f"{name}.LayerNorm": nn.LayerNorm(d, device="meta") for name in ("attention.output", "output")}
    block = nn.Module()
    bias = shape.family == "encoder"
    for path, (reads, writes) in linears.items():
        _put(block, path, nn.Linear(reads, writes, bias=bias, device="meta"))
    for path, norm in norms.items():
        _put(block, path, norm)
    return block.requires_grad_(False)


def _put(block: nn.Module, path: str, module: nn.Module) -> None:
    *parents, last = path.split(".")
    for name in parents:
        if not hasattr(block, name):
            setattr(block, name, nn.Module())
        block = getattr(block, name)
    setattr(block, last, module)


def table(found: list[MethodRow]) -> RenderableType:
    """For a person, on a terminal of any width."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, caption="bytes: what ships for one task on a new adapter", show_lines=True)
    for column in ("adapter=", "what it computes; what is trained; where it runs", *SHAPES):
        made.add_column(column, justify="right" if column in SHAPES else "left")
    for row in found:
        sizes = ["-" if row.bytes[key] is None else f"{row.bytes[key]:,}" for key in SHAPES]
        made.add_row(row.name, "\n".join((row.equation, row.trained, row.device)), *sizes)
    return made
