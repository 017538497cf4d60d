"""What Linux tells of the machine that it runs on: its identity, and what may change while it is measured.

    /proc/device-tree/model                       "Raspberry Pi 4 Model B Rev 1.4"
    /proc/cpuinfo, /proc/meminfo, /proc/loadavg   processor, its features and cores; memory; load
    /sys/devices/system/cpu/cpu*/cpufreq          governor, clocks in kHz
    /sys/class/thermal/thermal_zone*/temp         thousandths of a degree
    /sys/devices/platform/soc/soc:firmware/get_throttled, or `vcgencmd get_throttled`
                                                  throttle bits of a Raspberry Pi's firmware, in hexadecimal

All of them are read below `root`, so that another machine's files can be read here. What cannot be read is "unknown".
"""

from __future__ import annotations

import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgeadapt_bench.devices.base import UNKNOWN, Conditions, Fingerprint

# "CPU part" of Arm Ltd.'s cores in Raspberry Pis, as Linux names them in arch/arm64/include/asm/cputype.h.
_CORES = {"0xd03": "Cortex-A53", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76"}
_CPU = "sys/devices/system/cpu"
_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


@dataclass(frozen=True)
class Machine:
    """The machine whose /proc and /sys lie below `root`."""

    root: Path = Path("/")

    @property
    def model(self) -> str:
        """What the board or computer calls itself."""
        return self._read("proc/device-tree/model") or self._read("sys/class/dmi/id/product_name") or UNKNOWN

    def fingerprint(self) -> Fingerprint:
        info = self._read("proc/cpuinfo")
        flags = _first(info, r"^(?:flags|Features)\s*:\s*(.+)$")
        memory = _first(self._read("proc/meminfo"), r"^MemTotal:\s+(\d+) kB$")
        return Fingerprint(
            model=self.model,
            cpu=_processor(info),
            architecture=platform.machine(),
            cores=max(1, len(re.findall(r"^processor\s*:", info, re.MULTILINE))),
            features=() if flags == UNKNOWN else tuple(sorted(flags.split())),
            clock_range_mhz=self._clock_range(),
            governor=self._read(f"{_CPU}/cpu0/cpufreq/scaling_governor") or UNKNOWN,
            memory_bytes=0 if memory == UNKNOWN else int(memory) * 1024,
            kernel=platform.release(),
            system=_first(self._read("etc/os-release"), r'^PRETTY_NAME="?([^"\n]+)"?$'),
            libc=" ".join(platform.libc_ver()).strip() or UNKNOWN,
        )

    def conditions(self) -> Conditions:
        load = self._read("proc/loadavg").split()
        return Conditions(
            load_average=float(load[0]) if load else 0.0,
            clock_mhz=self.clock_mhz(),
            temperature_c=self.temperature_c(),
            throttled=self.throttled(),
        )

    def clock_mhz(self) -> float | str:
        """The fastest core's clock now, from its governor: cpuinfo on a virtual machine is nominal."""
        values = self._numbers(f"{_CPU}/cpu*/cpufreq/scaling_cur_freq")
        return max(values) / 1000 if values else UNKNOWN

    def temperature_c(self) -> float | str:
        """The hottest zone's."""
        values = self._numbers("sys/class/thermal/thermal_zone*/temp")
        return max(values) / 1000 if values else UNKNOWN

    def throttled(self) -> str:
        """The firmware's throttle bits as 0x...; 0x0 is never throttled since the start."""
        text = self._read(_THROTTLED) or self._vcgencmd()
        try:
            return hex(int(text, 16))
        except ValueError:
            return UNKNOWN

    def _vcgencmd(self) -> str:
        """What the firmware's own program says, of this machine only: "throttled=0x0"."""
        if self.root != Path("/"):
            return ""
        command = ["vcgencmd", "get_throttled"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        except (subprocess.SubprocessError, OSError):
            return ""
        return done.stdout.strip().partition("=")[2]

    def _clock_range(self) -> tuple[float, float] | str:
        low, high = (self._numbers(f"{_CPU}/cpu0/cpufreq/cpuinfo_{end}_freq") for end in ("min", "max"))
        return (low[0] / 1000, high[0] / 1000) if low and high else UNKNOWN

    def _numbers(self, pattern: str) -> list[float]:
        found = [self._read(path.relative_to(self.root)) for path in sorted(self.root.glob(pattern))]
        return [float(text) for text in found if text.lstrip("-").isdigit()]

    def _read(self, path: str | Path) -> str:
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
        except OSError:
            return ""


HERE = Machine()


def _processor(info: str) -> str:
    part = _first(info, r"^CPU part\s*:\s*(\S+)$")
    name = _first(info, r"^(?:model name|Model|Hardware)\s*:\s*(.+)$")
    return name if part == UNKNOWN else f"{_CORES.get(part, name)} (part {part})"


def _first(text: str, pattern: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1).strip() if found else UNKNOWN
