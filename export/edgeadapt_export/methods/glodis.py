"""GloDiS on the device: one bank of vectors and, per sub-vector, two indices and a weight; expanded at loading.

v = w V[i_1] + (1 - w) V[i_2]      A^T [r, d_in]: rows of sub-vectors      B [r, d_out]: likewise, times the gain
tensors  bank float16 [64, b]; MODULE.A.index uint8 [L, r, d_in / b, 2], .weight float16 [L, r, d_in / b];
         MODULE.B.index [L, d_out / b, r, 2], .weight [L, d_out / b, r]; MODULE.gain float16 [L]
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt_export.methods.contract import StoredAdapter
from edgeadapt_export.methods.low_rank import Expanded, Stacks, sites, tensor
from edgeadapt_export.methods.own_graph import OwnGraph


class Glodis(Expanded):
    """See the module's docstring."""

    def stacks(self, adapter: StoredAdapter) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        bank = tensor(adapter, "bank").astype(np.float32)

        def pieces(name: str) -> NDArray[np.float32]:
            w = tensor(adapter, f"{name}.weight").astype(np.float32)[..., None]
            index = tensor(adapter, f"{name}.index")
            return np.asarray(w * bank[index[..., 0]] + (1 - w) * bank[index[..., 1]])

        made = {}
        for module in sites(adapter)[1]:
            gain = tensor(adapter, f"{module}.gain").astype(np.float32)
            A, B = pieces(f"{module}.A"), pieces(f"{module}.B").swapaxes(1, 2)
            made[module] = (A.reshape(*A.shape[:2], -1), gain[:, None, None] * B.reshape(*B.shape[:2], -1))
        return made

    def stack_nodes(self, graph: OwnGraph, adapter: StoredAdapter) -> Stacks:
        bank = graph.widened("bank", tensor(adapter, "bank"))
        one = graph.add("Constant", value_floats=[1.0])

        def pieces(name: str) -> ir.Value:
            w = graph.unsqueeze(graph.widened(f"{name}.weight", tensor(adapter, f"{name}.weight")), -1)
            both = graph.concat([w, graph.add("Sub", one, w)], axis=-1)
            codes = graph.stored(f"{name}.index", tensor(adapter, f"{name}.index"))
            vectors = graph.add("Gather", bank, graph.add("Cast", codes, to=ir.DataType.INT64), axis=0)
            weighed = graph.add("Mul", vectors, graph.unsqueeze(both, -1))
            return graph.add("ReduceSum", weighed, graph.ints([-2]), keepdims=0)

        made = {}
        rank = sites(adapter)[2]
        for module in sites(adapter)[1]:
            layers = len(tensor(adapter, f"{module}.gain"))
            down = graph.reshape(pieces(f"{module}.A"), [layers, rank, -1])
            turned = graph.add("Transpose", pieces(f"{module}.B"), perm=[0, 2, 1, 3])
            gain = graph.widened(f"{module}.gain", tensor(adapter, f"{module}.gain"))
            up = graph.add("Mul", graph.reshape(turned, [layers, rank, -1]), graph.reshape(gain, [layers, 1, 1]))
            made[module] = (down, up)
        return made
