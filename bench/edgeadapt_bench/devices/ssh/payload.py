"""Files that belong together and are sent to a board: a bundle, or a graph with its external data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeadapt import onnxscan
from edgeadapt.bundle import MANIFEST, Bundle
from edgeadapt.cache import remembered_sha256


@dataclass(frozen=True)
class Payload:
    """`digests`: SHA-256 by name, relative to `root`; `entry`: the name that the bench there is given."""

    root: Path
    digests: Mapping[str, str]
    entry: str

    @property
    def identity(self) -> str:
        """A SHA-256 of the names and contents together."""
        lines = [f"{digest} {name}" for name, digest in sorted(self.digests.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def files(self) -> dict[str, Path]:
        """By hash: the same contents are sent once."""
        return {digest: self.root / name for name, digest in self.digests.items()}


def payload_of(path: Path) -> Payload:
    """Raises EdgeAdaptError for what is neither a bundle, whole, nor a graph."""
    if path.is_file() and path.suffix == ".onnx":
        names = {path.name, *(item.location for item in onnxscan.scan(path).externals)}
        return Payload(path.parent, {name: remembered_sha256(path.parent / name) for name in names}, path.name)
    bundle = Bundle.open(path)
    digests = {name: entry.sha256 for name, entry in bundle.manifest.files.items()}
    digests[MANIFEST] = remembered_sha256(bundle.root / MANIFEST)
    root = bundle.root.resolve()  # rows call a variant by its bundle's directory
    return Payload(root.parent, {f"{root.name}/{name}": digest for name, digest in digests.items()}, root.name)
