"""The exported files against PyTorch: same backbone, same stored adapter, teacher-forced on real prompts.

sequences   each of sample_text.py's texts, asked as one of the adapter's tasks (in turn) with one of its choices as the
            answer, until there are POSITIONS positions; without tasks, the plain texts
PyTorch     the backbone from its Hugging Face folder, float32; the adapter from its *stored* tensors by hooks
            (methods/*.attach): nothing of the exporter, of the function bodies or of training code is in this view
ONNX        embed.onnx -> the adapter's own graph -> model.onnx on stock onnxruntime, function bodies only
figures     over all positions of all sequences, p PyTorch's and q ONNX's next-token distributions
            max |logit difference|        share of positions with equal argmax        mean KL(p || q) in nats
plans       HEST's plan is one of the whole sequence in both views. A direction in int8 rounds its input: where the two
            views' last bits fall to different sides, the logits differ by one level of it (recorded, not judged)
fp32 must have a difference <= 1e-3 and agreement >= 99.9 %. int8 and int4 are measured and recorded, not judged: their
rounding is a choice; what it costs in a task's accuracy is for the bench to say.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from safetensors.numpy import load_file

from edgeadapt.energy.envelope import constants, planner_of, states_of
from edgeadapt.errors import CheckFailed
from edgeadapt.progress import Progress, silent
from edgeadapt.runtime import session
from edgeadapt.runtime.adapters import POOL, TASK, factors, pooled_part
from edgeadapt.runtime.kv_cache import empty_past
from edgeadapt.tasks import TaskSpec, encode_prompt, encode_target
from edgeadapt.text import TextCodec
from edgeadapt_export.built import Built
from edgeadapt_export.methods import Deployer, StoredAdapter

POSITIONS = 2000
MAX_DIFFERENCE = 1e-3
MIN_AGREEMENT = 0.999
Array = NDArray[Any]


@dataclass(frozen=True)
class PromptAndAnswer:
    """One prompt with an answer: `ids`, of which the first `prompt` are the prompt; asked as task number `task`."""

    ids: tuple[int, ...]
    prompt: int
    task: int


@dataclass(frozen=True)
class Parity:
    """Figures of the exported files against PyTorch in float32, over `positions` positions."""

    positions: int
    sequences: int
    max_abs_logit_difference: float
    argmax_agreement: float
    mean_kl: float
    reference: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def check(self) -> None:
        """Raise CheckFailed unless the files compute what PyTorch computes (fp32)."""
        if not (self.max_abs_logit_difference <= MAX_DIFFERENCE and self.argmax_agreement >= MIN_AGREEMENT):
            raise CheckFailed(
                f"parity: the exported fp32 graph differs from PyTorch by {self.max_abs_logit_difference:.2e} in a "
                f"logit (limit {MAX_DIFFERENCE:.0e}) and agrees on {100 * self.argmax_agreement:.2f} % of "
                f"{self.positions} positions (99.9 % needed); nothing was written"
            )


def sequences(
    texts: Sequence[str], tasks: Sequence[TaskSpec], codec: TextCodec, positions: int = POSITIONS
) -> list[PromptAndAnswer]:
    """Prompts and answers of at least `positions` tokens altogether, if the texts give that many; deterministic."""
    made: list[PromptAndAnswer] = []
    total = 0
    for round_ in range(max(1, len(tasks))):
        for index, text in enumerate(texts):
            if total >= positions:
                return made
            if tasks:
                number = (index + round_) % len(tasks)
                task = tasks[number]
                prompt = encode_prompt(task, text, codec.encode)
                answers = task.choices or ("yes",)
                ids = [*prompt, *encode_target(answers[index % len(answers)], codec.encode)]
            else:
                number, ids = 0, codec.encode(text)
                prompt = ids[: max(1, len(ids) // 2)]
            made.append(PromptAndAnswer(tuple(ids), len(prompt), number))
            total += len(ids)
    return made


def measure(
    built: Built,
    method: Deployer,
    adapter: StoredAdapter,
    *,
    backbone: Path,
    items: Sequence[PromptAndAnswer],
    progress: Progress = silent,
) -> Parity:
    """Run both views over `items`."""
    onnx = _Onnx(built, adapter)
    reference = _Torch(backbone)
    worst, agreed, divergence, positions = 0.0, 0, 0.0, 0
    for done, item in enumerate(items):
        progress("comparing with PyTorch", done, len(items))
        ids = np.array([item.ids], np.int64)
        pool = reference.pool(np.array([pooled_part(adapter.manifest.sites, item.ids[: item.prompt])], np.int64))
        with method.attach(reference.model, adapter, pool, item.task):
            p = reference.logits(ids)
        q = onnx.logits(ids, item)
        worst = max(worst, float(np.abs(p - q).max()))
        agreed += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
        divergence += float(kl_divergence(p, q).sum())
        positions += len(p)
    progress("comparing with PyTorch", len(items), len(items))
    return Parity(positions, len(items), worst, agreed / positions, divergence / positions, reference.name)


class _Torch:
    """The backbone in PyTorch, float32."""

    def __init__(self, folder: Path) -> None:
        import torch
        import transformers

        self._torch = torch
        with quiet_transformers():
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
            )
        self.model = loaded.eval()
        self.name = f"torch {torch.__version__}, transformers {transformers.__version__}, float32"

    def pool(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Mean of the prompt's embedding outputs [1, d]."""
        with self._torch.inference_mode():
            embedded = self.model.get_input_embeddings()(self._torch.from_numpy(ids))
            return np.asarray(embedded.mean(dim=1).numpy())

    def logits(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """[T, V]."""
        with self._torch.inference_mode():
            return np.asarray(self.model(self._torch.from_numpy(ids), use_cache=False).logits[0].numpy())


class _Onnx:
    """The bundle's own files on stock onnxruntime, without our library."""

    def __init__(self, built: Built, adapter: StoredAdapter) -> None:
        self._base = bodies_session(built.graph("model"))
        self._past = empty_past(self._base)
        self._adapter = AdapterFeeds(built, adapter, self._base)

    def logits(self, ids: NDArray[np.int64], item: PromptAndAnswer) -> NDArray[np.float32]:
        """[T, V]."""
        adapted = self._adapter.of(item.ids[: item.prompt], item.task, item.ids)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), **self._past, **adapted}
        return np.asarray(self._base.run(["logits"], feeds)[0][0])


