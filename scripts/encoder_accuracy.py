"""What each form of an encoder's graph costs in accuracy: sentence embeddings against PyTorch in float32.

    python scripts/encoder_accuracy.py [--out results/encoder] [--backbone all-MiniLM-L6-v2] [--sentences 600]

sentences   first sentences of BBC articles and whole tweets, half and half, from the demo's two packages; each cut to
            LENGTH tokens and run alone, as on a device
embedding   e = mean over the tokens of last_hidden_state, divided by its length                          [d]
figures     cosine            e . e' of the same sentence in PyTorch and in the graph: mean and least over the sentences
            difference        max |e - e'| over all components and sentences
            similarity        max and mean |e_i . e_j - e'_i . e'_j| over all pairs of sentences: what a search sees
            same neighbour    share of sentences whose nearest other sentence is the same one
Writes accuracy.json and accuracy.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgeadapt.backbones import Backbone, resolve
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import write_atomic, write_json
from edgeadapt.progress import silent
from edgeadapt.runtime.session import create
from edgeadapt_export.encoder_variants import MINILM, write_variants
from edgeadapt_train import streams

LENGTH, SEED = 128, 0
Embed = Callable[[NDArray[np.int64]], NDArray[np.float32]]


def sentences(number: int) -> list[str]:
    """`number` texts, as the module's docstring says; the same ones for the same number."""
    asked = {"train": 15, "validation": 15, "evaluation": number // 2}
    topics, tweets = streams.load({"name": "demo", "seed": SEED, **asked})
    first = [example.text.split(". ", 1)[0] for example in topics.evaluation]
    return [*first, *(example.text for example in tweets.evaluation)]


def in_pytorch(backbone: Backbone) -> Embed:
    """ids [1, S] -> last_hidden_state [S, d] by transformers, eager attention."""
    import torch
    from transformers import AutoModel

    load_model: Any = AutoModel.from_pretrained
    model = load_model(str(backbone.path), dtype=torch.float32, attn_implementation="eager").eval()

    def embed(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found = model(torch.from_numpy(ids), attention_mask=torch.ones(ids.shape, dtype=torch.int64))
        return np.asarray(found.last_hidden_state[0].numpy())

    return embed


def in_onnx(path: Path) -> Embed:
    """ids [1, S] -> last_hidden_state [S, d] by stock onnxruntime, function bodies for our ops."""
    session: ort.InferenceSession = create(path, threads=1, ops="off")
    names = {item.name for item in session.get_inputs()}

    def embed(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        found = session.run(["last_hidden_state"], {name: given[name] for name in names})
        return np.asarray(found[0][0])

    return embed


def embeddings(embed: Embed, sequences: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """[n, d], rows of length 1."""
    pooled = np.array([embed(ids).astype(np.float64).mean(axis=0) for ids in sequences])
    return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True))


def compare(reference: NDArray[np.float64], found: NDArray[np.float64]) -> dict[str, float]:
    cosines = np.sum(reference * found, axis=1)
    theirs, ours = reference @ reference.T, found @ found.T
    pairs = np.abs(theirs - ours)[np.triu_indices(len(reference), 1)]
    np.fill_diagonal(theirs, -np.inf)
    np.fill_diagonal(ours, -np.inf)
    return {
        "mean_cosine": float(cosines.mean()),
        "min_cosine": float(cosines.min()),
        "max_abs_difference": float(np.abs(reference - found).max()),
        "max_similarity_change": float(pairs.max()),
        "mean_similarity_change": float(pairs.mean()),
        "same_neighbour": float(np.mean(theirs.argmax(axis=1) == ours.argmax(axis=1))),
    }


def measure(backbone: str, number: int) -> dict[str, Any]:
    source = resolve(backbone)
    tokenizer = Tokenizer.from_file(str(source.path / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LENGTH)
    sequences = [np.array([tokenizer.encode(text).ids], np.int64) for text in sentences(number)]
    reference = embeddings(in_pytorch(source), sequences)
    rows = {}
    with tempfile.TemporaryDirectory(prefix="edgeadapt-encoder-") as folder:
        for name, path in write_variants(Path(folder), backbone, progress=silent).items():
            size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
            rows[name] = {"bytes": size, **compare(reference, embeddings(in_onnx(path), sequences))}
            print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    lengths = [ids.shape[1] for ids in sequences]
    return {
        "backbone": source.id,
        "revision": source.revision,
        "onnxruntime": ort.__version__,
        "sentences": len(sequences),
        "tokens": {"mean": float(np.mean(lengths)), "max": max(lengths)},
        "variants": rows,
    }


def table(result: dict[str, Any]) -> str:
    tokens = f"{result['tokens']['mean']:.1f} tokens in the mean"
    titles = ("graph", "MB", "cosine, mean", "least", "largest difference", "similarity change, mean", "largest")
    subject = f"{result['backbone']}: embeddings of {result['sentences']} sentences ({tokens})"
    lines = [
        f"{subject} against PyTorch in float32, onnxruntime {result['onnxruntime']}.\n",
        f"| {' | '.join((*titles, 'same neighbour'))} |",
        "|" + "---|" * (len(titles) + 1),
    ]
    for name, row in result["variants"].items():
        lines.append(
            f"| {name} | {row['bytes'] / 1e6:.1f} | {row['mean_cosine']:.6f} | {row['min_cosine']:.6f} "
            f"| {row['max_abs_difference']:.1e} | {row['mean_similarity_change']:.1e} "
            f"| {row['max_similarity_change']:.1e} | {100 * row['same_neighbour']:.1f} % |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/encoder"), help="folder for the two files")
    parser.add_argument("--backbone", default=MINILM, help="name, folder or hub id of a BERT-like encoder")
    parser.add_argument("--sentences", type=int, default=600, help="how many, half of either kind")
    chosen = parser.parse_args()
    try:
        result = measure(chosen.backbone, chosen.sentences)
    except EdgeAdaptError as error:
        print(f"encoder_accuracy: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    write_json(chosen.out / "accuracy.json", result)
    write_atomic(chosen.out / "accuracy.md", table(result).encode())
    print(table(result), end="")


if __name__ == "__main__":
    main()
