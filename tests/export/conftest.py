"""A tiny backbone, its fp32 graph and a cache of their own, made once for all tests of the export stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeadapt.backbones import resolve
from edgeadapt_export.backbones import decoder
from edgeadapt_export.decoder_source import geometry
from edgeadapt_export.graph_map import Geometry
from tests.support import tiny_backbone


@dataclass(frozen=True)
class Tiny:
    """Three layers, d = 64, four heads on two key/value heads."""

    folder: Path
    graph: decoder.DecoderGraph
    shape: Geometry


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    root = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEADAPT_CACHE", str(root / "cache"))
        folder = tiny_backbone(root / "backbone")
        graph = decoder.build(resolve(str(folder)))
        yield Tiny(folder, graph, geometry(folder, graph))
