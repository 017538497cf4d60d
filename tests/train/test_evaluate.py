"""`edgeadapt evaluate` on stored runs: figures, tables, what it refuses, and what it does without."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt import cli
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.continual.metrics import summary
from edgeadapt_train.evaluation.comparison import compared, methods, paired_tests, streams_differ
from edgeadapt_train.evaluation.comparison_figures import latency
from edgeadapt_train.evaluation.costs import cost
from edgeadapt_train.evaluation.measures import measured
from edgeadapt_train.evaluation.report import evaluate
from edgeadapt_train.evaluation.request import Request
from edgeadapt_train.evaluation.runs import LocalRuns
from tests.bench.documents import emulated, native
from tests.train.stored_runs import TASKS, stored_run

P, B = "proposed-himalaya-s0", "comparative-1-lora-s0"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods with two seeds each, evaluated once; the proposed one's first run has a benchmark."""
    root = tmp_path_factory.mktemp("results")
    for seed in (0, 1):
        stored_run(root, f"proposed-himalaya-s{seed}", seed=seed, level=0.8, method="himalaya")
        stored_run(root, f"comparative-1-lora-s{seed}", seed=seed, level=0.7, forgets=0.1)
    document = native({P: 1.02})
    (root / P / "bench.json").write_text(json.dumps(document))
    evaluate([f"results_dir={root}", f"run_ids={json.dumps(ids(root))}"])
    return root


def ids(root: Path) -> list[str]:
    return [f"{name}-s{seed}" for name in ("proposed-himalaya", "comparative-1-lora") for seed in (0, 1)]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_runs_metrics_are_those_of_its_matrix(results: Path) -> None:
    scores = LocalRuns(results).run(B).scores
    expected = summary(scores.matrix, scores.baseline)
    found = read(results / B / "metrics.json")
    assert (found["run_id"], found["role"], found["method"], found["seed"]) == (B, "baseline", "lora", 0)
    assert found["metrics"]["retained_accuracy_auc"] == pytest.approx(expected.auc)
    assert found["metrics"]["average_forgetting"] == pytest.approx(expected.forgetting)
    assert found["metrics"]["withheld_retained_accuracy_auc"] == pytest.approx(0.9 * expected.auc)
    assert found["retained_accuracy"] == pytest.approx(expected.retained.tolist())
    last = found["tasks"][-1]
    assert (last["task"], last["metric"], last["examples"], last["majority"]) == ("summaries", "rougeL", 40, 0.5)
    assert last["learnt"] == last["final"] == scores.matrix[-1, -1]


def test_the_comparison_names_the_best_of_either_role_and_the_gap(results: Path) -> None:
    found = read(results / "comparison" / "aggregated_metrics.json")
    assert list(found) == ["primary_metric", "metrics", "best_proposed", "best_baseline", "gap"]
    auc = found["metrics"]["retained_accuracy_auc"]
    assert set(auc) == set(ids(results))
    best = {role: max((name for name in auc if name.startswith(role)), key=auc.get) for role in ("prop", "comp")}
    assert found["best_proposed"] == {"run_id": best["prop"], "value": auc[best["prop"]]}
    assert found["best_baseline"] == {"run_id": best["comp"], "value": auc[best["comp"]]}
    p, b = auc[best["prop"]], auc[best["comp"]]
    assert found["gap"] == pytest.approx((p - b) / b * 100)
    assert found["gap"] > 0


def test_the_gaps_sign_turns_where_lower_is_better(results: Path) -> None:
    runs = [LocalRuns(results).run(name) for name in (P, B)]
    values = {P: {"average_forgetting": 0.01}, B: {"average_forgetting": 0.04}}
    found = compared(runs, values, "average_forgetting")
    assert found.gap == pytest.approx(75.0)
    assert compared(runs, {P: values[B], B: values[P]}, "average_forgetting").gap == pytest.approx(-300.0)


