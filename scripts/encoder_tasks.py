"""What an encoder learns: the demo's two tasks in a row, by HIMALAYA and by LoRA-8, and what their bundles answer.

    python scripts/encoder_tasks.py [--out results/encoder] [--work encoder-tasks]

train      edgeadapt train run=minilm adapter=NAME: MiniLM, a head per task, one seed, 300 evaluation examples a task
           heads-alone: HIMALAYA whose gains stay 0, so that the encoder computes what it did before
           (what it stores for nothing is counted all the same)
bundles    edgeadapt export in fp32 and int8; every evaluation example through the device's runtime (with our kernels
           where they are installed), one thread
figures    scores before training (heads that know nothing say the first choice), after the first task and after the
           second; bytes; of the bundles the accuracy, the size, and the parity that was measured at export
Finished runs and bundles in the folder WORK are taken as they are. Writes tasks.json and tasks.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import write_atomic, write_json
from edgeadapt.rundir import RunDir
from edgeadapt_export import export
from edgeadapt_train.accuracy import answer
from edgeadapt_train.configuration import compose
from edgeadapt_train.run import train
from edgeadapt_train.streams import load

METHODS: dict[str, tuple[str, ...]] = {
    "himalaya": ("adapter=himalaya",),
    "lora8": ("adapter=lora8",),
    "heads-alone": ("adapter=himalaya", "+adapter.gain_lr_scale=0.0"),
}
PRECISIONS = ("fp32", "int8")


def measure(work: Path, method: str) -> dict[str, Any]:
    words = ["run=minilm", f"run_id={method}", *METHODS[method], f"results_dir={work}", "threads=1"]
    run = work / method
    if not (run / "adapter.json").is_file():
        train(words)
    opened = RunDir.open(run)
    scores = opened.scores()
    assert scores is not None
    stored = opened.adapter.bytes
    row: dict[str, Any] = {
        "method": method,
        "tasks": list(scores.tasks),
        "examples": list(scores.counts),
        "baseline": scores.baseline.tolist(),
        "matrix": scores.matrix.tolist(),
        "bytes": stored.deployed,
        "bytes_of_heads": stored.terms["heads"],
        "precision_of_training": opened.environment()["precision"],
        "bundles": {},
    }
    tasks = load(compose(words).stream)
    for precision in PRECISIONS:
        bundle = work / f"{method}-{precision}"
        if not bundle.is_dir():
            export(run, bundle, precision=precision)  # type: ignore[arg-type]
        found = Bundle.open(bundle)
        row["bundles"][precision] = {
            "bytes": found.size,
            "parity": dict(found.manifest.parity),
            "accuracy": {item.task: sum(item.right) / len(item.right) for item in answer(bundle, tasks, "auto")},
        }
        print(f"{method}, {precision}: {row['bundles'][precision]}", file=sys.stderr, flush=True)
    return row


def table(result: dict[str, Any]) -> str:
    first, second = result["rows"][0]["tasks"]
    columns = (
        "method", f"{first}: before", "after task 1", "after task 2", f"{second}: before", "after task 2",
        "adapter, bytes", "of them heads", "fp32 bundle answers", "int8 bundle answers", "fp32: largest difference",
    )  # fmt: skip
    lines = [
        f"{result['backbone']}, {result['rows'][0]['examples'][0]} evaluation examples a task, one seed.\n",
        f"| {' | '.join(columns)} |",
        "|" + "---|" * len(columns),
    ]
    for row in result["rows"]:
        before, matrix = row["baseline"], row["matrix"]
        answers = [
            " / ".join(f"{row['bundles'][precision]['accuracy'][task]:.3f}" for task in row["tasks"])
            for precision in PRECISIONS
        ]
        scores = (before[0], matrix[0][0], matrix[1][0], before[1], matrix[1][1])
        difference = row["bundles"]["fp32"]["parity"]["max_abs_logit_difference"]
        cells = (
            row["method"], *(f"{score:.3f}" for score in scores), f"{row['bytes']:,}", f"{row['bytes_of_heads']:,}",
            *answers, f"{difference:.1e}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/encoder"), help="folder for the two files")
    parser.add_argument("--work", type=Path, default=Path("encoder-tasks"), help="folder for runs and bundles")
    chosen = parser.parse_args()
    try:
        rows = [measure(chosen.work, method) for method in METHODS]
    except EdgeAdaptError as error:
        print(f"encoder_tasks: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    backbone = RunDir.open(chosen.work / "himalaya").adapter.backbone
    result = {"backbone": backbone.id, "revision": backbone.revision, "rows": rows}
    write_json(chosen.out / "tasks.json", result)
    write_atomic(chosen.out / "tasks.md", table(result).encode())
    print(table(result), end="")


if __name__ == "__main__":
    main()
