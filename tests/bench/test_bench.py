"""`edgeadapt bench` on this machine, with real worker processes and a tiny bundle."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import sha256_of
from edgeadapt.ops.library import library_path
from edgeadapt_bench import devices
from edgeadapt_bench.baselines import Variant, select
from edgeadapt_bench.devices.base import Conditions
from edgeadapt_bench.devices.host import HostDevice, HostWorker
from edgeadapt_bench.report import BenchReport, problems
from edgeadapt_bench.run import bench
from edgeadapt_bench.workloads import PHASES, Effort, Workload
from tests.exported import Exported

BRIEF = Effort(samples=6, openings=3, seconds=0.0, window=2, warm_up_rounds=4)
QUIET = Conditions(load_average=0.0, clock_mhz=1500.0, temperature_c=50.0, throttled="0x0")


@pytest.fixture(scope="module")
def report(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchReport, dict[str, Any]]:
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    told: list[str] = []
    chosen = ["all", str(exported("lora"))]
    work = Workload(prompt_tokens=20, decode_tokens=3)
    bundle = exported("himalaya", "int4")
    found = bench(bundle, baselines=chosen, json_out=out, effort=BRIEF, tell=told.append, workload=work)
    assert told[0].startswith("opening bare, himalaya, ")
    assert told[1:] == [f"measuring, opening {number} of 3" for number in (1, 2, 3)]
    return found, json.loads(out.read_text())


def names(report: BenchReport, phase: str) -> set[str]:
    return {row.origin.variant for row in report.rows if row.phase == phase}


def test_every_variant_has_every_phase_that_it_can_have(report: tuple[BenchReport, dict[str, Any]]) -> None:
    found = report[0]
    everyone = {"bare", "himalaya", "lora8-unmerged", "lora8-merged", "lora-fp32"}
    adapters = {"himalaya", "lora-fp32"}
    if library_path() is not None:
        everyone.add("himalaya (bodies)")
        adapters.add("himalaya (bodies)")
    for phase in ("load", "prefill", "decode"):
        assert names(found, phase) == everyone
    for phase in ("task_switch", "adapter_switch"):
        assert names(found, phase) == adapters
    assert {item.origin.variant for item in found.memory} == everyone


def test_samples_and_ratios(report: tuple[BenchReport, dict[str, Any]]) -> None:
    for row in report[0].rows:
        # Three openings of two rounds; of 3 tokens each in decoding. Switches are measured in the first opening.
        shapes = {"load": (3, 1), "decode": (3, 6), "prefill": (3, 2)}
        for samples in (row.samples, row.cpu_samples):
            assert np.shape(samples) == shapes.get(row.phase, (1, 2))
            assert np.min(samples) > 0
        assert row.summary.minimum <= row.summary.p50 <= row.summary.p90 <= row.summary.maximum
        comparable = row.phase in ("load", "prefill", "decode") and row.origin.variant != "bare"
        for ratio in (row.ratio, row.cpu_ratio):
            assert (ratio is not None) == comparable
            if ratio is not None:
                assert ratio.openings == 3
                assert ratio.low <= ratio.value <= ratio.high


def test_a_row_says_where_it_came_from(report: tuple[BenchReport, dict[str, Any]], exported: Exported) -> None:
    value = report[1]
    rows = value["rows"]
    assert isinstance(rows, list)
    for row in rows:
        assert row["emulated"] is False
        assert row["device"] == value["device"]["id"]
        assert row["threads"] == 1
        assert row["started"].endswith("+00:00")
        assert set(row["versions"]) == {"python", "edgeadapt", "onnxruntime", "numpy"}
        assert row["workload"]["prompt_tokens"] == 20
        assert row["unit"] == ("s/token" if row["phase"] == "decode" else "s")
        foreign = row["variant"] == "lora-fp32"
        bundle = exported("lora") if foreign else exported("himalaya", "int4")
        assert row["precision"] == ("fp32" if foreign else "int4")
        assert row["bundle_sha256"] == sha256_of(bundle / "edgeadapt.json")
    assert {row["phase"] for row in rows} == set(PHASES)
    merged = next(row for row in rows if row["variant"] == "lora8-merged")
    assert "folding changes weight values, not the graph" in merged["note"]


def test_memory_and_sizes(report: tuple[BenchReport, dict[str, Any]], exported: Exported) -> None:
    for item in report[0].memory:
        assert 0 < item.increase < item.peak < 1e9
    path = exported("himalaya", "int4")
    sizes = report[0].sizes[str(path)]
    assert sizes["model.onnx.data"] == (path / "model.onnx.data").stat().st_size
    assert sum(sizes.values()) == Bundle.open(path).size


def test_the_table_fits_a_terminal(report: tuple[BenchReport, dict[str, Any]]) -> None:
    from io import StringIO

    from rich.console import Console

    console = Console(width=100, file=StringIO())
    console.print(report[0].table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    for word in ("lora8-merged", "decode ms/token", "x bare", "decode, CPU", "task switch ms", "MB on disk"):
        assert word in text


def test_quick_is_bounded(exported: Exported) -> None:
    began = time.monotonic()
    found = bench(
        exported("himalaya", "int4"), effort=Effort(total_seconds=6.0), baselines=["bare"], tell=lambda _: None
    )
    assert time.monotonic() - began < 9
    assert names(found, "decode") == {"bare", "himalaya"}


def test_devices_that_are_not_there_yet(exported: Exported) -> None:
    with pytest.raises(EdgeAdaptError, match="--device ssh://pi: available now: host, rpi4, emulated"):
        bench(exported(), device="ssh://pi", tell=lambda _: None)
    assert isinstance(devices.choose("host"), HostDevice)


def test_baselines_by_name_and_by_path(exported: Exported, tmp_path: Path) -> None:
    bundle = Bundle.open(exported())
    assert [item.name for item in select(bundle, ["lora8-merged"]).variants] == ["bare", "himalaya", "lora8-merged"]
    assert [item.name for item in select(bundle, ["bare", "bare"]).variants] == ["bare", "himalaya"]
    foreign = select(bundle, [str(exported("lora", merge=True))]).variants[-1]
    assert (foreign.name, foreign.adapter) == ("lora-fp32-merged", "lora")
    with pytest.raises(EdgeAdaptError, match="--baseline llama: neither a bundle directory nor one of bare"):
        select(bundle, ["llama"])
    with pytest.raises(EdgeAdaptError, match="has no lora8 graph"):
        select(Bundle.open(exported("lora")), ["lora8-unmerged"])
    with pytest.raises(EdgeAdaptError, match="has no bare graph"):
        select(Bundle.open(exported("lora", merge=True)), None)


def test_a_worker_passes_its_error_on(exported: Exported, tmp_path: Path) -> None:
    device = HostDevice()
    with (
        pytest.raises(EdgeAdaptError, match=r"x: .*: no such bundle directory"),
        device.worker(Variant("x", tmp_path / "none", "model"), threads=1),
    ):
        pass
    with device.worker(Variant("x", exported(), "bare"), threads=1) as worker:
        assert worker.opened["vocabulary_size"] == 320
        with pytest.raises(EdgeAdaptError, match="x: unknown request 'dance'"):
            worker.call("dance")
        with pytest.raises(EdgeAdaptError, match="x: the prompt is empty"):
            worker.call("prefill", room=1)
        worker.call("prompt", ids=[5, 6, 7])
        answer = worker.call("prefill", room=1)
        assert len(answer["seconds"]) == len(answer["cpu_seconds"]) == 1


def test_a_worker_that_is_killed_is_named() -> None:
    worker = HostWorker("victim")
    worker._process.kill()
    with pytest.raises(
        EdgeAdaptError, match="victim: its process was ended by SIGKILL, most likely for lack of memory"
    ):
        worker.call("memory")
    worker.close()


def test_workers_end_with_the_run(exported: Exported) -> None:
    import psutil

    with HostDevice().worker(Variant("x", exported(), "bare"), threads=1):
        children = psutil.Process().children()
        assert any("edgeadapt_bench.worker" in " ".join(child.cmdline()) for child in children)
    assert not [child for child in psutil.Process().children() if "edgeadapt_bench.worker" in " ".join(child.cmdline())]


def test_what_makes_a_run_invalid() -> None:
    assert problems(QUIET, QUIET) == []
    assert problems(QUIET, replace(QUIET, clock_mhz=1440.0)) == []
    assert "moved by -20%" in problems(QUIET, replace(QUIET, clock_mhz=1200.0))[0]
    assert "throttled after the run (bits 0x50000)" in problems(QUIET, replace(QUIET, throttled="0x50000"))[0]
    unknown = replace(QUIET, clock_mhz="unknown", throttled="unknown")
    assert problems(unknown, QUIET) == []


def test_the_fingerprint_is_stable_and_complete() -> None:
    one, two = HostDevice().fingerprint(), HostDevice().fingerprint()
    assert one == two
    assert one.identity == two.identity
    assert one.cores >= 1
    assert one.memory_bytes > 1e8
    assert replace(one, kernel="other").identity != one.identity
    conditions = HostDevice().conditions()
    assert conditions.load_average >= 0
