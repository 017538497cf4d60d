"""What both engines share: an opened bundle with its adapters and tasks, switched beside one base session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import onnxruntime as ort

from edgeadapt.bundle import Bundle, version_of
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.runtime import adapters, session
from edgeadapt.runtime.adapters import Adapter, Feeds
from edgeadapt.tasks import TaskSpec
from edgeadapt.text import TextCodec

Kind = Literal["decoder", "encoder"]


class Adapted(ABC):
    """Without an adapter in use, the base graph's adapter inputs are zero: the bare backbone."""

    kind: ClassVar[Kind]

    def __init__(self, bundle: Bundle, base: ort.InferenceSession, *, threads: int, ops: session.Ops) -> None:
        self.bundle = bundle
        self._threads = threads
        self._ops = ops
        self._inputs = {item.name: item.type for item in base.get_inputs()}
        wanted = {name for entry in bundle.manifest.adapters for name in entry.inputs}
        self.adapter_inputs = tuple(name for name in self._inputs if name in wanted)
        self._codec: TextCodec | None = None
        self._embed: ort.InferenceSession | None = None
        self._loaded: dict[str, Adapter] = {}
        self._adapter: Adapter | None = None
        self._task: int | None = None

    @classmethod
    def open(cls, path: Path, *, graph: str = "model", threads: int = 1, ops: session.Ops = "auto") -> Self:
        """Verify a bundle and open one of its graphs.

        Args:
            graph: "model" takes the bundle's adapters; "bare" has no place for one.
            threads: threads that one operation may use.
            ops: "auto" uses our kernels if they are installed; "off" the function bodies.
        """
        return cls.on(opened(path, cls.kind), graph=graph, threads=threads, ops=ops)

    @classmethod
    def on(cls, bundle: Bundle, *, graph: str, threads: int, ops: session.Ops) -> Self:
        """`open`, of a bundle that is verified already."""
        return cls(bundle, session.create(bundle.graph(graph), threads=threads, ops=ops), threads=threads, ops=ops)

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
    def adapter(self) -> Adapter | None:
        """The adapter in use."""
        return self._adapter

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
        self._loaded[name] = adapters.load(
            entry,
            self.bundle,
            self._inputs,
            pool=self.pool,
            embeddings=self.embeddings,
            session=self._small_session,
        )

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

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """Token ids are below it."""

    @abstractmethod
    def respond(self, ids: Sequence[int], feeds: Feeds | None = None) -> np.ndarray:
        """All that the graph gives for a prompt, float32: with the adapter in use, or with these adapter inputs."""

    def pool(self, ids: Sequence[int]) -> np.ndarray:
        """Mean of the prompt's embedding rows, [1, d] float32. Its graph reads the base graph's own weight file."""
        return self._pooled(np.asarray(ids, dtype=np.int64)[None])

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        """The embedding row of each token, [T, d] float32: the mean of every one alone."""
        return self._pooled(np.asarray(ids, dtype=np.int64)[:, None])

    def _pooled(self, tokens: np.ndarray) -> np.ndarray:
        """Mean embedding of each row of tokens [B, T] int64: [B, d] float32."""
        if self._embed is None:
            self._embed = self._small_session(self.bundle.graph("embed"))
        pooled = self._embed.run(None, {"input_ids": tokens, "attention_mask": np.ones_like(tokens)})[0]
        return np.asarray(pooled, dtype=np.float32)

    def _small_session(self, path: Path) -> ort.InferenceSession:
        return session.create(path, threads=self._threads, ops=self._ops)


def opened(path: Path, kind: Kind | None = None) -> Bundle:
    """Verify a bundle, that this ONNX Runtime is new enough for it, and that its backbone is of this kind."""
    bundle = Bundle.open(path)
    needed = bundle.manifest.minimum_onnxruntime
    if version_of(needed) > version_of(ort.__version__.split("+")[0]):
        raise EdgeAdaptError(
            f"{path}: needs onnxruntime {needed} or newer, this is {ort.__version__}; "
            f"pip install 'onnxruntime>={needed}'"
        )
    found = bundle.manifest.backbone.kind
    if kind is not None and found != kind:
        raise EdgeAdaptError(f"{path}: a bundle of one {found}, where one {kind} is needed; give another bundle")
    return bundle
