"""The ops of the domain `edgeadapt`, version 1: one file each, one line of registration each."""

from __future__ import annotations

from edgeadapt.ops import (
    add_layer_norm,
    atom_mix_update,
    atom_route,
    himalaya_direction,
    himalaya_terms,
    low_rank_update,
    quant_matmul,
    rank_one_norm,
    rank_one_update,
    spectral_update,
    tanh_gelu,
)
from edgeadapt.ops.registry import DOMAIN, OPSET, VERSION, Case, Op

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        himalaya_direction.OP,
        himalaya_terms.OP,
        rank_one_update.OP,
        rank_one_norm.OP,
        low_rank_update.OP,
        spectral_update.OP,
        atom_route.OP,
        atom_mix_update.OP,
        quant_matmul.OP,
        tanh_gelu.OP,
        add_layer_norm.OP,
    )
}

__all__ = ["DOMAIN", "OPS", "OPSET", "VERSION", "Case", "Op"]
