"""What an op is: its NumPy reference (the truth), its ONNX function body, its adversarial cases and its tolerance.

The registry is data only; `edgeadapt.ops.OPS` is the table. Everything that must hold for every op (reference = body =
kernel) is tested and verified by walking that table, so that an op registered there needs no further wiring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import EdgeAdaptError

DOMAIN = "edgeadapt"
VERSION = 1
OPSET = 21

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """Named inputs of one op, in the op's order, and the form of body that takes them (keyword arguments of `body`).

    `exact` asks for bitwise equality of every view: what an untouched site or a closed gate must give.
    """

    name: str
    inputs: Mapping[str, Array]
    form: Mapping[str, bool] = field(default_factory=dict)
    exact: bool = False


@dataclass(frozen=True)
class Op:
    """One op of the domain `edgeadapt`.

    reference   NumPy, arrays in the op's order -> the output, float32
    body        keyword flags (see `forms`) -> the ONNX function in ONNX text syntax, opset 21
    forms       every set of flags that the exporter may emit; one form per model file, since an ONNX function cannot
                branch on a missing input
    cases       generator -> adversarial and random cases, made from that generator alone
    tolerance   a view agrees when every |view - reference| <= tolerance * scale, with NaN and inf in the same places;
                scale is the largest finite magnitude in the reference and in the inputs named by `scaled_by`
    """

    name: str
    reference: Callable[..., NDArray[np.float32]]
    body: Callable[..., str]
    forms: tuple[Mapping[str, bool], ...]
    cases: Callable[[np.random.Generator], Iterator[Case]]
    tolerance: float
    scaled_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or not self.forms or not 0 < self.tolerance < 1:
            raise EdgeAdaptError(f"op {self.name!r}: give an identifier, at least one form and a tolerance in (0, 1)")

    def allowance(self, case: Case, expected: NDArray[np.float32]) -> float:
        """The largest absolute difference from `expected` that a view may show on this case; 0 where it is exact."""
        if case.exact:
            return 0.0
        values = (expected, *(case.inputs[name] for name in self.scaled_by if name in case.inputs))
        return self.tolerance * max(float(np.abs(value[np.isfinite(value)]).max(initial=0.0)) for value in values)


def function_text(name: str, inputs: str, output: str, lines: str) -> str:
    """An ONNX model-local function in text syntax, as onnx.parser.parse_function reads it."""
    header = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>'
    return f"{header}\n{name} ({inputs}) => ({output})\n{{\n{lines.strip()}\n}}\n"


def require(condition: bool, op: str, message: str) -> None:
    """Raise EdgeAdaptError naming the op when an input does not keep its contract."""
    if not condition:
        raise EdgeAdaptError(f"{op}: {message}")
