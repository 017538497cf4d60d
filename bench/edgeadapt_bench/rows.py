"""A decoder graph with several rows in lock-step: what runtime.decoder.Decoder is for one.

    prefill(ids [B, T])     logits after the last token of every row      [B, V] float32
    step(tokens [B])        logits after one more token of every row      [B, V] float32

Every row has as many tokens as the others. An adapter's inputs whose first dimension the graph leaves open are
repeated for every row.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from edgeadapt.runtime.decoder import IDS, LOGITS, LOGITS_FROM, MASK
from edgeadapt.runtime.kv_cache import KvCache, KvLayout


class RowsDecoder:
    """`feeds`: values of all inputs beside tokens, mask, cache and the choice of logits."""

    def __init__(self, session: ort.InferenceSession, rows: int, feeds: Mapping[str, ort.OrtValue]) -> None:
        self._session = session
        self._rows = rows
        self._feeds = dict(feeds)  # kept: a binding does not own what it is given
        self._layout = KvLayout.of(session.get_inputs())
        self._cache = KvCache(self._layout, 0, rows)
        self._last = ort.OrtValue.ortvalue_from_numpy(np.array([-1]))
        self.vocabulary_size = int(next(item.shape[-1] for item in session.get_outputs() if item.name == LOGITS))
        self._logits = np.zeros((rows, 1, self.vocabulary_size), np.float32)

    def prefill(self, ids: np.ndarray, room: int) -> np.ndarray:
        """Start anew with prompts [B, T] int64, and keep room for `room` more tokens of each."""
        if ids.shape[1] + room > self._cache.capacity:
            self._cache = KvCache(self._layout, ids.shape[1] + room, self._rows)
        self._cache.truncate(0)
        return self._run(ids)

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Append one token to every row, [B] int64. The result is valid until the next call."""
        return self._run(tokens[:, None])

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens of every row."""
        self._cache.truncate(length)

    def _run(self, ids: np.ndarray) -> np.ndarray:
        length = self._cache.advance(ids.shape[1])
        binding = self._session.io_binding()
        binding.bind_cpu_input(IDS, np.ascontiguousarray(ids, dtype=np.int64))
        binding.bind_cpu_input(MASK, np.ones((self._rows, length), np.int64))
        binding.bind_ortvalue_input(LOGITS_FROM, self._last)
        for name, value in self._feeds.items():
            binding.bind_ortvalue_input(name, value)
        self._cache.bind(binding)
        shape = self._logits.shape
        binding.bind_output(LOGITS, "cpu", 0, np.float32, shape, self._logits.ctypes.data)
        self._session.run_with_iobinding(binding)
        return np.asarray(self._logits[:, 0])
