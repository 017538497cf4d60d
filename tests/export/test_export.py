"""Runs to bundles: every method and precision, parity with PyTorch, what the base files hold, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgeadapt.bundle import Bundle
from edgeadapt.errors import CheckFailed, EdgeAdaptError
from edgeadapt.files import sha256_of
from edgeadapt.inspect import describe
from edgeadapt.onnxscan import scan
from edgeadapt.rundir import RunDir, write_adapter
from edgeadapt.runtime.engine import Engine
from edgeadapt.text import TextCodec
from edgeadapt_export import ExportReport, export
from edgeadapt_export.built import Built
from edgeadapt_export.methods import StoredAdapter, deployer
from edgeadapt_export.methods.contract import Deployed
from edgeadapt_export.parity import Parity, measure, sequences
from tests.export.conftest import Tiny
from tests.export.graphs import logits, random_ids
from tests.support import TASKS, make_run

BASE = ("model.onnx", "bare.onnx", "lora8.onnx", "embed.onnx", "model.onnx.data")


def quiet(run: RunDir | Path, out: Path, **options: Any) -> ExportReport:
    path = run.path if isinstance(run, RunDir) else run
    return export(path, out, progress=lambda *_: None, **options)


def run_of(tiny: Tiny, folder: Path, method: str = "himalaya", **options: Any) -> RunDir:
    return make_run(folder, method, tiny.folder, **options)


@pytest.mark.parametrize(("method", "options", "merge"), [
    ("himalaya", {}, False),
    ("himalaya", {"site": "square", "pool": "first"}, False),
    ("lora", {}, False),
    ("lora", {"modules": ("q_proj", "k_proj", "o_proj", "down_proj")}, False),
    ("lora", {"modules": ("k_proj", "gate_proj")}, True),
])  # fmt: skip
def test_the_exported_files_compute_what_pytorch_computes(
    tiny: Tiny, tmp_path: Path, method: str, options: dict[str, Any], merge: bool
) -> None:
    run = run_of(tiny, tmp_path / "run", method, **options)
    report = quiet(run, tmp_path / "bundle", precision="fp32", merge=merge)
    assert report.parity is not None
    assert report.parity.positions >= 2000
    assert report.parity.max_abs_logit_difference <= 1e-3
    assert report.parity.argmax_agreement >= 0.999
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.parity["mean_kl"] == report.parity.mean_kl
    assert report.size == sum(path.stat().st_size for path in (tmp_path / "bundle").rglob("*") if path.is_file())
    assert {name for name in bundle.manifest.graphs if not name.startswith("probe/")} == (
        {"model", "embed"}
        if merge
        else {"model", "bare", "mixed", "embed"} | ({"lora8"} if method == "himalaya" else set())
    )


def test_parity_sees_another_adapter(tiny: Tiny, tmp_path: Path) -> None:
    """A check that passed whatever the adapter did would be worth nothing."""
    quiet(run_of(tiny, tmp_path / "run"), tmp_path / "bundle", precision="fp32", check=False)
    entry = Bundle.open(tmp_path / "bundle").manifest.adapters[0]
    other = StoredAdapter.of(run_of(tiny, tmp_path / "other", seed=1))
    codec = TextCodec.from_folder(tiny.folder)
    deployed = Deployed("graph", Path(str(entry.graph)).name, entry.inputs)
    built = Built(tmp_path / "bundle", entry.name, {"model": "model.onnx", "embed": "embed.onnx"}, deployed)
    items = sequences(["some text or other"] * 3, TASKS, codec)
    found = measure(built, deployer("himalaya"), other, backbone=tiny.folder, items=items)
    with pytest.raises(CheckFailed, match="differs from PyTorch"):
        found.check()


@pytest.mark.parametrize(("difference", "agreement"), [(2e-3, 1.0), (1e-5, 0.998), (float("nan"), 1.0)])
def test_parity_fails_by_difference_by_agreement_and_by_nan(difference: float, agreement: float) -> None:
    with pytest.raises(CheckFailed):
        Parity(2000, 20, difference, agreement, 0.0, "torch").check()


def test_parity_asks_as_the_tasks_ask(tiny: Tiny) -> None:
    codec = TextCodec.from_folder(tiny.folder)
    made = sequences(["first text", "second text"], TASKS, codec, positions=10_000)
    assert {item.task for item in made} == {0, 1}
    assert codec.decode(made[0].ids) == "Text: first text\nTopic: sport"
    assert codec.decode(made[0].ids[: made[0].prompt]) == "Text: first text\nTopic:"


def test_fp16_factors_in_the_graph_are_the_numbers_of_fp32_ones(tiny: Tiny, tmp_path: Path) -> None:
    run = run_of(tiny, tmp_path / "run", "lora")
    for factors in ("fp32", "fp16"):
        report = quiet(run, tmp_path / factors, precision="fp32", factors=factors, check=factors == "fp16")
    assert report.parity is not None
    assert report.parity.max_abs_logit_difference <= 1e-3
    engines = [Engine.open(tmp_path / factors, ops="off") for factors in ("fp32", "fp16")]
    for engine in engines:
        engine.use("run")
    np.testing.assert_array_equal(*(engine.prefill([1, 2, 3]) for engine in engines))


def test_int8_factors_halve_the_file_and_hardly_change_what_the_adapter_does(tiny: Tiny, tmp_path: Path) -> None:
    run = run_of(tiny, tmp_path / "run", "lora")
    quiet(run, tmp_path / "fp32", precision="fp32", check=False)
    report = quiet(run, tmp_path / "int8", precision="fp32", factors="int8")
    assert "lora (lowrank, factors in int8)" in report.summary()
    assert report.parity is not None
    assert report.parity.mean_kl < 1e-4
    exact, narrow = (Engine.open(tmp_path / factors, ops="off") for factors in ("fp32", "int8"))
    prompts = np.random.default_rng(0).integers(3, 320, (16, 24))
    bare = np.stack([exact.prefill(ids).copy() for ids in prompts])
    exact.use("run")
    narrow.use("run")
    effect = np.stack([exact.prefill(ids).copy() for ids in prompts]) - bare
    error = np.stack([narrow.prefill(ids).copy() for ids in prompts]) - bare - effect
    assert np.linalg.norm(error) < 0.02 * np.linalg.norm(effect)
    found = describe(tmp_path / "int8")["adapters"][0]
    halved = run.adapter.bytes.deployed // 2 + 4 * 8 * 2 * tiny.shape.num_layers
    assert found["adapter_bytes"]["deployed"] == sum(item["bytes"] for item in found["tensors"]) == halved
    assert {item["dtype"] for item in found["tensors"]} == {"I8", "F32"}


def test_other_factors_than_loras_own_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="factors 'int8': for an adapter of method 'himalaya' give fp32"):
        quiet(run_of(tiny, tmp_path / "run"), tmp_path / "bundle", factors="int8")
    lora = run_of(tiny, tmp_path / "lora", "lora")
    with pytest.raises(EdgeAdaptError, match="give fp32, since they are merged"):
        quiet(lora, tmp_path / "bundle", factors="int8", merge=True)
    with pytest.raises(EdgeAdaptError, match="give fp32 or fp16 or int8"):
        quiet(lora, tmp_path / "bundle", factors="int3")


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_bundles_record_what_quantisation_costs(tiny: Tiny, tmp_path: Path, precision: Any) -> None:
    report = quiet(run_of(tiny, tmp_path / "run"), tmp_path / "bundle", precision=precision)
    assert report.parity is not None
    assert 0 < report.parity.mean_kl < 1
    dense = 4 * (3 * (64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 128) + 320 * 64)
    bits = {"int8": 8 + 32 / 64, "int4": 4 + 32 / 32}[precision]
    assert report.files["model.onnx.data"] <= dense * bits / 32 + 8_000  # the norms, and 64-byte steps


def test_base_files_do_not_depend_on_the_adapters_values(tiny: Tiny, tmp_path: Path) -> None:
    for seed in (0, 1):
        quiet(run_of(tiny, tmp_path / f"run{seed}", seed=seed), tmp_path / f"bundle{seed}", check=False)
    for name in BASE:
        assert sha256_of(tmp_path / "bundle0" / name) == sha256_of(tmp_path / "bundle1" / name)
    files = [tmp_path / f"bundle{seed}" / "adapters" / f"run{seed}" / "direction.onnx" for seed in (0, 1)]
    assert sha256_of(files[0]) != sha256_of(files[1])


def test_a_zero_adapter_gives_the_bare_backbone_to_the_bit(tiny: Tiny, tmp_path: Path) -> None:
    quiet(run_of(tiny, tmp_path / "run"), tmp_path / "bundle", check=False)
    ids = random_ids(2, 11)
    bare = logits(tmp_path / "bundle" / "bare.onnx", ids)
    for name in ("model", "lora8"):
        np.testing.assert_array_equal(logits(tmp_path / "bundle" / f"{name}.onnx", ids), bare)


def test_a_bundle_carries_every_stored_tensor_of_the_adapter(tiny: Tiny, tmp_path: Path) -> None:
    run = run_of(tiny, tmp_path / "run")
    quiet(run, tmp_path / "bundle", check=False)
    folder = tmp_path / "bundle" / "adapters" / "run"
    graph = scan(folder / "direction.onnx")
    rest = sum(array.nbytes for array in load_file(folder / "state.safetensors").values())
    assert graph.initializer_bytes + rest == run.adapter.bytes.deployed
    assert [port.name for port in graph.outputs] == list(Bundle.open(tmp_path / "bundle").manifest.adapters[0].inputs)


def test_all_graphs_read_one_file_of_weights(tiny: Tiny, tmp_path: Path) -> None:
    quiet(run_of(tiny, tmp_path / "run"), tmp_path / "bundle", check=False)
    regions = {}
    for name in ("model", "bare", "lora8", "embed"):
        found = scan(tmp_path / "bundle" / f"{name}.onnx").externals
        assert {item.location for item in found} == {"model.onnx.data"}
        regions[name] = {(item.offset, item.length) for item in found}
    assert regions["model"] == regions["bare"] == regions["lora8"] > regions["embed"]


def test_an_untied_backbone_keeps_two_tables(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support import tiny_backbone

    folder = tiny_backbone(tmp_path / "untied", layers=1, tied=False)
    run = make_run(tmp_path / "run", "himalaya", folder)
    report = quiet(run, tmp_path / "bundle", precision="fp32")
    assert report.parity is not None
    assert report.files["model.onnx.data"] > 4 * 2 * 320 * 64


def test_merging_himalaya_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="no static merge"):
        quiet(run_of(tiny, tmp_path / "run"), tmp_path / "bundle", merge=True, check=False)
    assert not (tmp_path / "bundle").exists()


def test_a_damaged_adapter_is_refused_and_the_old_bundle_stays(tiny: Tiny, tmp_path: Path) -> None:
    run = run_of(tiny, tmp_path / "run")
    quiet(run, tmp_path / "bundle", check=False)
    before = sha256_of(tmp_path / "bundle" / "edgeadapt.json")
    data = bytearray(run.weights.read_bytes())
    data[-1] ^= 1
    run.weights.write_bytes(data)
    with pytest.raises(EdgeAdaptError, match="SHA-256"):
        quiet(run, tmp_path / "bundle", check=False)
    assert sha256_of(tmp_path / "bundle" / "edgeadapt.json") == before


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="no such run directory"):
        quiet(tmp_path / "nowhere", tmp_path / "bundle")


def test_another_backbone_than_the_runs_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    from tests.support import tiny_backbone

    other = tiny_backbone(tmp_path / "other", seed=1)
    with pytest.raises(EdgeAdaptError, match=r"trained on .* name the same backbone"):
        quiet(run_of(tiny, tmp_path / "run"), tmp_path / "bundle", backbone=str(other))


def test_an_unknown_method_is_named(tiny: Tiny, tmp_path: Path) -> None:
    run = run_of(tiny, tmp_path / "run")
    write_adapter(run.path, replace(run.adapter, method="telepathy"), run.tensors())
    with pytest.raises(EdgeAdaptError, match="'telepathy' cannot be exported; known are bhsp, coltas, "):
        quiet(run, tmp_path / "bundle")


def test_tensors_that_do_not_fit_the_sites_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    run = run_of(tiny, tmp_path / "run", "lora")
    write_adapter(run.path, replace(run.adapter, sites={**run.adapter.sites, "rank": 4}), run.tensors())
    with pytest.raises(EdgeAdaptError, match="do not fit the graph"):
        quiet(run, tmp_path / "bundle", check=False)
    fewer = run_of(tiny, tmp_path / "fewer")
    write_adapter(fewer.path, replace(fewer.adapter, sites={"kind": "residual", "layers": [0, 1]}), fewer.tensors())
    with pytest.raises(EdgeAdaptError, match="gains are"):
        quiet(fewer, tmp_path / "bundle", check=False)


def test_somebody_elses_directory_is_never_replaced(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(EdgeAdaptError):
        quiet(run_of(tiny, tmp_path / "run"), tmp_path / "home", check=False)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


_EXPORT_FOR_EVER = """
import sys
from pathlib import Path
from edgeadapt_export import export
while True:
    for run in sys.argv[2:]:
        export(Path(run), Path(sys.argv[1]), check=False, progress=lambda *_: None)
        print("done", flush=True)
"""


def test_a_kill_at_any_moment_leaves_one_whole_bundle(tiny: Tiny, tmp_path: Path) -> None:
    runs = [run_of(tiny, tmp_path / f"run{seed}", seed=seed) for seed in (0, 1)]
    out = tmp_path / "out" / "bundle"
    rng = np.random.default_rng(0)
    for _ in range(3):
        command = [sys.executable, "-c", _EXPORT_FOR_EVER, str(out), *(str(run.path) for run in runs)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        time.sleep(float(rng.uniform(0, 0.5)))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        entry = Bundle.open(out).manifest.adapters[0]
        assert entry.name in ("run0", "run1")
    quiet(runs[0], out, check=False)  # the next export sweeps up
    left = [path.name for path in out.parent.iterdir() if path.suffix == ".building" or path.name.endswith(".old")]
    assert not left
    shutil.rmtree(out)
