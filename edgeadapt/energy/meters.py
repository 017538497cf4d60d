"""Energy that was measured, in joules, and where each figure comes from. Where there is no meter there is no figure.

    NVML   a GPU's own counter: nvmlDeviceGetTotalEnergyConsumption, millijoules since the driver was loaded
    RAPL   a processor's own counter: <powercap>/intel-rapl:*/energy_uj, microjoules modulo max_energy_range_uj + 1
           (package domains; the kernel lets root alone read them on most systems)

A reading is a difference of two; a counter that wrapped once in between is unwrapped. RAPL's counters wrap after some
minutes at full load, so that a longer stretch must be read in between (`Meter.reading` may be called at any time).
Modelled energy (costs.py) is no reading: whoever reports both names the source of each.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
NVML_LIBRARY = "libnvidia-ml.so.1"


@dataclass(frozen=True)
class Energy:
    """Joules, and what told of them."""

    joules: float
    source: str


@dataclass
class Meter:
    """A counter that only grows, but for wrapping: `read` gives its units, `joules` what one is worth.

    `wrap`: the counter counts modulo this; None: it does not wrap.
    """

    source: str
    read: Callable[[], int]
    joules: float
    wrap: int | None = None
    _last: int = field(default=0, init=False)
    _total: int = field(default=0, init=False)

    def start(self) -> None:
        """Count from here."""
        self._last, self._total = self.read(), 0

    def reading(self) -> Energy:
        """What was spent since `start`."""
        now = self.read()
        step = now - self._last
        self._total += step if step >= 0 or self.wrap is None else step + self.wrap
        self._last = now
        return Energy(self._total * self.joules, self.source)


def rapl_meters(root: Path = POWERCAP) -> list[Meter]:
    """One meter per processor package whose counter this process may read."""
    found = []
    for folder in sorted(root.glob("intel-rapl:*")):
        if ":" in folder.name.removeprefix("intel-rapl:"):
            continue  # a part of a package, whose counter has it already
        try:
            name = (folder / "name").read_text(encoding="utf-8").strip()
            wrap = int((folder / "max_energy_range_uj").read_text(encoding="utf-8")) + 1
            _counter(folder)
        except (OSError, ValueError):
            continue
        found.append(Meter(f"RAPL {name}", lambda folder=folder: _counter(folder), 1e-6, wrap))  # type: ignore[misc]
    return found


def _counter(folder: Path) -> int:
    return int((folder / "energy_uj").read_text(encoding="utf-8"))


def nvml_meters(library: str = NVML_LIBRARY) -> list[Meter]:
    """One meter per GPU that counts its energy (Volta and newer)."""
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return []
    count = ctypes.c_uint()
    if nvml.nvmlInit_v2() != 0 or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    found = []
    for index in range(count.value):
        device = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != 0:
            continue

        def read(device: ctypes.c_void_p = device) -> int:
            total = ctypes.c_ulonglong()
            if nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(total)) != 0:
                raise OSError("the GPU does not count its energy")
            return total.value

        try:
            read()
        except OSError:
            continue
        found.append(Meter(f"NVML GPU {index}", read, 1e-3))
    return found


def meters(powercap: Path = POWERCAP, nvml: str = NVML_LIBRARY) -> list[Meter]:
    """Every meter of this machine; none where there is none."""
    return [*nvml_meters(nvml), *rapl_meters(powercap)]


@contextmanager
def metered(found: Sequence[Meter]) -> Iterator[list[Energy]]:
    """Fills the list it gives when the block ends: one figure per meter, and none without one."""
    spent: list[Energy] = []
    for meter in found:
        meter.start()
    try:
        yield spent
    finally:
        spent += [meter.reading() for meter in found]
