"""AtomRoute: which k atoms a token mixes, and how much of each (UniHyperLoRA, SAT-LoRA; methods.md section 2).

    u      = h / ||h||                 0 where h = 0
    s      = (u W) K + bias            scores of the M atoms
    index  = the k largest s_m         best first; of equal ones the smaller m first
    weight = softmax over s[index]

    h      : float32 [B, T, d], the residual stream that enters a block
    W      : float32 [d, r]            sqrt(d) B_d W_r^T: the router's weight in this model's width
    K      : float32 [r, M]            the atoms' keys
    bias   : float32 [B, 1, M]         e K, e the row of the sequence's task
    k      : attribute, 1 <= k <= min(M, 8)
    index  : int64 [B, T, k]           weight : float32 [B, T, k]

Sums run in float32, so atoms whose scores agree to rounding may come in another order in another view: they are then
worth the same. A token with NaN or inf in it gets weights that are NaN, and some valid indices. T = 0 gives empty
outputs. All of a block's sites share one AtomRoute.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeadapt.ops.registry import Array, Case, Op, function_text, require

NAME = "AtomRoute"
MOST = 8
F32 = NDArray[np.float32]


def reference(h: F32, W: F32, K: F32, bias: F32, *, k: int) -> tuple[NDArray[np.int64], F32]:
    """The op in NumPy, sums in float64. Raises EdgeAdaptError for other shapes or a k that cannot be."""
    require(h.ndim == 3 and W.ndim == 2 and K.ndim == 2, NAME, f"h {h.shape}, W {W.shape}, K {K.shape}: ranks 3, 2, 2")
    require(
        W.shape[0] == h.shape[2] and K.shape[0] == W.shape[1],
        NAME,
        f"W {W.shape} and K {K.shape} do not take h {h.shape} to scores",
    )
    atoms = K.shape[1]
    require(bias.shape == (h.shape[0], 1, atoms), NAME, f"bias is {bias.shape}; it must be {(h.shape[0], 1, atoms)}")
    require(1 <= k <= min(atoms, MOST), NAME, f"k is {k}; it must be in 1..{min(atoms, MOST)}")
    s = scores(h, W, K, bias)
    index = np.argsort(-s, axis=2, kind="stable")[:, :, :k]
    chosen = np.take_along_axis(s, index, axis=2)
    with np.errstate(invalid="ignore"):
        grown = np.exp(chosen - chosen[:, :, :1])
        return index.astype(np.int64), np.asarray(grown / grown.sum(axis=2, keepdims=True), dtype=np.float32)


def scores(h: F32, W: F32, K: F32, bias: F32) -> NDArray[np.float64]:
    """s [B, T, M]."""
    with np.errstate(invalid="ignore", over="ignore"):
        wide = h.astype(np.float64)
        norm = np.sqrt(np.square(wide).sum(axis=2, keepdims=True))
        u = np.divide(wide, norm, out=np.zeros_like(wide), where=norm != 0)
        return np.asarray((u @ W.astype(np.float64)) @ K.astype(np.float64) + bias)


def body() -> str:
    """ONNX function in text syntax: six nodes besides constants."""
    text = function_text(
        NAME,
        "h, W, K, bias",
        "index, weight",
        """
        number = Constant <value_int: int = @k> ()
        first = Constant <value_ints = [0]> ()
        count = Unsqueeze (number, first)
        u = LpNormalization <axis = -1, p = 2> (h)
        query = MatMul (u, W)
        product = MatMul (query, K)
        s = Add (product, bias)
        chosen, index = TopK <axis = -1> (s, count)
        weight = Softmax <axis = -1> (chosen)
        """,
    )
    return text.replace(f"{NAME} (", f"{NAME} <k> (", 1)


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """Random shapes, drawn again where scores are too close to tell their order; then what must not go wrong."""

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    def apart(shape: tuple[int, ...]) -> dict[str, Array]:
        batch, tokens, d, r, atoms, k = shape
        made = {"W": normal(d, r), "K": normal(r, atoms) / np.float32(r**0.5), "bias": normal(batch, 1, atoms)}
        h = normal(batch, tokens, d)
        while True:
            best = -np.sort(-scores(h, *made.values()), axis=2)[:, :, : k + 1]
            close = (-np.diff(best, axis=2)).min(axis=2, initial=np.inf) < 1e-3
            if not close.any():
                return {"h": h, **made}
            h[close] = normal(int(close.sum()), d)

    shapes = ((1, 1, 576, 16, 128, 2), (1, 9, 384, 16, 128, 1), (2, 5, 33, 16, 128, 3), (3, 2, 1, 1, 9, 2))
    for shape in (*shapes, (2, 3, 8, 5, 8, 8)):
        batch, tokens, d, r, atoms, k = shape
        name = f"random B={batch} T={tokens} d={d} r={r} M={atoms} k={k}"
        yield Case(name, apart(shape), attributes={"k": k})
    many = apart((2, 4, 64, 16, 128, 2))
    for name, factor in (("large", 1e6), ("small", 1e-6)):
        yield Case(
            f"{name} h: its length does not count", {**many, "h": many["h"] * np.float32(factor)}, attributes={"k": 2}
        )
    none = {**many, "h": np.zeros((2, 4, 64), np.float32)}
    yield Case("h = 0: the task alone decides", none, attributes={"k": 2})
    empty = {**many, "h": np.zeros((2, 0, 64), np.float32)}
    yield Case("empty T", empty, attributes={"k": 2})
    equal = {"h": normal(1, 3, 16), "W": normal(16, 4), "K": np.zeros((4, 12), np.float32)}
    tied = np.zeros((1, 1, 12), np.float32)
    tied[0, 0, [3, 5, 9]] = 1
    yield Case("ties: the smaller index", {**equal, "bias": tied}, attributes={"k": 2})
    yield Case("all equal", {**equal, "bias": 0 * tied}, attributes={"k": 2})
    one = {"h": normal(1, 2, 16), "W": normal(16, 4), "K": normal(4, 1), "bias": normal(1, 1, 1)}
    yield Case("one atom", one, attributes={"k": 1})
    far = np.zeros((1, 1, 12), np.float32)
    far[0, 0, :2] = 3e4, -3e4
    yield Case("scores far apart", {**equal, "bias": far}, attributes={"k": 2})


OP = Op(NAME, reference, body, ({},), cases, tolerance=5e-6, outputs=("index", "weight"))
