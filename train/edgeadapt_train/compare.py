"""The stored comparison of methods: `python -m edgeadapt_train.compare --out DIR`.

    select   every method alone on every task at every learning rate, first seed; validation accuracy decides
    final    every method at its best rate (best mean over the tasks), every seed: task 1 then task 2, and task 2 alone
    share    (accuracy(method) - untrained) / (accuracy(LoRA-8) - untrained), mean over seeds, per task and over tasks

A method's accuracy alone on task 1 is read off its sequences, after their first task. Each finished cell is one line of
DIR/cells.jsonl with every example's outcome, written as it ends: a kill loses one cell, and starting again goes on.
comparison.json and comparison.md are made from the cells, at any time: `--report` does only that.
Intervals: Student's t over seeds for accuracies; for the share a bootstrap over seeds and examples (paired: the
resampled examples are the same for both methods and the untrained backbone), 2.5 % to 97.5 %.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.records import parse_json

METHODS = ("himalaya", "himalaya-ewc", "himalaya-unprotected", "himalaya-literal", "lora8")
# The other protections are the same method at the same rate: they are only there for what they forget.
SELECTED = ("himalaya", "himalaya-literal", "lora8")
RATES = {"himalaya": (5e-3, 1e-2, 2e-2), "himalaya-literal": (5e-3, 1e-2, 2e-2), "lora8": (1e-3, 2e-3, 4e-3)}
RATE_OF = {"himalaya-unprotected": "himalaya", "himalaya-ewc": "himalaya"}
TASKS = ("bbc_topics", "tweet_sentiment")
SEEDS = (0, 1, 2)
CELLS, REPORT = "cells.jsonl", "comparison"


@dataclass(frozen=True)
class Sizes:
    """What every cell shares."""

    steps: int = 60
    batch_size: int = 8
    validation: int = 120
    evaluation: int = 420
    fisher_batches: int = 4


@dataclass(frozen=True)
class Cell:
    """One training: `tasks` in a row at rate `lr`. No method: the untrained backbone."""

    stage: str
    method: str
    tasks: tuple[str, ...]
    lr: float
    seed: int

    @property
    def key(self) -> str:
        return f"{self.stage}/{self.method}/{'+'.join(self.tasks)}/{self.lr:g}/{self.seed}"


def selection_cells() -> list[Cell]:
    """The untrained backbone, then everything that chooses a rate."""
    chosen = [
        Cell("select", method, (task,), lr, SEEDS[0])
        for place in range(3)
        for method in SELECTED
        for lr in (RATES[method][place],)
        for task in TASKS
    ]
    return [Cell("untrained", "none", TASKS, 0.0, 0), *chosen]


def final_cells(rates: Mapping[str, float]) -> list[Cell]:
    """Sequences for all methods and seeds; the second task alone for the seeds that selection did not run."""
    cells = []
    for seed in SEEDS:
        cells += [Cell("sequence", m, TASKS, rates[RATE_OF.get(m, m)], seed) for m in METHODS]
        if seed != SEEDS[0]:
            cells += [Cell("select", m, TASKS[1:], rates[m], seed) for m in SELECTED]
    return sorted(cells, key=lambda cell: cell.method in RATE_OF)  # what only compares protections comes last


class Worker:
    """One process: the backbone and the tasks, loaded once."""

    def __init__(self, sizes: Sizes, precision: str) -> None:
        import torch

        from edgeadapt.backbones import resolve
        from edgeadapt.text import TextCodec
        from edgeadapt_train import streams
        from edgeadapt_train.backbone import CausalBackbone, load

        torch.set_num_threads(1)
        self.sizes = sizes
        found = resolve("SmolLM2-135M-Instruct")
        backbone = load(found.path, found.id, found.revision, precision)
        assert isinstance(backbone, CausalBackbone)
        self.backbone = backbone
        self.text = TextCodec.from_folder(found.path)
        asked = {"validation": sizes.validation, "evaluation": sizes.evaluation}
        tasks = streams.load({"name": "demo", "seed": 0, "train": 600, **asked})
        self.tasks = {task.spec.name: task for task in tasks}

    def run(self, cell: Cell) -> dict[str, Any]:
        """Train and score one cell; the record that goes into cells.jsonl."""
        from edgeadapt_train.adapters import registry
        from edgeadapt_train.batches import encode_examples
        from edgeadapt_train.configuration import compose
        from edgeadapt_train.loop import Learner, LoopSettings
        from edgeadapt_train.objectives import LanguageTargets

        wall, cpu = time.monotonic(), time.process_time()
        record: dict[str, Any] = {"key": cell.key, **asdict(cell), "precision": self.backbone.precision, "scores": []}
        if cell.method == "none":
            for index, name in enumerate(cell.tasks):
                record["scores"] += self._scores(None, -1, index, name, validate=True)
        else:
            options = dict(compose([f"adapter={cell.method}"]).adapter)
            if "variant" in options:
                options["fisher_batches"] = self.sizes.fisher_batches
            adapter = registry.build(options, self.backbone.host, cell.seed)
            adapter.attach()
            settings = LoopSettings(
                lr=cell.lr, batch_size=self.sizes.batch_size, steps=self.sizes.steps, seed=cell.seed
            )
            record["events"], record["losses"] = [], []
            for index, name in enumerate(cell.tasks):
                examples = encode_examples(self.tasks[name].spec, self.tasks[name].train, self.text.encode)
                objective = LanguageTargets(self.backbone.head, self.text.eos_ids[0])
                learner = Learner(self.backbone, adapter, examples, objective, settings=settings, index=index)
                events = learner.begin()
                while learner.done < learner.total:
                    report = learner.step()
                    record["losses"].append(round(report.loss, 4))
                    events += report.events
                record["events"] += [*events, *learner.finish()]
                for seen in range(index + 1):
                    validate = cell.stage == "select"
                    record["scores"] += self._scores(adapter, index, seen, cell.tasks[seen], validate=validate)
            record["bytes"] = adapter.byte_report()
            adapter.detach()
        record["seconds"], record["cpu_seconds"] = time.monotonic() - wall, time.process_time() - cpu
        return record

    def _scores(self, adapter: Any, after: int, index: int, name: str, *, validate: bool) -> Iterator[dict[str, Any]]:
        from edgeadapt_train.scoring import evaluate

        task = self.tasks[name]
        splits = {"validation": task.validation, "evaluation": task.evaluation}
        for split, examples in splits.items():
            if split == "validation" and not validate:
                continue
            scored = evaluate(self.backbone, adapter, task.spec, examples, index=index, text=self.text)
            outcome = "".join("1" if right else "0" for right in scored.correct)
            yield {"task": name, "after": after, "split": split, "accuracy": scored.score, "outcome": outcome}


_worker: Worker | None = None


def _start(sizes: Sizes, precision: str) -> None:
    global _worker  # noqa: PLW0603 (a worker process holds its backbone)
    _worker = Worker(sizes, precision)


def _work(cell: Cell) -> dict[str, Any]:
    assert _worker is not None
    return _worker.run(cell)


def read_cells(out: Path, sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Finished cells by key. Raises EdgeAdaptError when they were made with other sizes."""
    path = out / CELLS
    found: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return found
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line, f"{path}, line {number}")
        except EdgeAdaptError:
            continue  # what a kill left of a line; its cell runs again
        if "sizes" in record:
            if record["sizes"] != asdict(sizes):
                raise EdgeAdaptError(f"{path}: made with {record['sizes']}; give another --out or the same sizes")
        else:
            found[record["key"]] = record
    return found


