"""Bases between anchor space (256 numbers) and a model's widths: orthonormal columns B_d [d, min(256, d)].

dct     B_d[n, j] = sqrt(2/d) cos(pi (2n + 1) j / (2d)), 1/sqrt(d) for j = 0: the first columns of the orthonormal
        DCT-II of size d. Nothing is stored; every width has one.
vocab   B_d = orth(E_d^T A) for models that share a vocabulary: E_d [vocabulary, d] the model's embedding, A
        [vocabulary, 256] the left singular vectors of the source's embedding, its mean row taken off. orth is QR with a
        positive diagonal, so the signs are A's, whose own are fixed by making each column's largest number positive.
        It exists for the hidden width alone; other widths (keys, feed-forward) keep the DCT. It cannot be computed on a
        device, so it ships: 256 rows of int8, 256 d + 512 bytes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgeadapt.errors import EdgeAdaptError

ANCHOR = 256


def dct(d: int) -> Tensor:
    """[d, min(256, d)] float32, computed in float64 from an argument that is reduced in integers."""
    n, j = torch.arange(d)[:, None], torch.arange(min(ANCHOR, d))[None]
    angle = ((2 * n + 1) * j % (4 * d)).double() * (math.pi / (2 * d))
    return (torch.cos(angle) * torch.where(j == 0, 1 / d, 2 / d).double().sqrt()).float()


def anchors(source: Tensor) -> Tensor:
    """A [vocabulary, 256] float64 of the source's embedding [vocabulary, d]; d numbers only if d < 256.

    By the eigenvectors of the Gram matrix d x d: A = E_c V / sigma, E_c the centred embedding.
    """
    centred = source.double() - source.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    count = min(ANCHOR, source.shape[1])
    sigma, v = values[-count:].flip(0).clamp(min=1e-12).sqrt(), vectors[:, -count:].flip(1)
    v = v * v.gather(0, v.abs().argmax(dim=0, keepdim=True)).sign()
    return centred @ v / sigma


def vocab(embedding: Tensor, of_source: Tensor) -> Tensor:
    """B_d [d, min(256, d)] float32 from the model's embedding [vocabulary, d] and the source's `anchors`."""
    if len(embedding) != len(of_source):
        raise EdgeAdaptError(
            f"adapter.basis=vocab: the vocabularies hold {len(embedding)} and {len(of_source)} tokens; models with "
            "different ones share a basis=dct adapter"
        )
    d = embedding.shape[1]
    q, r = torch.linalg.qr((embedding.double().T @ of_source)[:, : min(ANCHOR, d)])
    return (q * r.diagonal().sign()).float()
