"""This machine: workers are child processes that speak JSON lines on pipes."""

from __future__ import annotations

import json
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.baselines import WORKER, Variant
from edgeadapt_bench.devices.base import UNKNOWN, Conditions, Fingerprint, Worker

_PATIENCE_S = 600.0  # a worker that says nothing for so long is taken for dead
_CPU = Path("/sys/devices/system/cpu")


class HostDevice:
    """The machine that the harness runs on."""

    name = "host"
    emulated = False

    def fingerprint(self) -> Fingerprint:
        info = _read("/proc/cpuinfo")
        name = _first(info, r"^(?:model name|Model|Hardware)\s*:\s*(.+)$")
        part = _first(info, r"^CPU part\s*:\s*(\S+)$")
        flags = _first(info, r"^(?:flags|Features)\s*:\s*(.+)$")
        return Fingerprint(
            model=_model(),
            cpu=name if part == UNKNOWN else f"{name} (part {part})",
            architecture=platform.machine(),
            cores=os.cpu_count() or 1,
            features=() if flags == UNKNOWN else tuple(sorted(flags.split())),
            clock_range_mhz=_clock_range(),
            governor=_read(_CPU / "cpu0/cpufreq/scaling_governor") or UNKNOWN,
            memory_bytes=psutil.virtual_memory().total,
            kernel=platform.release(),
            system=_first(_read("/etc/os-release"), r'^PRETTY_NAME="?([^"\n]+)"?$'),
            libc=" ".join(platform.libc_ver()).strip() or UNKNOWN,
        )

    def conditions(self) -> Conditions:
        return Conditions(
            load_average=os.getloadavg()[0], clock_mhz=_clock(), temperature_c=_temperature(), throttled=_throttled()
        )

    @contextmanager
    def worker(self, variant: Variant, threads: int) -> Iterator[Worker]:
        process = HostWorker(variant.name, variant.worker)
        try:
            process.opened = process.call("open", variant=variant.to_json(), threads=threads)
            yield process
        finally:
            process.close()


class HostWorker:
    """The parent's end of one child process."""

    def __init__(self, name: str, module: str = WORKER) -> None:
        self._name = name
        self.opened: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgeadapt_bench.serving", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(item for item in sys.path if item)},
        )

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        sink, source = self._process.stdin, self._process.stdout
        assert sink is not None
        assert source is not None
        try:
            sink.write(json.dumps({"op": op, **arguments}) + "\n")
            sink.flush()
            ready, _, _ = select.select([source], [], [], _PATIENCE_S)
            line = source.readline() if ready else None
        except BrokenPipeError:
            line = ""
        if line is None:
            raise EdgeAdaptError(f"{self._name}: its process has not answered {op!r} for {_PATIENCE_S:.0f} s")
        if not line:
            raise EdgeAdaptError(f"{self._name}: its process {self._how_it_ended()} during {op!r}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EdgeAdaptError(f"{self._name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Let the child end: it does when its standard input closes."""
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _how_it_ended(self) -> str:
        code = self._process.wait(timeout=10)
        if code < 0:
            killed = signal.Signals(-code).name
            return f"was ended by {killed}" + (", most likely for lack of memory" if code == -signal.SIGKILL else "")
        return f"ended with code {code}"


def _read(path: Path | str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _first(text: str, pattern: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1).strip() if found else UNKNOWN


def _model() -> str:
    tree = _read("/proc/device-tree/model")
    return tree or _read("/sys/class/dmi/id/product_name") or UNKNOWN


def _clock_range() -> tuple[float, float] | str:
    low, high = (_read(_CPU / f"cpu0/cpufreq/cpuinfo_{end}_freq") for end in ("min", "max"))
    return (float(low) / 1000, float(high) / 1000) if low and high else UNKNOWN


def _clock() -> float | str:
    """The fastest core's clock now, in MHz, from its governor: cpuinfo on a virtual machine is nominal."""
    values = [float(text) / 1000 for path in _CPU.glob("cpu*/cpufreq/scaling_cur_freq") if (text := _read(path))]
    return max(values) if values else UNKNOWN


def _temperature() -> float | str:
    values = [
        float(text) / 1000
        for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")
        if (text := _read(path)).lstrip("-").isdigit()
    ]
    return max(values) if values else UNKNOWN


def _throttled() -> str:
    """The Raspberry Pi firmware's throttle bits, as `vcgencmd get_throttled` prints them: 0x0 is never throttled."""
    if shutil.which("vcgencmd") is None:
        return UNKNOWN
    try:
        done = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=5, check=True)
    except (subprocess.SubprocessError, OSError):
        return UNKNOWN
    return done.stdout.strip().partition("=")[2] or UNKNOWN
