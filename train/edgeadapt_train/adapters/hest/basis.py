"""The directions that HEST, TABS and BHSP share: the largest singular vectors of every adapted weight, frozen.

    W0 = U S V^T        U [L, 16, d_out], V [L, 16, d_in]: rows u_i, v_i of layer l, by module; S is not used
    sign of (u_i, v_i): the largest component of u_i (the first of equals) is positive

Stored: fp16, once; the int8 rows of a device are made of those at loading (edgeadapt/ops/spectral_update.py), and
recomputing both on the device would need the weights before quantisation. Bytes: 2 * 16 (d_in + d_out) per site.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Host
from edgeadapt_train.adapters.linear_sites import LinearSite, linear_sites
from edgeadapt_train.adapters.low_rank import check_modules

DIRECTIONS = 16


class SpectralBasis(nn.Module):
    """U and V of every site as buffers; `sites` by depth and within a layer in the order of `modules`."""

    def __init__(self, host: Host, modules: Sequence[str]) -> None:
        super().__init__()
        check_modules(modules)
        self.sites = linear_sites(host, modules)
        self.depth = len(host.layers)
        self.names = tuple(dict.fromkeys(site.name for site in self.sites))
        self.widths = {site.name: (site.d_in, site.d_out) for site in self.sites}
        self.place = {(site.layer, site.name): at for at, site in enumerate(self.sites)}
        pairs: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.names}
        for site in self.sites:
            if (site.d_in, site.d_out) != self.widths[site.name]:
                raise EdgeAdaptError(f"adapter.modules: {site.name} is not as wide in every layer of {host.id}")
            pairs[site.name].append(directions(site.module.weight))
        for name, found in pairs.items():
            for part, vectors in zip("UV", zip(*found, strict=True), strict=True):
                self.register_buffer(f"{part}_{name}", torch.stack(vectors).half())

    def written(self, name: str) -> Tensor:
        """U of a module, [L, 16, d_out] float16."""
        return self.get_buffer(f"U_{name}")

    def read(self, name: str) -> Tensor:
        """V of a module, [L, 16, d_in] float16."""
        return self.get_buffer(f"V_{name}")

    def of(self, site: LinearSite) -> tuple[Tensor, Tensor]:
        """U [16, d_out] and V [16, d_in] of one site, float32."""
        return self.written(site.name)[site.layer].float(), self.read(site.name)[site.layer].float()

    @property
    def bytes(self) -> int:
        """Bytes of U and V as stored."""
        return sum(2 * DIRECTIONS * (site.d_in + site.d_out) for site in self.sites)


@torch.no_grad()
def directions(weight: Tensor) -> tuple[Tensor, Tensor]:
    """u [16, d_out] and v [16, d_in], float32, of a weight [d_out, d_in]. EdgeAdaptError for one of lower rank."""
    if min(weight.shape) < DIRECTIONS:
        raise EdgeAdaptError(
            f"adapter.modules: a linear map of shape {tuple(weight.shape)} has no {DIRECTIONS} directions"
        )
    wide = weight.detach().float()  # on the CPU: the same on all devices; or shapes alone (edgeadapt methods)
    u, _, vt = torch.linalg.svd(wide if wide.is_meta else wide.cpu(), full_matrices=False)
    u, v = u.T[:DIRECTIONS], vt[:DIRECTIONS]
    signs = u.gather(1, u.abs().argmax(dim=1, keepdim=True)).sign()
    return (u * signs).contiguous(), (v * signs).contiguous()
