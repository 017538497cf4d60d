"""What is run for the evidence: stages, methods, seeds, and the order.

    ablation    HIMALAYA without each of its parts, and LoRA-8 beside it, on 3 tasks
    selection   every method at three settings on the same 3 tasks, first seed, scored on the validation splits
    methods     every method at its best setting, on 6 tasks
    encoder     the methods that suit an encoder, on the classification tasks, MiniLM
    full        HIMALAYA, the best other method of `methods` and LoRA-8 with EWC, on all 25 tasks

What all runs of a stage share (tasks, steps, examples) is in configs/runs/evidence-STAGE.yaml; here is what differs.
Within a stage all methods of one seed come before the next seed: whatever is finished can be compared.
A method's setting is the one of highest validation AUC (equal ones: the first), so that no method is better tuned than
another; its runs of later stages are planned when all three of its settings are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FISHER = 8  # mini-batches behind every Fisher diagonal: 64 examples
_HIMALAYA = ("adapter=himalaya", f"adapter.fisher_batches={FISHER}")
_EWC = f"adapter.ewc.batches={FISHER}"
# What tasks meet when past ones have used up the slots: the first task takes all three that there are, and none grows.
_FULL_DICTIONARY = ("+adapter.initial_active=3", "+adapter.growth=false")
# Growth with no vacant slot, and as often as short tasks allow: past tasks' atoms go, and the core takes them over.
_EVICTING = ("+adapter.initial_active=16", "+adapter.evict_protected=true", "+adapter.window=5", "+adapter.cooldown=5")


@dataclass(frozen=True)
class Stage:
    """`methods`: what makes each one, as overrides of `edgeadapt train`. `reference`: whom all others are compared
    with. `settings`: of each method, to choose from. `chosen`: whether methods take the setting that was chosen."""

    name: str
    seeds: tuple[int, ...]
    methods: Mapping[str, tuple[str, ...]]
    reference: str = "himalaya"
    settings: Mapping[str, tuple[tuple[str, ...], ...]] | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Planned:
    """One run. Its id says what it is to `edgeadapt evaluate`, too: proposed or baseline."""

    stage: str
    method: str
    seed: int
    overrides: tuple[str, ...]
    setting: int | None = None

    @property
    def run_id(self) -> str:
        role = "proposed" if self.method.startswith("himalaya") else "baseline"
        numbered = "" if self.setting is None else f"-setting{self.setting}"
        return f"{role}-{self.stage}-{self.method}{numbered}-seed{self.seed}"

    def words(self) -> list[str]:
        """The run as overrides of `edgeadapt train`."""
        return [f"run=evidence-{self.stage}", f"run_id={self.run_id}", f"seed={self.seed}", *self.overrides]


ABLATION = Stage(
    "ablation",
    (0, 1, 2),
    {
        "himalaya": (*_HIMALAYA, "task_ids=both"),
        "lora8": ("adapter=lora8",),
        "himalaya-unprotected": (*_HIMALAYA, "adapter.protection=none"),
        "himalaya-literal": (*_HIMALAYA, "adapter.variant=literal"),
        "himalaya-shared-gain": (*_HIMALAYA, "adapter.gain=shared"),
        "himalaya-terms": (*_HIMALAYA, "adapter.update=terms"),
        "himalaya-square": (*_HIMALAYA, "adapter.site=square"),
        "himalaya-full": (*_HIMALAYA, *_FULL_DICTIONARY),
        "himalaya-full-no-borrowing": (*_HIMALAYA, *_FULL_DICTIONARY, "+adapter.borrow=false"),
        "himalaya-one-fresh": (*_HIMALAYA, "+adapter.atoms_per_task=1"),
        "himalaya-ewc": (*_HIMALAYA, "adapter.protection=ewc"),
        "himalaya-evicting": (*_HIMALAYA, *_EVICTING),
        "himalaya-no-growth": (*_HIMALAYA, "+adapter.growth=false"),
    },
)

_LEARNERS: dict[str, tuple[str, ...]] = {
    "himalaya": _HIMALAYA,
    "lora8": ("adapter=lora8",),
    "lora8-ewc": ("adapter=lora8", _EWC),
    "lilac": ("adapter=lilac", _EWC),
    "coltas": ("adapter=coltas",),
    "o-lora": ("adapter=o-lora",),
    "glodis": ("adapter=glodis",),
    "loreft-ewc": ("adapter=loreft", "adapter.ewc.strength=1000", _EWC),
}


def _rates(*rates: str) -> tuple[tuple[str, ...], ...]:
    return tuple((f"lr={rate}",) for rate in rates)


SELECTION = Stage(
    "selection",
    (0,),
    _LEARNERS,
    settings={
        "himalaya": _rates("1e-2", "5e-3", "2e-2"),
        "lora8": _rates("2e-3", "1e-3", "4e-3"),
        "lora8-ewc": tuple((f"adapter.ewc.strength={strength}",) for strength in ("1000", "100", "10000")),
        "lilac": _rates("5e-3", "2e-3", "1e-2"),
        "coltas": _rates("2e-3", "1e-3", "4e-3"),
        "o-lora": _rates("2e-3", "1e-3", "4e-3"),
        "glodis": _rates("1e-2", "3e-3", "3e-2"),
        "loreft-ewc": _rates("2e-3", "5e-3", "1e-2"),
    },
)

METHODS = Stage(
    "methods",
    (0, 1),
    {
        **_LEARNERS,
        "himalaya-literal": (*_HIMALAYA, "adapter.variant=literal"),
        "lora8-per-task": ("adapter=lora8-per-task",),
        "joint": ("adapter=lora8", "strategy=joint"),
    },
    chosen=True,
)
# Whose setting a method takes that has none of its own to choose from.
SETTING_OF = {"lora8-per-task": "lora8", "joint": "lora8"}

ENCODER = Stage(
    "encoder",
    (0, 1),
    {
        "himalaya": _HIMALAYA,
        "unihyper": ("adapter=unihyper",),
        "sat-lora": ("adapter=sat-lora",),
        "hf-sat-lora": ("adapter=hf-sat-lora",),
        "lora8": ("adapter=lora8",),
        "full": ("adapter=full",),
    },
)

FULL = Stage("full", (0,), {name: METHODS.methods[name] for name in _LEARNERS}, chosen=True)
BOUNDS = ("joint", "lora8-per-task")  # not learners of one adapter from task to task: never "the best other method"

STAGES = (ABLATION, SELECTION, METHODS, ENCODER, FULL)


def stage(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)


def planned(areas: Mapping[str, float]) -> list[Planned]:
    """Every run that can be named by now, in order. `areas`: retained-accuracy AUC of the stored runs by id."""
    return [run for stage in STAGES for run in _of(stage, areas)]


def _of(stage: Stage, areas: Mapping[str, float]) -> list[Planned]:
    names = list(stage.methods) if stage is not FULL else full_methods(areas)
    if stage.settings is not None:
        return [
            Planned(stage.name, method, seed, (*stage.methods[method], *stage.settings[method][number]), number)
            for seed in stage.seeds
            for number in range(max(len(options) for options in stage.settings.values()))
            for method in names
        ]
    made = []
    for seed in stage.seeds:
        for method in names:
            setting = selected(method, areas) if stage.chosen else ()
            if setting is not None:
                made.append(Planned(stage.name, method, seed, (*stage.methods[method], *setting)))
    return made


def selected(method: str, areas: Mapping[str, float]) -> tuple[str, ...] | None:
    """The overrides of the method's best setting; None while some of its settings are not stored."""
    assert SELECTION.settings is not None
    method = SETTING_OF.get(method, method)
    options = SELECTION.settings.get(method)
    if options is None:
        return ()
    found = [
        areas.get(Planned("selection", method, SELECTION.seeds[0], (), number).run_id) for number in range(len(options))
    ]
    known = [area for area in found if area is not None]
    return options[found.index(max(known))] if len(known) == len(options) else None


def full_methods(areas: Mapping[str, float]) -> list[str]:
    """HIMALAYA, the other learner of highest mean AUC in `methods`, LoRA-8 with EWC; nobody before that is done."""
    means = {}
    for method in METHODS.methods:
        ids = [Planned("methods", method, seed, ()).run_id for seed in METHODS.seeds]
        if not all(run_id in areas for run_id in ids):
            return []
        means[method] = sum(areas[run_id] for run_id in ids) / len(ids)
    others = [method for method in means if method not in BOUNDS and not method.startswith("himalaya")]
    best = max(others, key=lambda method: means[method])
    return list(dict.fromkeys(("himalaya", best, "lora8-ewc")))
