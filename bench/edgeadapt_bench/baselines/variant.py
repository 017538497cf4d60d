"""One thing to measure, and how the process that runs it is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeadapt.bundle import MANIFEST, Bundle
from edgeadapt.cache import remembered_sha256

BARE = "bare"
WORKER = "edgeadapt_bench.worker"


@dataclass(frozen=True)
class Variant:
    """A model, an adapter or none, and an engine. One variant is one resident process.

    bundle, graph   the bundle, and a key of its manifest's graphs; another engine's variant is the counterpart of that
    random_inputs   the graph's adapter inputs are seeded noise instead of an adapter's values
    worker          module that `edgeadapt_bench.serving` serves: its class Subject opens this variant
    packages        distributions whose versions the figures depend on, beside edgeadapt's own
    files           what another engine loads instead of the bundle, the weights first; empty: the bundle
    precision       of the weights, as that engine calls it; None: the bundle's
    options         what the worker needs to know besides
    """

    name: str
    bundle: Path
    graph: str
    adapter: str | None = None
    random_inputs: bool = False
    ops: Literal["auto", "off"] = "auto"
    note: str = ""
    worker: str = WORKER
    packages: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    precision: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def foreign(self) -> bool:
        """Whether an engine other than edgeadapt's own runs it."""
        return self.worker != WORKER

    @property
    def place(self) -> Path:
        """What is loaded, as a result names it: the bundle, or the other engine's weights, whose cache is anywhere."""
        return Path(*self.files[0].parts[-2:]) if self.files else self.bundle

    def sha256(self) -> str:
        """Of the weights' file, or of the bundle's manifest, which lists every file's own."""
        return remembered_sha256(self.files[0] if self.files else self.bundle / MANIFEST)

    def sizes(self) -> dict[str, int]:
        """Bytes of every file that belongs to the model."""
        if self.files:
            return {path.name: path.stat().st_size for path in self.files}
        return {name: entry.size for name, entry in Bundle.open(self.bundle).manifest.files.items()}

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "bundle": str(self.bundle), "files": [str(path) for path in self.files]}
