"""An opened bundle of an encoder: hidden states, and what the tasks' heads make of them.

engine = EncoderEngine.open(Path("bundle"), threads=2)
engine.task("bbc_topics")                                  another task id and another small matrix: nothing is loaded
engine.classify("Shares fell by a tenth.")                 -> Classification(label, probabilities)
engine.tag("Ada lives in Turin")                           -> Tags(words, labels, probabilities)
engine.embed([ids, ids])                                   -> mean of each row's hidden states [B, d] float32

One run takes all rows of a batch, padded on the right; what stands at the padding has no effect on a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from safetensors.numpy import load_file

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.heads import Heads, probabilities
from edgeadapt.runtime import session
from edgeadapt.runtime.adapted import Adapted
from edgeadapt.runtime.adapters import Feeds
from edgeadapt.runtime.classify import Classification
from edgeadapt.runtime.decoder import zero_of
from edgeadapt.tasks import OUTSIDE, TaskSpec, encode_sequence, encode_words

IDS, MASK, TYPES, HIDDEN = "input_ids", "attention_mask", "token_type_ids", "last_hidden_state"


@dataclass(frozen=True)
class Tags:
    """A label for every word, and how probable it is; None for words beyond what the task reads."""

    task: str
    words: tuple[str, ...]
    labels: tuple[str, ...]
    probabilities: tuple[float | None, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "words": list(self.words),
            "labels": list(self.labels),
            "probabilities": list(self.probabilities),
        }


class EncoderEngine(Adapted):
    """Use `EncoderEngine.open`, or `opening.open_bundle` where the bundle may hold a decoder."""

    kind = "encoder"

    def __init__(self, bundle: Bundle, base: ort.InferenceSession, *, threads: int, ops: session.Ops) -> None:
        super().__init__(bundle, base, threads=threads, ops=ops)
        self._session = base
        inputs = {item.name: item for item in base.get_inputs()}
        strange = sorted(set(inputs) - {IDS, MASK, TYPES, *self.adapter_inputs})
        if strange or IDS not in inputs or MASK not in inputs:
            raise EdgeAdaptError(f"{bundle.root}: its graph is not one of an encoder (inputs {sorted(inputs)[:4]})")
        self._own = {name: inputs[name] for name in self.adapter_inputs}
        self._types = TYPES in inputs
        self._heads: dict[str, Heads] = {}

    @property
    def vocabulary_size(self) -> int:
        return self.bundle.manifest.backbone.vocab_size

    def hidden(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The last hidden states [S_i, d] float32 of each row of token ids, with the adapter in use."""
        tokens = self._padded(rows)
        states = self._run(*tokens, {} if self._adapter is None else self._adapter.feeds_of(rows, self._task))
        return [states[row, : len(ids)] for row, ids in enumerate(rows)]

    def embed(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """The mean of each row's hidden states, [B, d] float32."""
        return np.stack([states.mean(axis=0) for states in self.hidden(rows)])

    def respond(self, ids: Sequence[int], feeds: Feeds | None = None) -> np.ndarray:
        """All hidden states of one row, [S * d] float32."""
        tokens = self._padded([ids])
        return np.asarray(self._run(*tokens, self.inputs(ids) if feeds is None else feeds)[0].ravel())

    def classify(self, text: str) -> Classification:
        """Label one text by the current task."""
        task, number, heads = self._asked("classification", text)
        ids = encode_sequence(task, text, self.codec.encode, self.codec.frame)
        logits = heads.logits(number, heads.pooled(self.hidden([ids])[0]))
        shares = probabilities(logits[None])[0]
        return Classification(
            task=task.name,
            label=task.choices[int(logits.argmax())],
            probabilities={choice: float(share) for choice, share in zip(task.choices, shares, strict=True)},
        )

    def tag(self, text: str) -> Tags:
        """Label every word of a text, split at white space, by the current task."""
        task, number, heads = self._asked("tokens", text)
        words, codec = text.split(), self.codec
        ids, starts = encode_words(task, words, codec.encode, codec.frame, codec.unknown)
        logits = heads.logits(number, self.hidden([ids])[0][starts])
        best, shares = logits.argmax(axis=1), probabilities(logits)
        cut = len(words) - len(starts)
        return Tags(
            task=task.name,
            words=tuple(words),
            labels=(*(task.choices[place] for place in best), *[OUTSIDE] * cut),
            probabilities=(*(float(row[place]) for row, place in zip(shares, best, strict=True)), *[None] * cut),
        )

    def _asked(self, kind: str, text: str) -> tuple[TaskSpec, int, Heads]:
        """The current task, its number, and its adapter's heads, which are read once."""
        task = self.current_task
        if task is None or self._adapter is None or self._task is None:
            raise EdgeAdaptError("choose a task before asking about a text")
        if task.kind != kind:
            raise EdgeAdaptError(f"task {task.name} is of kind {task.kind}, not {kind}")
        if not text.strip():
            raise EdgeAdaptError(f"task {task.name}: the text is empty")
        name = self._adapter.name
        if name not in self._heads:
            entry = self.bundle.adapter(name)
            assert entry.heads is not None
            assert entry.pooling is not None
            tensors = load_file(self.bundle.path(entry.heads))
            width = self.bundle.manifest.backbone.hidden_size
            self._heads[name] = Heads.of(tensors, entry.tasks, entry.pooling, width)
        return task, self._task, self._heads[name]

    def _run(self, ids: np.ndarray, mask: np.ndarray, given: Mapping[str, ort.OrtValue]) -> np.ndarray:
        """last_hidden_state [B, S, d]; adapter inputs that are not given are zero."""
        tokens = {IDS: ids, MASK: mask, **({TYPES: np.zeros_like(ids)} if self._types else {})}
        feeds = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in tokens.items()}
        zeros = {name: zero_of(item, len(ids)) for name, item in self._own.items() if name not in given}
        try:
            found = self._session.run_with_ort_values([HIDDEN], {**feeds, **zeros, **given})
        except Exception as error:  # the runtime raises classes of its own
            raise EdgeAdaptError(f"the model failed while running: {' '.join(str(error).split())}") from None
        return np.asarray(found[0].numpy())

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and their mask [B, S] int64."""
        longest, context = max(map(len, rows), default=0), self.bundle.manifest.backbone.context_length
        if not rows or not min(map(len, rows)):
            raise EdgeAdaptError("there are no tokens to run: the text is empty")
        if longest > context:
            raise EdgeAdaptError(f"the text has {longest} tokens; the model takes {context}. Shorten the text")
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        if ids.min() < 0 or ids.max() >= self.vocabulary_size:
            raise EdgeAdaptError(f"token {ids.max()} is outside the model's vocabulary of {self.vocabulary_size}")
        return ids, mask
