"""What an adapter costs in training, beside peft's LoRA-8: results/methods/table.json, and the pages that show it.

    .venv/bin/python scripts/methods_table.py [--methods NAME ...] [--shapes NAME ...] [--rounds N] [--again]

Backbones have the shapes of SmolLM2-135M and of MiniLM and random weights, in the precision that training would choose
here; a step is the learner's own, 8 texts of 64 tokens, in the first task. A row that is in table.json is not measured
again unless --again is given, so that the table may be measured in pieces; each says how busy the machine was.
    step time       a method's step and LoRA-8's in turn, in one process, one thread, after a warm-up step of each;
                    processor time, which other work on the machine disturbs least; the median of the paired ratios,
                    and the quarter to either side of it
    memory          a process of its own: the highest resident size during three steps, over that of the loaded
                    backbone (Linux: VmHWM, reset before; VmRSS)
    bytes           what ships for one task on a new adapter (edgeadapt methods)
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import methods_page
import torch

from edgeadapt.files import write_json
from edgeadapt.tasks import TaskSpec
from edgeadapt_train import methods
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.headed import Headed
from edgeadapt_train.backbone import Backbone, CausalBackbone, choose_precision, wrap
from edgeadapt_train.batches import Encoded
from edgeadapt_train.loop import Learner, LoopSettings
from edgeadapt_train.objectives import LanguageTargets, Objective, SequenceLabels

BATCH, TOKENS, MEMORY_STEPS = 8, 64, 3
TASK = TaskSpec("five", "{text}", ("a", "b", "c", "d", "e"), max_prompt_tokens=TOKENS)


def backbone(name: str) -> Backbone:
    """Random weights in the shapes of a real backbone."""
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    shape = methods.SHAPES[name]
    precision = choose_precision("auto", torch.device("cpu"))
    torch.manual_seed(0)
    if shape.family == "decoder":
        model: Any = LlamaForCausalLM(LlamaConfig(
            vocab_size=49152, hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
            num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, attn_implementation="eager",
        ))  # fmt: skip
    else:
        model = BertModel(BertConfig(
            hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
            num_attention_heads=12, attn_implementation="eager",
        ), add_pooling_layer=False)  # fmt: skip
    model = model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    return wrap(model, name, "random", precision)


def learner(base: Backbone, name: str) -> tuple[Learner, Any]:
    """A first task of random texts, begun; the adapter is not attached."""
    adapter = registry.build(methods.configurations()[name], base.host, 0)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(5, 20000, (4 * BATCH, TOKENS), generator=generator).tolist()
    if isinstance(base, CausalBackbone):
        objective: Objective = LanguageTargets(base.head, 2)
    else:
        adapter = Headed(adapter, [TASK], base.host.hidden_size, "mean", 1.0)
        objective = SequenceLabels(adapter.heads, 0)
    examples = [Encoded(tuple(row), (index % 5,)) for index, row in enumerate(rows)]
    made = Learner(
        base, adapter, examples, objective, settings=LoopSettings(lr=1e-4, batch_size=BATCH, epochs=1000), index=0
    )
    adapter.attach()
    made.begin()
    adapter.detach()
    return made, adapter


def seconds(made: Learner, adapter: Any) -> float:
    """One step of a method, the others being off the host."""
    adapter.attach()
    start = time.process_time()
    made.step()
    taken = time.process_time() - start
    adapter.detach()
    return taken


def measure_time(name: str, shape: str, rounds: int) -> dict[str, Any]:
    base = backbone(shape)
    pair = [learner(base, name), learner(base, methods_page.BASELINE)]
    for one in pair:
        seconds(*one)
    found: list[list[float]] = [[], []]
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            found[which].append(seconds(*pair[which]))
    ratios = sorted(mine / theirs for mine, theirs in zip(*found, strict=True))
    quarters = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "precision": base.precision,
        "rounds": rounds,
        "step_seconds": statistics.median(found[0]),
        "baseline_seconds": statistics.median(found[1]),
        "step_ratio": quarters[1],
        "step_ratio_quartiles": [quarters[0], quarters[2]],
    }


def measure_memory(name: str, shape: str) -> dict[str, Any]:
    base = backbone(shape)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    loaded = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    made, adapter = learner(base, name)
    for _ in range(MEMORY_STEPS):
        seconds(made, adapter)
    return {"loaded_bytes": loaded, "training_bytes": _status("VmHWM") - loaded}


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])


def in_child(*words: str) -> dict[str, Any]:
    """The same script, one measurement, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--methods", nargs="*", default=list(methods_page.ORDER))
    arguments.add_argument("--shapes", nargs="*", default=list(methods.SHAPES))
    arguments.add_argument("--rounds", type=int, default=8)
    arguments.add_argument("--again", action="store_true", help="also what is there already")
    arguments.add_argument("--out", type=Path, default=Path("results/methods"))
    arguments.add_argument("--one", nargs=3, metavar=("WHAT", "METHOD", "SHAPE"), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    if given.one:
        what, name, shape = given.one
        found = measure_time(name, shape, given.rounds) if what == "time" else measure_memory(name, shape)
        print(json.dumps(found))
        return
    file = given.out / "table.json"
    sizes = {row.name: row.bytes for row in methods.rows()}
    for shape in given.shapes:
        for name in given.methods:
            rows = json.loads(file.read_text())["rows"] if file.is_file() else []
            others = [row for row in rows if (row["adapter"], row["shape"]) != (name, shape)]
            if sizes[name][shape] is None or (len(others) < len(rows) and not given.again):
                continue
            row = {"adapter": name, "shape": shape, "bytes": sizes[name][shape], "load_average": [os.getloadavg()[0]]}
            row |= in_child("--rounds", str(given.rounds), "--one", "time", name, shape)
            row |= in_child("--one", "memory", name, shape)
            row["load_average"].append(os.getloadavg()[0])
            rows = sorted([*others, row], key=lambda one: (one["shape"], methods_page.ORDER.index(one["adapter"])))
            given.out.mkdir(parents=True, exist_ok=True)
            write_json(file, {"batch": BATCH, "tokens": TOKENS, "torch": torch.__version__, "rows": rows})
            methods_page.write(given.out)
            print(f"{shape} {name}: {row['step_ratio']:.2f} of LoRA-8's step", flush=True)


if __name__ == "__main__":
    main()
