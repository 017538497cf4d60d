"""Finished runs of HEST, TABS and BHSP on a tiny backbone: the adapters of the training stage, with random values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeadapt.manifest import AdapterBytes
from edgeadapt.rundir import AdapterManifest, BackboneRef, RunDir, write_adapter, write_config
from tests.support import TASKS


def make_energy_run(path: Path, backbone: Path, **options: Any) -> RunDir:
    """A run of `options["method"]` whose adapter acts: scales and controller drawn, nothing learnt."""
    import torch
    from transformers import AutoModelForCausalLM

    from edgeadapt.backbones import resolve
    from edgeadapt_train.adapters import registry
    from edgeadapt_train.adapters.base import Host
    from edgeadapt_train.backbone import blocks

    model = AutoModelForCausalLM.from_pretrained(backbone)
    found = resolve(str(backbone))
    host = Host(model, blocks(model), model.config.hidden_size, str(backbone), found.revision)
    adapter = registry.build(options, host, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            size = 2.0 if name == "b" else 0.5
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    terms = adapter.byte_terms()
    total = sum(terms.values())
    manifest = AdapterManifest(
        format=1,
        method=adapter.method,
        variant=adapter.variant,
        backbone=BackboneRef(str(backbone), found.revision, host.hidden_size, len(host.layers)),
        sites=adapter.sites(),
        tasks=TASKS,
        bytes=AdapterBytes(terms, total, total, 3 * total, 2_500_000),
    )
    path.mkdir(parents=True, exist_ok=True)
    write_config(path, f"adapter: {{method: {adapter.method}}}\n")
    return write_adapter(path, manifest, adapter.deployed())
