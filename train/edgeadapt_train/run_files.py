"""What a run leaves beside its scores and records: its environment, its adapter; and whose a run directory is."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from edgeadapt import __version__, rundir
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.manifest import AdapterBytes
from edgeadapt_train.adapters.base import Adapter
from edgeadapt_train.adapters.headed import Headed
from edgeadapt_train.backbone import Backbone
from edgeadapt_train.streams import Task

# Keys that may differ between a run and its continuation: they do not change the result, or not by more than rounding.
_FREE = ("results_dir", "checkpoint_every", "tracking", "search")


def write_adapter(path: Path, adapter: Adapter, backbone: Backbone, tasks: Sequence[Task]) -> None:
    """adapter.safetensors and adapter.json of a learnt adapter; its measured bytes must equal its formula."""
    host = backbone.host
    manifest = rundir.AdapterManifest(
        format=rundir.FORMAT,
        method=adapter.method,
        variant=adapter.variant,
        backbone=rundir.BackboneRef(host.id, host.revision, host.hidden_size, len(host.layers)),
        sites=adapter.sites(),
        tasks=tuple(task.spec for task in tasks),
        bytes=AdapterBytes(**adapter.byte_report()),
        pooling=adapter.heads.pooling if isinstance(adapter, Headed) else None,
    )
    rundir.write_adapter(path, manifest, adapter.deployed())


def environment(backbone: Backbone) -> dict[str, Any]:
    """Versions, and what decides about speed and rounding."""
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    packages = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "numpy", "hydra-core", "safetensors")
    return {
        "edgeadapt": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "packages": {name: installed(name) for name in (*packages, "tokenizers")},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": backbone.device.type,
        "precision": backbone.precision,
        "threads": torch.get_num_threads(),
    }


def check_unfinished(directory: Path) -> None:
    """Refuse to overwrite a finished run."""
    if (directory / rundir.MANIFEST).is_file():
        raise EdgeAdaptError(f"{directory}: this run is finished; give another run_id=NAME, or remove the directory")


def claim(directory: Path, yaml: str) -> None:
    """Refuse to overwrite a finished run, or to go on with one of another configuration."""
    check_unfinished(directory)
    config = directory / rundir.CONFIG
    if not config.is_file():
        return
    differing = list(_differences(config.read_text(encoding="utf-8"), yaml))
    if differing:
        raise EdgeAdaptError(
            f"{directory}: an unfinished run with another {differing[0]}; give another run_id=NAME, or remove it"
        )


def _differences(old: str, new: str) -> Iterator[str]:
    from omegaconf import OmegaConf

    before, after = (dict(OmegaConf.to_container(OmegaConf.create(text)) or {}) for text in (old, new))  # type: ignore[arg-type]
    for key in sorted({*before, *after} - set(_FREE), key=str):
        if before.get(key) != after.get(key):
            yield f"{key} ({before.get(key)} then, {after.get(key)} now)"
