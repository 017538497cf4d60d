"""Who runs: the bundle's adapters, and what they are compared with. One variant is one resident process.

edgeadapt's own baselines are in own.py. A competitor is a file here that says how its model is made and how a worker
opens it, and a line in COMPETITORS; it takes part where its packages are installed and it can run the bundle's model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.baselines import genai, llama_cpp, openvino, own, pytorch, stock
from edgeadapt_bench.baselines.competitor import Competitor
from edgeadapt_bench.baselines.variant import BARE, WORKER, Variant

ALL = "all"
COMPETITORS: tuple[Competitor, ...] = (
    stock.COMPETITOR,
    genai.COMPETITOR,
    llama_cpp.COMPETITOR,
    pytorch.COMPETITOR,
    openvino.COMPETITOR,
)


@dataclass(frozen=True)
class Selection:
    """The variants of a run, bare first; those that only `all` asked for; and why others of it cannot take part."""

    variants: Sequence[Variant]
    optional: frozenset[str] = frozenset()
    left_out: Mapping[str, str] = field(default_factory=dict)


def select(
    bundle: Bundle, asked: Sequence[str] | None = None, competitors: Sequence[Competitor] = COMPETITORS
) -> Selection:
    """Bare first, then the bundle's adapters, then what is asked for: a name, a bundle's path, or `all` that can run
    here. If nothing is asked for, edgeadapt's own baselines. `competitors`: those that the device could run.

    Raises EdgeAdaptError for a baseline that is named and cannot run; `all` leaves such ones out.
    """
    found = [own.bare(bundle), *own.adapters(bundle)]
    left_out: dict[str, str] = {}
    optional: set[str] = set()
    if not asked or ALL in asked:
        found += own.every(bundle)
    for competitor in competitors if ALL in (asked or ()) else ():
        try:
            able = competitor.of(bundle)
        except EdgeAdaptError as error:
            left_out[competitor.name] = str(error)
        else:
            found += able
            optional |= {variant.name for variant in able}
    for name in asked or ():
        if name != ALL:
            named = _named(bundle, name, competitors)
            found += named
            optional -= {variant.name for variant in named}
    return Selection(list({variant.name: variant for variant in found}.values()), frozenset(optional), left_out)


def _named(bundle: Bundle, name: str, competitors: Sequence[Competitor]) -> Sequence[Variant]:
    if name in own.NAMED:
        return [own.NAMED[name](bundle)]
    for competitor in competitors:
        if competitor.name == name:
            try:
                return competitor.of(bundle)
            except EdgeAdaptError as error:
                raise EdgeAdaptError(f"--baseline {name}: {error}") from None
    if Path(name).is_dir():
        return [own.of_path(Path(name))]
    known = (*own.NAMED, *(competitor.name for competitor in competitors), ALL)
    raise EdgeAdaptError(f"--baseline {name}: neither a bundle directory nor one of {', '.join(known)}")


__all__ = ["ALL", "BARE", "COMPETITORS", "WORKER", "Competitor", "Selection", "Variant", "select"]
