"""An adapter of a bundle as the base graph sees it: values for its inputs. Loading one is reading one small file.

graph       its own graph computes the inputs, from what it asks for of the prompt's pooled embedding and a task id:
                (pool, task) -> r, u_0 ..       once per prompt         (HIMALAYA)
                (task) -> ..                    once per task
                () -> ..                        once, when it is loaded (values that are stored more compactly)
            Switching the task is another task id.
lowrank     its factors are the inputs. Modules that the base graph packs into one product share one pair:
                A = [A_1 | A_2 ...]  [d, R]      B = block rows  [R, width],  B_i's columns from its offset on
            so that x A B adds x A_i B_i to the columns of module i and nothing to the others. int8 factors bring their
            scales s = [s_1 | s_2 ...]  [R].
spectral    stored directions, and a plan for every token (spectral.py)
merged      lives in the base weights: no inputs, nothing to switch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnxruntime as ort
from safetensors import safe_open

from edgeadapt.bundle import AdapterEntry, Bundle, LowRankPart
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.runtime.spectral import Embeddings, SpectralAdapter
from edgeadapt.tasks import TaskSpec

POOL, TASK = "pool", "task"
Feeds = Mapping[str, ort.OrtValue]
Pool = Callable[[Sequence[int]], np.ndarray]
MakeSession = Callable[[Path], ort.InferenceSession]


class Adapter(Protocol):
    """What the engine asks of an adapter."""

    name: str
    tasks: tuple[TaskSpec, ...]

    def feeds(self, ids: Sequence[int], task: int | None) -> Feeds:
        """Values of the base graph's adapter inputs for one prompt, asked as task number `task` of this adapter."""
        ...

    def feeds_of(self, rows: Sequence[Sequence[int]], task: int | None) -> Feeds:
        """The same for a batch of prompts."""
        ...


@runtime_checkable
class Tokenwise(Protocol):
    """An adapter with inputs that hold a row per token: what `feeds` gives is the prompt's."""

    def appended(self, tokens: Sequence[int]) -> Mapping[str, np.ndarray]:
        """The rows of tokens behind the prompt, by input."""
        ...


def pooled_part(sites: Mapping[str, Any], ids: Sequence[int]) -> Sequence[int]:
    """The prompt tokens whose embeddings are pooled: all of them, or the first alone (`pool: first`, HIMALAYA literal).

    Raises EdgeAdaptError for a pool that this version does not know.
    """
    pool = sites.get("pool", "mean")
    if pool not in ("mean", "first"):
        raise EdgeAdaptError(f"the adapter pools {pool!r}; known are mean and first: a newer edgeadapt may know it")
    return ids if pool == "mean" else ids[:1]


class GraphAdapter:
    """Adapter inputs from the adapter's own graph: any of pool [1, d] float32 and task [1] int64 -> adapter inputs."""

    def __init__(self, entry: AdapterEntry, session: ort.InferenceSession, pool: Pool) -> None:
        self.name = entry.name
        self.tasks = entry.tasks
        self._session = session
        self._pool = pool
        self._sites = entry.sites
        self._names = [item.name for item in session.get_outputs()]
        self._asked = {item.name for item in session.get_inputs()}
        if strange := sorted(self._asked - {POOL, TASK}):
            raise EdgeAdaptError(
                f"adapter {entry.name}: its graph asks for {strange[0]!r}; known are {POOL} and {TASK}"
            )
        self._kept: dict[int, Feeds] = {}

    def feeds(self, ids: Sequence[int], task: int | None) -> Feeds:
        return self.feeds_of([ids], task)

    def feeds_of(self, rows: Sequence[Sequence[int]], task: int | None) -> Feeds:
        if TASK in self._asked and task is None:
            if len(self.tasks) != 1:
                known = ", ".join(item.name for item in self.tasks)
                raise EdgeAdaptError(f"adapter {self.name} acts by task; choose one with --task: {known}")
            task = 0
        if POOL in self._asked:
            return self.computed(np.concatenate([self._pool(pooled_part(self._sites, ids)) for ids in rows]), task)
        number = task if TASK in self._asked and task is not None else 0
        if number not in self._kept:
            self._kept = {number: self.computed(None, number)}  # of one task at a time: they may be large
        return self._kept[number]

    def computed(self, pool: np.ndarray | None, task: int | None) -> Feeds:
        """The adapter inputs for pooled embeddings [B, d] float32 and a task, if the graph asks for them."""
        binding = self._session.io_binding()
        if POOL in self._asked:
            binding.bind_cpu_input(POOL, np.ascontiguousarray(pool, dtype=np.float32))
        if TASK in self._asked:
            binding.bind_cpu_input(TASK, np.full(1 if pool is None else len(pool), task, dtype=np.int64))
        for name in self._names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        return dict(zip(self._names, binding.get_outputs(), strict=True))


