"""This machine: workers are child processes that speak JSON lines on pipes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.baselines import WORKER, Variant
from edgeadapt_bench.devices.base import UNKNOWN, Conditions, Fingerprint, Worker
from edgeadapt_bench.devices.machine import HERE, Machine

_PATIENCE_S = 600.0  # a worker that says nothing for so long is taken for dead
_COOLING_S, _COOLING_STEP_S = 900.0, 5.0


class HostDevice:
    """The machine that the harness runs on.

    Args:
        machine: whose files tell its identity and conditions.
        cool_down: degrees Celsius that it is waited for before models are opened; None: nothing is waited for.
        sleep: waits so many seconds.
    """

    name = "host"
    emulated = False

    def __init__(
        self,
        machine: Machine = HERE,
        cool_down: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._machine, self._cool_down, self._sleep = machine, cool_down, sleep

    def fingerprint(self) -> Fingerprint:
        return self._machine.fingerprint()

    def conditions(self) -> Conditions:
        return self._machine.conditions()

    def settle(self, tell: Callable[[str], None]) -> None:
        """Wait until the machine is as cool as asked for. Raises EdgeAdaptError if it does not get there."""
        wanted, waited = self._cool_down, 0.0
        while wanted is not None and (now := self._machine.temperature_c()) != UNKNOWN and float(now) > wanted:
            if waited >= _COOLING_S:
                raise EdgeAdaptError(
                    f"--cool-down {wanted:g}: still {now:.1f} degrees after {_COOLING_S / 60:.0f} minutes; "
                    "give a higher temperature, or the board a fan"
                )
            if waited == 0:
                tell(f"cooling down from {now:.1f} to {wanted:g} degrees")
            self._sleep(_COOLING_STEP_S)
            waited += _COOLING_STEP_S

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
