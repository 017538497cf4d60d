"""Runs at Weights & Biases: what the tracker put there is evaluated as the run directory is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.evaluation.remote import RemoteRuns
from edgeadapt_train.evaluation.report import evaluate, write
from edgeadapt_train.evaluation.request import Request
from edgeadapt_train.evaluation.runs import LocalRuns
from edgeadapt_train.tracking.figures import at_the_end
from tests.train.stored_runs import stored_run
from tests.train.wandb_files import Project, Remote, served


def remote(path: Path) -> Remote:
    run = LocalRuns(path.parent).run(path.name)
    config = yaml.safe_load((path / "config.yaml").read_text())
    summary = json.loads(json.dumps(at_the_end(run.scores, run.confusion, 1234)))
    rows = [{"_step": step.number, "task": step.task, "loss": step.loss} for step in run.steps]
    return Remote(f"{path.name}-0a1b2c3d", path.name, config, summary, [*rows, {"_step": 99, "tasks_learnt": 4}])


def files(root: Path) -> dict[str, bytes]:
    kept = ("metrics.json", "aggregated_metrics.json", "significance.json", "comparison.html")
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.name in kept}


def test_a_remote_run_is_evaluated_as_the_local_one(tmp_path: Path) -> None:
    here = tmp_path / "here"
    names = ("proposed", "baseline")
    paths = [stored_run(here, name, level=level) for name, level in zip(names, (0.8, 0.7), strict=True)]
    api = Project("team/edgeadapt", [remote(path) for path in paths])
    source = RemoteRuns(api, "edgeadapt", "team")
    assert source.run("proposed").adapter_bytes == 1234
    for run in api.known:
        run.summary_metrics = {key: value for key, value in run.summary_metrics.items() if key != "adapter_bytes"}
    evaluate([f"results_dir={here}", "run_ids=[proposed, baseline]"])
    write(Request.parse([f"results_dir={tmp_path / 'there'}", "run_ids=[proposed, baseline]"]), source)
    assert files(tmp_path / "there") == files(here)


def test_a_run_is_found_by_its_id_too(tmp_path: Path) -> None:
    one = remote(stored_run(tmp_path, "proposed"))
    assert RemoteRuns(Project("edgeadapt", [one]), "edgeadapt", None).run(one.id).scores.tasks[0] == "topics"


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    one = remote(stored_run(tmp_path, "proposed"))
    twin = Remote("other-id", "proposed", one.config, one.summary_metrics)
    begun = Remote("begun-id", "begun", one.config, {})
    source = RemoteRuns(Project("edgeadapt", [one, twin, begun]), "edgeadapt", None)
    with pytest.raises(EdgeAdaptError, match="there is no run 'missing' in edgeadapt"):
        source.run("missing")
    with pytest.raises(EdgeAdaptError, match=f"2 runs named 'proposed'; give an id: {one.id}, other-id"):
        source.run("proposed")
    with pytest.raises(EdgeAdaptError, match="begun: has no scores"):
        source.run("begun")
    with pytest.raises(EdgeAdaptError, match=r"elsewhere cannot be read \(Could not find project elsewhere\)"):
        RemoteRuns(Project("edgeadapt", []), "elsewhere", None).run("proposed")


def test_wandbs_own_client_reads_the_same(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    path = stored_run(tmp_path / "here", "proposed")
    expected = LocalRuns(path.parent).run("proposed")
    script = (
        "import json, sys; from dataclasses import asdict\n"
        "from edgeadapt_train.evaluation.remote import RemoteRuns, open_api\n"
        "run = RemoteRuns(open_api(), 'edgeadapt', 'team').run('proposed')\n"
        "print(json.dumps([run.scores.to_json(), [[s.number, s.task, s.loss] for s in run.steps],\n"
        "                  run.config, run.adapter_bytes, sorted(run.confusion)]))"
    )
    apart = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    with served(Project("team/edgeadapt", [remote(path)])) as address:
        here = {"HOME": str(tmp_path), "WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}
        done = subprocess.run(
            [sys.executable, "-c", script], env=apart | here, capture_output=True, text=True, check=False, timeout=120
        )
    assert done.returncode == 0, done.stderr
    steps = [[step.number, step.task, step.loss] for step in expected.steps]
    assert json.loads(done.stdout.splitlines()[-1]) == [
        expected.scores.to_json(), steps, expected.config, 1234, ["topics"],
    ]  # fmt: skip
