"""A finished run of UniHyperLoRA as the start of another: what stage 2 takes over, frozen, as it was stored.

The stored numbers are put back as masters; rounding them again gives the same codes (a row's largest code is 127, and
stays it), so what is frozen has the source's bytes in the new run's file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeadapt.backbones import resolve
from edgeadapt.codecs import int8, nibbles
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.rundir import RunDir
from edgeadapt_train.adapters.unihyper.atoms import SharedAtoms
from edgeadapt_train.adapters.unihyper.config import TASK_UNIT, UniHyperConfig
from edgeadapt_train.adapters.unihyper.gains import Mixer
from edgeadapt_train.adapters.unihyper.router import Router


@dataclass(frozen=True)
class Source:
    """The run, and its tensors by name."""

    run: RunDir
    tensors: dict[str, np.ndarray]

    @classmethod
    def open(cls, path: Path, config: UniHyperConfig) -> Source:
        """Raises EdgeAdaptError for a run of another method or basis."""
        run = RunDir.open(path)
        if run.adapter.method != "unihyper":
            raise EdgeAdaptError(
                f"{path}: its method is {run.adapter.method}; only UniHyperLoRA's atoms fit other backbones"
            )
        basis = run.adapter.sites.get("basis")
        if basis != config.basis:
            raise EdgeAdaptError(f"{path}: its basis is {basis}; give adapter.basis={basis}")
        return cls(run, dict(run.tensors()))

    def to_json(self) -> dict[str, Any]:
        return {"run": self.run.path.name, "sha256": self.run.adapter.sha256, "backbone": self.run.adapter.backbone.id}

    def embedding(self) -> Tensor:
        """The embedding [vocabulary, d] of the backbone that the source was trained on."""
        from edgeadapt_train.backbone import load

        reference = self.run.adapter.backbone
        found = resolve(reference.id)
        if found.revision != reference.revision:
            raise EdgeAdaptError(f"{reference.id}: is at {found.revision}, the source run saw {reference.revision}")
        model = load(found.path, found.id, found.revision, "fp32", "cpu")
        return model.embedding.weight.detach().float()  # type: ignore[operator]

    @torch.no_grad()
    def fill(self, atoms: SharedAtoms, mixer: Mixer, router: Router) -> None:
        """Put the stored numbers into the masters."""
        rows = {
            "U": atoms.U,
            "V": atoms.V,
            "h1": atoms.h1,
            "h2": atoms.h2,
            "router": router.weight,
            "keys": router.keys,
        }
        for name, master in rows.items():
            stored = int8.Int8Rows(self.tensors[name], self.tensors[f"{name}_scales"])
            master.copy_(torch.from_numpy(int8.dequantise(stored)))
        for name, master in (("mixer1", mixer.w1), ("mixer2", mixer.w2)):
            value = nibbles.dequantise(self.tensors[name], self.tensors[f"{name}_scale"], tuple(master.shape))
            master.copy_(torch.from_numpy(value))
        router.tasks.copy_(torch.from_numpy(self.tensors["tasks"].astype(np.float32) * np.float32(TASK_UNIT)))
