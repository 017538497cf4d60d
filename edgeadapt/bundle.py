"""The bundle directory: all that a device needs to run a backbone with its adapters. Read by verifying, written whole.

    edgeadapt.json                      the manifest: every other file with size and SHA-256
    model.onnx  bare.onnx  embed.onnx   graphs, and the one file their weights lie in:  model.onnx.data
    adapters/<name>/...                 an adapter's own graph or weights
    tokenizer.json  genai_config.json   and the other small files of the model

A bundle never carries native code or a pickle and never names a library; its graphs read no file outside of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from edgeadapt.cache import remembered_sha256
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import inside, published_directory, recover_directory, sha256_of, write_json
from edgeadapt.manifest import AdapterBytes, check_format, check_hash, check_name, check_positive
from edgeadapt.onnxscan import scan
from edgeadapt.records import decode, encode, read_json
from edgeadapt.tasks import TaskSpec
from edgeadapt.tensors import shapes

FORMAT = 1
MANIFEST = "edgeadapt.json"
Precision = Literal["fp32", "int8", "int4"]
Device = Literal["rpi4", "generic"]
MAX_FILES = 4096
MAX_TOKENIZER_BYTES = 64 << 20

_NATIVE = (
    b"\x7fELF",
    b"MZ",
    b"\xfe\xed\xfa",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"!<arch>",
)
_PICKLE = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_ARCHIVE = (b"PK\x03\x04", b"\x93NUMPY")  # .pt, .npz, .npy: containers that may hold pickles
_ENDINGS = frozenset(
    ".so .dll .dylib .pyd .exe .node .a .o .ko .elf .wasm .pyc .pyo .pkl .pickle .pt .pth .ckpt .joblib .dill .npy "
    ".npz".split()
)


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
    """The backbone's identity and the shapes that a runtime needs. `eos`: token ids that end an answer."""

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

    def __post_init__(self) -> None:
        sizes = ("num_layers", "num_kv_heads", "head_dim", "hidden_size", "vocab_size", "context_length")
        check_positive("backbone", **{name: getattr(self, name) for name in sizes})
        if not all(0 <= token < self.vocab_size for token in self.eos):
            raise EdgeAdaptError(f"backbone: eos {list(self.eos)} is outside the vocabulary of {self.vocab_size}")


@dataclass(frozen=True)
class LowRankBlock:
    """One module's factors: names of tensors a [d, r] and b [r, m]; m columns from `offset` of the packed product."""

    a: str
    b: str
    offset: int


@dataclass(frozen=True)
class LowRankPart:
    """The pair of graph inputs of one (packed) product of `width` columns, and what fills it."""

    a_input: str
    b_input: str
    width: int
    blocks: tuple[LowRankBlock, ...]

    def __post_init__(self) -> None:
        check_positive(self.a_input, width=self.width, blocks=len(self.blocks))
        if not all(0 <= block.offset < self.width for block in self.blocks):
            raise EdgeAdaptError(f"{self.a_input}: a block starts outside the {self.width} columns")


@dataclass(frozen=True)
class AdapterEntry:
    """One adapter of a bundle. `inputs`: the base graph's inputs that it fills.

    direction: `graph` computes them from (pool, task). lowrank: `parts` puts them together from the tensors in
    `weights`. merged: it lives in the base weights and has no inputs.
    """

    name: str
    method: str
    variant: str
    kind: Literal["direction", "lowrank", "merged"]
    inputs: tuple[str, ...]
    sites: Mapping[str, Any]
    bytes: AdapterBytes
    tasks: tuple[TaskSpec, ...]
    graph: str | None = None
    weights: str | None = None
    parts: tuple[LowRankPart, ...] = ()

    def __post_init__(self) -> None:
        check_name("adapter", self.name)
        where = f"adapter {self.name}"
        if (self.kind == "direction") != (self.graph is not None):
            raise EdgeAdaptError(f"{where}: a graph of its own is what kind 'direction' has, and no other kind")
        if (self.kind == "lowrank") != (self.weights is not None) or (self.kind == "lowrank") != bool(self.parts):
            raise EdgeAdaptError(f"{where}: weights and parts are what kind 'lowrank' has, and no other kind")
        if (self.kind == "merged") == bool(self.inputs):
            raise EdgeAdaptError(f"{where}: kind {self.kind!r} with inputs {list(self.inputs)} does not fit together")
        filled = [name for part in self.parts for name in (part.a_input, part.b_input)]
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
        if "model" not in self.graphs:
            raise EdgeAdaptError("no graph is called 'model'")
        if not self.files:
            return  # not sealed yet
        needed = [*self.graphs.values(), *(name for one in self.adapters for name in (one.graph, one.weights) if name)]
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
        _check_directory(root, manifest)
        _check_contents(root, manifest)
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
    """List every file of `folder` with size and hash in `manifest`, write it, and verify the whole as a reader would."""
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
    if not manifest.files or MANIFEST in manifest.files or len(manifest.files) > MAX_FILES:
        raise EdgeAdaptError(f"{path}: its list of files is empty, too long, or lists {MANIFEST} itself")
    return manifest


