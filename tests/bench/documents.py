"""Result files for tests, by the classes that write the real ones: native(...) timed, emulated(...) counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeadapt_bench import statistics
from edgeadapt_bench.bandwidth import Bandwidth
from edgeadapt_bench.baselines import BARE
from edgeadapt_bench.devices import emulated as emulated_device
from edgeadapt_bench.devices.base import Conditions, Fingerprint
from edgeadapt_bench.emulation.bench import EmulatedReport, EmulatedRow
from edgeadapt_bench.emulation.counts import Counts
from edgeadapt_bench.emulation.job import Job
from edgeadapt_bench.emulation.machine import Answer
from edgeadapt_bench.report import BenchReport, Memory, Origin, Row
from edgeadapt_bench.workloads import Generation, Switch

STARTED = "2026-11-22T12:00:00+00:00"
VERSIONS = {"python": "3.11.7", "edgeadapt": "0.1.0", "onnxruntime": "1.31.1", "numpy": "2.4.6", "kernel": "6.1.0"}
SIZES = {"bundles/int4": {"model.onnx.data": 80_000_000, "model.onnx": 240_000, "bare.onnx": 220_000,
                          "adapters/a/state.safetensors": 50_000, "tokenizer.json": 1_500_000}}  # fmt: skip
_TOKENS = 4
_GENERATION = Generation(prompt=64, output=_TOKENS)
_WORKLOADS = {**dict.fromkeys(_GENERATION.phases, _GENERATION.sizes()), "task_switch": Switch().sizes()}
_SECONDS: Mapping[str, float] = {"load": 0.5, "prefill": 0.3, "decode": 0.02, "task_switch": 0.0005}


def origin(variant: str, precision: str = "int4") -> Origin:
    return Origin(
        variant=variant,
        bundle="bundles/int4",
        bundle_sha256="0123456789abcdef" * 4,
        graph="bare" if variant == BARE else "model",
        adapter=None if variant == BARE else variant,
        precision=precision,
        threads=1,
        ops="library",
        note="backbone without any adapter" if variant == BARE else "",
    )


def native(
    factors: Mapping[str, float] | None = None, *, seed: int = 0, openings: int = 8, drift: float = 1.0, rounds: int = 5
) -> dict[str, Any]:
    """A run in which each variant takes its factor's times as long as bare, on a machine that is `drift` times slow."""
    rng = np.random.default_rng(seed)
    known = {BARE: 1.0, "himalaya": 1.02} if factors is None else {BARE: 1.0, **factors}
    rows, memory = [], []
    for phase, seconds in _SECONDS.items():
        shape = (openings, 1 if phase == "load" else rounds * (_TOKENS if phase == "decode" else 1))
        stalls = np.exp(rng.normal(0, 0.1, shape))  # of the machine: they slow every variant alike
        bare = None
        for name, factor in known.items():
            samples = seconds * factor * drift * stalls * np.exp(rng.normal(0, 0.01, shape))
            bare = samples if name == BARE else bare
            if name == BARE and phase == "task_switch":  # it has no tasks
                continue
            assert bare is not None
            ratio = None if name == BARE or phase == "task_switch" else statistics.paired_ratio(samples, bare)
            wall = tuple(tuple(float(x) for x in opening) for opening in samples)
            summary = statistics.summarise(samples.ravel().tolist())
            work = _WORKLOADS.get(phase, {"name": "load"})
            rows.append(Row(origin(name), work, phase, STARTED, wall, wall, summary, ratio, ratio))
    for number, name in enumerate(known):
        memory.append(Memory(origin(name), peak=200_000_000 + number * 4096, increase=150_000_000))
    quiet = Conditions(load_average=0.1, clock_mhz=1500.0, temperature_c=50.0, throttled="0x0")
    report = BenchReport(
        device="host",
        emulated=False,
        fingerprint=Fingerprint(
            "Raspberry Pi 4 Model B", "Cortex-A72 (part 0xd08)", "aarch64", 4, ("asimd", "crc32"), (600.0, 1500.0),
            "performance", 4 << 30, "6.12.0", "Debian GNU/Linux 12 (bookworm)", "glibc 2.36",
        ),
        before=quiet,
        after=quiet,
        versions=VERSIONS,
        started=STARTED,
        seconds=40.0,
        quick=False,
        rows=rows,
        memory=memory,
        sizes=SIZES,
        memory_bandwidth=[Bandwidth(5.0e9, 256 << 20, 1)],
    )  # fmt: skip
    return stored(report.to_json())


def emulated(decode: Mapping[str, int] | None = None) -> dict[str, Any]:
    """A run in which each variant needs so many instructions for a token."""
    rows = []
    for name, count in (decode or {BARE: 60_000_000, "himalaya": 60_090_000}).items():
        found = Answer()
        for phase, counts in (("load", [200_000_000]), ("prefill", [64 * count // 2] * 2), ("decode", [count] * 3)):
            for number in counts:
                found.take({"event": "phase", "name": phase, "instructions": number})
        for when, size in (("import", 60_000_000), ("end", 150_000_000)):
            found.take({"event": "memory", "name": when, "VmHWM": size, "VmRSS": size})
        job = Job("model.onnx", ops=True, prompt=64, tokens=1, prefills=2)
        counts_of = Counts("bundles/int4", "model", job, VERSIONS, found)
        rows.append(EmulatedRow(origin(name), _GENERATION, STARTED, counts_of))
    fingerprint = emulated_device.fingerprint(VERSIONS)
    return stored(EmulatedReport("emulated", fingerprint, STARTED, rows, SIZES).to_json())


def stored(document: dict[str, Any]) -> dict[str, Any]:
    """As a file would give it back."""
    found: dict[str, Any] = json.loads(json.dumps(document))
    return found
