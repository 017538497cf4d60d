"""One way in for every bundle: the engine that its backbone asks for."""

from __future__ import annotations

from pathlib import Path

from edgeadapt.runtime import session
from edgeadapt.runtime.adapted import opened
from edgeadapt.runtime.encoder import EncoderEngine
from edgeadapt.runtime.engine import Engine

ENGINES: dict[str, type[Engine] | type[EncoderEngine]] = {"decoder": Engine, "encoder": EncoderEngine}


def open_bundle(
    path: Path, *, graph: str = "model", threads: int = 1, ops: session.Ops = "auto"
) -> Engine | EncoderEngine:
    """Verify a bundle and open one of its graphs; the arguments are those of `Adapted.open`."""
    bundle = opened(path)
    return ENGINES[bundle.manifest.backbone.kind].on(bundle, graph=graph, threads=threads, ops=ops)
