"""An engine that is not ours: what it needs, and its variants."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.baselines.variant import Variant


@dataclass(frozen=True)
class Competitor:
    """One line of registration. `variants` makes what the engine needs, once, in the cache, and raises EdgeAdaptError
    where it cannot run this bundle's model.

    extra      of edgeadapt, which installs its packages
    packages   that its worker imports
    """

    name: str
    extra: str
    packages: tuple[str, ...]
    variants: Callable[[Bundle], Sequence[Variant]]

    @property
    def missing(self) -> str | None:
        """A package that is not installed."""
        return next((name for name in self.packages if importlib.util.find_spec(name) is None), None)

    def of(self, bundle: Bundle) -> Sequence[Variant]:
        """Raises EdgeAdaptError in one line if it cannot run here, with the remedy if there is one."""
        if self.missing is not None:
            raise EdgeAdaptError(f"needs {self.missing!r}: pip install 'edgeadapt[{self.extra}]'")
        return self.variants(bundle)
