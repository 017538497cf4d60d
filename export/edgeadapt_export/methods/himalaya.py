"""HIMALAYA on the device: a direction graph of its own, and the updates in the base graph.

    direction.onnx   pool, task -> what is read and written for this prompt          (methods/himalaya_graph.py)
    base graph       residual: h_l + u_l (r^T h_l) at block outputs                  (passes/graft_residual.py; of an
                               encoder passes/graft_post_norm.py)
                     square:   W x + u_l (r^T x) at q_proj and o_proj                (passes/graft_square.py)
                     terms:    h_l + (h_l A) u_l at block outputs, rank three        (passes/graft_terms.py)

    state.safetensors  what ships but takes no part in a forward pass: coefficient statistics and the split tree, with
                       which learning can go on from the deployed adapter; the two files hold every stored tensor

The gains already hold s / sqrt(d). Every direction depends on the prompt, so there is no static merge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.bundle import FactorPrecision
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import OPS
from edgeadapt.ops.himalaya_tables import Tables
from edgeadapt.tensors import serialise
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.methods import torch_sites
from edgeadapt_export.methods.contract import Deployed, StoredAdapter
from edgeadapt_export.methods.himalaya_graph import TERMS, WRITTEN, direction_graph
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.direction_inputs import direction_names, term_names
from edgeadapt_export.passes.graft_post_norm import GraftPostNorm
from edgeadapt_export.passes.graft_residual import GraftResidual
from edgeadapt_export.passes.graft_square import GraftSquare
from edgeadapt_export.passes.graft_terms import GraftTerms
from edgeadapt_export.store import write_model

GRAPH, STATE = "direction.onnx", "state.safetensors"
_TABLES = tuple(Tables.__dataclass_fields__)


class Himalaya:
    """See the module's docstring."""

    factors: tuple[FactorPrecision, ...] = ("fp32",)

    def graft(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        kind, layers, modules = _sites(adapter)
        if _tables(adapter).width != geometry.hidden_size:
            raise EdgeAdaptError(
                f"the adapter is {_tables(adapter).width} wide, the backbone {geometry.hidden_size}; "
                "export it with the backbone it was trained on"
            )
        graft: ir.passes.InPlacePass
        if kind == "square":
            graft = GraftSquare(geometry, layers, modules)
        elif _terms(adapter):
            graft = GraftTerms(geometry, layers)
        else:
            graft = (GraftPostNorm if geometry.kind == "encoder" else GraftResidual)(geometry, layers)
        apply(model, graft)

    def merge(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        raise EdgeAdaptError(
            "--merge: HIMALAYA's direction depends on the prompt, so it has no static merge; leave it out"
        )

    def write(self, folder: Path, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> Deployed:
        _, layers, _ = _sites(adapter)
        terms = _terms(adapter)
        write_model(direction_graph(adapter.tensors, len(layers), terms), folder / GRAPH)
        rest = {n: array for n, array in adapter.tensors.items() if n not in (*_TABLES, *WRITTEN, "gains")}
        (folder / STATE).write_bytes(serialise(rest))
        return Deployed("graph", GRAPH, (term_names if terms else direction_names)(len(layers)))

    @contextlib.contextmanager
    def attach(self, torch_model: Any, adapter: StoredAdapter, pool: NDArray[np.float32], task: int) -> Iterator[None]:
        """V and W from the NumPy references, then y + ((x V^T) g) W at each site by a hook."""
        import torch

        kind, layers, modules = _sites(adapter)
        at, tables = np.array([task], np.int64), _tables(adapter)
        op = OPS["HimalayaTerms" if _terms(adapter) else "HimalayaDirection"]
        V, W = (
            torch.from_numpy(np.concatenate(_rows(op.reference(pool, at, *of.as_dict().values()))))
            for of in (tables, tables.writing(adapter.tensors))
        )
        gains = torch.from_numpy(_gains(adapter)[task].astype(np.float32)).view(-1, len(V)).expand(len(layers), -1)

        with contextlib.ExitStack() as hooks:
            for layer, gain in zip(layers, gains, strict=True):
                block = torch_sites.block(torch_model, layer)
                A, B = V.T, gain[:, None] * W
                if kind == "residual":
                    hooks.enter_context(torch_sites.on_output(block, torch_sites.affine_on_output(A, B, 0)))
                for name in modules:
                    module = torch_sites.linear(block, name)
                    hooks.enter_context(torch_sites.on_output(module, torch_sites.low_rank(A, B)))
            yield


def _tables(adapter: StoredAdapter) -> Tables:
    missing = [name for name in (*_TABLES, "gains") if name not in adapter.tensors]
    if missing:
        raise EdgeAdaptError(
            f"the adapter has no tensor {missing[0]!r}, so it is not a HIMALAYA adapter; train it again"
        )
    return Tables(**{name: adapter.tensors[name] for name in _TABLES})


def _sites(adapter: StoredAdapter) -> tuple[str, tuple[int, ...], tuple[str, ...]]:
    """(kind, layers, modules) of the run's `sites`, checked against the gains [n_rows, len(layers)]."""
    sites = adapter.manifest.sites
    kind = sites.get("kind")
    if kind not in ("residual", "square"):
        raise EdgeAdaptError(f"HIMALAYA's sites are residual or square, not {kind!r}")
    count = adapter.manifest.backbone.num_layers
    layers = tuple(int(layer) for layer in sites.get("layers", range(count)))
    modules = tuple(str(name) for name in sites.get("modules", ("q_proj", "o_proj"))) if kind == "square" else ()
    gains, rows = _gains(adapter), len(_tables(adapter).rows)
    blocks = 1 if sites.get("gain") == "shared" else len(layers)
    wanted = (rows, blocks, TERMS) if _terms(adapter) else (rows, blocks)
    if gains.dtype != np.float16 or gains.shape != wanted:
        raise EdgeAdaptError(
            f"gains are {gains.dtype} {gains.shape}; {rows} rows and {blocks} sites need float16 {wanted}"
        )
    if rows < len(adapter.manifest.tasks):
        raise EdgeAdaptError(f"{len(adapter.manifest.tasks)} tasks, but rows for {rows} only; train the adapter again")
    if len(set(layers)) < len(layers) or not all(0 <= layer < count for layer in layers):
        raise EdgeAdaptError(f"the sites name layers outside 0..{count - 1}, or one of them twice")
    return str(kind), layers, modules


def _rows(found: NDArray[np.float32] | tuple[NDArray[np.float32], ...]) -> tuple[NDArray[np.float32], ...]:
    """An op's output or outputs [1, d], one row each."""
    return found if isinstance(found, tuple) else (found,)


def _terms(adapter: StoredAdapter) -> bool:
    return bool(adapter.manifest.sites.get("update") == "terms")


def _gains(adapter: StoredAdapter) -> NDArray[Any]:
    return adapter.tensors["gains"] if "gains" in adapter.tensors else np.empty((0, 0))
