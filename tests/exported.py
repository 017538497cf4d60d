"""Real bundles of a tiny random backbone, exported once per test session for many tests. Do not write to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import make_run, tiny_backbone


@dataclass
class Exported:
    """`exported("himalaya", "int4")` is the path of that bundle; its adapter is called like the method."""

    root: Path
    made: dict[tuple[str, str, bool], Path] = field(default_factory=dict)

    def __call__(self, method: str = "himalaya", precision: str = "fp32", *, merge: bool = False) -> Path:
        key = (method, precision, merge)
        if key not in self.made:
            self.made[key] = self._export(method, precision, merge)
        return self.made[key]

    def _export(self, method: str, precision: str, merge: bool) -> Path:
        from edgeadapt_export import export

        backbone, run = self.root / "backbone", self.root / "runs" / method
        if not backbone.exists():
            tiny_backbone(backbone)
        if not run.exists():
            make_run(run, method, backbone)
        target = self.root / f"{method}-{precision}{'-merged' if merge else ''}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGEADAPT_CACHE", str(self.root / "cache"))
            export(run, target, precision=precision, merge=merge, check=False, progress=lambda *_: None)  # type: ignore[arg-type]
        return target
