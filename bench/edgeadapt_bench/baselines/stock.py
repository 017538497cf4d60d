"""stock: the bundle's bare graph on ONNX Runtime as it is installed: no library of ours, its default settings.

What a user has who loads bare.onnx with onnxruntime alone: function bodies, every graph optimiser, memory patterns and
spinning threads. The loop around it is edgeadapt's own (decoder.py: bound buffers, no copies of the cache), which is
more than such a user would write.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.bundle import Bundle
from edgeadapt_bench.baselines.competitor import Competitor
from edgeadapt_bench.baselines.greedy import GreedySubject
from edgeadapt_bench.baselines.variant import BARE, Variant

NAME = "stock"
PACKAGES = ("onnxruntime",)


def variants(bundle: Bundle) -> list[Variant]:
    note = "bare.onnx on onnxruntime without our library, with its default session options"
    return [Variant(NAME, bundle.root, BARE, ops="off", note=note, worker=__name__)]


COMPETITOR = Competitor(NAME, "bench", PACKAGES, variants)


class Subject(GreedySubject):
    ops = "bodies"

    def __init__(self, variant: dict[str, Any], threads: int) -> None:
        import onnxruntime as ort

        from edgeadapt.runtime.decoder import Decoder

        super().__init__()
        bundle = Bundle.open(Path(variant["bundle"]))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        with self.load.one():
            session = ort.InferenceSession(str(bundle.graph(variant["graph"])), options, ["CPUExecutionProvider"])
            context = bundle.manifest.backbone.context_length
            self._decoder = Decoder(session, adapter_inputs=(), context_length=context)
        self.vocabulary_size = self._decoder.vocabulary_size

    def rewind(self, length: int) -> None:
        self._decoder.rewind(length)

    def append(self, ids: Sequence[int]) -> int:
        if self._decoder.length:
            self._logits = self._decoder.step(ids[0])
        else:
            self._logits = self._decoder.prefill(ids, self._capacity - len(ids))
        return int(self._logits.argmax())

    def logits(self) -> np.ndarray:
        return self._logits
