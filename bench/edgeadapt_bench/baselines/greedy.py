"""Greedy decoding in whatever engine: the two timed phases, given how the engine runs tokens.

Every engine does the same work: a prompt from its token ids to the token that follows, and one token after the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from edgeadapt_bench.times import Times


class GreedySubject(ABC):
    """A subject of edgeadapt_bench.serving. A subclass loads the model in its constructor, into `load`'s time."""

    ops = "foreign"
    vocabulary_size: int

    def __init__(self) -> None:
        self.load = Times()
        self._length = self._capacity = 0

    def reserve(self, tokens: int) -> None:  # noqa: B027 - most engines need not know
        """Make room for more tokens than before, and forget those that were known. Not timed: done once."""

    @abstractmethod
    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""

    @abstractmethod
    def append(self, ids: Sequence[int]) -> int:
        """Run tokens behind those known so far. Returns the likeliest next one."""

    @abstractmethod
    def logits(self) -> np.ndarray:
        """Behind the last token that was run, [V]. Never timed: for checking that all engines compute the same."""

    def prefill(self, ids: Sequence[int], room: int) -> Times:
        if self._capacity < len(ids) + room:
            self._capacity = len(ids) + room
            self.reserve(self._capacity)
        times = Times()
        with times.one():
            self.rewind(0)
            self.append(ids)
        self._length = len(ids)
        return times

    def decode(self, prompt: Sequence[int], count: int) -> Times:
        if self._length != len(prompt) or self._capacity <= len(prompt) + count:
            self.prefill(prompt, count + 1)
        self.rewind(len(prompt))
        token = self.append(prompt[-1:])
        times = Times()
        for _ in range(count):
            with times.one():
                token = self.append([token])
        return times
