"""The update of one site, differentiable: ops/atom_mix_update.py for one segment, without y.

    c_j   = weight_j g[i_j] (V[i_j] . x)            i = index [N, k], k different atoms of a row
    delta = sum_j c_j U[i_j]                        x [N, d], delta [N, m], U [M, m], V [M, d], g [M], weight [N, k]

    d weight_j = g[i_j] inner_j e_j         inner_j = V[i_j] . x,  e_j = U[i_j] . d delta
    d g[i]     = sum weight_j inner_j e_j   over all rows and j with i_j = i
    d x        = sum_j f_j V[i_j]           f_j = weight_j g[i_j] e_j
    d U[i]     = sum c_j d delta            d V[i] = sum f_j x

Nothing of size N k d is kept from forward to backward: the atoms are gathered again. The sums over rows are products
with C, F [N, M] (c and f at their atoms, 0 elsewhere), which gives the same bits every time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Update(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        x, U, V, g, index, weight = given
        inner = torch.bmm(V[index], x[:, :, None])[:, :, 0]
        ctx.save_for_backward(x, U, V, g, index, weight, inner)
        return torch.bmm((weight * g[index] * inner)[:, None], U[index])[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, U, V, g, index, weight, inner = ctx.saved_tensors
        (delta,) = gradients
        e = torch.bmm(U[index], delta[:, :, None])[:, :, 0]
        gain = g[index]
        f = weight * gain * e

        def spread(values: Tensor) -> Tensor:
            return values.new_zeros(len(values), len(U)).scatter(1, index, values)

        return (
            torch.bmm(f[:, None], V[index])[:, 0] if ctx.needs_input_grad[0] else None,
            spread(weight * gain * inner).T @ delta if ctx.needs_input_grad[1] else None,
            spread(f).T @ x if ctx.needs_input_grad[2] else None,
            spread(weight * inner * e).sum(dim=0) if ctx.needs_input_grad[3] else None,
            None,
            gain * inner * e if ctx.needs_input_grad[5] else None,
        )


def atom_mix(x: Tensor, U: Tensor, V: Tensor, g: Tensor, index: Tensor, weight: Tensor) -> Tensor:  # noqa: PLR0917
    """delta [..., m] for x [..., d]; index and weight [..., k]."""
    rows = x.reshape(-1, x.shape[-1])
    flat = _Update.apply(rows, U, V, g, index.reshape(-1, index.shape[-1]), weight.reshape(-1, weight.shape[-1]))
    delta: Tensor = flat.view(*x.shape[:-1], U.shape[1])
    return delta
