"""Text in the backbone's own words, for the parity check and for calibration: sampled from its fp32 graph, and kept.

OPENINGS x one continuation each, temperature 1, all in one batch: the prompts are padded on the right, and each
row's tokens follow its own prompt (see backbones/decoder.py on attention_mask). The result is kept beside the graph
in the cache: it depends on the backbone, LENGTH, the seed and this file's openings alone. What is calibrated on the
texts of one seed is checked on those of the other.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeadapt.files import write_json
from edgeadapt.progress import Progress, silent
from edgeadapt.runtime.session import create
from edgeadapt.text import TextCodec
from edgeadapt_export.backbones.decoder import DecoderGraph

LENGTH, SEED, CALIBRATION_SEED = 112, 0, 1
OPENINGS = (
    "The city council met on Tuesday evening to decide",
    "I bought this phone two weeks ago and",
    "To make bread at home, you first need",
    "Shares of the airline fell sharply after",
    "The referee blew the whistle, and",
    "In 1869 a young chemist in Petersburg",
    "Dear customer, thank you for your message about",
    "def median(values):",
    "Our team lost again last night, because",
    "The new law on data protection requires",
    "She opened the old wooden box and found",
    "Scientists have measured how quickly glaciers",
    "What a wonderful film! The actors",
    "The patient was given 20 mg of",
    "If a train leaves at nine o'clock and travels",
    "Football, elections and the price of oil:",
    "My neighbour's dog has been barking since",
    "The museum's most valuable painting was",
    "According to the annual report, revenue",
    "Once upon a time, in a village by the sea,",
    "Question: Why is the sky blue? Answer:",
    "The software update removes the option to",
    "Rain is expected in the north, while",
    "I am really disappointed with the service at",
)


def sample_texts(
    graph: DecoderGraph, codec: TextCodec, progress: Progress = silent, seed: int = SEED
) -> tuple[str, ...]:
    """One text per opening; from the cache if they were sampled before."""
    recipe = hashlib.sha256(json.dumps([OPENINGS, LENGTH, seed]).encode()).hexdigest()[:16]
    kept = graph.path.with_name(f"{graph.path.name}-texts-{recipe}.json")
    try:
        texts = json.loads(kept.read_text(encoding="utf-8"))
        if len(texts) == len(OPENINGS) and all(isinstance(text, str) for text in texts):
            return tuple(texts)
    except (OSError, ValueError, TypeError):
        pass
    prompts = [codec.encode(opening) for opening in OPENINGS]
    made = _sample(graph.model, prompts, LENGTH, np.random.default_rng(seed), progress)
    texts = [codec.decode([*prompt, *ids]) for prompt, ids in zip(prompts, made, strict=True)]
    write_json(kept, texts)
    return tuple(texts)


def _sample(
    model: Path, prompts: list[list[int]], length: int, rng: np.random.Generator, progress: Progress
) -> list[list[int]]:
    """`length` ids after each prompt, drawn from the softmax of its logits."""
    session = create(model, threads=os.cpu_count() or 1, ops="off")
    binding = session.io_binding()
    rows = len(prompts)
    lengths = np.array([len(prompt) for prompt in prompts])
    ids = np.zeros((rows, lengths.max()), np.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    caches = []  # one buffer serves as past and as present
    for item in session.get_inputs():
        if item.name.startswith("past_key_values."):
            shape = (rows, item.shape[1], int(lengths.max()) + length, item.shape[3])
            caches.append(ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)))
            binding.bind_ortvalue_input(item.name, caches[-1])
            binding.bind_ortvalue_output(item.name.replace("past_key_values", "present"), caches[-1])
    last = lengths - 1
    found: list[list[int]] = [[] for _ in prompts]
    for step in range(length):
        progress("sampling text to measure on (once)", step, length)
        valid = lengths + step
        mask = (np.arange(valid.max()) < valid[:, None]).astype(np.int64)
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", mask)
        binding.bind_output("logits", "cpu")
        session.run_with_iobinding(binding)
        logits = binding.get_outputs()[-1].numpy()
        drawn = _draw(logits[np.arange(rows), last], rng)
        for row, token in zip(found, drawn.tolist(), strict=True):
            row.append(token)
        ids, last = drawn[:, None], np.zeros(rows, np.int64)
    progress("sampling text to measure on (once)", length, length)
    return found


def _draw(logits: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
    """Gumbel-max sample of each row's softmax: [rows, V] -> [rows]."""
    return np.asarray(np.argmax(logits + rng.gumbel(size=logits.shape), axis=1), dtype=np.int64)
