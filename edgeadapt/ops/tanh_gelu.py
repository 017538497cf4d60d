"""TanhGelu: the activation of an encoder's feed-forward layers, by tanh.

    z = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) = x / (1 + exp(-t))      t = 2 sqrt(2 / pi) (x + 0.044715 x^3)

    x, z : float32 [..., d]

It stands behind a linear layer that has added its bias. The body is com.microsoft::FastGelu; stock ONNX Runtime walks
through memory four times for it and needs 11.6 instructions a number on a Cortex-A72, the kernel 6.4 in one walk.

NaN gives NaN, +inf gives +inf. -inf is outside the contract (the equation says -inf * 0). Every number is on its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeadapt.ops.registry import DOMAIN, OPSET, Case, Op, require

NAME = "TanhGelu"
F32 = NDArray[np.float32]


def reference(x: F32) -> F32:
    """The op in NumPy, in float64 and rounded once. Raises EdgeAdaptError for a scalar."""
    require(x.ndim >= 1, NAME, "x is a scalar; it must be [..., d]")
    wide = x.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        t = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
        return np.asarray(wide / 2 * (1 + np.tanh(t)), dtype=np.float32)


def body() -> str:
    """ONNX function in text syntax: the single stock node."""
    header = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}, "com.microsoft": 1]>'
    return f"{header}\n{NAME} (x) => (z)\n{{\n    z = com.microsoft.FastGelu (x)\n}}\n"


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """Random numbers, the whole range, then what must not go wrong."""

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    for shape in ((1, 32, 1536), (2, 3, 63), (5, 7), (1,), (3,), (1, 1, 5)):
        yield Case(f"random {'x'.join(map(str, shape))}", {"x": normal(*shape)})
    yield Case("no rows", {"x": normal(1, 0, 16)})
    yield Case("where it bends", {"x": np.linspace(-8, 8, 4001, dtype=np.float32)})
    yield Case("far out", {"x": np.linspace(-200, 200, 401, dtype=np.float32)})
    yield Case("zeros of both signs", {"x": np.array([0.0, -0.0, 0.0, -0.0, 0.0], np.float32)}, exact=True)
    yield Case("tiny", {"x": normal(64) * np.float32(1e-30)})
    yield Case("huge", {"x": np.abs(normal(64)) * np.float32(1e30)})
    spoilt = normal(3, 33)
    spoilt[0, 1], spoilt[1, 4], spoilt[2, 32] = np.nan, np.inf, np.nan
    yield Case("NaN and inf stay where they are", {"x": spoilt})


OP = Op(NAME, reference, body, ({},), cases, tolerance=2e-6, scaled_by=("x",))
