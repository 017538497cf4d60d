"""`edgeadapt bench`: choose a device, what runs on it and what is measured; measure; report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import TypeVar

from edgeadapt.backbones import SYNTHETIC
from edgeadapt.bundle import MANIFEST, Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import write_json
from edgeadapt_bench import bandwidth, devices
from edgeadapt_bench.baselines import COMPETITORS, Selection, Variant, own, select
from edgeadapt_bench.devices.ssh import RemoteReport
from edgeadapt_bench.effort import QUICK, THOROUGH, Effort, bounded
from edgeadapt_bench.emulation.bench import EmulatedReport
from edgeadapt_bench.emulation.bench import bench as emulated_bench
from edgeadapt_bench.encoders import encoder_variants, is_encoder
from edgeadapt_bench.measure import Measurement, measure
from edgeadapt_bench.report import BenchReport, Memory, Row, now, sizes
from edgeadapt_bench.workloads import DECODER, ENCODER, Mixed, Workload

_SYNTHETIC = "synthetic: random weights in a published shape"
Tell = Callable[[str], None]
Report = TypeVar("Report", BenchReport, EmulatedReport, RemoteReport)


def bench(
    bundle: Path,
    *,
    device: str = "host",
    baselines: Sequence[str] | None = None,
    workloads: Sequence[Workload] = (),
    quick: bool = False,
    minutes: float | None = None,
    threads: int | Sequence[int] = 1,
    cool_down: float | None = None,
    json_out: Path | None = None,
    effort: Effort | None = None,
    tell: Tell | None = None,
) -> BenchReport | EmulatedReport | RemoteReport:
    """Measure a bundle's adapters, or an encoder's graph, beside the bare backbone and other baselines.

    Args:
        bundle: a bundle's directory, or an encoder's .onnx file.
        device: where, in the words of edgeadapt_bench.devices.
        baselines: names of edgeadapt_bench.baselines or bundle directories; "all" for every one that can run here;
            edgeadapt's own if none are given.
        workloads: what is measured; generation and switches of a decoder, embeddings of an encoder if none are given.
        quick: bound the whole run to 40 s.
        minutes: bound it to so many minutes instead.
        threads: threads that one operation may use, in every variant; of several numbers each is measured by itself.
        cool_down: degrees Celsius that a device which keeps time is waited for before models are opened.
        json_out: write every row to this file, too.
        effort: of a device which keeps time here; another machine has its own.
        tell: called with a line whenever something new begins; standard error if not given.

    Raises:
        EdgeAdaptError: unusable bundle, unknown baseline or device, or a worker that failed.
    """
    began = time.monotonic()
    started = now()
    say = tell or (lambda line: print(line, file=sys.stderr, flush=True))
    plan = effort or (QUICK if quick else THOROUGH if minutes is None else bounded(minutes))
    counts = [threads] if isinstance(threads, int) else list(threads)
    where = devices.choose(device, cool_down)
    if isinstance(where, devices.SshDevice):
        asked = bench_words(workloads, counts, quick=quick, minutes=minutes, cool_down=cool_down)
        return _written(where.bench(bundle, baselines or (), asked, say), json_out)
    mixing = any(isinstance(workload, Mixed) for workload in workloads)
    selected, usual = _chosen(bundle, baselines, mixing, native_host=isinstance(where, devices.HostDevice))
    chosen, measured = selected.variants, list(workloads) or list(usual)
    for name, reason in selected.left_out.items():
        say(f"without {name}: {reason}")
    if isinstance(where, devices.EmulatedDevice):
        counted = emulated_bench(chosen, device=where.name, threads=counts, quick=quick, workloads=measured, tell=say)
        return _written(counted, json_out)
    before = where.conditions()
    bandwidths = [bandwidth.measure(count) for count in counts]
    rows: list[Row] = []
    memory: list[Memory] = []
    left_out = dict(selected.left_out)
    for count in counts:
        beginning = time.monotonic() if rows else began
        effort_of_one = plan.shared_among(len(counts))
        run = Measurement(where, chosen, count, measured, effort_of_one, beginning, say, selected.optional)
        found = measure(run)
        rows += found.rows
        memory += found.memory
        left_out |= found.left_out
    seen = {row.origin.variant for row in rows}
    report = BenchReport(
        device=where.name,
        emulated=where.emulated,
        fingerprint=where.fingerprint(),
        before=before,
        after=where.conditions(),
        versions=versions(chosen),
        started=started,
        seconds=time.monotonic() - began,
        quick=quick,
        rows=rows,
        memory=memory,
        sizes=sizes([variant for variant in chosen if variant.name in seen]),
        left_out=left_out,
        memory_bandwidth=bandwidths,
    )
    return _written(report, json_out)


def _chosen(
    path: Path, baselines: Sequence[str] | None, mixing: bool, *, native_host: bool
) -> tuple[Selection, Sequence[Workload]]:
    """What runs, and what is measured of it if nobody says: by what lies at `path`."""
    if is_encoder(path):
        return Selection(encoder_variants(path, baselines)), ENCODER
    if path.is_file() and path.name != MANIFEST:
        raise EdgeAdaptError(f"{path}: neither a bundle directory nor an encoder's graph (.onnx)")
    bundle = Bundle.open(path)
    if mixing and not baselines:
        baselines = own.mixing(bundle)
    found = select(bundle, baselines, COMPETITORS if native_host else ())
    if bundle.manifest.backbone.id.startswith(SYNTHETIC):
        noted = [replace(one, note="; ".join(filter(None, (_SYNTHETIC, one.note)))) for one in found.variants]
        found = replace(found, variants=noted)
    return found, DECODER


def bench_words(
    workloads: Sequence[Workload],
    threads: Sequence[int],
    *,
    quick: bool,
    minutes: float | None = None,
    cool_down: float | None,
) -> list[str]:
    """The same request in words of the command line."""
    words = ["--quick"] * quick + ["--threads", ",".join(map(str, threads))]
    words += [] if minutes is None else ["--minutes", f"{minutes:g}"]
    words += [] if cool_down is None else ["--cool-down", f"{cool_down:g}"]
    for workload in workloads:
        sizes = [f"{size}={value}" for size, value in workload.sizes().items() if size != "name"]
        words += ["--workload", ":".join([workload.name, *sizes])]
    return words


def _written(report: Report, path: Path | None) -> Report:
    if path is not None:
        write_json(path, report.to_json())
    return report


def versions(variants: Sequence[Variant]) -> dict[str, str]:
    """Of what the figures depend on."""
    found = {"python": python_version()}
    packages = [package for variant in variants for package in variant.packages]
    for package in dict.fromkeys(("edgeadapt", "onnxruntime", "numpy", *packages)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
