"""The tables of the evidence out of the stored runs: OUT/STAGE.json, OUT/STAGE.md, and the marked places of a page.

A page has, for each stage and for throughput, a line `<!-- table: NAME -->` and a line `<!-- end of table -->`; what
stands between them is replaced. Figures are means over seeds with 95 % t intervals; differences are paired
(statistics.py). Definitions of the metrics: edgeadapt_train/continual/metrics.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import write_atomic, write_json
from edgeadapt.records import read_json
from edgeadapt_train.evidence import stored
from edgeadapt_train.evidence.plan import FISHER, SELECTION, STAGES, Planned, Stage, planned
from edgeadapt_train.evidence.statistics import against, over_seeds
from edgeadapt_train.evidence.stored import Stored
from edgeadapt_train.evidence.tables import markdown, throughput

FORMAT = 1
THROUGHPUT = "throughput"  # a folder of what `python -m edgeadapt_train.throughput` wrote, a file per method
FIGURES = ("auc", "forgetting", "final", "relative_auc", "bwt", "fwt")


def write(out: Path, page: Path) -> list[Path]:
    """Every stage's files, and the tables in `page` if it is there; the paths that were written."""
    runs = stored.read_all(out)
    plan = planned({run_id: run.summary.auc for run_id, run in runs.items()})
    written, tables = [], {}
    for stage in STAGES:
        value = summarise(stage, [run for run in plan if run.stage == stage.name], runs)
        tables[stage.name] = markdown(value)
        write_json(out / f"{stage.name}.json", value)
        write_atomic(out / f"{stage.name}.md", tables[stage.name].encode())
        written += [out / f"{stage.name}.json", out / f"{stage.name}.md"]
    tables[THROUGHPUT] = throughput([read_json(path) for path in sorted((out / THROUGHPUT).glob("*.json"))])
    write_atomic(out / f"{THROUGHPUT}.md", tables[THROUGHPUT].encode())
    written.append(out / f"{THROUGHPUT}.md")
    if page.is_file():
        write_atomic(page, filled(page.read_text(encoding="utf-8"), tables, str(page)).encode())
        written.append(page)
    return written


def filled(page: str, tables: Mapping[str, str], name: str) -> str:
    """The page with every table in its place. Raises EdgeAdaptError for a table without a place, or without an end."""
    for key, table in tables.items():
        place = re.compile(rf"(<!-- table: {key} -->\n)(?:(?!<!-- table: ).)*?(<!-- end of table -->)", re.DOTALL)
        places = list(place.finditer(page))
        if len(places) != 1:
            raise EdgeAdaptError(
                f"{name}: needs the line '<!-- table: {key} -->' once, and '<!-- end of table -->' after it"
            )
        (found,) = places
        page = f"{page[: found.start()]}{found[1]}\n{table}\n{found[2]}{page[found.end() :]}"
    return page


def summarise(stage: Stage, plan: Sequence[Planned], runs: Mapping[str, Stored]) -> dict[str, Any]:
    """All that the stored runs of a stage say, as plain JSON."""
    there = [run for run in plan if run.run_id in runs]
    value: dict[str, Any] = {
        "format": FORMAT,
        "stage": stage.name,
        "command": f"python -m edgeadapt_train.evidence --only {stage.name}",
        "reference": stage.reference,
        "stored": [run.run_id for run in there],
        "missing": [run.run_id for run in plan if run.run_id not in runs],
    }
    if not there:
        return value
    first = runs[there[0].run_id]
    by_method: dict[str, list[tuple[Planned, Stored]]] = {}
    for run in there:
        name = run.method if run.setting is None else f"{run.method}: {', '.join(_setting(run))}"
        by_method.setdefault(name, []).append((run, runs[run.run_id]))
    methods = {name: _method(pairs) for name, pairs in by_method.items()}
    by_seed = {name: {run.seed: one for run, one in pairs} for name, pairs in by_method.items()}
    for name, tests in against(by_seed, stage.reference).items():
        methods[name]["against"] = tests
    return {
        **value,
        "sizes": _sizes([runs[run.run_id] for run in there]),
        "tasks": _tasks(first),
        "methods": dict(sorted(methods.items(), key=lambda item: -(item[1]["auc"] or {"mean": -1.0})["mean"])),
    }


