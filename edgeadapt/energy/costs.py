"""What a multiply-add costs, in integer femtojoules: a model, and never called a measurement.

    per MAC   int8 300    fp16 1,500    fp32 4,600        per byte from DRAM 160,000
              (M. Horowitz, "Computing's energy problem", ISSCC 2014, 45 nm: a multiplication and an addition)

A device profile says what the fp16 state costs there: on a core without fp16 arithmetic it executes as fp32 and is
charged so. `generic` is a core that has it. Our kernels execute fp16 as fp32 on every processor so far: on a generic
device the figure is the model's for a core with such arithmetic, not what libedgeadapt_ops does there.
Weight traffic is reported beside a plan and never charged to its budget, which it would swamp.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.manifest import check_name, check_positive


@dataclass(frozen=True)
class DeviceProfile:
    """Femtojoules per MAC by arithmetic, and per byte of DRAM traffic."""

    name: str
    int8: int
    fp16: int
    fp32: int
    dram: int
    native_fp16: bool

    def __post_init__(self) -> None:
        check_name("device profile", self.name)
        check_positive(f"device profile {self.name}", int8=self.int8, fp16=self.fp16, fp32=self.fp32, dram=self.dram)
        if self.wide <= self.int8:
            raise EdgeAdaptError(f"device profile {self.name}: a fp16 MAC must cost more than an int8 one")

    @property
    def wide(self) -> int:
        """What a MAC of the fp16 state costs as it executes."""
        return self.fp16 if self.native_fp16 else self.fp32


PROFILES = {
    "rpi4": DeviceProfile("rpi4", 300, 1_500, 4_600, 160_000, native_fp16=False),
    "generic": DeviceProfile("generic", 300, 1_500, 4_600, 160_000, native_fp16=True),
}


def share(ratio: float, cost: int) -> int:
    """floor(ratio * cost), exact for the decimal number that `ratio` was written as."""
    return int(Fraction(str(ratio)) * cost)


def check_ratio(ratio: float, what: str = "--energy-budget") -> None:
    """Refuse what is no share of the all-fp16 plan's energy."""
    if not 0 < ratio <= 1:
        raise EdgeAdaptError(f"{what}: {ratio} is not a share of the all-fp16 plan's energy; give one in (0, 1]")
