"""The bundle directory: all that a device needs to run a backbone with its adapters. Read by verifying, written whole.

    edgeadapt.json                      the manifest: every other file with size and SHA-256
    model.onnx  bare.onnx  embed.onnx   graphs, and the one file their weights lie in:  model.onnx.data
    adapters/<name>/...                 an adapter's own graph or weights
    tokenizer.json  genai_config.json   and the other small files of the model

A bundle never carries native code or a pickle and never names a library; its graphs read no file outside of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgeadapt import bundle_checks
from edgeadapt.bundle_checks import check_contents, check_directory
from edgeadapt.energy.envelope import EnergyEnvelope
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import inside, published_directory, recover_directory, sha256_of, write_json
from edgeadapt.heads import Pooling
from edgeadapt.manifest import AdapterBytes, check_format, check_hash, check_name, check_positive
from edgeadapt.records import decode, encode, read_json
from edgeadapt.tasks import TaskSpec

FORMAT = 3  # 2: decoder graphs have the input logits_from; 3: an adapter's own graph asks for what it needs
MANIFEST = bundle_checks.MANIFEST
Precision = Literal["fp32", "int8", "int4"]
Device = Literal["rpi4", "generic"]
FactorPrecision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of a file of the bundle."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        check_hash(self.sha256)
        if self.size < 0:
            raise EdgeAdaptError(f"a size of {self.size}")


@dataclass(frozen=True)
class BundleBackbone:
    """The backbone's identity and the shapes that a runtime needs. `eos`: token ids that end an answer.

    A decoder continues a text; an encoder sees all of it at once, and is asked by heads (edgeadapt.heads).
    """

    id: str
    revision: str
    architecture: str
    num_layers: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    context_length: int
    eos: tuple[int, ...]
    kind: Literal["decoder", "encoder"] = "decoder"

    def __post_init__(self) -> None:
        sizes = ("num_layers", "num_kv_heads", "head_dim", "hidden_size", "vocab_size", "context_length")
        check_positive("backbone", **{name: getattr(self, name) for name in sizes})
        if not all(0 <= token < self.vocab_size for token in self.eos):
            raise EdgeAdaptError(f"backbone: eos {list(self.eos)} is outside the vocabulary of {self.vocab_size}")


@dataclass(frozen=True)
class LowRankBlock:
    """One module's factors: names of tensors a [d, r] and b [r, m]; m columns from `offset` of the packed product.

    `scales` [r] float32 belong to int8 factors (codecs/factors.py); others have none.
    """

    a: str
    b: str
    offset: int
    scales: str | None = None


@dataclass(frozen=True)
class LowRankPart:
    """The graph inputs of one (packed) product of `width` columns, and what fills them."""

    a_input: str
    b_input: str
    width: int
    blocks: tuple[LowRankBlock, ...]
    scales_input: str | None = None

    def __post_init__(self) -> None:
        check_positive(self.a_input, width=self.width, blocks=len(self.blocks))
        if not all(0 <= block.offset < self.width for block in self.blocks):
            raise EdgeAdaptError(f"{self.a_input}: a block starts outside the {self.width} columns")
        if any((block.scales is None) != (self.scales_input is None) for block in self.blocks):
            raise EdgeAdaptError(f"{self.a_input}: all of its blocks have scales, or none and no input for them")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph inputs."""
        return tuple(name for name in (self.a_input, self.b_input, self.scales_input) if name is not None)


@dataclass(frozen=True)
class AdapterEntry:
    """One adapter of a bundle. `inputs`: the base graph's inputs that it fills.

    graph: `graph` computes them, from (pool, task) or less. lowrank: `parts` puts them together from the tensors in
    `weights`. spectral: the runtime plans them from the tensors in `weights`, within `envelope`. merged: it lives in
    the base weights and has no inputs. On an encoder `heads` is the file of the tasks' heads (edgeadapt.heads).
    """

    name: str
    method: str
    variant: str
    kind: Literal["graph", "lowrank", "spectral", "merged"]
    inputs: tuple[str, ...]
    sites: Mapping[str, Any]
    bytes: AdapterBytes
    tasks: tuple[TaskSpec, ...]
    graph: str | None = None
    weights: str | None = None
    parts: tuple[LowRankPart, ...] = ()
    heads: str | None = None
    pooling: Pooling | None = None
    envelope: EnergyEnvelope | None = None

    def __post_init__(self) -> None:
        check_name("adapter", self.name)
        where = f"adapter {self.name}"
        if (self.kind == "graph") != (self.graph is not None):
            raise EdgeAdaptError(f"{where}: a graph of its own is what kind 'graph' has, and no other kind")
        if (self.kind in ("lowrank", "spectral")) != (self.weights is not None):
            raise EdgeAdaptError(f"{where}: weights are what kinds 'lowrank' and 'spectral' have, and no other kind")
        if (self.kind == "lowrank") != bool(self.parts) or (self.kind == "spectral") != (self.envelope is not None):
            raise EdgeAdaptError(
                f"{where}: parts are what kind 'lowrank' has, and an envelope what kind 'spectral' has"
            )
        if self.envelope is not None and sorted(self.envelope.inputs) != sorted(self.inputs):
            raise EdgeAdaptError(f"{where}: its envelope fills other inputs than it declares")
        if (self.kind == "merged") == bool(self.inputs):
            raise EdgeAdaptError(f"{where}: kind {self.kind!r} with inputs {list(self.inputs)} does not fit together")
        if (self.heads is None) != (self.pooling is None):
            raise EdgeAdaptError(f"{where}: a file of heads and their pooling go together")
        filled = [name for part in self.parts for name in part.inputs]
        if self.parts and sorted(filled) != sorted(self.inputs):
            raise EdgeAdaptError(f"{where}: its parts fill other inputs than it declares")
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise EdgeAdaptError(f"{where}: two tasks have the same name")


