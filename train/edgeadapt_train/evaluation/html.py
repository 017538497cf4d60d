"""The evaluation as one page, with its styles and figures inside it: it opens anywhere and asks nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edgeadapt_train.evaluation.comparison import Best, Comparison
from edgeadapt_train.evaluation.measures import MEASURES, Measure
from edgeadapt_train.evaluation.runs import StoredRun
from edgeadapt_train.evaluation.significance import Paired
from edgeadapt_train.evaluation.style import Plot

_SCORE = Measure("")


@dataclass(frozen=True)
class Tile:
    """A figure to be seen first."""

    name: str
    value: str
    more: str


@dataclass(frozen=True)
class Table:
    """Words; the first column names the row."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    id: str
    title: str
    says: str
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]

    @classmethod
    def of_comparison(
        cls,
        runs: Sequence[StoredRun],
        values: Mapping[str, Mapping[str, float]],
        primary: str,
        tests: Sequence[Paired],
        plots: Sequence[Plot],
    ) -> Section:
        names = [name for name in MEASURES if any(name in values[run.run_id] for run in runs)]
        names.sort(key=lambda name: name != primary)
        measures = Table(
            "All measures",
            ("run", "role", "seed", *(MEASURES[name].title for name in names)),
            tuple(
                (run.run_id, run.role, str(run.seed), *(MEASURES[n].shown(values[run.run_id].get(n)) for n in names))
                for run in runs
            ),
        )
        says = (
            "Definitions stand beside the code (continual/metrics.py); other libraries mean other things by some names."
        )
        tables = (measures, _tests(tests)) if tests else (measures,)
        return cls("comparison", "Comparison", says, tables, tuple(plots))

    @classmethod
    def of_run(cls, run: StoredRun, plots: Sequence[Plot]) -> Section:
        scores = run.scores
        rows = []
        for j, task in enumerate(scores.tasks):
            numbers = (scores.baseline[j], scores.matrix[j, j], np.nanmax([*scores.matrix[j:, j], -np.inf]))
            rows.append(
                (
                    task,
                    *((scores.languages[j],) if scores.languages else ()),
                    *((scores.metrics[j],) if scores.metrics else ()),
                    str(scores.counts[j]),
                    *((_SCORE.shown(scores.majorities[j]),) if scores.majorities else ()),
                    *(_SCORE.shown(float(one)) if np.isfinite(one) else "–" for one in numbers),
                    _SCORE.shown(float(scores.matrix[-1, j])),
                )
            )
        head = (
            "task",
            *(("language",) if scores.languages else ()),
            *(("score",) if scores.metrics else ()),
            "examples",
            *(("commonest answer",) if scores.majorities else ()),
            "before training",
            "when learnt",
            "best",
            "at the end",
        )
        return cls(f"run-{run.run_id}", run.run_id, _says(run), (Table("Tasks", head, tuple(rows)),), tuple(plots))


def to_html(found: Comparison, sections: Sequence[Section], notes: Sequence[str]) -> str:
    """The page, one string of HTML."""
    environment = Environment(
        loader=PackageLoader("edgeadapt_train.evaluation", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = files("edgeadapt_train.evaluation").joinpath("page", "page.css").read_text(encoding="utf-8")
    runs = [section.title for section in sections[1:]]
    title = " and ".join(runs) if len(runs) < 3 else f"{len(runs)} runs"
    return environment.get_template("page.html").render(
        title=title, style=Markup(style), notes=notes, tiles=_tiles(found), sections=sections
    )


def _tiles(found: Comparison) -> list[Tile]:
    measure = MEASURES[found.primary_metric]

    def of(name: str, best: Best | None) -> list[Tile]:
        return [] if best is None else [Tile(f"{name}: {measure.title}", measure.shown(best.value), best.run_id)]

    tiles = [*of("Best proposed", found.best_proposed), *of("Best baseline", found.best_baseline)]
    if found.gap is not None:
        tiles.append(Tile("Gap", f"{found.gap:+.2f} %", "of the baseline's; above zero: the proposed run is better"))
    return tiles


def _tests(tests: Sequence[Paired]) -> Table:
    head = (
        "pair",
        "over",
        "n",
        "difference",
        "95 % from",
        "to",
        "Wilcoxon p",
        "Holm",
        "sign flips p",
        "Holm",
        "least p",
    )
    rows = []
    for one in tests:
        numbers = (one.difference, one.low, one.high)
        ps = (one.wilcoxon_p, one.wilcoxon_holm, one.flips_p, one.flips_holm, one.smallest_p)
        shown = ("–" if p is None else f"{p:.3g}" for p in ps)
        over = f"{one.over}: {one.measure}"
        rows.append((f"{one.first} − {one.second}", over, str(one.n), *map(_SCORE.shown, numbers), *shown))
    return Table("Paired tests; `least p` is the smallest that so few pairs allow", head, tuple(rows))


def _says(run: StoredRun) -> str:
    """What was measured, in a sentence."""
    cost = run.cost
    if cost is None:
        return ""
    what = "counted on" if cost.emulated else "timed on"
    return f"Cost: {cost.phase} ({cost.workload}), {cost.precision}, {cost.threads} threads, {what} {cost.device}."
