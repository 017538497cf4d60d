"""Who runs: the bundle's adapters, and what they are compared with. One variant is one resident process.

bare              the backbone without any adapter: what every ratio is taken against
lora8-unmerged    LoRA of rank 8 on q and v as graph inputs (the bundle's lora8.onnx), random factors: latency does
                  not depend on their values
lora8-merged      LoRA folded into the weights: the bare graph in a process of its own, since folding changes the
                  weights' values and not the graph. Another reading of the same machine code, hence also the
                  run's own A/A comparison
bodies            the first adapter as function bodies, without our op library (only if there is one)
PATH              another bundle: its first adapter, or its merged backbone
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops.library import library_path

BARE = "bare"
MERGED = "lora8-merged"
UNMERGED = "lora8-unmerged"
BODIES = "bodies"
ALL = "all"
NAMES = (BARE, UNMERGED, MERGED, BODIES)


@dataclass(frozen=True)
class Variant:
    """One thing to measure. `graph` is a key of the bundle's manifest; `random_inputs` fills the graph's adapter inputs
    with seeded noise instead of an adapter's values."""

    name: str
    bundle: Path
    graph: str
    adapter: str | None = None
    random_inputs: bool = False
    ops: Literal["auto", "off"] = "auto"
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "bundle": str(self.bundle)}


def variants(bundle: Bundle, baselines: Sequence[str] | None) -> list[Variant]:
    """Bare first, then the bundle's adapters, then the baselines asked for; every one there is, if none is named."""
    found = [bare(bundle)]
    adapters = [of_adapter(bundle, entry.name) for entry in bundle.manifest.adapters]
    found.extend(adapters)
    asked = list(baselines or [])
    if not asked or ALL in asked:
        asked = [item for item in asked if item not in (*NAMES, ALL)]
        if "lora8" in bundle.manifest.graphs:
            found.extend((unmerged(bundle), merged(bundle)))
        if adapters and library_path() is not None:
            found.append(bodies(bundle))
    for item in asked:
        found.append(named(bundle, item))
    unique = {variant.name: variant for variant in found}
    return list(unique.values())


def named(bundle: Bundle, name: str) -> Variant:
    """A baseline by its name or by a bundle's path."""
    if name == BARE:
        return bare(bundle)
    if name == MERGED:
        return merged(bundle)
    if name == UNMERGED:
        return unmerged(bundle)
    if name == BODIES:
        return bodies(bundle)
    if not Path(name).is_dir():
        raise EdgeAdaptError(f"--baseline {name}: neither a bundle directory nor one of {', '.join((*NAMES, ALL))}")
    return foreign(Path(name))


def bare(bundle: Bundle) -> Variant:
    if BARE not in bundle.manifest.graphs:
        raise EdgeAdaptError(f"{bundle.root}: has no bare graph to compare with; export it again")
    return Variant(BARE, bundle.root, BARE, note="backbone without any adapter")


def of_adapter(bundle: Bundle, name: str) -> Variant:
    return Variant(name, bundle.root, "model", adapter=name)


def unmerged(bundle: Bundle) -> Variant:
    if "lora8" not in bundle.manifest.graphs:
        raise EdgeAdaptError(f"{bundle.root}: has no lora8 graph; give a bundle exported from a run that is not LoRA")
    return Variant(UNMERGED, bundle.root, "lora8", random_inputs=True, note="LoRA-8 on q,v as inputs; random factors")


def merged(bundle: Bundle) -> Variant:
    note = "the bare graph in its own process: folding changes weight values, not the graph"
    return Variant(MERGED, bundle.root, BARE, note=note)


def bodies(bundle: Bundle) -> Variant:
    if library_path() is None:
        raise EdgeAdaptError(f"--baseline {BODIES}: there is no op library here; the adapters run as bodies already")
    if not bundle.manifest.adapters:
        raise EdgeAdaptError(f"--baseline {BODIES}: {bundle.root} holds no adapter")
    first = bundle.manifest.adapters[0].name
    return Variant(f"{first} ({BODIES})", bundle.root, "model", adapter=first, ops="off", note="without our op library")


def foreign(path: Path) -> Variant:
    other = Bundle.open(path)
    adapters = other.manifest.adapters
    return Variant(
        path.name, other.root, "model", adapter=adapters[0].name if adapters else None, note=f"bundle {path}"
    )