def _setting(run: Planned) -> tuple[str, ...]:
    assert SELECTION.settings is not None
    assert run.setting is not None
    return SELECTION.settings[run.method][run.setting]


def _sizes(runs: Sequence[Stored]) -> dict[str, Any]:
    """What a stage's runs share. Raises EdgeAdaptError if they do not: their figures must not stand in one table."""
    keys = ("steps", "batch_size", "epochs", "max_new_tokens", "split", "stream")
    shared = {key: runs[0].config.get(key) for key in keys}
    for run in runs:
        for key in keys:
            if run.config.get(key) != shared[key]:
                raise EdgeAdaptError(
                    f"{run.run_id}: has {key}={run.config.get(key)}, other runs of its stage {shared[key]}; "
                    "remove it, and run it again"
                )
    backbones = sorted({run.adapter.backbone.id for run in runs})
    precisions = sorted({str(run.environment.get("precision")) for run in runs})
    return {
        **shared,
        "fisher_examples": FISHER * int(str(shared["batch_size"])),
        "backbone": backbones,
        "precision": precisions,
    }


def _tasks(run: Stored) -> list[dict[str, Any]]:
    scores = run.scores
    return [
        {
            "task": name,
            "language": scores.languages[j],
            "topic": scores.topics[j],
            "metric": scores.metrics[j],
            "examples": scores.counts[j],
            "untrained": _number(scores.baseline[j]),
            "majority": scores.majorities[j],
        }
        for j, name in enumerate(scores.tasks)
    ]


def _method(pairs: Sequence[tuple[Planned, Stored]]) -> dict[str, Any]:
    runs = [run for _, run in pairs]
    summaries = [run.summary for run in runs]
    value: dict[str, Any] = {
        "overrides": list(pairs[0][0].overrides),
        "seeds": [run.seed for run, _ in pairs],
        "bytes": [run.adapter.bytes.deployed for run in runs],
        "training_state": max(run.adapter.bytes.training_state for run in runs),
        "learnt": _means([np.diagonal(run.scores.matrix) for run in runs]),
        "final": _means([run.scores.matrix[-1] for run in runs]),
        "cpu_seconds": [run.cpu_seconds for run in runs],
        "withheld": _figure([_mean(run.scores.withheld) for run in runs]),
        "withheld_bytes": max(run.scores.withheld_bytes for run in runs),
    }
    value |= {name: _figure([getattr(item, name) for item in summaries]) for name in FIGURES if name != "final"}
    value["final_average"] = _figure([item.final for item in summaries])
    if any(run.adapter.method == "himalaya" for run in runs):
        value["dictionary"] = _dictionary(runs)
    return value


def _dictionary(runs: Sequence[Stored]) -> dict[str, float | None]:
    """What HIMALAYA's dictionary did, per run: atoms promoted, evicted and borrowed; the mean captured energy."""
    events = {"promoted": "promote", "evicted": "evict"}
    counts = {name: sum(len(run.events(event)) for run in runs) / len(runs) for name, event in events.items()}
    borrowed = sum(len(event.get("borrowed", ())) for run in runs for event in run.events("allocate"))
    captured = [event["captured_energy"] for run in runs for event in run.events("evict")]
    return {
        **counts,
        "borrowed": borrowed / len(runs),
        "captured_energy": float(np.mean(captured)) if captured else None,
    }


def _mean(withheld: Any) -> float:
    """Final average accuracy where task ids are withheld; NaN where that was not measured."""
    return math.nan if withheld is None else float(np.mean(withheld[-1]))


def _figure(values: Sequence[float]) -> dict[str, Any] | None:
    return None if np.isnan(values).any() else asdict(over_seeds(values))


def _means(rows: Sequence[np.ndarray]) -> list[float | None]:
    return [_number(value) for value in np.mean(rows, axis=0)]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
