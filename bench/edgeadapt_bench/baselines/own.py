"""Variants that edgeadapt runs itself.

bare              the backbone without any adapter: what every ratio is taken against
ADAPTER           each of the bundle's adapters
lora8-unmerged    LoRA of rank 8 on q and v as graph inputs (the bundle's lora8.onnx), random factors: latency does
                  not depend on their values
lora8-merged      LoRA folded into the weights: the bare graph in a process of its own, since folding changes the
                  weights' values and not the graph. Another reading of the same machine code, hence also the
                  run's own A/A comparison
lora8-mixed       several of lora8-unmerged's in memory, each row of a batch choosing one (the bundle's mixed.onnx)
bodies            the first adapter as function bodies, without our op library (only if there is one)
PATH              another bundle: its first adapter, or its merged backbone
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops.library import library_path
from edgeadapt_bench.baselines.variant import BARE, Variant

MERGED = "lora8-merged"
UNMERGED = "lora8-unmerged"
MIXED = "lora8-mixed"
BODIES = "bodies"


def adapters(bundle: Bundle) -> list[Variant]:
    return [of_adapter(bundle, entry.name) for entry in bundle.manifest.adapters]


def every(bundle: Bundle) -> list[Variant]:
    """All baselines that this bundle has on this machine."""
    found = []
    if "lora8" in bundle.manifest.graphs:
        found += [unmerged(bundle), merged(bundle)]
    if bundle.manifest.adapters and library_path() is not None:
        found.append(bodies(bundle))
    return found


def mixing(bundle: Bundle) -> list[str]:
    """Names of what a batch that mixes adapters is compared with, and of itself."""
    return [*([UNMERGED] if "lora8" in bundle.manifest.graphs else []), MIXED]


def bare(bundle: Bundle) -> Variant:
    if BARE not in bundle.manifest.graphs:
        if bundle.manifest.adapters and all(entry.kind == "merged" for entry in bundle.manifest.adapters):
            return Variant(BARE, bundle.root, "model", note="the merged graph: only its weights' values are others")
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


def mixed(bundle: Bundle) -> Variant:
    if "mixed" not in bundle.manifest.graphs:
        raise EdgeAdaptError(f"{bundle.root}: has no graph whose rows may use different adapters; export it again")
    note = "LoRA-8 on q,v, several in memory, one for each row; random factors"
    return Variant(MIXED, bundle.root, "mixed", random_inputs=True, note=note)


def bodies(bundle: Bundle) -> Variant:
    if library_path() is None:
        raise EdgeAdaptError(f"--baseline {BODIES}: there is no op library here; the adapters run as bodies already")
    if not bundle.manifest.adapters:
        raise EdgeAdaptError(f"--baseline {BODIES}: {bundle.root} holds no adapter")
    first = bundle.manifest.adapters[0].name
    return Variant(f"{first} ({BODIES})", bundle.root, "model", adapter=first, ops="off", note="without our op library")


def of_path(path: Path) -> Variant:
    """Of another bundle."""
    other = Bundle.open(path)
    adapters = other.manifest.adapters
    return Variant(
        path.name, other.root, "model", adapter=adapters[0].name if adapters else None, note=f"bundle {path}"
    )


NAMED: dict[str, Callable[[Bundle], Variant]] = {
    BARE: bare,
    UNMERGED: unmerged,
    MERGED: merged,
    MIXED: mixed,
    BODIES: bodies,
}
