"""What an op is: its NumPy reference (the truth), its ONNX function body, its adversarial cases and its tolerance.

The registry is data only; `edgeadapt.ops.OPS` is the table. Everything that must hold for every op (reference = body =
kernel) is tested and verified by walking that table, so that an op registered there needs no further wiring.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import EdgeAdaptError

DOMAIN = "edgeadapt"
VERSION = 1
OPSET = 21
ATTRIBUTES = "attributes"  # where a probe graph says, in JSON among its properties, which attributes its node has

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """Named inputs of one op, its attributes, and the form of body that takes them (keyword arguments of `body`).

    `exact` asks for bitwise equality of every view: what an untouched site or a closed gate must give. `sized` says
    that the attributes give the inputs' shapes.
    """

    name: str
    inputs: Mapping[str, Array]
    form: Mapping[str, bool] = field(default_factory=dict)
    exact: bool = False
    attributes: Mapping[str, int | float] = field(default_factory=dict)
    sized: bool = False

    @property
    def dimensions(self) -> dict[str, list[int | None]]:
        """What a graph has to state of each input's shape: the rank, and if it is `sized` all but the first's rows."""
        stated: dict[str, list[int | None]] = {name: [None] * value.ndim for name, value in self.inputs.items()}
        if self.sized:
            first, *others = self.inputs
            stated[first][-1] = self.inputs[first].shape[-1]
            stated.update({name: list(self.inputs[name].shape) for name in others})
        return stated


@dataclass(frozen=True)
class Op:
    """One op of the domain `edgeadapt`.

    reference   NumPy, arrays in the op's order, attributes as keywords -> the output, float32 (int64: indices, which
                must agree); a tuple of several
    outputs     their names, in the op's order
    body        keyword flags (see `forms`) -> the ONNX function in ONNX text syntax, opset 21
    forms       every set of flags that the exporter may emit; one form per model file, since an ONNX function cannot
                branch on a missing input
    cases       generator -> adversarial and random cases, made from that generator alone
    tolerance   a view agrees when every |view - reference| <= tolerance * scale, with NaN and inf in the same places;
                scale is the largest finite magnitude in the reference and in the inputs named by `scaled_by`
    bound       instead of a tolerance, for an op whose views may round on the way: called like `reference`, it gives
                what every number of the output may differ by
    """

    name: str
    reference: Callable[..., NDArray[np.float32] | tuple[Array, ...]]
    body: Callable[..., str]
    forms: tuple[Mapping[str, bool], ...]
    cases: Callable[[np.random.Generator], Iterator[Case]]
    tolerance: float = 0.0
    scaled_by: tuple[str, ...] = ()
    bound: Callable[..., NDArray[np.float32]] | None = None
    outputs: tuple[str, ...] = ("result",)

    def __post_init__(self) -> None:
        measured = 0 < self.tolerance < 1 if self.bound is None else self.tolerance == 0
        if not self.name.isidentifier() or not self.forms or not measured:
            raise EdgeAdaptError(
                f"op {self.name!r}: give an identifier, at least one form, and a tolerance in (0, 1) or a bound"
            )

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the inputs, in the op's order."""
        found = inspect.signature(self.reference).parameters.values()
        return tuple(item.name for item in found if item.kind is not item.KEYWORD_ONLY)

    def arguments(self, case: Case) -> list[str]:
        """The inputs of a node that computes `case`: its names in order, "" for one that is left out before another."""
        names = [name if name in case.inputs else "" for name in self.parameters]
        while names and not names[-1]:
            names.pop()
        return names

    def expected(self, case: Case) -> tuple[Array, ...]:
        """The reference's outputs for `case`."""
        found = self.reference(**case.inputs, **case.attributes)
        return found if isinstance(found, tuple) else (found,)

    def allowance(self, case: Case, expected: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a view may differ by from `expected`, one of the outputs: shaped like it, or one number for all of it; 0
        where the case is exact."""
        if case.exact:
            return np.zeros((), np.float32)
        if self.bound is not None:
            return self.bound(**case.inputs, **case.attributes)
        values = (expected, *(case.inputs[name] for name in self.scaled_by if name in case.inputs))
        largest = max(float(np.abs(value[np.isfinite(value)]).max(initial=0.0)) for value in values)
        return np.asarray(self.tolerance * largest, dtype=np.float32)


def function_text(name: str, inputs: str, output: str, lines: str) -> str:
    """An ONNX model-local function in text syntax, as onnx.parser.parse_function reads it."""
    header = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>'
    return f"{header}\n{name} ({inputs}) => ({output})\n{{\n{lines.strip()}\n}}\n"


def require(condition: bool, op: str, message: str) -> None:
    """Raise EdgeAdaptError naming the op when an input does not keep its contract."""
    if not condition:
        raise EdgeAdaptError(f"{op}: {message}")
