"""The atoms: what each reads and writes at the sites of a host.

shared   U, V [128, 256] in anchor space, one dictionary for every width (UniHyperLoRA)
             P(d) = B_d diag(h(log2 d))                       B_d of basis.py
             U^ = U P(d_out)^T [128, d_out],  V^ = V P(d_in)^T [128, d_in]      projected once per distinct width
             h(log2 d) = 1 + W2 [tanh(W1 [log2(d / 256); 1]); 1]        W1 [15, 2], W2 [256, 16]: 4,126 numbers
         A width below 256 has as many columns as it has numbers: the atoms are cut there. log2 d is counted from the
         anchor's own width, which a bias could do as well; tanh is what we chose, W2 = 0 at the start.
         Stored: U, V int8 per row, W1, W2 int8 with a scale per input. Bytes 2 * 128 * 256 + 512, 4,126 + 36
native   U_s [128, d_out], V_s [128, d_in] for every weight shape s of the host (SAT-LoRA, HF-SAT-LoRA)
         Stored int8 per row. Bytes sum over shapes of 128 (d_out + d_in) + 512

V = 0 at the start, so that the adapter does nothing then; the rows of U have length 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.codecs import int8
from edgeadapt_train.adapters.unihyper import basis
from edgeadapt_train.adapters.unihyper.basis import ANCHOR
from edgeadapt_train.adapters.unihyper.config import ATOMS
from edgeadapt_train.adapters.unihyper.rounding import int8_rows

Shape = tuple[int, int]  # d_out, d_in
Pairs = dict[Shape, tuple[Tensor, Tensor]]
HIDDEN = 15


def stretched(W1: Tensor, W2: Tensor, d: int) -> Tensor:
    """h(log2 d) [256]; W1 and W2 transposed, as they are stored: [2, 15] and [16, 256]."""
    hidden = torch.tanh(W1[0] * math.log2(d / ANCHOR) + W1[1])
    return 1 + torch.cat((hidden, hidden.new_ones(1))) @ W2


def projected(atoms: Tensor, h: Tensor, B: Tensor) -> Tensor:
    """atoms [128, 256] in the width of B [d, min(256, d)]: [128, d]."""
    columns = B.shape[1]
    return (atoms[:, :columns] * h[:columns]) @ B.T


class SharedAtoms(nn.Module):
    """The dictionary. `hidden_basis`: what takes the DCT's place at the host's hidden width (basis=vocab)."""

    def __init__(
        self, shapes: Iterable[Shape], hidden_size: int, generator: torch.Generator, hidden_basis: Tensor | None
    ) -> None:
        super().__init__()
        self.shapes, self.hidden_size, self.ships_basis = tuple(shapes), hidden_size, hidden_basis is not None
        self.U = nn.Parameter(torch.randn(ATOMS, ANCHOR, generator=generator) / ANCHOR**0.5)
        self.V = nn.Parameter(torch.zeros(ATOMS, ANCHOR))
        self.h1 = nn.Parameter(torch.randn(2, HIDDEN, generator=generator))
        self.h2 = nn.Parameter(torch.zeros(HIDDEN + 1, ANCHOR))
        for d in {hidden_size, *(width for shape in self.shapes for width in shape)}:
            self.register_buffer(f"basis_{d}", basis.dct(d), persistent=False)
        if hidden_basis is not None:  # as it ships: rounded, and part of the state
            self.register_buffer(f"basis_{hidden_size}", int8_rows(hidden_basis.T).T.contiguous())

    def basis(self, d: int) -> Tensor:
        return self.get_buffer(f"basis_{d}")

    def forward(self) -> Pairs:
        U, V, h1, h2 = (int8_rows(item) for item in (self.U, self.V, self.h1, self.h2))
        h = {d: stretched(h1, h2, d) for shape in self.shapes for d in shape}
        written = {d: projected(U, h[d], self.basis(d)) for d in {shape[0] for shape in self.shapes}}
        read = {d: projected(V, h[d], self.basis(d)) for d in {shape[1] for shape in self.shapes}}
        return {shape: (written[shape[0]], read[shape[1]]) for shape in self.shapes}

    def to_file(self) -> dict[str, np.ndarray]:
        made = _int8({"U": self.U, "V": self.V, "h1": self.h1, "h2": self.h2})
        return {**made, **(_int8({"basis": self.basis(self.hidden_size).T}) if self.ships_basis else {})}

    def byte_terms(self) -> dict[str, int]:
        d, rows = self.basis(self.hidden_size).shape
        return {
            "atoms": 2 * ATOMS * ANCHOR,
            "atom_scales": 2 * 2 * ATOMS,
            "stretch": 2 * HIDDEN + (HIDDEN + 1) * ANCHOR,
            "stretch_scales": 2 * (2 + HIDDEN + 1),
            **({"basis": rows * d, "basis_scales": 2 * rows} if self.ships_basis else {}),
        }


class NativeAtoms(nn.Module):
    """A pair for every shape."""

    def __init__(self, shapes: Iterable[Shape], generator: torch.Generator) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        self.U, self.V = nn.ParameterDict(), nn.ParameterDict()
        for d_out, d_in in self.shapes:
            self.U[f"{d_out}x{d_in}"] = nn.Parameter(torch.randn(ATOMS, d_out, generator=generator) / d_out**0.5)
            self.V[f"{d_out}x{d_in}"] = nn.Parameter(torch.zeros(ATOMS, d_in))

    def forward(self) -> Pairs:
        names = {shape: f"{shape[0]}x{shape[1]}" for shape in self.shapes}
        return {shape: (int8_rows(self.U[name]), int8_rows(self.V[name])) for shape, name in names.items()}

    def to_file(self) -> dict[str, np.ndarray]:
        return _int8({f"{part}.{name}": value for part in "UV" for name, value in getattr(self, part).items()})

    def byte_terms(self) -> dict[str, int]:
        return {
            "atoms": ATOMS * sum(d_out + d_in for d_out, d_in in self.shapes),
            "atom_scales": 2 * 2 * ATOMS * len(self.shapes),
        }


def _int8(values: dict[str, Tensor]) -> dict[str, np.ndarray]:
    made = {name: int8.quantise(value.detach().cpu().numpy()) for name, value in values.items()}
    return {
        key: array
        for name, item in made.items()
        for key, array in ((name, item.codes), (f"{name}_scales", item.scales))
    }
