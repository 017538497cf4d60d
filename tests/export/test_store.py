"""The weights' file: equal bytes once, aligned, and readable by onnxruntime from several graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeadapt_export.passes.common import add_initializer
from edgeadapt_export.store import ALIGNMENT, INLINE, WeightStore


def test_equal_bytes_are_stored_once_whatever_their_shape(tmp_path: Path) -> None:
    data = np.arange(4096, dtype=np.uint8).reshape(64, 2, 32)
    with WeightStore(tmp_path / "w") as store:
        first = store.add(ir.Tensor(data))
        other = store.add(ir.Tensor(np.ones(999, np.float32)))
        view = store.add(ir.Tensor(data.reshape(64, 64).copy()))
        last = store.add(ir.Tensor(data[::-1].copy()))
    assert view == first
    assert len({first, other, last}) == 3
    assert all(offset % ALIGNMENT == 0 for offset in (first, other, last))
    assert (tmp_path / "w").stat().st_size == store.size
    assert (tmp_path / "w").read_bytes()[last : last + 4096] == data[::-1].tobytes()


def test_small_tensors_stay_in_the_graph(tmp_path: Path) -> None:
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 21}, name="g"), ir_version=10)
    add_initializer(model, "small", np.zeros(INLINE // 4 - 1, np.float32))
    add_initializer(model, "large", np.zeros(INLINE // 4, np.float32))
    with WeightStore(tmp_path / "g.onnx.data") as store:
        store.save(model, tmp_path / "g.onnx")
    kept = {name: value.const_value for name, value in ir.load(tmp_path / "g.onnx").graph.initializers.items()}
    assert isinstance(kept["large"], ir.ExternalTensor)
    assert not isinstance(kept["small"], ir.ExternalTensor)
    assert store.size == INLINE
