"""Graphs that were made once from a backbone's bytes stay in the cache, whole or not at all.

The folder's name says all that the graph depends on: backbone, revision, maker and its version, layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from edgeadapt.backbones import Backbone
from edgeadapt.cache import cache_directory
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import locked, published_directory, storage_errors, write_json
from edgeadapt.progress import Progress

_RECORD = "edgeadapt-graph.json"


def kept_graph(
    backbone: Backbone,
    maker: str,
    layout: int,
    files: tuple[str, ...],
    make: Callable[[Path], None],
    *,
    cache: Path | None,
    progress: Progress,
) -> Path:
    """The folder with `files`, made by `make(folder)` unless it is there already.

    Args:
        maker: what makes the graph, with its version.
        layout: raised when what is kept changes; older folders are then made anew.
        files: what `make` must write; whatever else it writes is removed.
    """
    name = f"{_safe(backbone.id.rsplit('/', 1)[-1])}-{_safe(backbone.revision)}-{_safe(maker)}-v{layout}"
    target = (cache or cache_directory()) / "graphs" / name
    if _whole(target, files):
        return target
    with storage_errors(target.parent), locked(target):
        if _whole(target, files):
            return target
        progress(f"building the fp32 graph of {backbone.id} (once)", 0, None)
        with published_directory(target) as building:
            make(building)
            missing = [file for file in files if not (building / file).is_file()]
            if missing:
                raise EdgeAdaptError(f"backbone {backbone.id}: {maker} wrote no {missing[0]}; try another version")
            for path in building.iterdir():
                if path.name not in files:
                    path.unlink()
            write_json(building / _RECORD, {file: (building / file).stat().st_size for file in files})
    return target


def architecture(folder: Path) -> str:
    """The class that config.json names, for errors."""
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError):
        return "its (unnamed) architecture"


def _whole(target: Path, files: tuple[str, ...]) -> bool:
    try:
        sizes = json.loads((target / _RECORD).read_text(encoding="utf-8"))
        return all((target / file).stat().st_size == sizes[file] for file in files)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _safe(text: str) -> str:
    return re.sub(r"[^\w.]+", "_", text)