class AdapterFeeds:
    """The adapter's inputs of the graph open in `base`, from the adapter's own files."""

    def __init__(self, built: Built, adapter: StoredAdapter, base: ort.InferenceSession) -> None:
        self._embed = self._own = None
        deployed, file = built.deployed, built.adapter_file
        self._sites = adapter.manifest.sites
        self._factors: dict[str, Array] = {}
        if deployed.kind == "graph" and file is not None:
            self._embed, self._own = bodies_session(built.graph("embed")), bodies_session(file)
        if deployed.kind == "lowrank" and file is not None:
            kinds = {item.name: item.type for item in base.get_inputs()}
            self._factors = factors(deployed.parts, file, kinds)
        self._embed_rows = self._planned = None
        if deployed.envelope is not None and file is not None:
            self._embed_rows = bodies_session(built.graph("embed"))
            tensors = load_file(file)
            self._planned = deployed.envelope, planner_of(deployed.envelope, tensors)
            for group in deployed.envelope.groups:
                self._factors |= constants(group, tensors)

    def of(self, prompt: Sequence[int], task: int, ids: Sequence[int] = ()) -> dict[str, Array]:
        """For one prompt, asked as task number `task`. A plan is one of the whole sequence `ids`."""
        if self._embed_rows is not None and self._planned is not None:
            envelope, planner = self._planned
            rows = np.array(ids, np.int64)[:, None]
            h0 = self._embed_rows.run(None, {"input_ids": rows, "attention_mask": np.ones_like(rows)})[0]
            return {**self._factors, **states_of(envelope, planner.plan(h0).states, planner.layers)}
        if self._embed is None or self._own is None:
            return self._factors
        tokens = np.array([pooled_part(self._sites, prompt)], np.int64)
        pool = self._embed.run(None, {"input_ids": tokens, "attention_mask": np.ones_like(tokens)})[0]
        known = {POOL: pool, TASK: np.array([task], np.int64)}
        asked = {value.name: known[value.name] for value in self._own.get_inputs()}
        names = [output.name for output in self._own.get_outputs()]
        return dict(zip(names, self._own.run(names, asked), strict=True))


def bodies_session(path: Path) -> ort.InferenceSession:
    """Without our library; idle threads sleep, so that they leave the cores to PyTorch."""
    return session.create(path, threads=os.cpu_count() or 1, ops="off")


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' remarks on what it loads."""
    from transformers.utils import logging

    noise = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(noise)


def kl_divergence(p: NDArray[np.float32], q: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(softmax p || softmax q) of each row, in nats, in float64."""
    shifted_p, shifted_q = (x - x.max(axis=1, keepdims=True).astype(np.float64) for x in (p, q))
    weights = np.exp(shifted_p)
    total_p, total_q = weights.sum(axis=1), np.exp(shifted_q).sum(axis=1)
    return np.asarray(np.einsum("tv,tv->t", weights, shifted_p - shifted_q) / total_p - np.log(total_p / total_q))
