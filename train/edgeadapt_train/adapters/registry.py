"""The methods by name: one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.base import Adapter, Host
from edgeadapt_train.adapters.himalaya.adapter import Himalaya
from edgeadapt_train.adapters.himalaya.config import HimalayaConfig
from edgeadapt_train.adapters.lora import Lora, LoraConfig
from edgeadapt_train.options import checked

METHODS: dict[str, tuple[type[Any], type[Any]]] = {
    "himalaya": (HimalayaConfig, Himalaya),
    "lora": (LoraConfig, Lora),
}


def build(settings: Mapping[str, Any], host: Host, seed: int) -> Adapter:
    """An adapter from its configuration: {"method": NAME, option: value ...}. Deterministic for a seed.

    Raises EdgeAdaptError for an unknown method or option, and for a value that the method refuses.
    """
    options = dict(settings)
    method = options.pop("method", None)
    if method not in METHODS:
        raise EdgeAdaptError(f"adapter.method={method!r} is unknown; there are: {', '.join(sorted(METHODS))}")
    config_type, adapter_type = METHODS[method]
    adapter: Adapter = adapter_type(config_type(**checked(config_type, options, "adapter.")), host, seed)
    place = next(host.model.parameters(), None)
    return adapter if place is None else adapter.to(place.device)
