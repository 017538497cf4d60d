"""What the adapter computes per token, in multiply-adds, as a share of the host's linear maps beside it.

    route      L (16 d + 16 * 128)          W_r B_d^T is one matrix [16, d] by then
    updates    sum over sites of k (d_in + d_out)
    host       sum over sites of d_in d_out     the head, the attention and whatever else there is are left out, so that
                                                the share is an upper bound
The projection of the atoms happens once per task, not per token.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Host
from edgeadapt_train.adapters.linear_sites import LinearSite
from edgeadapt_train.adapters.unihyper.config import ATOMS, ROUTER_WIDTH


def flop_share(sites: Sequence[LinearSite], host: Host, top_k: int) -> float:
    """The adapter's multiply-adds over the host's."""
    route = len(host.layers) * ROUTER_WIDTH * (host.hidden_size + ATOMS)
    updates = sum(top_k * (site.d_in + site.d_out) for site in sites)
    return (route + updates) / sum(site.d_in * site.d_out for site in sites)


def check_share(what: str, share: float, cap: float) -> None:
    """Raise EdgeAdaptError for an adapter that computes more than it may. `what`: the method and its host."""
    if share > cap:
        raise EdgeAdaptError(
            f"{what}: {100 * share:.1f} % of the linear maps' multiply-adds, over the cap of {100 * cap:g} %; "
            "take a larger backbone or adapter.top_k=1, or raise adapter.flop_cap"
        )


def check_size(what: str, size: int, budget: int) -> None:
    """Raise EdgeAdaptError for an adapter that weighs more than it may."""
    if size > budget:
        raise EdgeAdaptError(
            f"{what}: {size:,} bytes, over the budget of {budget:,}; "
            "take adapter=unihyper, whose bytes do not depend on the backbone's width"
        )
