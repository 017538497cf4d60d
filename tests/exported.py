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
    made: dict[tuple[str, str, bool, str], Path] = field(default_factory=dict)

    def __call__(
        self, method: str = "himalaya", precision: str = "fp32", *, merge: bool = False, factors: str = "fp32"
    ) -> Path:
        key = (method, precision, merge, factors)
        if key not in self.made:
            self.made[key] = self._export(*key)
        return self.made[key]

    def _export(self, method: str, precision: str, merge: bool, factors: str) -> Path:
        from edgeadapt_export import export

        backbone, run = self.root / "backbone", self.root / "runs" / method
        if not backbone.exists():
            tiny_backbone(backbone)
        if not run.exists():
            make_run(run, method, backbone)
        name = f"{method}-{precision}{'-merged' if merge else ''}"
        target = self.root / (name if factors == "fp32" else f"{name}-{factors}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGEADAPT_CACHE", str(self.root / "cache"))
            export(
                run,
                target,
                precision=precision,  # type: ignore[arg-type]
                merge=merge,
                factors=factors,  # type: ignore[arg-type]
                check=False,
                progress=lambda *_: None,
            )
        return target
