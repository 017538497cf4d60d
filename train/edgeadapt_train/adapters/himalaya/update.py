"""HIMALAYA's update for one sequence: the rows that are read and written, and the step that a site makes with them.

    dW_l = sum_j g_lj w_j v_j^T               V, W [B, R, d]: rows v_j are read, w_j written;  g [B, L, R], |g| <= 1

    direction    R = 1    raw = D^T k,  v = raw / sqrt(k^T G k),  G = D D^T        v = 0 where k selects nothing
    terms        R = 3    v_j = sqrt(|k_j| / sum_i |k_i| ||a_i||^2) a_j            the open atoms by ascending index;
                          v_j = 0 for a place that stays empty. k's sign is g's matter: each term has its own gain
    tied         W = V
    read_write   W is made of D_w as V is of D: the same k, other elastic atoms

    ||dW_l|| <= sum_j |g_lj| ||v_j|| ||w_j|| <= max_j |g_lj| sqrt(sum_j ||v_j||^2 sum_j ||w_j||^2) <= max_j |g_lj| <= 1

    site         p = x V^T,  y' = y + (p g) W                      x, y [B, T, d]; for a residual site y = x
    backward     G = dL/dy', s = G W^T, q = s g:   dx = q V (+ dy = G),  dV = q^T x,  dW = (p g)^T G,  dg = sum_t s p

The site's backward is written out because autograd would keep two float32 copies of the activations at every site;
this keeps x as the host has it. Arithmetic is float32 (float64 for a float64 host) whatever the host's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from edgeadapt_train.adapters.himalaya.config import ATOMS, OPEN


@dataclass(frozen=True)
class Update:
    """V, W [B, R, d] and g [B, L, R]."""

    read: Tensor
    write: Tensor
    gains: Tensor


def direction_row(k: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    """`direction`: raw and v, both [B, 1, d]. k [B, 40], D [40, d]."""
    raw = (k @ D)[:, None]
    squared = (k @ (D @ D.T) * k).sum(dim=1)[:, None, None]
    alive = squared.detach() > 1e-12
    norm = torch.where(alive, squared, torch.ones_like(squared)).sqrt()
    return raw, torch.where(alive, raw / norm, torch.zeros_like(raw))


def term_rows(k: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    """`terms`: the open atoms and the rows v_j, both [B, 3, d]. k [B, 40] with at most three entries that are not 0."""
    falling = torch.arange(ATOMS, 0, -1, device=k.device)
    chosen = ((k != 0) * falling).topk(OPEN, dim=1).indices  # open ones by ascending index, then any closed ones
    size = k.gather(1, chosen).abs()
    raw = D[chosen]
    total = (size * raw.square().sum(dim=2)).sum(dim=1, keepdim=True)
    open_ = size.detach() > 0
    share = torch.where(open_, size, torch.ones_like(size)) / torch.where(open_, total, torch.ones_like(total))
    return raw, torch.where(open_, share.sqrt(), torch.zeros_like(share))[:, :, None] * raw


def apply_update(y: Tensor, x: Tensor, V: Tensor, W: Tensor, g: Tensor) -> Tensor:
    """y + ((x V^T) g) W in y's dtype: y, x [B, T, d], V, W [B, R, d], g [B, R]."""
    result: Tensor = _Site.apply(y, None if x is y else x, V, W, g)
    return result


class _Site(torch.autograd.Function):
    """The equations above. x is None at a residual site, where it is y."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd's signature
        ctx: Any, y: Tensor, x: Tensor | None, V: Tensor, W: Tensor, g: Tensor
    ) -> Tensor:
        wide = y.to(_exact(y))
        p = torch.bmm(wide if x is None else x.to(wide.dtype), V.transpose(1, 2))
        ctx.save_for_backward(y if x is None else x, V, W, g, p)
        ctx.residual = x is None
        return _added(wide, p * g[:, None], W, keep=wide is y).to(y.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, V, W, g, p = ctx.saved_tensors
        G = gradient.to(_exact(x))
        s = torch.bmm(G, W.transpose(1, 2))
        q = s * g[:, None]
        wants_y, wants_x, wants_v, wants_w, wants_g = ctx.needs_input_grad
        dV = torch.bmm(q.transpose(1, 2), x.to(G.dtype)) if wants_v else None
        dW = torch.bmm((p * g[:, None]).transpose(1, 2), G) if wants_w else None
        dg = (s * p).sum(dim=1) if wants_g else None
        if not ctx.residual:
            return gradient if wants_y else None, torch.bmm(q, V).to(x.dtype) if wants_x else None, dV, dW, dg
        dy = _added(G, q, V, keep=G is gradient).to(x.dtype) if wants_y else None  # G is no longer needed as it was
        return dy, None, dV, dW, dg


def _added(to: Tensor, left: Tensor, right: Tensor, *, keep: bool) -> Tensor:
    """to + left right; in place unless `to` is to be kept, for a new copy costs as much as the product."""
    return torch.baddbmm(to, left, right) if keep else to.baddbmm_(left, right)


def _exact(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