def test_a_gap_to_nothing_is_none(results: Path) -> None:
    runs = [LocalRuns(results).run(name) for name in (P, B)]
    values = {P: {"average_forgetting": 0.01}, B: {"average_forgetting": 0.0}}
    assert compared(runs, values, "average_forgetting").gap is None


def test_files_are_named_by_run_and_topic(results: Path) -> None:
    of_run = {path.name for path in (results / P).glob("*.pdf")}
    topics = ("learning_curves", "retained_accuracy", "forgetting_heatmap", "confusion_matrices")
    assert of_run == {f"{P}_{topic}.pdf" for topic in topics}
    together = {path.name for path in (results / "comparison").glob("*.pdf")}
    assert together == {
        f"comparison_{topic}.pdf"
        for topic in ("retained_accuracy", "primary_metric", "average_forgetting", "final_scores", "differences",
                      "latency_overhead", "latency", "memory")
    }  # fmt: skip
    assert all(path.read_bytes()[:5] == b"%PDF-" for path in results.rglob("*.pdf"))


def test_costs_come_from_the_benchmark_beside_the_run(results: Path) -> None:
    document = read(results / P / "bench.json")
    (row,) = (row for row in document["rows"] if row["variant"] == P and row["phase"] == "decode")
    found = read(results / P / "metrics.json")
    assert found["metrics"]["cpu_latency_overhead"] == pytest.approx(100 * (row["ratio_to_bare"]["value"] - 1))
    assert found["metrics"]["peak_memory"] == next(m["peak_bytes"] for m in document["memory"] if m["variant"] == P)
    assert (found["cost"]["phase"], found["cost"]["file"], found["cost"]["emulated"]) == ("decode", "bench.json", False)
    assert read(results / B / "metrics.json")["cost"] is None


def test_tests_are_over_tasks_and_over_seeds(results: Path) -> None:
    over_tasks, over_seeds = read(results / "comparison" / "significance.json")
    assert (over_tasks["first"], over_tasks["second"]) == ("proposed-himalaya", "comparative-1-lora")
    assert (over_tasks["over"], over_tasks["n"], over_tasks["smallest_p"]) == ("tasks", 4, 0.125)
    assert (over_seeds["over"], over_seeds["n"], over_seeds["smallest_p"]) == ("seeds", 2, 0.5)
    finals = {run: LocalRuns(results).run(run).final for run in ids(results)}
    expected = np.mean([finals[a][t] - finals[b][t] for a, b in zip(ids(results)[:2], ids(results)[2:], strict=True)
                        for t in TASKS])  # fmt: skip
    assert over_tasks["difference"] == pytest.approx(expected)
    assert over_tasks["wilcoxon_p"] == 0.125  # all four differences point one way


def test_every_path_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored_run(tmp_path, "proposed")
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", f"results_dir={tmp_path}", 'run_ids=["proposed"]'])
    assert ended.value.code == 0
    printed = {Path(line) for line in capsys.readouterr().out.splitlines()}
    before = {"config.yaml", "scores.json", "confusion.json", "metrics.jsonl"}
    assert printed == {path for path in tmp_path.rglob("*") if path.is_file() and path.name not in before}


def test_what_is_not_there_is_said_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = stored_run(tmp_path, "other", tasks=("alone",), withheld=False)
    (path / "metrics.jsonl").unlink()
    (path / "confusion.json").unlink()
    (path / "bench.json").write_text(json.dumps(native({"someone": 1.0, "else": 1.0})))
    written = evaluate([f"results_dir={tmp_path}", "run_ids=[other]"])
    said = capsys.readouterr().err
    for topic in ("learning_curves", "forgetting_heatmap", "confusion_matrices"):
        assert f"other: nothing to draw as {topic}" in said
    assert "retained_accuracy_auc is not known of: other" in said
    assert "its benchmark is left out" in said
    assert "benchmarks no adapter other; there are: someone, else" in said
    found = read(tmp_path / "comparison" / "aggregated_metrics.json")
    assert (found["best_proposed"], found["best_baseline"], found["gap"]) == (None, None, None)
    assert found["metrics"]["final_average_accuracy"]["other"] > 0
    assert read(path / "metrics.json")["metrics"]["retained_accuracy_auc"] is None
    assert written[-1] == tmp_path / "comparison" / "comparison.html"


