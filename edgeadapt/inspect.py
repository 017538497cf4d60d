"""What is inside a bundle or a run directory, byte by byte. Verifies first; needs neither torch nor onnx."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgeadapt import bundle as bundles
from edgeadapt import inspect_tables, rundir
from edgeadapt.bundle import AdapterEntry, Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.manifest import AdapterBytes
from edgeadapt.onnxscan import External, GraphSummary, Port, scan
from edgeadapt.records import encode
from edgeadapt.rundir import RunDir
from edgeadapt.tensors import shapes

_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}

render = inspect_tables.render


def describe(path: Path) -> dict[str, Any]:
    """A JSON value that says what `path` holds; its "kind" is "bundle" or "run".

    Raises EdgeAdaptError when it is neither, or is damaged.
    """
    if (path / bundles.MANIFEST).exists():
        return _describe_bundle(Bundle.open(path))
    if (path / rundir.MANIFEST).exists():
        return _describe_run(RunDir.open(path))
    what = "no such directory" if not path.is_dir() else f"has neither {bundles.MANIFEST} nor {rundir.MANIFEST}"
    raise EdgeAdaptError(f"{path}: {what}; give a bundle or the directory of a finished run")


def _describe_bundle(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    scanned = {name: scan(bundle.graph(name)) for name in manifest.graphs}
    inputs = {name for adapter in manifest.adapters for name in adapter.inputs}
    return {
        "kind": "bundle",
        "path": str(bundle.root),
        "bytes": bundle.size,
        "format": manifest.format,
        "backbone": encode(manifest.backbone),
        "precision": manifest.precision,
        "device": manifest.device,
        "opset": manifest.opset,
        "minimum_onnxruntime": manifest.minimum_onnxruntime,
        "graphs": {
            name: {"file": manifest.graphs[name], **_graph(summary, inputs)} for name, summary in scanned.items()
        },
        "weights": _weights(bundle, scanned),
        "adapters": [_adapter(bundle, adapter) for adapter in manifest.adapters],
        "parity": dict(manifest.parity),
        "files": [{"name": name, "bytes": one.size, "sha256": one.sha256} for name, one in manifest.files.items()],
        "unlisted": _unlisted(bundle.root, {bundles.MANIFEST, *manifest.files}),
    }


def _describe_run(run: RunDir) -> dict[str, Any]:
    adapter = run.adapter
    scores = run.scores()
    return {
        "kind": "run",
        "path": str(run.path),
        "bytes": sum(one["bytes"] for one in _files(run.path)),
        "format": adapter.format,
        "method": adapter.method,
        "variant": adapter.variant,
        "backbone": encode(adapter.backbone),
        "sites": dict(adapter.sites),
        "tasks": [task.to_json() for task in adapter.tasks],
        "adapter_bytes": _byte_formula(adapter.bytes),
        "tensors": _tensors(run.weights),
        "scores": None if scores is None else scores.to_json(),
        "environment": run.environment(),
        "files": _files(run.path),
    }


def _graph(summary: GraphSummary, adapter_inputs: Iterable[str]) -> dict[str, Any]:
    wanted = set(adapter_inputs)
    ours = {name: count for name, count in summary.operators.items() if name.startswith("edgeadapt::")}
    outside: Counter[str] = Counter()
    for start, stop, location in _ranges(summary.externals):
        outside[location] += stop - start
    return {
        "nodes": sum(summary.operators.values()),
        "operators": dict(sorted(summary.operators.items(), key=lambda item: (-item[1], item[0]))),
        "sites": ours,
        "functions": list(summary.functions),
        "opsets": dict(summary.opsets),
        "inputs": [_port(port) for port in summary.inputs if port.name not in wanted],
        "adapter_inputs": [_port(port) for port in summary.inputs if port.name in wanted],
        "outputs": [_port(port) for port in summary.outputs],
        "external_bytes": dict(outside),
    }


def _weights(bundle: Bundle, scanned: Mapping[str, GraphSummary]) -> list[dict[str, Any]]:
    """For each file of weights: how much of it the graphs use, and the largest tensors in it."""
    found = []
    everything = [one for summary in scanned.values() for one in summary.externals]
    for name in dict.fromkeys(one.location for one in everything):
        size = bundle.manifest.files[name].size
        used = sum(stop - start for start, stop, location in _ranges(everything) if location == name)
        tensors: dict[tuple[int, int], set[str]] = {}
        for one in everything:
            if one.location == name:
                length = size - one.offset if one.length is None else one.length
                tensors.setdefault((one.offset, length), set()).add(one.tensor)
        largest = sorted(tensors.items(), key=lambda item: (-item[0][1], item[0][0]))[:8]
        found.append(
            {
                "file": name,
                "bytes": size,
                "referenced": used,
                "unreferenced": size - used,
                "tensors": len(tensors),
                "largest": [
                    {"offset": offset, "bytes": length, "names": sorted(names)} for (offset, length), names in largest
                ],
            }
        )
    return found


def _ranges(externals: Iterable[External]) -> list[tuple[int, int, str]]:
    """Disjoint [start, stop) ranges that cover what is referred to; shared bytes count once."""
    spans = sorted((one.location, one.offset, one.offset + (one.length or 0)) for one in externals)
    merged: list[tuple[int, int, str]] = []
    for location, start, stop in spans:
        if merged and merged[-1][2] == location and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]), location)
        else:
            merged.append((start, stop, location))
    return merged


def _adapter(bundle: Bundle, adapter: AdapterEntry) -> dict[str, Any]:
    file = adapter.graph or adapter.weights
    return {
        "name": adapter.name,
        "method": adapter.method,
        "variant": adapter.variant,
        "kind": adapter.kind,
        "file": file,
        "file_bytes": bundle.manifest.files[file].size if file else 0,
        "inputs": list(adapter.inputs),
        "sites": dict(adapter.sites),
        "tasks": [task.to_json() for task in adapter.tasks],
        "adapter_bytes": _byte_formula(adapter.bytes),
        "tensors": _tensors(bundle.path(adapter.weights)) if adapter.weights else [],
    }


def _byte_formula(found: AdapterBytes) -> dict[str, Any]:
    return {**encode(found), "method": found.method}


def _tensors(path: Path) -> list[dict[str, Any]]:
    rows = []
    for name, (dtype, shape) in shapes(path).items():
        count = 1
        for extent in shape:
            count *= extent
        rows.append({"name": name, "dtype": dtype, "shape": list(shape), "bytes": count * _BITS.get(dtype, 8) // 8})
    return rows


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)}


def _files(root: Path) -> list[dict[str, Any]]:
    paths = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return [{"name": path.relative_to(root).as_posix(), "bytes": path.stat().st_size} for path in paths]


def _unlisted(root: Path, listed: set[str]) -> list[str]:
    return [one["name"] for one in _files(root) if one["name"] not in listed]
