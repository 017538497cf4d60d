"""An encoder's graph as a variant: a file or the graph of an encoder's bundle, and the worker that opens it.

input_ids, attention_mask, token_type_ids  [B, S] int64, whichever the graph has; anything else is an adapter's input
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgeadapt import onnxscan
from edgeadapt.bundle import MANIFEST, Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops.library import library_path
from edgeadapt.runtime import session
from edgeadapt.runtime.kv_cache import PAST
from edgeadapt_bench.baselines.variant import BARE, Variant
from edgeadapt_bench.inputs import noise
from edgeadapt_bench.times import Times

PACKAGES = ("onnxruntime",)
WORKER = "edgeadapt_bench.encoders"
_GRAPH = "bare"
_TEXT = {"input_ids": 1, "attention_mask": 1, "token_type_ids": 0}  # and the value that every token has


def is_encoder(path: Path) -> bool:
    """Whether there is an encoder at `path`: a graph without a key-value cache, or a bundle of one."""
    graph = _graph(path)
    return graph is not None and not any(port.name.startswith(PAST) for port in onnxscan.scan(graph).inputs)


def encoder_variants(path: Path, baselines: Sequence[str] | None) -> list[Variant]:
    """The graph at `path`, and the graphs or bundles beside which it is measured: what the ratios are taken against.

    Raises EdgeAdaptError for a baseline that is no encoder.
    """
    others = [Path(name) for name in baselines or ()]
    for other in others:
        if not is_encoder(other):
            raise EdgeAdaptError(f"--baseline {other}: no encoder's graph or bundle, and {path} is one")
    return [_variant(path, BARE), *(_variant(other, other.stem) for other in others)]


def _graph(path: Path) -> Path | None:
    if path.is_file() and path.suffix == ".onnx":
        return path
    if (path / MANIFEST).is_file():
        graphs = Bundle.open(path).manifest.graphs
        return path / graphs.get(_GRAPH, graphs["model"])
    return None


def graph_of(variant: Variant) -> Path:
    """The file that a variant's graph lies in, an encoder's or a decoder's."""
    return variant.files[0] if variant.files else Bundle.open(variant.bundle).graph(variant.graph)


def _variant(path: Path, name: str) -> Variant:
    if path.is_dir():
        graphs = Bundle.open(path).manifest.graphs
        return Variant(name, path, _GRAPH if _GRAPH in graphs else "model", worker=WORKER, note=f"bundle {path.name}")
    data = sorted({path.parent / item.location for item in onnxscan.scan(path).externals})
    files = (path, *data)
    return Variant(name, path, path.stem, worker=WORKER, files=files, precision="as built", note=f"graph {path.name}")


class Subject:
    """The open graph. Adapter inputs, if it has some, are noise: latency does not depend on their values."""

    def __init__(self, variant: dict[str, Any], threads: int) -> None:
        path = _graph(Path(variant["bundle"]))
        if path is None:
            raise EdgeAdaptError(f"{variant['bundle']}: no encoder's graph or bundle")
        self.ops = "bodies" if variant["ops"] == "off" or library_path() is None else "library"
        self.vocabulary_size = 1
        self.load = Times()
        with self.load.one():
            self._session = session.create(path, threads=threads, ops=variant["ops"])

    def embed(self, tokens: int, batch: int) -> None:
        """Run `batch` texts of `tokens` tokens each."""
        feeds: dict[str, ort.OrtValue] = {}
        for item in self._session.get_inputs():
            if item.name in _TEXT:
                array = np.full((batch, tokens), _TEXT[item.name], np.int64)
                feeds[item.name] = ort.OrtValue.ortvalue_from_numpy(array)
            else:
                feeds[item.name] = noise(item, {"batch_size": batch})
        self._session.run_with_ort_values(None, feeds)
