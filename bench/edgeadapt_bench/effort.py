"""How much is measured, and how long that may take."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeadapt.errors import EdgeAdaptError


@dataclass(frozen=True)
class Effort:
    """How much to measure. The numbers are totals over all openings.

    The models are opened `openings` times, each time in new processes and in another order (drawn from `seed`), since
    where a process's memory happens to lie moves its speed by some percent for as long as it lives: measured once,
    that would pass for a property of the variant. A phase ends after `samples` rounds and `seconds`, at the latest
    after `most` rounds; or, where the whole run has `total_seconds`, at its share of them. Warm-up, in every opening:
    until two windows agree, or a cap.
    """

    samples: int = 200
    openings: int = 20
    seconds: float = 10.0
    most: int = 300
    window: int = 3
    agreement: float = 0.05
    warm_up_rounds: int = 20
    total_seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.samples, self.openings, self.most, self.window, self.warm_up_rounds) < 1 or self.seconds < 0:
            raise EdgeAdaptError("samples, openings, most, window and warm-up rounds must be at least 1, seconds 0")
        if not 0 < self.agreement < 1:
            raise EdgeAdaptError(f"agreement is {self.agreement}; give a share between 0 and 1")

    def per_opening(self) -> Effort:
        """The same, for one of the openings."""
        return replace(
            self,
            samples=-(-self.samples // self.openings),
            seconds=self.seconds / self.openings,
            most=-(-self.most // self.openings),
            openings=1,
            total_seconds=None if self.total_seconds is None else self.total_seconds / self.openings,
        )

    def ending(self, began: float, openings: int) -> float | None:
        """When so many openings of this effort are over, if the first began at `began`; None: whenever they are."""
        return None if self.total_seconds is None else began + openings * self.total_seconds

    def shared_among(self, parts: int) -> Effort:
        """The same for one of several runs that have the whole time together."""
        return self if self.total_seconds is None else replace(self, total_seconds=self.total_seconds / parts)


THOROUGH = Effort()
QUICK = Effort(samples=30, openings=4, seconds=1.0, window=2, warm_up_rounds=4, total_seconds=33.0)


def bounded(minutes: float) -> Effort:
    """As thorough as so much time allows; a few seconds of it are for starting and ending."""
    if minutes < 1:
        raise EdgeAdaptError(f"--minutes {minutes:g}: give at least 1, or --quick")
    return replace(THOROUGH, window=2, warm_up_rounds=4, total_seconds=60 * minutes - 10)
