"""An opened bundle: one base session for everything, adapters and tasks switched beside it.

engine = Engine.open(Path("bundle"), threads=2)
engine.task("bbc_topics")                      another task id: nothing is loaded
engine.use("himalaya")                         another small file: the base session stays
engine.classify("Shares fell by a tenth.")     -> Classification(label, probabilities)
engine.generate(ids, sampling)                 -> token ids as they come
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edgeadapt.bundle import Bundle, version_of
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.runtime import adapters, session
from edgeadapt.runtime.adapters import Adapter
from edgeadapt.runtime.classify import Classification, classify
from edgeadapt.runtime.decoder import Decoder
from edgeadapt.runtime.generate import Sampling, generate
from edgeadapt.tasks import TaskSpec
from edgeadapt.text import TextCodec


class Engine:
    """Use `Engine.open`. Without an adapter in use, the base graph's adapter inputs are zero: the bare backbone."""

    def __init__(self, bundle: Bundle, base: ort.InferenceSession, *, threads: int, ops: session.Ops) -> None:
        self.bundle = bundle
        self._threads = threads
        self._ops = ops
        self._inputs = {item.name: item.type for item in base.get_inputs()}
        wanted = {name for entry in bundle.manifest.adapters for name in entry.inputs}
        self.decoder = Decoder(
            base,
            adapter_inputs=[name for name in self._inputs if name in wanted],
            context_length=bundle.manifest.backbone.context_length,
        )
        self._codec: TextCodec | None = None
        self._embed: ort.InferenceSession | None = None
        self._loaded: dict[str, Adapter] = {}
        self._adapter: Adapter | None = None
        self._task: int | None = None

    @classmethod
    def open(cls, path: Path, *, graph: str = "model", threads: int = 1, ops: session.Ops = "auto") -> Engine:
        """Verify a bundle and open one of its decoder graphs.

        Args:
            graph: "model" takes the bundle's adapters; "bare" has no place for one.
            threads: threads that one operation may use.
            ops: "auto" uses our kernels if they are installed; "off" the function bodies.
        """
        bundle = Bundle.open(path)
        needed = bundle.manifest.minimum_onnxruntime
        if version_of(needed) > version_of(ort.__version__.split("+")[0]):
            raise EdgeAdaptError(
                f"{path}: needs onnxruntime {needed} or newer, this is {ort.__version__}; "
                f"pip install 'onnxruntime>={needed}'"
            )
        base = session.create(bundle.graph(graph), threads=threads, ops=ops)
        return cls(bundle, base, threads=threads, ops=ops)

    @property
    def codec(self) -> TextCodec:
        """The bundle's tokenizer, read when first asked for."""
        if self._codec is None:
            self._codec = TextCodec.from_folder(self.bundle.root)
        return self._codec

    @property
    def adapter_names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.bundle.manifest.adapters)

    @property
    def current_task(self) -> TaskSpec | None:
        return None if self._adapter is None or self._task is None else self._adapter.tasks[self._task]

    def use(self, name: str | None) -> None:
        """Switch to an adapter of the bundle, or to none. It is loaded at its first use; no task is chosen yet."""
        self._task = None
        if name is None:
            self._adapter = None
            return
        if name not in self._loaded:
            self.load(name)
        self._adapter = self._loaded[name]

    def load(self, name: str) -> None:
        """Read an adapter's file, anew if it was loaded before, without switching to it."""
        entry = self.bundle.adapter(name)
        missing = [item for item in entry.inputs if item not in self._inputs]
        if missing:
            raise EdgeAdaptError(
                f"{self.bundle.root}: the open graph has no place for adapter {name!r} (no input {missing[0]!r})"
            )
        self._loaded[name] = adapters.load(entry, self.bundle, self._inputs, self.pool, self._small_session)

    def task(self, name: str) -> TaskSpec:
        """Ask as this task from now on: of the adapter in use, else of the first adapter that knows it."""
        entries = self.bundle.manifest.adapters
        if self._adapter is None:
            owner = next((item for item in entries if any(task.name == name for task in item.tasks)), None)
            if owner is not None:
                self.use(owner.name)
        known = self._adapter.tasks if self._adapter else tuple(task for item in entries for task in item.tasks)
        number = next((index for index, task in enumerate(known) if task.name == name), None)
        if self._adapter is None or number is None:
            raise EdgeAdaptError(
                f"{self.bundle.root}: no task {name!r}; known are: {', '.join(task.name for task in known) or 'none'}"
            )
        self._task = number
        return self._adapter.tasks[number]

    def inputs(self, ids: Sequence[int]) -> adapters.Feeds:
        """The adapter's inputs for a prompt, by name; none if no adapter is in use."""
        return {} if self._adapter is None else self._adapter.feeds(ids, self._task)

    def adapt(self, ids: Sequence[int]) -> None:
        """Bind the adapter's inputs for a prompt; zeros if none is in use."""
        self.decoder.feed(self.inputs(ids))

    def prefill(self, ids: Sequence[int], room: int = 0) -> np.ndarray:
        """Adapt to a prompt and run it. Returns the logits after it, [V] float32, valid until the next call."""
        if not len(ids):
            raise EdgeAdaptError("the prompt is empty; give some text")
        self.adapt(ids)
        return self.decoder.prefill(ids, room)

    def step(self, token: int) -> np.ndarray:
        """Append one token. Returns the logits after it, [V] float32, valid until the next call."""
        return self.decoder.step(token)

    def pool(self, ids: Sequence[int]) -> np.ndarray:
        """Mean of the prompt's embedding rows, [1, d] float32. Its graph reads the base graph's own weight file."""
        if self._embed is None:
            self._embed = self._small_session(self.bundle.graph("embed"))
        tokens = np.asarray(ids, dtype=np.int64)[None]
        pooled = self._embed.run(None, {"input_ids": tokens, "attention_mask": np.ones_like(tokens)})[0]
        return np.asarray(pooled, dtype=np.float32)

    def classify(self, text: str) -> Classification:
        """Label one text by the current task."""
        return classify(self, text)

    def generate(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """Token ids of an answer, as they are made; ends at a stop token, which is not given."""
        return generate(self, ids, sampling, stop=self.codec.eos_ids)

    def _small_session(self, path: Path) -> ort.InferenceSession:
        return session.create(path, threads=self._threads, ops=self._ops)