@dataclass(frozen=True)
class BundleManifest:
    """edgeadapt.json. `files` lists every file but the manifest; `parity` holds the figures measured at export."""

    format: int
    backbone: BundleBackbone
    precision: Precision
    device: Device
    opset: int
    minimum_onnxruntime: str
    graphs: Mapping[str, str]
    adapters: tuple[AdapterEntry, ...]
    parity: Mapping[str, Any]
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_format(self.format, FORMAT)
        check_positive("manifest", opset=self.opset)
        version_of(self.minimum_onnxruntime)
        names = [adapter.name for adapter in self.adapters]
        if len(set(names)) < len(names):
            raise EdgeAdaptError(f"two adapters have the same name: {', '.join(names)}")
        encodes = self.backbone.kind == "encoder"
        if other := next((one for one in self.adapters if (one.heads is not None) != encodes), None):
            raise EdgeAdaptError(f"adapter {other.name}: task heads are what an encoder's adapters have, and no others")
        if "model" not in self.graphs:
            raise EdgeAdaptError("no graph is called 'model'")
        if not self.files:
            return  # not sealed yet
        owned = (name for one in self.adapters for name in (one.graph, one.weights, one.heads) if name)
        needed = [*self.graphs.values(), *owned]
        if missing := [name for name in needed if name not in self.files]:
            raise EdgeAdaptError(f"{missing[0]!r} is used but not in the list of files")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: every file is there, is the one listed, and is of a kind that a bundle may hold."""

    root: Path
    manifest: BundleManifest

    @classmethod
    def open(cls, root: Path) -> Bundle:
        """Read and verify. Raises EdgeAdaptError in one line that names the file."""
        if not root.exists():
            recover_directory(root)
        if not root.is_dir():
            raise EdgeAdaptError(f"{root}: no such bundle directory; make one with edgeadapt export")
        path = root / MANIFEST
        if path.is_symlink() or not path.is_file():
            raise EdgeAdaptError(f"{root}: has no {MANIFEST}, so it is not a bundle; make one with edgeadapt export")
        manifest = _read_manifest(path)
        check_directory(root, manifest)
        check_contents(root, manifest)
        return cls(root, manifest)

    def path(self, relative: str) -> Path:
        """A file of the bundle, by its name in the manifest."""
        if relative not in self.manifest.files:
            raise EdgeAdaptError(f"{self.root}: {relative!r} is not in the list of files of {MANIFEST}")
        return inside(self.root, relative)

    def graph(self, name: str) -> Path:
        """The file of a graph: "model", "bare", "embed", "lora8", ..."""
        if name not in self.manifest.graphs:
            raise EdgeAdaptError(f"{self.root}: no graph {name!r}; it has: {', '.join(self.manifest.graphs)}")
        return self.path(self.manifest.graphs[name])

    def adapter(self, name: str) -> AdapterEntry:
        for entry in self.manifest.adapters:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.manifest.adapters)
        raise EdgeAdaptError(f"{self.root}: no adapter {name!r}; it holds: {known or 'none'}")

    @property
    def size(self) -> int:
        """Bytes of all listed files."""
        return sum(entry.size for entry in self.manifest.files.values())


@contextlib.contextmanager
def published_bundle(target: Path) -> Iterator[Path]:
    """A directory to fill and `seal`; it becomes `target` when the block ends well, in one step.

    Refuses to replace a directory that holds something and is not a bundle.
    """
    with published_directory(target, marker=MANIFEST) as building:
        yield building
        if not (building / MANIFEST).is_file():
            raise EdgeAdaptError(f"{target}: the bundle was not sealed")


def seal(folder: Path, manifest: BundleManifest) -> BundleManifest:
    """List every file of `folder` with size and hash in `manifest`, write it, verify all as a reader would."""
    (folder / MANIFEST).unlink(missing_ok=True)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    files = {name: FileEntry((folder / name).stat().st_size, sha256_of(folder / name)) for name in names}
    sealed = replace(manifest, files=files)
    write_json(folder / MANIFEST, encode(sealed))
    return Bundle.open(folder).manifest


def version_of(text: str) -> tuple[int, ...]:
    """A release such as 1.20 or 1.20.1 as numbers that compare."""
    parts = text.split(".")
    if not 2 <= len(parts) <= 4 or not all(part.isascii() and part.isdigit() and len(part) <= 6 for part in parts):
        raise EdgeAdaptError(f"{text[:40]!r} is not a version such as 1.20 or 1.20.1")
    return tuple(map(int, parts))


def _read_manifest(path: Path) -> BundleManifest:
    value = read_json(path)
    check_format(value.get("format") if isinstance(value, dict) else None, FORMAT, f"{path}: ")
    manifest = decode(BundleManifest, value, str(path))
    if not manifest.files or MANIFEST in manifest.files or len(manifest.files) > bundle_checks.MAX_FILES:
        raise EdgeAdaptError(f"{path}: its list of files is empty, too long, or lists {MANIFEST} itself")
    return manifest
