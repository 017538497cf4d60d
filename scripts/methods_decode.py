"""What an adapter costs in decoding, beside the bare backbone: results/methods/decode.json, and the pages that show it.

    .venv/bin/python scripts/methods_decode.py [--methods NAME ...] [--pairs N] [--no-a72] [--again] [--out DIR]

Each method's adapter, new and untrained, goes through the exporter onto SmolLM2-135M-Instruct in int4, laid out for a
Raspberry Pi 4, and stays apart from the weights where it can; one that lives in the weights costs nothing and is not
measured. What an adapter computes costs the same whatever its numbers, but for HEST: its plans are of these.
    x86     a process with the bundle's bare graph and its adapted one. Behind a prompt of 64 tokens each decodes a
            random token in turn, the order alternating; processor time, one thread; the median of the paired ratios and
            the quarter to either side. No token comes twice in a row of 128, so that HEST plans for every one.
    A72     user instructions per decoded token on an emulated Cortex-A72 (edgeadapt_bench.emulation), which other work
            cannot disturb; the bare graph, which all bundles share, is counted once. HEST's plans are made by the
            adapter, which is not there: none is given for it.
A method in decode.json is not measured again unless --again is given, so that the whole may be done in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import methods_page
import numpy as np

from edgeadapt.files import write_json
from edgeadapt.progress import silent
from edgeadapt.tasks import TaskSpec

BACKBONE = "SmolLM2-135M-Instruct"
PROMPT, TOKENS = 64, 128
TASK = TaskSpec("five", "{text}", ("a", "b", "c", "d", "e"), max_prompt_tokens=PROMPT)
LIBRARY = Path(__file__).resolve().parent.parent / "build/aarch64/libedgeadapt_ops.so"


def exported(name: str, folder: Path) -> Path:
    """A bundle with a new adapter of this configuration."""
    from edgeadapt.backbones import resolve
    from edgeadapt_export import export
    from edgeadapt_train import methods
    from edgeadapt_train.adapters import registry
    from edgeadapt_train.backbone import load
    from edgeadapt_train.batches import Example
    from edgeadapt_train.run import write_adapter
    from edgeadapt_train.streams import Task

    found = resolve(BACKBONE)
    backbone = load(found.path, found.id, found.revision, "fp32", "cpu")
    adapter = registry.build(methods.configurations()[name], backbone.host, 0)
    adapter.begin_task(0)
    splits = [(Example(text, "a"),) for text in "xyz"]
    (folder / name).mkdir()
    write_adapter(folder / name, adapter, backbone, [Task(TASK, *splits)])
    out = folder / "bundle"
    export(folder / name, out, precision="int4", check=False, progress=silent)
    return out


def on_x86(bundle: Path, name: str, pairs: int) -> dict[str, Any]:
    from edgeadapt.runtime.engine import Engine

    engines = [Engine.open(bundle), Engine.open(bundle, graph="bare")]
    engines[0].use(name)
    engines[0].task(TASK.name)
    rng = np.random.default_rng(0)
    prompt = rng.integers(100, 40000, PROMPT).tolist()
    seconds: list[list[float]] = [[], []]
    load = [os.getloadavg()[0]]
    for start in range(0, pairs, TOKENS):
        for engine in engines:
            engine.prefill(prompt, TOKENS)
        for number, token in enumerate(rng.permutation(np.arange(100, 40000))[: min(TOKENS, pairs - start)].tolist()):
            for which in (0, 1) if number % 2 else (1, 0):
                began = time.process_time()
                engines[which].step(token)
                seconds[which].append(time.process_time() - began)
    ratios = [mine / bare for mine, bare in zip(*seconds, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "pairs": pairs,
        "seconds": statistics.median(seconds[0]),
        "bare_seconds": statistics.median(seconds[1]),
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "load_average": [*load, os.getloadavg()[0]],
    }


def on_a72(graph: Path) -> float:
    """Instructions per decoded token."""
    from edgeadapt_bench.emulation import machine, sysroot
    from edgeadapt_bench.emulation.counts import Counts
    from edgeadapt_bench.emulation.job import Job

    system = sysroot.prepare(lambda _: None)
    job = Job(graph.name, ops=True, prompt=16, tokens=2, prefills=1)
    return Counts("", graph.name, job, {}, machine.measure(job, graph, LIBRARY, system)).instructions()["decode"]


def measure(name: str, pairs: int, known: dict[str, Any], bare: list[float], *, a72: bool) -> dict[str, Any]:
    """A row, with what `known` says of it already where it need not be measured; `bare`: its count, once known."""
    from edgeadapt_export.methods import DEPLOYERS
    from edgeadapt_train import methods

    options = methods.configurations()[name]
    if options["method"] == "full":
        return {"adapter": name, "kind": "merged"}
    assert options["method"] in DEPLOYERS
    with tempfile.TemporaryDirectory(prefix="edgeadapt-decode-") as scratch:
        bundle = exported(name, Path(scratch))
        kind = json.loads((bundle / "edgeadapt.json").read_text())["adapters"][0]["kind"]
        row: dict[str, Any] = {"adapter": name, "kind": kind}
        row["x86"] = known["x86"] if "x86" in known else on_x86(bundle, name, pairs)
        if "a72" in known:
            row["a72"] = known["a72"]
        elif a72 and kind != "spectral":
            if not bare:
                bare.append(on_a72(bundle / "bare.onnx"))
            mine = on_a72(bundle / "model.onnx")
            row["a72"] = {"instructions": mine, "bare_instructions": bare[0], "ratio": mine / bare[0]}
        return row


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--methods", nargs="*", default=list(methods_page.ORDER))
    arguments.add_argument("--pairs", type=int, default=256)
    arguments.add_argument("--no-a72", action="store_true", help="not the emulated counts")
    arguments.add_argument("--again", action="store_true", help="also what is there already")
    arguments.add_argument("--out", type=Path, default=Path("results/methods"))
    given = arguments.parse_args()
    file = given.out / "decode.json"
    for name in given.methods:
        rows = {row["adapter"]: row for row in json.loads(file.read_text())["rows"]} if file.is_file() else {}
        known = {} if given.again else rows.get(name, {})
        done = "x86" in known and ("a72" in known or given.no_a72 or known["kind"] == "spectral")
        if done or known.get("kind") == "merged":
            continue
        bare = [row["a72"]["bare_instructions"] for row in rows.values() if "a72" in row and not given.again]
        rows[name] = measure(name, given.pairs, known, bare, a72=not given.no_a72)
        given.out.mkdir(parents=True, exist_ok=True)
        ordered = [rows[key] for key in methods_page.ORDER if key in rows]
        write_json(file, {"backbone": BACKBONE, "precision": "int4", "prompt": PROMPT, "rows": ordered})
        methods_page.write(given.out)
        print(json.dumps(rows[name]), flush=True)


if __name__ == "__main__":
    main()
