"""What is measured. A workload is one file here and one line in `_ALL`; see contract.py for what it owes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import product
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.workloads.batch import Batch
from edgeadapt_bench.workloads.classification import Classification
from edgeadapt_bench.workloads.contract import CannotTakePartError, Work, Workload
from edgeadapt_bench.workloads.embedding import Embedding
from edgeadapt_bench.workloads.generation import Generation
from edgeadapt_bench.workloads.mixed import Mixed
from edgeadapt_bench.workloads.residents import Residents
from edgeadapt_bench.workloads.switch import Switch

_ALL: tuple[type[Workload], ...] = (Generation, Switch, Batch, Mixed, Classification, Residents, Embedding)
WORKLOADS = {kind.name: kind for kind in _ALL}
MOST = 64  # workloads of one run: more would be a slip of the pen
DECODER: tuple[Workload, ...] = (Generation(), Switch())
ENCODER: tuple[Workload, ...] = (*(Embedding(tokens) for tokens in (16, 64, 128)), Embedding(64, batch=8))


def parse(texts: Sequence[str]) -> list[Workload]:
    """Workloads from the command line, as contract.py describes; sizes in rising order, each once.

    Raises EdgeAdaptError naming what is not known, and what is.
    """
    found: dict[Workload, None] = {}
    for text in texts:
        name, *settings = text.split(":")
        if name not in WORKLOADS:
            raise EdgeAdaptError(f"--workload {text}: no workload {name!r}; there are {', '.join(WORKLOADS)}")
        kind = WORKLOADS[name]
        known = [field.name for field in fields(kind)]
        sizes: dict[str, list[int]] = {}
        for setting in settings:
            size, _, values = setting.partition("=")
            if size not in known:
                raise EdgeAdaptError(f"--workload {text}: {name} has no size {size!r}; it has {', '.join(known)}")
            sizes[size] = numbers(f"--workload {text}", values)
        found.update((kind(**dict(zip(sizes, chosen, strict=True))), None) for chosen in product(*sizes.values()))
    if len(found) > MOST:
        raise EdgeAdaptError(f"--workload: {len(found)} combinations of sizes, and {MOST} at most in one run")
    return list(found)


def of(sizes: Mapping[str, Any]) -> Workload:
    """The workload that has these sizes, as `Workload.sizes` gives them."""
    rest = dict(sizes)
    return WORKLOADS[rest.pop("name")](**rest)


def numbers(option: str, text: str) -> list[int]:
    """Whole numbers of at least 1 from a list such as 1,2,4: rising, each once.

    Raises EdgeAdaptError naming the option.
    """
    found = set()
    for number in text.split(","):
        if not (number.isascii() and number.isdigit() and len(number) < 7 and int(number) > 0):
            raise EdgeAdaptError(f"{option}: {number!r} is not a whole number of at least 1")
        found.add(int(number))
    return sorted(found)


__all__ = [
    "DECODER",
    "ENCODER",
    "WORKLOADS",
    "Batch",
    "CannotTakePartError",
    "Classification",
    "Embedding",
    "Generation",
    "Mixed",
    "Residents",
    "Switch",
    "Work",
    "Workload",
    "numbers",
    "of",
    "parse",
]
