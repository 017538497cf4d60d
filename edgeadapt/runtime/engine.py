"""An opened bundle of a decoder: one base session for everything, adapters and tasks switched beside it.

engine = Engine.open(Path("bundle"), threads=2)
engine.task("bbc_topics")                      another task id: nothing is loaded
engine.use("himalaya")                         another small file: the base session stays
engine.classify("Shares fell by a tenth.")     -> Classification(label, probabilities)
engine.generate(ids, sampling)                 -> token ids as they come
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnxruntime as ort

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.runtime import session
from edgeadapt.runtime.adapted import Adapted
from edgeadapt.runtime.adapters import Feeds, Tokenwise
from edgeadapt.runtime.classify import Classification, classify
from edgeadapt.runtime.decoder import Decoder
from edgeadapt.runtime.generate import Sampling, generate


class Engine(Adapted):
    """A decoder; use `Engine.open`, or `opening.open_bundle` where the bundle may hold an encoder."""

    kind = "decoder"

    def __init__(self, bundle: Bundle, base: ort.InferenceSession, *, threads: int, ops: session.Ops) -> None:
        super().__init__(bundle, base, threads=threads, ops=ops)
        self.decoder = Decoder(
            base, adapter_inputs=self.adapter_inputs, context_length=bundle.manifest.backbone.context_length
        )

    @property
    def vocabulary_size(self) -> int:
        return self.decoder.vocabulary_size

    def respond(self, ids: Sequence[int], feeds: Feeds | None = None) -> np.ndarray:
        """The logits after the prompt, [V] float32."""
        self.decoder.feed(self.inputs(ids) if feeds is None else feeds)
        return self.decoder.prefill(ids).copy()

    def adapt(self, ids: Sequence[int]) -> None:
        """Bind the adapter's inputs for a prompt; zeros if none is in use."""
        adapter = self._adapter
        self.decoder.feed(self.inputs(ids), adapter.appended if isinstance(adapter, Tokenwise) else None)

    def prefill(self, ids: Sequence[int], room: int = 0) -> np.ndarray:
        """Adapt to a prompt and run it. Returns the logits after it, [V] float32, valid until the next call."""
        if not len(ids):
            raise EdgeAdaptError("the prompt is empty; give some text")
        self.adapt(ids)
        return self.decoder.prefill(ids, room)

    def step(self, token: int) -> np.ndarray:
        """Append one token. Returns the logits after it, [V] float32, valid until the next call."""
        return self.decoder.step(token)

    def classify(self, text: str) -> Classification:
        """Label one text by the current task."""
        return classify(self, text)

    def generate(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """Token ids of an answer, as they are made; ends at a stop token, which is not given."""
        return generate(self, ids, sampling, stop=self.codec.eos_ids)
