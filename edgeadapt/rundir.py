"""The run directory: what training hands to export, and keeps for itself.

    config.yaml          the resolved configuration
    adapter.json         what the adapter is, and the SHA-256 of its weights: written last, so a run that has it is done
    adapter.safetensors  the deployed form of the adapter
    scores.json          score on every task before training and after each task
    confusion.json       of the finished run: how often each choice was answered for each, of every task with choices
    metrics.jsonl        one JSON object a line, as training goes: events, and of every step its loss, lr,
                         gradient_norm, tokens and seconds
    environment.json     versions and machine
    checkpoints/         the training stage's own

adapter.json and adapter.safetensors change together although they are two files: new weights are first written under a
hidden name made of their hash, then adapter.json is replaced (this is the moment that counts), then the weights get
their name. A reader that comes between, or after a crash there, takes the hidden file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeadapt.cache import remembered_sha256
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import recover_directory, write_atomic, write_json
from edgeadapt.heads import Pooling
from edgeadapt.manifest import AdapterBytes, check_format, check_hash, check_name, check_positive
from edgeadapt.records import decode, encode, parse_json, read_json
from edgeadapt.scores import Confusion, Scores
from edgeadapt.tasks import TaskSpec
from edgeadapt.tensors import Tensors, payload_bytes, serialise

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
MANIFEST = "adapter.json"
WEIGHTS = "adapter.safetensors"
CONFIG, SCORES, METRICS, ENVIRONMENT = "config.yaml", "scores.json", "metrics.jsonl", "environment.json"
CONFUSION = "confusion.json"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class BackboneRef:
    """The backbone that an adapter was trained on. `revision` as in `edgeadapt.backbones.Backbone`."""

    id: str
    revision: str
    hidden_size: int
    num_layers: int

    def __post_init__(self) -> None:
        check_positive("backbone", hidden_size=self.hidden_size, num_layers=self.num_layers)


@dataclass(frozen=True)
class AdapterManifest:
    """adapter.json. `sites` is the method's own description of where it acts; `sha256` that of adapter.safetensors.

    `pooling`: of the task heads that an encoder's adapter carries (edgeadapt.heads); None on a language model.
    """

    format: int
    method: str
    variant: str
    backbone: BackboneRef
    sites: Mapping[str, Any]
    tasks: tuple[TaskSpec, ...]
    bytes: AdapterBytes
    sha256: str = ""
    pooling: Pooling | None = None

    def __post_init__(self) -> None:
        check_format(self.format, FORMAT)
        check_name("method", self.method)
        check_name("variant", self.variant)
        if self.sha256:
            check_hash(self.sha256)
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise EdgeAdaptError(f"two tasks of the adapter have the same name: {', '.join(names)}")

    def to_json(self) -> dict[str, Any]:
        return dict(encode(self))


@dataclass(frozen=True)
class _Confusions:
    tasks: Mapping[str, Confusion]


@dataclass(frozen=True)
class RunDir:
    """A finished run: its adapter is there and is what adapter.json says."""

    path: Path
    adapter: AdapterManifest
    weights: Path = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Read and verify. Raises EdgeAdaptError when there is no finished run, or anything does not fit together."""
        if not path.exists():
            recover_directory(path)
        if not path.is_dir():
            raise EdgeAdaptError(f"{path}: no such run directory; train one with edgeadapt train")
        manifest_path = path / MANIFEST
        if not manifest_path.is_file():
            raise EdgeAdaptError(
                f"{path}: has no {MANIFEST}, so its training has not finished; train it again to go on"
            )
        manifest = _read_manifest(manifest_path)
        weights = _settled(path, manifest.sha256)
        payload = payload_bytes(weights)
        if payload != manifest.bytes.deployed:
            raise EdgeAdaptError(
                f"{weights}: holds {payload:,} bytes of tensors, but {MANIFEST} counts {manifest.bytes.deployed:,}"
            )
        return cls(path, manifest, weights)

    def tensors(self) -> Tensors:
        """The adapter's tensors by name."""
        from safetensors.numpy import load_file

        return dict(load_file(self.weights))

    def config(self) -> str:
        """The resolved configuration, as YAML text."""
        return (self.path / CONFIG).read_text(encoding="utf-8")

    def scores(self) -> Scores | None:
        path = self.path / SCORES
        return Scores.from_json(read_json(path), str(path)) if path.is_file() else None

    def confusion(self) -> dict[str, Confusion]:
        """By task; empty in runs of earlier versions."""
        path = self.path / CONFUSION
        return dict(decode(_Confusions, {"tasks": read_json(path)}, str(path)).tasks) if path.is_file() else {}

    def environment(self) -> dict[str, Any]:
        path = self.path / ENVIRONMENT
        value = read_json(path) if path.is_file() else {}
        if not isinstance(value, dict):
            raise EdgeAdaptError(f"{path}: expected an object, found {type(value).__name__}")
        return value

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The records of metrics.jsonl, in order."""
        return read_metrics(self.path)


def write_adapter(path: Path, manifest: AdapterManifest, tensors: Mapping[str, NDArray[Any]]) -> RunDir:
    """Replace the run's adapter, weights and description together. `manifest.sha256` is filled in here."""
    data = serialise(tensors)
    payload = sum(int(array.nbytes) for array in tensors.values())
    if payload != manifest.bytes.deployed:
        raise EdgeAdaptError(
            f"{path}: the adapter's tensors hold {payload:,} bytes; its byte formula says {manifest.bytes.deployed:,}"
        )
    manifest = replace(manifest, sha256=hashlib.sha256(data).hexdigest())
    write_atomic(path / _hidden(manifest.sha256), data)
    write_json(path / MANIFEST, manifest.to_json())
    _settled(path, manifest.sha256)
    for stale in path.glob(f".{WEIGHTS}.*.next"):
        stale.unlink(missing_ok=True)
    return RunDir.open(path)


