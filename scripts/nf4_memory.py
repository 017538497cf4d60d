"""What a frozen backbone in 4 bits (NF4) saves while LoRA-8 trains on top of it, on a CPU.

    python scripts/nf4_memory.py [--out results/nf4] [--model SmolLM2-135M-Instruct]

Every row is a process of its own: load, STEPS optimiser steps of LoRA-8 on 8 x 72 made-up tokens, one thread.
weights     bytes of the blocks' linear maps, block statistics included
peak        largest resident memory of the process by then (ru_maxrss), less what it was before the backbone was loaded
step        seconds, median of all steps but the first; the machine may have other work
Writes memory.json and memory.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgeadapt.files import write_atomic, write_json

STEPS, BATCH, PROMPT = 4, 8, 70
FORMS = (("fp32", "none"), ("fp32", "4bit"), ("bf16", "none"), ("bf16", "4bit"))


def child(model: str, precision: str, quantisation: str) -> dict[str, Any]:
    import numpy as np
    import torch
    from torch import nn

    from edgeadapt.backbones import resolve
    from edgeadapt_train.adapters import registry
    from edgeadapt_train.backbone import CausalBackbone, load
    from edgeadapt_train.batches import Encoded
    from edgeadapt_train.loop import Learner, LoopSettings
    from edgeadapt_train.objectives import LanguageTargets

    torch.set_num_threads(1)
    source = resolve(model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    backbone = load(source.path, source.id, source.revision, precision, "cpu", quantisation=quantisation)  # type: ignore[arg-type]
    assert isinstance(backbone, CausalBackbone)
    weights = 0
    for module in (item for block in backbone.host.layers for item in block.modules() if isinstance(item, nn.Linear)):
        state = getattr(module.weight, "quant_state", None)
        weights += module.weight.numel() * module.weight.element_size()
        weights += 0 if state is None else state.absmax.numel() * state.absmax.element_size()
    adapter = registry.build({"method": "lora"}, backbone.host, 0)
    adapter.attach()
    rng = np.random.default_rng(0)
    examples = [Encoded(tuple(rng.integers(4, 40_000, PROMPT).tolist()), (7, 8)) for _ in range(BATCH * STEPS)]
    settings = LoopSettings(lr=1e-3, batch_size=BATCH, steps=STEPS)
    learner = Learner(backbone, adapter, examples, LanguageTargets(backbone.head, 2), settings=settings, index=0)
    learner.begin()
    seconds, losses = [], []
    for _ in range(STEPS):
        start = time.perf_counter()
        losses.append(learner.step().loss)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "precision": precision,
        "quantisation": quantisation,
        "weight_bytes": weights,
        "peak_bytes": 1024 * (peak - before),
        "step_seconds": statistics.median(seconds[1:]),
        "losses": losses,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/nf4"), help="folder for the two files")
    parser.add_argument("--model", default="SmolLM2-135M-Instruct", help="name, folder or hub id of a language model")
    parser.add_argument("--child", nargs=2, metavar=("PRECISION", "QUANTISATION"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        print(json.dumps(child(chosen.model, *chosen.child)))
        return
    rows = []
    for form in FORMS:
        command = [sys.executable, __file__, "--model", chosen.model, "--child", *form]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    columns = (
        "| backbone | blocks' weights, MB | peak over loading and training, MB | step, s | loss of the last step |"
    )
    lines = [
        f"{chosen.model}, LoRA-8, {BATCH} x {PROMPT + 2} tokens, one thread of a CPU.\n",
        columns,
        "|---|---|---|---|---|",
    ]
    for row in rows:
        name = row["precision"] if row["quantisation"] == "none" else f"NF4, products in {row['precision']}"
        sizes = f"{row['weight_bytes'] / 1e6:.1f} | {row['peak_bytes'] / 1e6:.0f}"
        lines.append(f"| {name} | {sizes} | {row['step_seconds']:.2f} | {row['losses'][-1]:.3f} |")
    write_json(chosen.out / "memory.json", {"model": chosen.model, "rows": rows})
    write_atomic(chosen.out / "memory.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


if __name__ == "__main__":
    main()
