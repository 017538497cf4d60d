"""Keys and values of the tokens so far, in buffers that the graph writes in place.

    buffer[l, key|value]: [B, H, C, D] float32     B rows, H key-value heads, C capacity in tokens, D head size

Each buffer is bound as a past input and as the matching present output at once: GroupQueryAttention then appends the
new tokens behind the old ones, in place, and nothing is copied. How many tokens count is said by the attention mask's
length alone, so going back to an earlier length is free: the tokens beyond it are simply written over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from edgeadapt.errors import EdgeAdaptError

PAST, PRESENT = "past_key_values.", "present."
_ROUND = 64  # capacities grow in such steps, so that prompts of like length share a buffer


@dataclass(frozen=True)
class KvLayout:
    """What the graph wants of its cache: `slots` are "{layer}.key" and "{layer}.value"."""

    slots: tuple[str, ...]
    heads: int
    head_dim: int

    def __post_init__(self) -> None:
        if not self.slots or self.heads < 1 or self.head_dim < 1:
            raise EdgeAdaptError(f"a key-value cache of {len(self.slots)} slots, {self.heads} x {self.head_dim}: empty")

    @classmethod
    def of(cls, inputs: Sequence[ort.NodeArg]) -> KvLayout:
        """Read the layout off the graph's inputs: past_key_values.{l}.key|value [B, H, past, D] float32."""
        past = [item for item in inputs if item.name.startswith(PAST)]
        shapes = {(item.type, *item.shape[1::2]) for item in past}
        if len(shapes) != 1:
            raise EdgeAdaptError(
                f"the graph's {PAST}* inputs have {len(shapes)} different shapes; exactly one is known"
            )
        kind, heads, head_dim = shapes.pop()
        if kind != "tensor(float)" or not isinstance(heads, int) or not isinstance(head_dim, int):
            raise EdgeAdaptError(f"the graph's {PAST}* inputs are {kind} {heads} x {head_dim}; float32 is wanted")
        return cls(tuple(item.name.removeprefix(PAST) for item in past), heads, head_dim)

    def bytes_per_token(self, batch: int = 1) -> int:
        return len(self.slots) * batch * self.heads * self.head_dim * 4


def empty_past(session: ort.InferenceSession) -> dict[str, np.ndarray]:
    """The cache inputs of a graph that runs one row with nothing before it, without a KvCache."""
    return {
        item.name: np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32)
        for item in session.get_inputs()
        if item.name.startswith(PAST)
    }


class KvCache:
    """Buffers for `batch` rows and `capacity` tokens, of which the first `length` are in use.

    The memory comes from NumPy's zeroed allocation, which the system hands out page by page as it is first written: a
    large capacity costs nothing until it is used. ONNX Runtime reads and writes that memory; NumPy never does.
    """

    def __init__(self, layout: KvLayout, capacity: int, batch: int = 1) -> None:
        self.layout = layout
        self.batch = batch
        self.capacity = -(-capacity // _ROUND) * _ROUND
        self.length = 0
        shape = (batch, layout.heads, self.capacity, layout.head_dim)
        self._values = {
            slot: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=np.float32)) for slot in layout.slots
        }

    def bind(self, binding: ort.IOBinding) -> None:
        """Make every buffer both the past and the present of one binding."""
        for slot, value in self._values.items():
            binding.bind_ortvalue_input(PAST + slot, value)
            binding.bind_ortvalue_output(PRESENT + slot, value)

    def advance(self, tokens: int) -> int:
        """Count `tokens` more as written and return the new length."""
        self.check(tokens)
        self.length += tokens
        return self.length

    def check(self, tokens: int) -> None:
        """Raise EdgeAdaptError if `tokens` more do not fit."""
        if self.length + tokens > self.capacity:
            raise EdgeAdaptError(f"{self.length} + {tokens} tokens do not fit a cache of {self.capacity}")

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot go back to {length} of {self.length} tokens")
        self.length = length
