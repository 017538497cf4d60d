"""The methods by name: one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Adapter, Card, Host
from edgeadapt_train.adapters.coltas import Coltas, ColtasConfig
from edgeadapt_train.adapters.ewc import Ewc, EwcConfig
from edgeadapt_train.adapters.full import Full, FullConfig
from edgeadapt_train.adapters.glodis import Glodis, GlodisConfig
from edgeadapt_train.adapters.hest.adapter import Hest
from edgeadapt_train.adapters.hest.bhsp import Bhsp
from edgeadapt_train.adapters.hest.config import BhspConfig, HestConfig, TabsConfig
from edgeadapt_train.adapters.hest.tabs import Tabs
from edgeadapt_train.adapters.himalaya.adapter import Himalaya
from edgeadapt_train.adapters.himalaya.config import HimalayaConfig
from edgeadapt_train.adapters.lilac import Lilac, LilacConfig
from edgeadapt_train.adapters.lora import Lora, LoraConfig
from edgeadapt_train.adapters.lora_per_task import LoraPerTask
from edgeadapt_train.adapters.loreft import Loreft, LoreftConfig
from edgeadapt_train.adapters.unihyper.adapter import HfSat, Sat, UniHyper
from edgeadapt_train.adapters.unihyper.config import SatConfig, UniHyperConfig
from edgeadapt_train.options import checked

METHODS: dict[str, tuple[type[Any], type[Any]]] = {
    "bhsp": (BhspConfig, Bhsp),
    "coltas": (ColtasConfig, Coltas),
    "full": (FullConfig, Full),
    "glodis": (GlodisConfig, Glodis),
    "hest": (HestConfig, Hest),
    "hf-sat-lora": (SatConfig, HfSat),
    "himalaya": (HimalayaConfig, Himalaya),
    "lilac": (LilacConfig, Lilac),
    "lora": (LoraConfig, Lora),
    "lora-per-task": (LoraConfig, LoraPerTask),
    "loreft": (LoreftConfig, Loreft),
    "sat-lora": (SatConfig, Sat),
    "tabs": (TabsConfig, Tabs),
    "unihyper": (UniHyperConfig, UniHyper),
}


def build(settings: Mapping[str, Any], host: Host, seed: int) -> Adapter:
    """An adapter from its configuration: {"method": NAME, option: value ...}. Deterministic for a seed.

    `ewc`, an option of every method, puts it under replay-free EWC (ewc.py).

    Raises EdgeAdaptError for an unknown method or option, and for a value that the method refuses.
    """
    options = dict(settings)
    method = options.pop("method", None)
    if method not in METHODS:
        raise EdgeAdaptError(f"adapter.method={method!r} is unknown; there are: {', '.join(sorted(METHODS))}")
    config_type, adapter_type = METHODS[method]
    ewc_options = {**adapter_type.default_ewc, **(options.pop("ewc", None) or {})}
    ewc = EwcConfig(**checked(EwcConfig, ewc_options, "adapter.ewc."))
    adapter: Adapter = adapter_type(config_type(**checked(config_type, options, "adapter.")), host, seed)
    if ewc.strength > 0:
        adapter = Ewc(ewc, adapter)
    place = next(host.model.parameters(), None)
    return adapter if place is None or place.is_meta else adapter.to(place.device)


def card(method: str) -> Card:
    """What is said of a method."""
    found: Card = METHODS[method][1].card
    return found