def _check_directory(root: Path, manifest: BundleManifest) -> None:
    """Names, kinds, sizes and hashes; and what lies there unlisted."""
    for name, entry in manifest.files.items():
        path = inside(root, name)
        size = path.stat().st_size
        if size != entry.size:
            raise EdgeAdaptError(
                f"{path}: has {size:,} bytes, but {MANIFEST} says {entry.size:,}; fetch or export it again"
            )
    count = 0
    for folder, folders, files in os.walk(root):
        for item in (*folders, *files):
            path = Path(folder, item)
            count += 1
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise EdgeAdaptError(f"{path}: links are not allowed in a bundle; copy the file itself")
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise EdgeAdaptError(f"{path}: a device, socket or pipe has no place in a bundle; remove it")
            if stat.S_ISREG(mode):
                _check_harmless(path, path.relative_to(root).as_posix(), manifest)
        if count > 2 * MAX_FILES:
            raise EdgeAdaptError(f"{root}: holds more than {2 * MAX_FILES} files, which no bundle does")
    for name, entry in manifest.files.items():
        path = root / name
        found = remembered_sha256(path)
        if found != entry.sha256:
            raise EdgeAdaptError(
                f"{path}: its SHA-256 is {found[:16]}..., but {MANIFEST} says {entry.sha256[:16]}...; "
                "it was changed or damaged: fetch or export it again"
            )


def _check_harmless(path: Path, name: str, manifest: BundleManifest) -> None:
    """No native code and no pickle, listed or not, by name or by its first bytes."""
    remedy = "remove it" if name not in manifest.files else "do not use this bundle"
    endings = {ending.lower() for ending in PurePosixPath(name).suffixes}  # libx.so.1 has .so among them
    if endings & _ENDINGS:
        raise EdgeAdaptError(f"{path}: native code and pickles have no place in a bundle; {remedy}")
    if name in manifest.files and (name.endswith((".safetensors", ".onnx")) or name in _raw_data(manifest)):
        return  # their structure is checked; raw weights may begin with any bytes
    with path.open("rb") as source:
        start = source.read(8)
    if start.startswith(_NATIVE) or start.startswith(_PICKLE) or start.startswith(_ARCHIVE):
        raise EdgeAdaptError(f"{path}: begins like native code, a pickle or an archive; {remedy}")


def _raw_data(manifest: BundleManifest) -> frozenset[str]:
    """Files that may hold the weights of graphs: listed, and named like a graph with '.data' behind."""
    return frozenset(name for name in manifest.files if name.endswith(".onnx.data"))


def _check_contents(root: Path, manifest: BundleManifest) -> None:
    """Graphs, weights and configurations: well-formed, and pointing nowhere outside."""
    for name in manifest.files:
        path = root / name
        if name.endswith(".onnx"):
            _check_graph(root, name, manifest)
        elif name.endswith(".safetensors"):
            shapes(path)
        elif name.endswith(".json"):
            read_json(path, MAX_TOKENIZER_BYTES) if name != "tokenizer.json" else None
    for path in root.rglob("genai_config.json"):
        if _has_key(read_json(path), "custom_ops_library"):
            raise EdgeAdaptError(f"{path}: names a native library (custom_ops_library); do not use this bundle")
    for adapter in manifest.adapters:
        if adapter.weights is not None:
            _check_factors(root, adapter)


def _check_graph(root: Path, name: str, manifest: BundleManifest) -> None:
    folder = PurePosixPath(name).parent
    for outside in scan(root / name).externals:
        target = (folder / outside.location).as_posix()
        entry = manifest.files.get(target)
        if entry is None or outside.location != PurePosixPath(outside.location).name:
            raise EdgeAdaptError(
                f"{root / name}: tensor {outside.tensor!r} lies in {outside.location[:80]!r}, which is no listed file "
                "beside the graph; do not use this bundle"
            )
        if outside.offset + (outside.length or 0) > entry.size:
            raise EdgeAdaptError(f"{root / name}: tensor {outside.tensor!r} lies beyond the end of {target}")


def _check_factors(root: Path, adapter: AdapterEntry) -> None:
    path = root / str(adapter.weights)
    known = shapes(path)
    for part in adapter.parts:
        for block in part.blocks:
            a, b = (known.get(name, ("", ()))[1] for name in (block.a, block.b))
            if len(a) != 2 or len(b) != 2 or a[1] != b[0] or block.offset + b[1] > part.width:
                raise EdgeAdaptError(
                    f"{path}: {block.a} {list(a)} and {block.b} {list(b)} do not fit {part.width} columns from {block.offset}"
                )


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(item, key) for item in value.values())
    return isinstance(value, list) and any(_has_key(item, key) for item in value)
