"""How fast a run trains, and where the time goes: `python -m edgeadapt_train.throughput run=NAME key=value ...`.

    forward    the backbone alone, from the embeddings to the loss: its blocks, the LM head on the targets
    backward   the same, from the loss to the embeddings
    step       the whole optimiser step of the run's method on the same batch: collating, embedding, forward and
               backward with the adapter in them, clipping, AdamW, what the method does after a step
    share      (forward + backward) / step: the backbone's own part; median over the batches
    rest       step - forward - backward

Every round takes the run's next batch on its first task and times both, the one first in one round and the other first
in the next. The load of the machine (processes that want a core, over the last minute) is written beside: on a busy one
seconds are longer, and the share is what can be compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from edgeadapt.files import write_json
from edgeadapt_train import streams
from edgeadapt_train.backbone import Backbone, threads
from edgeadapt_train.batches import IGNORED, Batch, epoch_batches
from edgeadapt_train.configuration import RunSettings, compose
from edgeadapt_train.loop import Learner
from edgeadapt_train.objectives import Objective, encoded, objective
from edgeadapt_train.parts import build_adapter, load_backbone

WARM_UP = 2


def bare(backbone: Backbone, taught: Objective, batch: Batch) -> tuple[float, float]:
    """Seconds of the backbone's own forward and backward."""
    embeddings = backbone.embed(batch.ids).detach().requires_grad_(True)
    begun = _now(backbone)
    with backbone.recomputing():
        hidden = backbone.hidden(embeddings, batch.mask).last_hidden_state
    loss = cross_entropy(taught.logits(hidden, batch), batch.labels[batch.labels != IGNORED])
    forward = _now(backbone)
    loss.backward()
    return forward - begun, _now(backbone) - forward


def measure(settings: RunSettings, rounds: int) -> dict[str, Any]:
    """The figures of a run as plain JSON."""
    backbone, text = load_backbone(settings)
    task = streams.load(settings.stream)[0]
    adapter = build_adapter(settings, backbone, [task.spec])
    taught = objective(backbone, adapter, task.spec, 0, text)
    examples = encoded(backbone, task.spec, task.train, text)
    loop = replace(settings.loop, accumulation=1, epochs=1 + (WARM_UP + rounds) // len(examples), steps=None)
    learner = Learner(backbone, adapter, examples, taught, settings=loop, index=0)
    order = epoch_batches(examples, loop.batch_size, (loop.seed, 0, 0))
    rounds = min(rounds, len(order) - WARM_UP)
    learner.begin()
    rows: list[dict[str, float]] = []
    for number in range(WARM_UP + rounds):
        batch = taught.collate([examples[index] for index in order[number]], backbone.device)
        first = bare(backbone, taught, batch) if number % 2 else None
        adapter.attach()
        begun = _now(backbone)
        report = learner.step()
        step = _now(backbone) - begun
        adapter.detach()
        forward, backward = first or bare(backbone, taught, batch)
        rows.append({
            "tokens": report.tokens, "positions": batch.ids.numel(), "step": step, "forward": forward,
            "backward": backward,
        })  # fmt: skip
    timed = rows[WARM_UP:]
    whole = sum(row["step"] for row in timed)
    return {
        "backbone": backbone.host.id,
        "precision": backbone.precision,
        "device": backbone.device.type,
        "threads": torch.get_num_threads(),
        "method": adapter.method,
        "task": task.spec.name,
        "batch_size": loop.batch_size,
        "rounds": rounds,
        "load": os.getloadavg()[0],
        "tokens_per_second": sum(row["tokens"] for row in timed) / whole,
        "padded_tokens_per_second": sum(row["positions"] for row in timed) / whole,
        "seconds": {
            **{name: statistics.median(row[name] for row in timed) for name in ("step", "forward", "backward")},
            "rest": statistics.median(row["step"] - row["forward"] - row["backward"] for row in timed),
        },
        "share": statistics.median((row["forward"] + row["backward"]) / row["step"] for row in timed),
        "batches": timed,
    }


def _now(backbone: Backbone) -> float:
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
    return time.perf_counter()


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m edgeadapt_train.throughput")
    parser.add_argument("overrides", nargs="*", help="as of edgeadapt train: run=NAME adapter=NAME key=value ...")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=20, help="batches to time")
    given = parser.parse_args(arguments)
    settings = compose(given.overrides)
    with threads(settings.threads):
        found = measure(settings, given.rounds)
    found = {"command": f"{parser.prog} {' '.join(given.overrides)} --rounds {given.rounds}", **found}
    if given.out is not None:
        write_json(given.out, found)
    seconds = ", ".join(f"{name} {value:.3f}" for name, value in found["seconds"].items())
    print(f"{found['method']}: {found['tokens_per_second']:.0f} tokens/s; s: {seconds}; share {found['share']:.2f}")


if __name__ == "__main__":
    main()
