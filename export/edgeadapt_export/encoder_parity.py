"""An encoder's exported files against PyTorch: same backbone, same stored adapter and heads, on real sentences.

sequences   1, 2, 4 or 6 of sample_text.py's openings in a row, from every one of them on; asked as one of the adapter's
            tasks in turn
PyTorch     the backbone from its Hugging Face folder, float32, eager attention; the adapter from its stored tensors by
            hooks (methods/*.attach); the heads' product in PyTorch
ONNX        embed.onnx -> the adapter's own graph -> model.onnx on stock onnxruntime, function bodies only; the heads as
            the device computes them (edgeadapt.heads)
figures     parity.Parity over rows of logits: one a text, or one a word
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.heads import Heads, bias_name, weight_name
from edgeadapt.progress import Progress, silent
from edgeadapt.runtime.adapters import pooled_part
from edgeadapt.runtime.encoder import HIDDEN, IDS, MASK, TYPES
from edgeadapt.tasks import encode_sequence, encode_words
from edgeadapt.text import TextCodec
from edgeadapt_export.built import Built
from edgeadapt_export.methods import Deployer, StoredAdapter
from edgeadapt_export.parity import AdapterFeeds, Parity, bodies_session, kl_divergence, quiet_transformers
from edgeadapt_export.sample_text import OPENINGS

LENGTHS = (1, 2, 4, 6)
F32 = NDArray[np.float32]


def texts() -> list[str]:
    """The texts that are asked."""
    count = len(OPENINGS)
    return [
        " ".join(OPENINGS[(start + offset) % count] for offset in range(length))
        for length in LENGTHS
        for start in range(count)
    ]


def measure(
    built: Built,
    method: Deployer,
    adapter: StoredAdapter,
    *,
    backbone: Path,
    codec: TextCodec,
    progress: Progress = silent,
) -> Parity:
    """Run both views over all sequences."""
    tasks, pooling = adapter.manifest.tasks, adapter.manifest.pooling
    assert pooling is not None
    reference = _Torch(backbone, adapter)
    model = bodies_session(built.graph("model"))
    types = TYPES in {item.name for item in model.get_inputs()}
    feeds = AdapterFeeds(built, adapter, model)
    heads = Heads.of(adapter.heads, tasks, pooling, adapter.manifest.backbone.hidden_size)
    worst, agreed, divergence, rows = 0.0, 0, 0.0, 0
    asked = texts()
    for done, text in enumerate(asked):
        progress("comparing with PyTorch", done, len(asked))
        number = done % len(tasks)
        task, starts = tasks[number], None
        if task.kind == "tokens":
            ids, starts = encode_words(task, text.split(), codec.encode, codec.frame, codec.unknown)
        else:
            ids = encode_sequence(task, text, codec.encode, codec.frame)
        tokens = np.array([ids], np.int64)
        inputs = {IDS: tokens, MASK: np.ones_like(tokens), **({TYPES: np.zeros_like(tokens)} if types else {})}
        hidden = model.run([HIDDEN], {**inputs, **feeds.of(ids, number)})[0][0]
        q = heads.logits(number, heads.pooled(hidden)[None] if starts is None else hidden[starts])
        with method.attach(reference.model, adapter, reference.pool(pooled_part(adapter.manifest.sites, ids)), number):
            p = reference.logits(tokens, number, starts)
        worst = max(worst, float(np.abs(p - q).max()))
        agreed += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
        divergence += float(kl_divergence(p, q).sum())
        rows += len(p)
    progress("comparing with PyTorch", len(asked), len(asked))
    return Parity(rows, len(asked), worst, agreed / rows, divergence / rows, reference.name)


class _Torch:
    """The encoder in PyTorch, float32, with the stored heads."""

    def __init__(self, folder: Path, adapter: StoredAdapter) -> None:
        import torch
        import transformers

        self._torch, self._pooling = torch, adapter.manifest.pooling
        with quiet_transformers():
            loaded: Any = transformers.AutoModel.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False, use_safetensors=True
            )
        self.model = loaded.eval()
        self._heads = {name: torch.from_numpy(value.astype(np.float32)) for name, value in adapter.heads.items()}
        self.name = f"torch {torch.__version__}, transformers {transformers.__version__}, float32"

    def pool(self, ids: Sequence[int]) -> F32:
        """Mean of the tokens' word embeddings [1, d]."""
        with self._torch.inference_mode():
            rows = self.model.get_input_embeddings()(self._torch.tensor([list(ids)]))
            return np.asarray(rows.mean(dim=1).numpy())

    def logits(self, ids: NDArray[np.int64], task: int, starts: list[int] | None) -> F32:
        """[1, C] of a text, or [words, C]."""
        with self._torch.inference_mode():
            hidden = self.model(self._torch.from_numpy(ids)).last_hidden_state[0]
            pooled = hidden[:1] if self._pooling == "cls" else hidden.mean(dim=0, keepdim=True)
            features = pooled if starts is None else hidden[starts]
            return np.asarray((features @ self._heads[weight_name(task)].T + self._heads[bias_name(task)]).numpy())