def append(out: Path, record: Mapping[str, Any]) -> None:
    """One line, by one write, on a line of its own even after a line that a kill cut short."""
    path = out / CELLS
    out.mkdir(parents=True, exist_ok=True)
    cut = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, (("\n" if cut else "") + json.dumps(record) + "\n").encode())
    finally:
        os.close(handle)


def best_rates(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Per method the rate of the best mean validation accuracy over the tasks; equal ones: the smaller rate."""
    rates = {}
    for method in SELECTED:
        means = {}
        for lr in sorted(RATES[method]):
            keys = [Cell("select", method, (task,), lr, SEEDS[0]).key for task in TASKS]
            scores = [s["accuracy"] for key in keys for s in cells[key]["scores"] if s["split"] == "validation"]
            means[lr] = sum(scores) / len(scores)
        rates[method] = max(means, key=lambda lr: means[lr])
    return rates


def campaign(out: Path, sizes: Sizes, workers: int, precision: str) -> None:
    """Run every cell that is not there yet, then write the report."""
    from edgeadapt_train.comparison_report import write_report

    done = read_cells(out, sizes)
    if not (out / CELLS).is_file():
        append(out, {"sizes": asdict(sizes)})
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(sizes, precision)) as pool:
        for stage in ("select", "final"):
            cells = selection_cells() if stage == "select" else final_cells(best_rates(done))
            waiting = {pool.submit(_work, cell): cell for cell in cells if cell.key not in done}
            for number, future in enumerate(as_completed(waiting), 1):
                record = future.result()
                append(out, record)
                done[record["key"]] = record
                shown = " ".join(
                    f"{s['task']}@{s['after']}:{s['split'][0]} {s['accuracy']:.3f}" for s in record["scores"]
                )
                line = f"{stage} {number}/{len(waiting)} {record['key']} {record['seconds']:.0f} s: {shown}"
                print(line, file=sys.stderr, flush=True)
    write_report(out, done, best_rates(done), sizes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the comparison."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeadapt_train.compare", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("results/road"), help="where cells and report are kept")
    parser.add_argument("--steps", type=int, default=Sizes.steps, help="optimiser steps per task, the same for all")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16")
    parser.add_argument("--report", action="store_true", help="only write the report from the cells that are there")
    chosen = parser.parse_args(arguments)
    sizes = Sizes(steps=chosen.steps)
    try:
        if chosen.report:
            from edgeadapt_train.comparison_report import write_report

            done = read_cells(chosen.out, sizes)
            write_report(chosen.out, done, best_rates(done), sizes)
        else:
            campaign(chosen.out, sizes, chosen.workers, chosen.precision)
    except EdgeAdaptError as error:
        print(f"compare: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
