"""What a run is measured by: names, meanings, and which way is better.

The stream's metrics are those of continual/metrics.py; with the prefix `withheld_` they are the same of the scores
without task ids. Costs come from benchmarks (costs.py) and from the adapter's own description.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeadapt_train.continual.named import PRIMARY, named
from edgeadapt_train.evaluation.runs import StoredRun

WITHHELD = "withheld_"


@dataclass(frozen=True)
class Measure:
    """`unit`: "" for a score in [0, 1] or a difference of two, else what the figure counts."""

    title: str
    lower_is_better: bool = False
    unit: str = ""

    def shown(self, value: float | None) -> str:
        """The figure in words."""
        if value is None or math.isnan(value):
            return "–"
        if self.unit == "bytes":
            scaled, prefix = next(
                (value / s, p) for s, p in ((1e6, "M"), (1e3, "k"), (1, "")) if abs(value) >= s or s == 1
            )
            return f"{scaled:.4g} {prefix}B"
        return f"{value:.2f} %" if self.unit == "%" else f"{value:.4f}"


STREAM = {
    PRIMARY: Measure("Retained accuracy, AUC"),
    "relative_auc": Measure("Relative AUC"),
    "average_forgetting": Measure("Average forgetting", lower_is_better=True),
    "backward_transfer": Measure("Backward transfer"),
    "forward_transfer": Measure("Forward transfer"),
    "final_average_accuracy": Measure("Final average accuracy"),
}
MEASURES: dict[str, Measure] = {
    **STREAM,
    **{
        f"{WITHHELD}{name}": Measure(f"{one.title}, task ids withheld", one.lower_is_better)
        for name, one in STREAM.items()
    },
    "cpu_latency_overhead": Measure("CPU latency over the bare backbone", lower_is_better=True, unit="%"),
    "cpu_instruction_overhead": Measure("Instructions over the bare backbone", lower_is_better=True, unit="%"),
    "peak_memory": Measure("Peak memory", lower_is_better=True, unit="bytes"),
    "memory_overhead": Measure("Memory over the bare backbone", lower_is_better=True, unit="bytes"),
    "adapter_bytes": Measure("Adapter, as shipped", lower_is_better=True, unit="bytes"),
}


def measured(run: StoredRun) -> dict[str, float]:
    """All that is known of a run by name of the measure; what is unknown or undefined is left out."""
    scores, cost = run.scores, run.cost
    found = named(scores.matrix, scores.baseline)
    if scores.withheld is not None:
        found |= {f"{WITHHELD}{name}": value for name, value in named(scores.withheld, scores.baseline).items()}
    if cost is not None:
        found["cpu_instruction_overhead" if cost.emulated else "cpu_latency_overhead"] = cost.overhead[0]
        if cost.memory is not None:
            found |= {"peak_memory": cost.memory[0], "memory_overhead": cost.memory[1]}
    if run.adapter_bytes is not None:
        found["adapter_bytes"] = float(run.adapter_bytes)
    return {name: found[name] for name in MEASURES if name in found}