class LowRankAdapter:
    """Factors that do not depend on the prompt or the task: put together once, bound as they are."""

    def __init__(self, entry: AdapterEntry, weights: Path, inputs: Mapping[str, str]) -> None:
        self.name = entry.name
        self.tasks = entry.tasks
        values = factors(entry.parts, weights, inputs)
        self._feeds = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in values.items()}

    def feeds(self, ids: Sequence[int], task: int | None) -> Feeds:
        return self._feeds

    def feeds_of(self, rows: Sequence[Sequence[int]], task: int | None) -> Feeds:
        return self._feeds


class StillAdapter:
    """An adapter that is part of the base weights."""

    def __init__(self, entry: AdapterEntry) -> None:
        self.name = entry.name
        self.tasks = entry.tasks

    def feeds(self, ids: Sequence[int], task: int | None) -> Feeds:
        return {}

    def feeds_of(self, rows: Sequence[Sequence[int]], task: int | None) -> Feeds:
        return {}


def load(
    entry: AdapterEntry,
    bundle: Bundle,
    inputs: Mapping[str, str],
    *,
    pool: Pool,
    embeddings: Embeddings,
    session: MakeSession,
) -> Adapter:
    """Load an adapter of a bundle.

    Args:
        inputs: the base graph's inputs and their types, as ONNX Runtime names them ("tensor(float)").
        pool: token ids -> mean embedding [1, d] float32.
        embeddings: token ids -> embeddings [T, d] float32.
        session: makes a session for the adapter's own small graph.
    """
    if entry.graph is not None:
        return GraphAdapter(entry, session(bundle.path(entry.graph)), pool)
    if entry.weights is not None and entry.kind == "spectral":
        return SpectralAdapter(entry, bundle.path(entry.weights), embeddings)
    if entry.weights is not None:
        return LowRankAdapter(entry, bundle.path(entry.weights), inputs)
    return StillAdapter(entry)


def factors(parts: Sequence[LowRankPart], weights: Path, inputs: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The values of all inputs that `parts` fill, from the file of their tensors, in the types that the graph asks for.

    Floating-point factors may be stored in another width than the graph's; int8 ones may not.
    """
    with safe_open(str(weights), framework="numpy") as tensors:
        values = {name: array for part in parts for name, array in pack(part, tensors.get_tensor).items()}
    for name, array in values.items():
        wanted = dtype_of(inputs[name])
        if array.dtype != wanted and np.int8 in (array.dtype, wanted):
            raise EdgeAdaptError(f"{weights}: {name} is {array.dtype}, the graph wants {np.dtype(wanted)}")
        values[name] = array.astype(wanted, copy=False)
    return values


def pack(part: LowRankPart, tensor: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs of one packed product, A [d, R] and B [R, width], from its blocks' A_i [d, r_i] and B_i.

    Both are int8 where the part has scales [R] float32, else float32.
    """
    pairs = [(tensor(block.a), tensor(block.b), block.offset) for block in part.blocks]
    rank = sum(a.shape[1] for a, _, _ in pairs)
    dtype = np.float32 if part.scales_input is None else np.int8
    packed = np.zeros((rank, part.width), dtype=dtype)
    row = 0
    for a, b, offset in pairs:
        if a.shape[1] != b.shape[0] or offset + b.shape[1] > part.width:
            raise EdgeAdaptError(
                f"{part.a_input}: factors {a.shape} and {b.shape} at {offset} do not fit width {part.width}"
            )
        packed[row : row + b.shape[0], offset : offset + b.shape[1]] = b
        row += b.shape[0]
    down = np.concatenate([a for a, _, _ in pairs], axis=1)
    values = {part.a_input: down.astype(dtype), part.b_input: packed}
    if part.scales_input is not None:
        values[part.scales_input] = np.concatenate([tensor(str(block.scales)) for block in part.blocks])
    return values


def dtype_of(kind: str) -> type[np.floating | np.integer]:
    """NumPy's type for ONNX Runtime's name of it."""
    kinds: dict[str, type[np.floating | np.integer]] = {
        "tensor(float)": np.float32,
        "tensor(float16)": np.float16,
        "tensor(int8)": np.int8,
        "tensor(uint8)": np.uint8,
        "tensor(int64)": np.int64,
    }
    if kind not in kinds:
        raise EdgeAdaptError(f"adapter inputs are float32, float16, int8, uint8 or int64, not {kind}")
    return kinds[kind]
