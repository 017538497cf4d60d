"""Several processes train one adapter: how batches are cut, and two real processes (gloo) against one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.rundir import RunDir
from edgeadapt_train.parallel import Alone, own_rows, sum_gradients, team
from edgeadapt_train.run import train
from tests.support import tiny_backbone

ROOT = Path(__file__).parents[2]


class One(Alone):
    """Process `rank` of `size`, for cutting only."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@given(st.integers(1, 9), st.integers(0, 40))
def test_the_processes_rows_are_the_batch_cut_into_even_parts(size: int, rows: int) -> None:
    parts = [own_rows(One(rank, size), range(rows)) for rank in range(size)]
    assert [row for _, part in parts for row in part] == list(range(rows))
    assert all(part[0] == first for first, part in parts if part)
    assert max(len(part) for _, part in parts) - min(len(part) for _, part in parts) <= 1


class Echo(One):
    """Another process that has the same: sums are twice what this one has."""

    def total(self, values: torch.Tensor) -> torch.Tensor:
        return 2 * values


def test_gradients_are_summed_and_a_parameter_without_any_keeps_none() -> None:
    with_gradient, without = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    with_gradient.grad = torch.tensor([1.0, 2.0, 3.0])
    sum_gradients(Echo(0, 2), [with_gradient, without])
    assert with_gradient.grad.tolist() == [2, 4, 6]
    assert without.grad is None


def test_without_a_launcher_a_run_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert isinstance(team(cpu=True), Alone)


def test_a_search_is_not_shared_between_launched_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EdgeAdaptError, match=r"search\.trials: not with several processes"):
        train(["run=hest", "search.trials=2"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    tiny_backbone(folder / "backbone")
    for name, choices in (("a-topics", ("sport", "trade")), ("b-mood", ("good", "bad"))):
        rows = [{"name": name, "prompt": "Text: {text}\nAnswer:", "choices": choices, "max_prompt_tokens": 48}]
        for split, count in (("train", 21), ("validation", 2), ("evaluation", 8)):
            for n in range(count):
                target = choices[n % 2]
                rows.append({"split": split, "text": f"{split} {n} {target * (1 + n % 3)}", "target": target})
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def words(place: Path, results: Path, adapter: str) -> list[str]:
    return [
        "run=demo", f"run_id={adapter}", f"results_dir={results}", f"adapter={adapter}", "model=custom",
        f"model.id={place / 'backbone'}", "stream=folder", f"stream.folder={place}", "precision=fp32", "device=cpu",
        "threads=1", "batch_size=4", "accumulation=2", "epochs=2", "steps=null", "lr=0.01", "weight_decay=0.1",
    ]  # fmt: skip


@pytest.mark.parametrize("adapter", ["lora8", pytest.param("himalaya", marks=pytest.mark.slow)])
def test_two_processes_do_what_one_does_with_the_same_batches(place: Path, tmp_path: Path, adapter: str) -> None:
    """Losses, gradient norms and weights, to rounding; a last batch of one row leaves a process without any."""
    more = ["+adapter.growth=false"] if adapter == "himalaya" else ["adapter.ewc.strength=10", "adapter.ewc.batches=2"]
    alone = train([*words(place, tmp_path / "alone", adapter), *more])
    launched = tmp_path / "two"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "edgeadapt", "train", *words(place, launched, adapter), *more]
    path = os.pathsep.join((str(ROOT), str(ROOT / "train")))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert said.returncode == 0, said.stderr[-3000:]
    assert alone is not None
    one, two = RunDir.open(alone), RunDir.open(launched / adapter)
    assert (one.environment()["processes"], two.environment()["processes"]) == (1, 2)
    steps = [[r for r in run.metrics() if "loss" in r] for run in (one, two)]
    assert len(steps[0]) == len(steps[1]) == 2 * 2 * 3
    for key, tolerance in (("loss", 1e-5), ("gradient_norm", 1e-3), ("lr", 0), ("tokens", 0)):
        np.testing.assert_allclose([r[key] for r in steps[1]], [r[key] for r in steps[0]], rtol=tolerance)
    trained = [load(run) for run in (one, two)]
    assert trained[0].keys() == trained[1].keys()
    for name, value in trained[0].items():
        np.testing.assert_allclose(trained[1][name], value, atol=2e-4, err_msg=name)
    scores = [run.scores() for run in (one, two)]
    assert scores[0] is not None
    assert scores[1] is not None
    np.testing.assert_array_equal(scores[0].matrix, scores[1].matrix)


def load(run: RunDir) -> dict[str, np.ndarray]:
    """The trained tensors, in full precision, from the last checkpoint."""
    from edgeadapt_train import checkpoint

    found = checkpoint.read(run.path)
    assert found is not None
    names = ("adapter.factors", "adapter.inner.factors", "adapter.inner.router", "adapter.inner.task_rows")
    return {name: value.float().numpy() for name, value in found[1].items() if name.startswith(names)}
