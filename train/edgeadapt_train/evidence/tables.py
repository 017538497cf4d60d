"""What report.py summarises, as Markdown: a stage with its sizes, its methods and its tasks; the times of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_DICTIONARY = ("promoted", "evicted", "borrowed")


def markdown(value: Mapping[str, Any]) -> str:
    """A stage as text: the sizes, the tasks, the methods, and each task's score when learnt and at the end."""
    if not value["stored"]:
        return "No run of this stage is stored yet.\n"
    sizes, tasks, methods = value["sizes"], value["tasks"], value["methods"]
    stream = sizes["stream"]
    split = sizes["split"]
    there, planned_runs = len(value["stored"]), len(value["stored"]) + len(value["missing"])
    said = (
        f"`{value['command']}`: {there} of {planned_runs} planned runs are stored.",
        f"{', '.join(sizes['backbone'])} in {', '.join(sizes['precision'])}; {len(tasks)} tasks;",
        f"{sizes['steps']} steps of batch {sizes['batch_size']} a task;",
        f"at most {stream[split]} scored examples a task ({split} split);",
        f"prompts of at most {stream['max_prompt_tokens']} tokens;",
        f"Fisher diagonals from {sizes['fisher_examples']} examples. Bytes as shipped, after the last task.",
    )
    lines = [
        " ".join(said),
        "",
        "| method | seeds | bytes | AUC | minus " + value["reference"] + ", over tasks | AUC minus its, over seeds "
        "| forgetting | final | relative AUC | BWT | FWT | final, task not told |",
        "|---" * 12 + "|",
    ]
    for name, row in methods.items():
        cells = (
            name,
            len(row["seeds"]),
            f"{max(row['bytes']):,}",
            _shown(row["auc"]),
            *(_against(row.get("against", {}).get(pairs)) for pairs in ("tasks", "seeds")),
            _shown(row["forgetting"]),
            _shown(row["final_average"]),
            *(_shown(row[figure]) for figure in ("relative_auc", "bwt", "fwt")),
            _shown(row["withheld"]) + (f" (+{row['withheld_bytes']:,} B)" if row["withheld"] else ""),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "Each task when it was learnt, and at the end:", ""]
    heads = [
        f"{task['task']} ({task['language']}, {task['topic']}; {task['metric']}, {task['examples']})" for task in tasks
    ]
    lines += [f"| method | {' | '.join(heads)} |", "|---" * (len(tasks) + 1) + "|"]
    lines.append("| untrained | " + " | ".join(_short(task["untrained"]) for task in tasks) + " |")
    lines.append("| commonest answer | " + " | ".join(_short(task["majority"]) for task in tasks) + " |")
    for name, row in methods.items():
        both = [f"{_short(a)}, {_short(b)}" for a, b in zip(row["learnt"], row["final"], strict=True)]
        lines.append(f"| {name} | {' | '.join(both)} |")
    if any("dictionary" in row for row in methods.values()):
        lines += ["", "What the dictionary did in a run, on average:", ""]
        lines += ["| method | promoted | evicted | borrowed | captured energy of evictions |", "|---|---|---|---|---|"]
    for name, row in methods.items():
        if "dictionary" in row:
            done = row["dictionary"]
            counts = " | ".join(f"{done[key]:.1f}" for key in _DICTIONARY)
            lines.append(f"| {name} | {counts} | {_short(done['captured_energy'])} |")
    return "\n".join(lines) + "\n"


def throughput(rows: Sequence[Mapping[str, Any]]) -> str:
    """Steps' times as a table."""
    if not rows:
        return "Not measured yet.\n"
    lines = [
        "| command | tokens per second | step, s | forward | backward | rest | share of the backbone | load |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds = " | ".join(f"{row['seconds'][name]:.2f}" for name in ("step", "forward", "backward", "rest"))
        shown = f"{row['tokens_per_second']:.0f} | {seconds} | {row['share']:.2f} | {row['load']:.1f}"
        lines.append(f"| `{row['command']}` | {shown} |")
    return "\n".join(lines) + "\n"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _shown(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    half = figure["half_width_95"]
    return f"{figure['mean']:.3f}" + ("" if half is None else f" ± {half:.3f}")


def _against(test: Mapping[str, Any] | None) -> str:
    """The difference, its interval, and p after Holm's correction with the number of pairs; one pair has neither."""
    if test is None:
        return ""
    if test["flips_holm"] is None:
        return f"{test['difference']:+.3f}"
    interval = f"({test['low']:+.3f} to {test['high']:+.3f})"
    return f"{test['difference']:+.3f} {interval}, p {test['flips_holm']:.2f} of {test['n']}"