def test_an_emulated_benchmark_gives_instructions_and_no_time(results: Path, tmp_path: Path) -> None:
    document = emulated({"bare": 60_000_000, B: 60_090_000})
    (tmp_path / "bench.json").write_text(json.dumps(document))
    run = replace(LocalRuns(results).run(B), cost=cost(tmp_path / "bench.json", B))
    found = measured(run)
    assert "cpu_latency_overhead" not in found
    assert found["cpu_instruction_overhead"] == pytest.approx(0.15)
    assert found["memory_overhead"] == 0
    assert latency([(B, run.cost)]) is None


def test_a_named_benchmark_must_be_one(tmp_path: Path) -> None:
    stored_run(tmp_path, "proposed")
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    with pytest.raises(EdgeAdaptError, match=r"wrong\.json: not a bench result"):
        evaluate([f"results_dir={tmp_path}", "run_ids=[proposed]", f"bench={{proposed: {wrong}}}"])
    invalid = native({"proposed": 1.0}) | {"problems": ["it throttled"]}
    wrong.write_text(json.dumps(invalid))
    with pytest.raises(EdgeAdaptError, match=r"not valid \(it throttled\)"):
        evaluate([f"results_dir={tmp_path}", "run_ids=[proposed]", f"bench={{proposed: {wrong}}}"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "results_dir must be given"),
        (["results_dir=x"], "run_ids must be given"),
        (["results_dir"], "results_dir: give key=value"),
        (["results=x"], "results=x: give key=value with one of the keys results_dir, run_ids"),
        (["results_dir=x", "run_ids=a"], """give it as run_ids='\\["a","b"\\]'"""),
        (["results_dir=x", "run_ids=[a, a]"], "each once"),
        (["results_dir=x", "run_ids=[../a]"], "not the name of a run"),
        (["results_dir=x", "run_ids=[a]", "source=cloud"], "source=cloud: choose one of local, wandb"),
        (["results_dir=x", "run_ids=[a]", "primary_metric=auc"], "primary_metric=auc: choose one of retained"),
        (["results_dir=x", "run_ids=[a]", "bench={b: c}"], "bench: 'b' is none of run_ids"),
        (["results_dir=x", "run_ids=[a]", "bench=c"], "give it as bench="),
    ],
)
def test_wrong_words_are_named(words: list[str], said: str) -> None:
    with pytest.raises(EdgeAdaptError, match=said):
        Request.parse(words)


def test_an_unknown_run_is_one_line_that_lists_the_known(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", f"results_dir={results}", "run_ids=[missing]"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"there is no run 'missing'; there are: {B}" in said


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    path = stored_run(tmp_path, "proposed")
    (path / "scores.json").unlink()
    with pytest.raises(EdgeAdaptError, match="has not finished"):
        evaluate([f"results_dir={tmp_path}", "run_ids=[proposed]"])


def test_of_streams_that_differ_the_common_tasks_are_paired(results: Path, tmp_path: Path) -> None:
    stored_run(tmp_path, "baseline", tasks=(*TASKS[:0:-1], "another"))
    runs = [LocalRuns(results).run(P), LocalRuns(tmp_path).run("baseline")]
    assert streams_differ(runs)
    assert not streams_differ(runs[:1])
    values = {run.run_id: measured(run) for run in runs}
    over_tasks, over_seeds = paired_tests(methods(runs), values, "retained_accuracy_auc")
    assert (over_tasks.n, over_seeds.n) == (3, 1)


def test_evaluating_imports_no_torch() -> None:
    script = (
        "import sys, edgeadapt_train.evaluation.report; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
