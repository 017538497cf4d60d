"""What a bundle may hold. Every rule here is a refusal of `Bundle.open`, in one line that names the file.

listed files      present, regular, of the listed size and SHA-256
every file        no link, device or pipe; no native code and no pickle, by its name or its first bytes
*.onnx            well-formed; weights outside lie in a listed file beside the graph, within its bounds
*.safetensors     well-formed; low-rank factors fit the product that they are added to, heads their tasks
*.json            strict JSON; genai_config.json names no library
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from edgeadapt.cache import remembered_sha256
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import inside
from edgeadapt.heads import bias_name, weight_name
from edgeadapt.onnxscan import scan
from edgeadapt.records import read_json
from edgeadapt.tensors import shapes

if TYPE_CHECKING:
    from edgeadapt.bundle import AdapterEntry, BundleManifest

MANIFEST = "edgeadapt.json"
MAX_FILES = 4096
_VOCABULARIES = frozenset(("tokenizer.json", "vocab.json"))  # megabytes, read by the tokenizer library alone

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
_CODE = (".so", ".dll", ".dylib", ".pyd", ".exe", ".node", ".a", ".o", ".ko", ".elf", ".wasm", ".pyc", ".pyo")
_PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill", ".npy", ".npz")
_ENDINGS = frozenset((*_CODE, *_PICKLED))


def check_directory(root: Path, manifest: BundleManifest) -> None:
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


def check_contents(root: Path, manifest: BundleManifest) -> None:
    """Graphs, weights and configurations: well-formed, and pointing nowhere outside."""
    for name in manifest.files:
        path = root / name
        if name.endswith(".onnx"):
            _check_graph(root, name, manifest)
        elif name.endswith(".safetensors"):
            shapes(path)
        elif name.endswith(".json") and PurePosixPath(name).name not in _VOCABULARIES:
            read_json(path)
    for path in root.rglob("genai_config.json"):
        if _has_key(read_json(path), "custom_ops_library"):
            raise EdgeAdaptError(f"{path}: names a native library (custom_ops_library); do not use this bundle")
    for adapter in manifest.adapters:
        if adapter.weights is not None:
            _check_factors(root, adapter)
        if adapter.heads is not None:
            _check_heads(root, adapter, manifest.backbone.hidden_size)


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
            (kind, a), (other, b), scales = (
                known.get(str(name), ("", ())) for name in (block.a, block.b, block.scales)
            )
            if len(a) != 2 or len(b) != 2 or a[1] != b[0] or block.offset + b[1] > part.width:
                raise EdgeAdaptError(
                    f"{path}: {block.a} {list(a)} and {block.b} {list(b)} do not fit at column {block.offset} "
                    f"of {part.width}"
                )
            if kind != other or (kind == "I8") != (block.scales is not None):
                raise EdgeAdaptError(f"{path}: {block.a} is {kind} and {block.b} is {other}; int8 alone has scales")
            if block.scales is not None and scales != ("F32", a[1:]):
                raise EdgeAdaptError(f"{path}: {block.scales} is {scales[0]} {list(scales[1])}, not F32 {list(a[1:])}")


def _check_heads(root: Path, adapter: AdapterEntry, width: int) -> None:
    path = root / str(adapter.heads)
    known = shapes(path)
    for number, task in enumerate(adapter.tasks):
        count = len(task.choices)
        for name, shape in ((weight_name(number), (count, width)), (bias_name(number), (count,))):
            if known.get(name) != ("F16", shape):
                raise EdgeAdaptError(f"{path}: task {task.name} needs {name} in F16 {list(shape)}; export it again")


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(item, key) for item in value.values())
    return isinstance(value, list) and any(_has_key(item, key) for item in value)
