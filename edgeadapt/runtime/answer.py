"""What `edgeadapt run` does: read a prompt or lines of standard input, answer each, print the answer.

a classification task     label, then each choice's probability
a task of words           each word with its label (an encoder's bundle)
a generation task         the task's prompt around the text; text as it is generated
no task                   the model's chat format around the text; text as it is generated
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.runtime.classify import Classification
from edgeadapt.runtime.encoder import EncoderEngine, Tags
from edgeadapt.runtime.engine import Engine
from edgeadapt.runtime.generate import Sampling
from edgeadapt.runtime.opening import open_bundle
from edgeadapt.tasks import TaskSpec, encode_prompt

STDIN = "-"


def answer(
    bundle: Path,
    prompt: str,
    *,
    adapter: str | None = None,
    task: str | None = None,
    sampling: Sampling | None = None,
    threads: int = 1,
    as_json: bool = False,
    source: TextIO | None = None,
    sink: TextIO | None = None,
) -> None:
    """Answer `prompt` on `sink` (standard output); or every non-empty line of `source` (standard input) if it is "-".

    Args:
        adapter: adapter to use. Without it: the one that knows `task`; without both, the bare backbone answers.
        as_json: one JSON object per prompt and line, instead of text.

    Raises:
        EdgeAdaptError: unknown adapter or task (the known ones are listed), empty or too long text.
    """
    if prompt != STDIN and not prompt.strip():
        raise EdgeAdaptError("the prompt is empty; give some text, or '-' to read standard input")
    engine = open_bundle(bundle, threads=threads)
    if adapter is not None:
        engine.use(adapter)
    spec = engine.task(task) if task is not None else None
    texts = iter([prompt]) if prompt != STDIN else lines(sys.stdin if source is None else source)
    pieces = (piece for text in texts for piece in reply(engine, spec, text, sampling or Sampling(), as_json))
    if sink is not None:
        _write(pieces, sink)
        return
    try:
        _write(pieces, sys.stdout)
    except BrokenPipeError:  # the reader has what it wanted, as in `edgeadapt run ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush fails, too


def _write(pieces: Iterator[str], sink: TextIO) -> None:
    for piece in pieces:
        sink.write(piece)
        sink.flush()


def reply(
    engine: Engine | EncoderEngine, task: TaskSpec | None, text: str, sampling: Sampling, as_json: bool
) -> Iterator[str]:
    """The pieces of text that answer one prompt; they end with a newline."""
    if isinstance(engine, EncoderEngine) and task is None:
        known = ", ".join(one.name for entry in engine.bundle.manifest.adapters for one in entry.tasks)
        raise EdgeAdaptError(f"{engine.bundle.root}: an encoder answers tasks alone; choose one with --task: {known}")
    if task is not None and task.kind == "classification":
        found = engine.classify(text)
        yield (json.dumps({"text": text, **found.to_json()}, ensure_ascii=False) if as_json else render(found)) + "\n"
        return
    if isinstance(engine, EncoderEngine):
        tags = engine.tag(text)
        yield (json.dumps(tags.to_json(), ensure_ascii=False) if as_json else render_tags(tags)) + "\n"
        return
    codec = engine.codec
    if task is not None:
        ids = encode_prompt(task, text, codec.encode)
    else:
        ids = codec.chat([{"role": "user", "content": text}])
    made: list[int] = []

    def counted() -> Iterator[int]:
        for token in engine.generate(ids, sampling):
            made.append(token)
            yield token

    if not as_json:
        yield from codec.stream(counted())
        yield "\n"
        return
    for _ in counted():
        pass
    result: dict[str, Any] = {
        "text": text,
        "task": task.name if task else None,
        "answer": codec.decode(made),
        "prompt_tokens": len(ids),
        "new_tokens": len(made),
    }
    yield json.dumps(result, ensure_ascii=False) + "\n"


def render(found: Classification) -> str:
    """A label and its probabilities, likeliest first, on one line."""
    ranked = sorted(found.probabilities.items(), key=lambda item: -item[1])
    return f"{found.label}\t" + "  ".join(f"{choice} {share:.3f}" for choice, share in ranked)


def render_tags(found: Tags) -> str:
    """Every word with its label, on one line: Ada/B-PER lives/O."""
    return " ".join(f"{word}/{label}" for word, label in zip(found.words, found.labels, strict=True))


def lines(source: TextIO) -> Iterator[str]:
    """Lines without their ends, as they arrive; blank ones are passed over."""
    for line in source:
        if line.strip():
            yield line.rstrip("\r\n")
