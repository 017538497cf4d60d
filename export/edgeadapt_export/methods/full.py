"""Full fine-tuning on the device: merged into the weights, or nothing.

theta + delta in float32, before anything is quantised: linear maps through graph_map.py, norms and biases by the
names that the graph's initializers have from the model (`...layers.{l}.{path}`)
tensors  layers.{l}.{path} float16, in PyTorch's shapes: a linear map's is [d_out, d_in]
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.bundle import FactorPrecision
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.families import module_name
from edgeadapt_export.graph_map import Geometry
from edgeadapt_export.methods import torch_sites
from edgeadapt_export.methods.contract import Deployed, StoredAdapter
from edgeadapt_export.methods.low_rank import add_to_weight
from edgeadapt_export.passes.common import constant

_NAME = re.compile(r"layers\.(\d+)\.(.+)")
_REFUSAL = "full fine-tuning lives in the backbone's weights; export it with --merge"


class Full:
    """See the module's docstring."""

    factors: tuple[FactorPrecision, ...] = ("fp32",)

    def graft(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        raise EdgeAdaptError(_REFUSAL)

    def write(self, folder: Path, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> Deployed:
        raise EdgeAdaptError(_REFUSAL)

    def merge(self, model: ir.Model, geometry: Geometry, adapter: StoredAdapter) -> None:
        for layer, path, delta in _deltas(adapter):
            if delta.ndim == 2:
                add_to_weight(model, geometry, layer, module_name(path.removesuffix(".weight")), delta.T)
            else:
                _add_to_vector(model, layer, path, delta)

    @contextlib.contextmanager
    def attach(self, torch_model: Any, adapter: StoredAdapter, pool: NDArray[np.float32], task: int) -> Iterator[None]:
        """delta added to the parameters, and the parameters put back."""
        import torch

        before = []
        try:
            for layer, path, delta in _deltas(adapter):
                parameter = torch_sites.block(torch_model, layer).get_parameter(path)
                before.append((parameter, parameter.data))
                parameter.data = parameter.data + torch.from_numpy(delta)
            yield
        finally:
            for parameter, data in before:
                parameter.data = data


def _deltas(adapter: StoredAdapter) -> Iterator[tuple[int, str, NDArray[np.float32]]]:
    for name, array in adapter.tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise EdgeAdaptError(f"the adapter's tensor {name!r} is no parameter of a block; train it again")
        yield int(match[1]), match[2], array.astype(np.float32)


def _add_to_vector(model: ir.Model, layer: int, path: str, delta: NDArray[np.float32]) -> None:
    """A norm's weight or a bias, by the end of its name; EdgeAdaptError unless the graph has exactly one such."""
    ending = re.compile(rf"(?:.*\.)?layers?\.{layer}\.{re.escape(path)}")
    found = [value for name, value in model.graph.initializers.items() if ending.fullmatch(name)]
    old = constant(found[0]) if len(found) == 1 else None
    if old is None or tuple(old.shape) != delta.shape:
        raise EdgeAdaptError(
            f"layers.{layer}.{path}: the graph has no vector of that name to merge full fine-tuning into; "
            "this architecture's export does not keep it"
        )
    found[0].const_value = ir.Tensor(old.numpy().astype(np.float32) + delta, name=found[0].name)
