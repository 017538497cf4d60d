"""One decoder session, its cache and its bindings: the whole loop that generation and classification share.

    prefill(ids)      logits after the last prompt token       [V] float32
    step(id)          logits after one more token              [V] float32
    continuations(..) log p(c_i | prompt, c_<i) of each choice c, the cache left where it was

The graph's input logits_from [1] int64 says from which position of a run on logits are wanted (default 0, last: -1).
A prompt asks for its last one alone, a choice for all of its own; each kind of run has a binding of its own, in which
that is said once.
A prompt goes through the graph in pieces of at most `chunk` tokens, so that the memory of a run does not grow with it.
Choices are scored one after the other from the same cache position. Scoring them as one batch is not open to us:
GroupQueryAttention on the CPU takes several new tokens behind a past for a batch of one only, and a batch would copy
the prompt's keys and values once per choice, while going back in the cache costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnxruntime as ort

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.runtime.adapters import dtype_of
from edgeadapt.runtime.kv_cache import PAST, KvCache, KvLayout

IDS, MASK, LOGITS, LOGITS_FROM = "input_ids", "attention_mask", "logits", "logits_from"
TOKENS = "sequence_length"  # the dimension of an adapter input that holds a row per token of a run
Appended = Callable[[Sequence[int]], Mapping[str, np.ndarray]]


class Decoder:
    """A decoder graph of the bundle format, batch 1.

    Args:
        session: the graph; inputs input_ids, attention_mask, past_key_values.*, logits_from and `adapter_inputs`.
        adapter_inputs: names of the further inputs; each is zero (no effect) until `feed` gives it a value.
        context_length: most tokens, prompt and answer together.
        chunk: most prompt tokens per run.
    """

    def __init__(
        self, session: ort.InferenceSession, *, adapter_inputs: Sequence[str], context_length: int, chunk: int = 64
    ) -> None:
        self._session = session
        inputs = session.get_inputs()
        self._layout = KvLayout.of(inputs)
        self.adapter_inputs = tuple(adapter_inputs)
        known = {IDS, MASK, LOGITS_FROM, *self.adapter_inputs}
        strange = sorted(set(other_inputs(session)) - known)
        missing = sorted(known - {item.name for item in (*inputs, *session.get_overridable_initializers())})
        if strange or missing:
            raise EdgeAdaptError(
                f"the graph's inputs differ from its manifest: unknown {strange}, missing {missing}; export it again"
            )
        vocabulary = next(item.shape[-1] for item in session.get_outputs() if item.name == LOGITS)
        if not isinstance(vocabulary, int):
            raise EdgeAdaptError("the graph does not say how large its vocabulary is; export it again")
        self.vocabulary_size = vocabulary
        self.context_length = context_length
        self.chunk = chunk
        self._zeros = {item.name: zero_of(item) for item in inputs if item.name in self.adapter_inputs}
        self._row_inputs = tuple(
            item.name for item in inputs if item.name in self.adapter_inputs and TOKENS in item.shape
        )
        self._mask = np.ones((1, context_length), dtype=np.int64)
        self._step_ids = np.zeros((1, 1), dtype=np.int64)
        self._row = np.zeros((1, 1, vocabulary), dtype=np.float32)
        self._rows = np.zeros((1, 0, vocabulary), dtype=np.float32)
        self._step, self._prompt, self._choice = self._bindings = [session.io_binding() for _ in range(3)]
        self._step.bind_input(IDS, "cpu", 0, np.int64, (1, 1), self._step_ids.ctypes.data)
        self._from = [ort.OrtValue.ortvalue_from_numpy(np.array([first])) for first in (0, -1, 0)]
        for binding, first in zip(self._bindings, self._from, strict=True):
            binding.bind_ortvalue_input(LOGITS_FROM, first)
        for binding in (self._step, self._prompt):
            binding.bind_output(LOGITS, "cpu", 0, np.float32, self._row.shape, self._row.ctypes.data)
        self._fed: dict[str, ort.OrtValue] = {}
        self._rows_bound: dict[str, np.ndarray] = {}
        self._cache = KvCache(self._layout, 0)
        self._last: np.ndarray | None = None
        self.feed({})

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self._cache.length

    def feed(self, values: Mapping[str, ort.OrtValue], appended: Appended | None = None) -> None:
        """Bind the adapter's inputs, until the next call. Those not given become zero.

        An input with a row per token is given for the prompt; `appended` makes the rows of tokens behind it.
        """
        unknown = sorted(set(values) - set(self.adapter_inputs))
        if unknown:
            raise EdgeAdaptError(f"the graph has no input {unknown[0]!r}; this adapter belongs to another graph")
        self._fed = {**self._zeros, **values}  # kept: a binding does not own what it is given
        self._appended = appended
        self._planned = {name: self._fed[name].numpy() for name in self._row_inputs}
        for binding in self._bindings:
            for name, value in self._fed.items():
                if name not in self._planned:
                    binding.bind_ortvalue_input(name, value)

    def prefill(self, ids: Sequence[int], room: int = 0) -> np.ndarray:
        """Start anew with a prompt, and keep room for `room` more tokens.

        Returns:
            Logits after its last token, [V] float32; valid until the next call.
        """
        tokens = self._checked(ids)
        needed = len(tokens) + room
        if needed > self.context_length:
            raise EdgeAdaptError(
                f"the prompt has {len(tokens)} tokens, and {room} more are asked for; the model takes "
                f"{self.context_length} altogether. Shorten the text or lower --max-new-tokens"
            )
        if needed > self._cache.capacity:
            self._cache = KvCache(self._layout, needed)
            for binding in self._bindings:
                self._cache.bind(binding)
        self._cache.truncate(0)
        for start in range(0, len(tokens), self.chunk):
            self._append(self._prompt, tokens[start : start + self.chunk])
        self._last = self._row[0, 0].copy()
        return self._last

    def step(self, token: int) -> np.ndarray:
        """Append one token. Returns the logits after it, [V] float32; valid until the next call."""
        self._cache.check(1)
        self._step_ids[0, 0] = token
        self._execute(self._step, self._step_ids[0])
        self._last = None
        row: np.ndarray = self._row[0, 0]
        return row

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens. Free: later tokens are written over them."""
        self._cache.truncate(length)
        self._last = None

    def continuations(self, choices: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Token log-probabilities of each choice, as it follows the prompt just given to `prefill`.

        The last token of a choice is never run: its probability comes from the logits before it. So a choice of one
        token costs nothing, and choices that differ in their last token alone share one run.

        Returns:
            One array per choice, (tokens of the choice,) float64.
        """
        if self._last is None:
            raise EdgeAdaptError("score choices directly after prefill")
        prompt = self._cache.length
        first = log_softmax(self._last)
        rows: dict[tuple[int, ...], np.ndarray] = {}
        scored = []
        for choice in choices:
            tokens = self._checked(choice)
            run = tuple(int(token) for token in tokens[:-1])
            if run and run not in rows:
                rows[run] = log_softmax(self._run(tokens[:-1]))
                self._cache.truncate(prompt)
            later = rows[run] if run else np.empty((0, self.vocabulary_size))
            picked = [first[tokens[0]], *(row[token] for row, token in zip(later, tokens[1:], strict=True))]
            scored.append(np.array(picked))
        return scored

    def _run(self, tokens: np.ndarray) -> np.ndarray:
        """Append tokens [T] int64; returns the logits of each [T, V], valid until the next call."""
        count = len(tokens)
        if self._rows.shape[1] < count:
            self._rows = np.empty((1, max(count, 8), self.vocabulary_size), dtype=np.float32)
        shape = (1, count, self.vocabulary_size)
        self._choice.bind_output(LOGITS, "cpu", 0, np.float32, shape, self._rows.ctypes.data)
        self._append(self._choice, tokens)
        return self._rows[0, :count]

    def _append(self, binding: ort.IOBinding, tokens: np.ndarray) -> None:
        self._cache.check(len(tokens))
        binding.bind_input(IDS, "cpu", 0, np.int64, (1, len(tokens)), tokens.ctypes.data)
        self._execute(binding, tokens)

    def _execute(self, binding: ort.IOBinding, tokens: np.ndarray) -> None:
        """Run new tokens, already bound, behind those in the cache."""
        count = len(tokens)
        if self._row_inputs:
            self._bind_rows(binding, tokens)
        shape = (1, self._cache.length + count)
        binding.bind_input(MASK, "cpu", 0, np.int64, shape, self._mask.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # the runtime raises classes of its own
            raise EdgeAdaptError(f"the model failed while running: {' '.join(str(error).split())}") from None
        self._cache.advance(count)

    def _bind_rows(self, binding: ort.IOBinding, tokens: np.ndarray) -> None:
        """The rows of these tokens: the prompt's as they were fed, others made now, zeros where nothing was fed."""
        start, end = self._cache.length, self._cache.length + len(tokens)
        within = all(rows.shape[1] >= end for rows in self._planned.values())
        made = self._appended(tokens.tolist()) if self._appended is not None and not within else self._planned
        for name in self._row_inputs:
            rows = made[name][:, start:end] if made is self._planned else made[name]
            if rows.shape[1] != len(tokens):
                rows = np.zeros((1, len(tokens), *rows.shape[2:]), rows.dtype)
            self._rows_bound[name] = rows  # kept: a binding does not own what it is given
            binding.bind_input(name, "cpu", 0, rows.dtype, rows.shape, rows.ctypes.data)

    def _checked(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        tokens = np.ascontiguousarray(ids, dtype=np.int64)
        if tokens.ndim != 1 or not len(tokens):
            raise EdgeAdaptError("there are no tokens to run: the text is empty")
        if tokens.min() < 0 or tokens.max() >= self.vocabulary_size:
            raise EdgeAdaptError(f"token {tokens.max()} is outside the model's vocabulary of {self.vocabulary_size}")
        return tokens


def other_inputs(session: ort.InferenceSession) -> dict[str, ort.NodeArg]:
    """The graph's inputs beside tokens, mask, cache and the choice of logits: those that an adapter feeds."""
    return {
        item.name: item
        for item in session.get_inputs()
        if item.name not in (IDS, MASK, LOGITS_FROM) and not item.name.startswith(PAST)
    }


def zero_of(item: ort.NodeArg, rows: int = 1) -> ort.OrtValue:
    """The value of an adapter input that changes nothing: zeros, with `rows` for every dimension left open."""
    shape = [size if isinstance(size, int) else rows for size in item.shape]
    return ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=dtype_of(item.type)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log p over the last axis: [..., V] float32 -> [..., V] float64."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values
