"""int4 weights that keep what a graph's linear layers compute on text (codecs/calibrated.py), made once per backbone.

For every MatMul and FusedMatMul of an input x with a float32 constant matrix,
    M = 1/n sum_t x_t x_t^T   [K, K] float32     over the n positions of all sequences, in the fp32 graph
The graph runs with those inputs as further outputs. Layers that read the same x share one M.
What comes out depends on the graph, the texts and the codec's settings alone, and is kept in the cache under a name
that says them: the second export of a backbone has it at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from edgeadapt.codecs import BlockQuantised, calibrated
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import locked, write_atomic
from edgeadapt.progress import Progress, silent
from edgeadapt.runtime.kv_cache import empty_past
from edgeadapt.runtime.session import create
from edgeadapt.tensors import serialise
from edgeadapt_export.passes.common import float_matrix, nodes
from edgeadapt_export.passes.quantise import block_size
from edgeadapt_export.store import WeightStore

LAYOUT = 1  # raise it when the method changes in a way that its settings do not show
Sequences = Sequence[Sequence[int]]


def kept_weights(
    graph: Path, model: ir.Model, texts: Sequences, progress: Progress = silent
) -> dict[str, BlockQuantised]:
    """`quantised_weights`, from the cache beside the graph's folder `graph` if they were made before."""
    settings = [LAYOUT, calibrated.DAMPING, calibrated.GRID, calibrated.SWEEPS, [list(text) for text in texts]]
    recipe = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    kept = graph.with_name(f"{graph.name}-int4-{recipe}.safetensors")
    with locked(kept):
        found = _read(kept, model)
        if found is None:
            found = quantised_weights(model, texts, progress)
            parts = {f"{name}.data": one.data for name, one in found.items()}
            write_atomic(kept, serialise({**parts, **{f"{name}.scales": one.scales for name, one in found.items()}}))
    return found


def quantised_weights(model: ir.Model, texts: Sequences, progress: Progress = silent) -> dict[str, BlockQuantised]:
    """Every linear layer's weight [N, K], by its name in the decoder graph `model`; `texts` are token ids."""
    moments = second_moments(model, texts, progress)
    made = {}
    for place, (name, rows) in enumerate(_weights(model).items()):
        progress("quantising the weights to int4 (once)", place, len(moments))
        made[name] = calibrated.quantise(rows, moments[name], block_size("int4", rows.shape[1]))
    return made


def second_moments(model: ir.Model, texts: Sequences, progress: Progress = silent) -> Mapping[str, NDArray[np.float32]]:
    """M by the name of each weight, from running the decoder graph `model` on one text at a time."""
    reads = {}
    for node in nodes(model, "MatMul", "FusedMatMul"):
        x, weight = node.inputs
        if x is not None and weight is not None and float_matrix(weight) is not None:
            reads[str(weight.name)] = str(x.name)
    names = sorted(set(reads.values()))
    sums: dict[str, NDArray[np.float32]] = {}
    with tempfile.TemporaryDirectory(prefix="edgeadapt-calibration-") as folder:
        session = create(_with_outputs(model, names, Path(folder)), threads=os.cpu_count() or 1, ops="off")
        past = empty_past(session)
        for done, text in enumerate(texts):
            progress("observing what the layers read (once)", done, len(texts))
            ids = np.array([text], np.int64)
            values = session.run(names, {"input_ids": ids, "attention_mask": np.ones_like(ids), **past})
            for name, value in zip(names, values, strict=True):
                x = value.reshape(-1, value.shape[-1])
                sums[name] = x.T @ x + sums.get(name, np.float32(0))
    positions = np.float32(sum(map(len, texts)))
    means = {name: total / positions for name, total in sums.items()}
    return {weight: means[x] for weight, x in reads.items()}


def _with_outputs(model: ir.Model, names: Sequence[str], folder: Path) -> Path:
    """A copy of the graph on the disk that also gives the values of these names."""
    copy = model.clone()
    for node in copy.graph:
        for value in node.outputs:
            if value.name in names:
                value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), None
                copy.graph.outputs.append(value)
    with WeightStore(folder / "model.onnx.data") as store:
        store.save(copy, folder / "model.onnx")
    return folder / "model.onnx"


def _weights(model: ir.Model) -> dict[str, NDArray[np.float32]]:
    """The matrices [N, K] of the linear layers by name: a MatMul's [K, N] is turned, a FusedMatMul's is not."""
    found = {}
    for node in nodes(model, "MatMul", "FusedMatMul"):
        weight = node.inputs[1]
        matrix = float_matrix(weight)
        if matrix is not None and weight is not None:
            found[str(weight.name)] = matrix.T if node.op_type == "MatMul" else matrix
    return found


def _read(kept: Path, model: ir.Model) -> dict[str, BlockQuantised] | None:
    """What is kept, if it is there and fits the graph's weights."""
    try:
        tensors = load_file(kept)
        found = {}
        for name, rows in _weights(model).items():
            data, scales = tensors[f"{name}.data"], tensors[f"{name}.scales"]
            found[name] = BlockQuantised(4, block_size("int4", rows.shape[1]), rows.shape[1], data, scales)
    except (OSError, KeyError, ValueError, SafetensorError, EdgeAdaptError):
        return None
    return found
