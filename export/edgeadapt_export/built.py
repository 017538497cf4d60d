"""A bundle's graphs on the disk, before the bundle is sealed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeadapt_export.methods import Deployed


@dataclass(frozen=True)
class Built:
    """The graphs' files by role, and how the adapter called `name` is deployed.

    `heads`: the file of its task heads, from the bundle's root.
    """

    root: Path
    name: str
    graphs: Mapping[str, str]
    deployed: Deployed
    heads: str | None = None

    def graph(self, role: str) -> Path:
        return self.root / self.graphs[role]

    @property
    def adapter_file(self) -> Path | None:
        return self.root / "adapters" / self.name / self.deployed.file if self.deployed.file else None