def write_config(path: Path, yaml: str) -> None:
    write_atomic(path / CONFIG, yaml.encode())


def write_scores(path: Path, scores: Scores) -> None:
    write_json(path / SCORES, scores.to_json())


def write_confusion(path: Path, found: Mapping[str, Confusion]) -> None:
    write_json(path / CONFUSION, encode(found))


def write_environment(path: Path, value: Mapping[str, Any]) -> None:
    write_json(path / ENVIRONMENT, dict(value))


class MetricsLog:
    """metrics.jsonl, one line a record, each line written by one call to the system.

    Opening keeps what is there except a last line that a crash cut short, and, on resuming, every record for which
    `keep` is false (say, those of steps after the checkpoint).
    """

    def __init__(self, path: Path, keep: Iterable[dict[str, Any]] | None = None) -> None:
        self._path = path / METRICS
        records = list(read_metrics(path) if keep is None else keep)
        write_atomic(self._path, b"".join(_line(record) for record in records))

    def append(self, record: Mapping[str, Any]) -> None:
        line = _line(record)
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a run's metrics.jsonl. A last line without its end is what a crash left, and is skipped."""
    file = path / METRICS
    if not file.is_file():
        return
    with file.open("rb") as source:
        for number, line in enumerate(source, 1):
            if not line.endswith(b"\n"):
                return
            record = parse_json(line, f"{file}, line {number}")
            if not isinstance(record, dict):
                raise EdgeAdaptError(f"{file}, line {number}: expected an object, found {type(record).__name__}")
            yield record


def newest(results_dir: Path) -> Path:
    """The finished run below `results_dir` whose adapter was written last.

    Raises EdgeAdaptError that lists what was found when there is none.
    """
    if not results_dir.is_dir():
        raise EdgeAdaptError(f"{results_dir}: no such directory; name a run, or the directory of runs (--results-dir)")
    runs = [path for path in sorted(results_dir.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    finished = [path for path in runs if (path / MANIFEST).is_file()]
    if not finished:
        listed = ", ".join(path.name for path in runs[:5]) + (", ..." if len(runs) > 5 else "")
        found = f"only unfinished ones or other directories: {listed}" if runs else "it is empty of directories"
        raise EdgeAdaptError(f"{results_dir}: no finished run here ({found}); train one with edgeadapt train")
    return max(finished, key=lambda path: ((path / MANIFEST).stat().st_mtime_ns, path.name))


def _read_manifest(path: Path) -> AdapterManifest:
    value = read_json(path)
    if isinstance(value, dict):
        check_format(value.get("format"), FORMAT, f"{path}: ")
    manifest = decode(AdapterManifest, value, str(path))
    check_hash(manifest.sha256, f"{path}: ")
    return manifest


def _hidden(digest: str) -> str:
    return f".{WEIGHTS}.{digest[:16]}.next"


def _settled(path: Path, digest: str) -> Path:
    """The weights with this hash; gives them their name if a writer was cut short before it could."""
    weights, waiting = path / WEIGHTS, path / _hidden(digest)
    if waiting.is_file() and not waiting.is_symlink() and remembered_sha256(waiting) == digest:
        with contextlib.suppress(FileNotFoundError):  # another reader was faster
            try:
                os.replace(waiting, weights)
            except PermissionError:
                return waiting
    if weights.is_symlink() or not weights.is_file():
        raise EdgeAdaptError(f"{weights}: there is no such regular file; copy the whole run directory again")
    found = remembered_sha256(weights)
    if found != digest:
        raise EdgeAdaptError(
            f"{weights}: its SHA-256 is {found[:16]}..., but {MANIFEST} says {digest[:16]}...; copy it again"
        )
    return weights


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n").encode()
