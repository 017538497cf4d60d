"""What an export made: sizes, times and parity, for a person and for a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeadapt_export.parity import Parity


@dataclass(frozen=True)
class ExportReport:
    """`files`: bytes by name inside the bundle; `seconds`: by piece of work; `parity` is None if not asked for.

    `factors`: how wide a low-rank adapter's factors are in the graph; None for other adapters.
    """

    bundle: Path
    backbone: str
    method: str
    kind: str
    factors: str | None
    precision: str
    device: str
    size: int
    files: Mapping[str, int]
    seconds: Mapping[str, float]
    parity: Parity | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "bundle": str(self.bundle)}

    def summary(self) -> str:
        """A few lines for a person."""
        adapter = sum(size for name, size in self.files.items() if name.startswith("adapters/"))
        kind = self.kind if self.factors is None else f"{self.kind}, factors in {self.factors}"
        lines = [
            f"{self.bundle}: {self.backbone} in {self.precision} for {self.device}, {self.method} ({kind})",
            f"  {self.size / 1e6:.1f} MB in all, {adapter:,} bytes of them the adapter's own files",
        ]
        if self.parity is not None:
            lines.append(
                f"  against PyTorch fp32 over {self.parity.positions:,} positions: argmax agrees on "
                f"{100 * self.parity.argmax_agreement:.2f} %, mean KL {self.parity.mean_kl:.2e} nats, largest logit "
                f"difference {self.parity.max_abs_logit_difference:.2e}"
            )
        lines.append("  " + ", ".join(f"{what} {took:.1f} s" for what, took in self.seconds.items()))
        return "\n".join(lines)
