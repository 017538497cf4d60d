"""How each method reaches the device: one file per method, one line of registration each.

A deployer knows four things about its method: what to change in the base graph (never the adapter's values), which
files carry the values, how to fold them into the weights if a static merge exists, and how the same adapter acts on the
PyTorch model, which is what parity is measured against.
"""

from __future__ import annotations

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_export.methods import atom_mix, full, glodis, hest, himalaya, lilac, lora, loreft, tabs
from edgeadapt_export.methods.contract import Deployed, Deployer, StoredAdapter

DEPLOYERS: dict[str, Deployer] = {
    "bhsp": lora.Lora(),
    "coltas": lora.Lora(),
    "full": full.Full(),
    "glodis": glodis.Glodis(),
    "hf-sat-lora": atom_mix.AtomMix(),
    "hest": hest.Hest(),
    "himalaya": himalaya.Himalaya(),
    "lilac": lilac.Lilac(),
    "lora": lora.Lora(),
    "loreft": loreft.Loreft(),
    "sat-lora": atom_mix.AtomMix(),
    "tabs": tabs.Tabs(),
    "unihyper": atom_mix.AtomMix(),
}


def deployer(method: str) -> Deployer:
    """The deployer of `method`. Raises EdgeAdaptError that lists the known ones."""
    if method not in DEPLOYERS:
        raise EdgeAdaptError(f"method {method!r} cannot be exported; known are {', '.join(sorted(DEPLOYERS))}")
    return DEPLOYERS[method]


__all__ = ["DEPLOYERS", "Deployed", "Deployer", "StoredAdapter", "deployer"]
