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
from edgeadapt.cli import main
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import sha256_of
from edgeadapt.ops.library import library_path
from edgeadapt_bench.baselines import Variant, select
from edgeadapt_bench.devices.host import HostDevice, HostWorker
from edgeadapt_bench.effort import Effort
from edgeadapt_bench.measure import Measurement, measure
from edgeadapt_bench.report import BenchReport
from edgeadapt_bench.results import checked
from edgeadapt_bench.run import bench
from edgeadapt_bench.terminal import table
from edgeadapt_bench.workloads import Generation, Switch
from tests.exported import Exported

BRIEF = Effort(samples=6, openings=3, seconds=0.0, window=2, warm_up_rounds=4)


@pytest.fixture(scope="module")
def report(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchReport, dict[str, Any]]:
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    told: list[str] = []
    own = ["lora8-unmerged", "lora8-merged", *(["bodies"] if library_path() else [])]
    chosen = [*own, str(exported("lora"))]
    work = [Generation(prompt=20, output=3), Switch(prompt=20)]
    bundle = exported("himalaya", "int4")
    found = bench(bundle, baselines=chosen, json_out=out, effort=BRIEF, tell=told.append, workloads=work)
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
        assert row["workload"].get("prompt", 20) == 20
        assert row["unit"] == ("s/token" if row["phase"] == "decode" else "s")
        foreign = row["variant"] == "lora-fp32"
        bundle = exported("lora") if foreign else exported("himalaya", "int4")
        assert row["precision"] == ("fp32" if foreign else "int4")
        assert row["bundle_sha256"] == sha256_of(bundle / "edgeadapt.json")
    assert {row["phase"] for row in rows} == {"load", "prefill", "decode", "task_switch", "adapter_switch"}
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
    console.print(table(checked("x", report[1])))
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


def test_the_bundle_is_the_one_here_if_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--quick"])
    assert ended.value.code == 2
    assert "edgeadapt: bundle: no such bundle directory" in capsys.readouterr().err


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


def test_a_merged_adapter_is_measured_beside_the_graph_that_it_is_in(exported: Exported) -> None:
    bare, merged = select(Bundle.open(exported("lora", merge=True)), ["bare"]).variants
    assert (bare.name, bare.graph, bare.adapter) == ("bare", "model", None)
    assert (merged.name, merged.graph, merged.adapter) == ("lora", "model", "lora")


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
        with pytest.raises(EdgeAdaptError, match="x: no workload has begun"):
            worker.call("turn", phase="prefill")
        assert worker.call("begin", workload=Generation(prompt=3, output=1).sizes()) == {"cannot": None}
        answer = worker.call("turn", phase="prefill")
        assert len(answer["seconds"]) == len(answer["cpu_seconds"]) == 1


def test_a_competitor_that_does_not_open_is_left_out_only_if_nobody_named_it(exported: Exported) -> None:
    bare = select(Bundle.open(exported("himalaya"))).variants[0]
    crashes = Variant("crashes", bare.bundle, "bare", worker="os")
    told: list[str] = []
    run = Measurement(HostDevice(), [bare, crashes], 1, [Generation(20, 3)], BRIEF, time.monotonic(), told.append)
    with pytest.raises(EdgeAdaptError, match="crashes: "):
        measure(run)
    found = measure(replace(run, optional=frozenset({"crashes"})))
    assert {row.origin.variant for row in found.rows} == {"bare"}
    assert list(found.left_out) == ["crashes"]
    assert f"without crashes: {found.left_out['crashes']}" in told


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
