"""System mode: boot a guest for one command, read its answers off the console, power off.

    memory of the guest = 2 x archive + model + 512 MiB     the archive and what the kernel unpacks from it are there
                                                            at once; then the model's own working memory

The model lies in the guest's page cache, as a file that was read before lies in a board's. Its pages count towards a
process's VmHWM only as far as that process maps and touches them, so the peak is that of a board with warm files.

Every boot is the same, to the instruction: virtual time counts instructions, the date begins at the same instant and
runs with it, and the kernel's random numbers start from QEMU's seed, not from the host's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeadapt import onnxscan
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.emulation import cpio, tools
from edgeadapt_bench.emulation.application import copy_modules
from edgeadapt_bench.emulation.job import COMMAND, JOB, LIBRARY, MODEL, Job, events
from edgeadapt_bench.emulation.sysroot import PYTHON, Sysroot

PYTHON_COMMAND = (f"/usr/bin/python{PYTHON}", "-m")

_INIT = Path(__file__).with_name("init.py")
_BOOT = ".boot-"
_SPARE = 512 << 20
_PATIENCE_S = 7200


@dataclass
class Answer:
    """What a job told. Instructions per run of each phase, in order; memory in bytes at several moments."""

    phases: dict[str, list[int]] = field(default_factory=dict)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    nodes: list[tuple[str, str, int, int]] = field(default_factory=list)
    answer: dict[str, Any] = field(default_factory=dict)
    maps: str = ""

    def take(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "phase":
            self.phases.setdefault(event["name"], []).append(event["instructions"])
        elif kind == "memory":
            self.memory[event["name"]] = {key: value for key, value in event.items() if key not in ("event", "name")}
        elif kind == "nodes":
            self.nodes = [(row[0], row[1], row[2], row[3]) for row in event["rows"]]
        elif kind == "answer":
            self.answer = {key: value for key, value in event.items() if key != "event"}
        elif kind == "maps":
            self.maps = event["text"]


def measure(job: Job, graph: Path, library: Path | None, system: Sysroot) -> Answer:
    """Run one job on a graph. Raises EdgeAdaptError if it failed, with the guest's own words."""
    files: dict[str, Path | bytes] = {JOB: job.to_json().encode()}
    files |= {f"{MODEL}/{name}": path for name, path in model_files(graph).items()}
    if library is not None:
        files[LIBRARY] = library
    return boot([*PYTHON_COMMAND, "edgeadapt_bench.emulation.guest", f"/{JOB}"], files, system)


def boot(command: Sequence[str], files: Mapping[str, Path | bytes], system: Sysroot) -> Answer:
    """Run a command in a guest of its own that has `files`, by their paths there; executable if they say so.

    The command tells what it found in lines of edgeadapt_bench.emulation.job. Raises EdgeAdaptError if it failed.
    """
    tools.require(tools.SYSTEM)
    with _initramfs(command, files, system) as archive:
        model = sum(content.stat().st_size for content in files.values() if isinstance(content, Path))
        lines, code = _run(system.kernel, archive, 2 * archive.stat().st_size + model + _SPARE)
    answer = Answer()
    ended = None
    for event in events(lines):
        answer.take(event)
        if event["event"] == "end":
            ended = event["code"]
    if ended != 0:
        how = f"{command[0]} ended with {ended}" if ended is not None else f"QEMU ended with {code} and no answer"
        tail = " | ".join(line.strip() for line in lines[-8:] if line.strip())
        raise EdgeAdaptError(f"the emulated machine: {how}: {tail[-600:] or 'nothing was printed'}")
    return answer


def _run(kernel: Path, archive: Path, memory: int) -> tuple[list[str], int]:
    command = [
        *("nice", "-n", "5", "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-smp", "1"),
        *("-m", f"{memory >> 20}M", "-icount", "shift=0,sleep=off"),
        *("-seed", "0", "-rtc", "base=2026-01-01T00:00:00,clock=vm"),
        *("-nographic", "-nodefaults", "-serial", "stdio", "-no-reboot"),
        *("-kernel", str(kernel), "-initrd", str(archive)),
        *("-append", "console=ttyAMA0 rdinit=/init panic=-1 quiet nokaslr random.trust_cpu=on"),
    ]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        raise EdgeAdaptError(f"the emulated machine did not end within {_PATIENCE_S} s") from None
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    return text.splitlines(), done.returncode


@contextmanager
def _initramfs(command: Sequence[str], files: Mapping[str, Path | bytes], system: Sysroot) -> Iterator[Path]:
    """The system, edgeadapt's own modules, the files and the command, in one archive that goes away again."""
    for stale in system.path.parent.glob(f"{_BOOT}*"):  # of a process that was killed
        with suppress(OSError):
            if time.time() - stale.stat().st_mtime > _PATIENCE_S:
                shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(dir=system.path.parent, prefix=_BOOT) as folder:
        application = Path(folder) / "app"
        copy_modules(application)
        archive = Path(folder) / "initramfs"
        shutil.copyfile(system.archive, archive)
        with archive.open("ab") as sink, cpio.Archive(sink) as part:
            part.file("init", _INIT, 0o100755)
            part.tree(application, "app/")
            for name, content in sorted({**files, COMMAND: json.dumps(list(command)).encode()}.items()):
                if isinstance(content, bytes):
                    part.data(name, content)
                else:
                    part.file(name, content, 0o100755 if os.access(content, os.X_OK) else 0o100644)
        yield archive


def model_files(graph: Path) -> dict[str, Path]:
    """A graph and its external data, by their names relative to the graph's folder."""
    summary = onnxscan.scan(graph)
    names = {graph.name, *(item.location for item in summary.externals)}
    return {name: graph.parent / name for name in names}
