"""The whole road on the real small model, as a user types it: train, export, ask, measure, inspect, verify."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NEWS = "Shares in the airline fell by a tenth after it warned that the price of oil would eat its profits."


def edgeadapt(*words: str, cwd: Path, expect: int = 0, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """One command line, run in a folder; its exit code is checked. One thread: on a busy machine two that spin while
    they wait for each other take several times as long."""
    done = subprocess.run(
        [sys.executable, "-m", "edgeadapt", *words],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expect, f"edgeadapt {' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in trial mode and its int8 bundle, both in their default places."""
    folder = tmp_path_factory.mktemp("road")
    edgeadapt("train", "run=demo", "results_dir=runs", "mode=trial", cwd=folder)
    edgeadapt("export", "--int8", cwd=folder)
    return folder


def test_training_leaves_a_complete_run(place: Path) -> None:
    run = place / "runs" / "demo"
    for name in (
        "config.yaml",
        "adapter.json",
        "adapter.safetensors",
        "metrics.jsonl",
        "scores.json",
        "environment.json",
    ):
        assert (run / name).is_file(), name


def test_deployed_bytes_equal_the_formula(place: Path) -> None:
    """d = 576, L = 30: 54,944 bytes, and what each protected task adds on top, named as a term of its own."""
    sizes = json.loads((place / "runs" / "demo" / "adapter.json").read_text())["bytes"]
    terms = dict(sizes["terms"])
    protection = terms.pop("protection", 0)
    assert sum(terms.values()) == 54_944
    assert sizes["deployed"] == 54_944 + protection <= 2_500_000


def test_the_bundle_is_small_and_its_parity_is_stored(place: Path) -> None:
    bundle = place / "bundle"
    assert sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) <= 145e6
    parity = json.loads((bundle / "edgeadapt.json").read_text())["parity"]
    assert parity["positions"] >= 2_000
    assert 0.9 < parity["argmax_agreement"] <= 1.0


def test_a_task_answers_with_a_label(place: Path) -> None:
    answer = json.loads(edgeadapt("run", "bundle", "--task", "bbc_topics", NEWS, "--json", cwd=place).stdout)
    assert answer["label"] in answer["probabilities"]
    assert sum(answer["probabilities"].values()) == pytest.approx(1.0, abs=1e-6)


def test_standard_input_is_answered_line_by_line(place: Path) -> None:
    lines = "What a great flight, thank you!\nMy bag is lost and nobody answers.\n"
    done = edgeadapt("run", "bundle", "--task", "tweet_sentiment", "-", "--json", cwd=place, stdin=lines)
    assert len([json.loads(line)["label"] for line in done.stdout.splitlines()]) == 2


def test_a_chat_prompt_streams_text(place: Path) -> None:
    done = edgeadapt("run", "bundle", "What is the capital of France?", "--max-new-tokens", "24", cwd=place)
    assert "Paris" in done.stdout


def test_bench_writes_rows_that_say_where_they_come_from(place: Path) -> None:
    edgeadapt("bench", "bundle", "--device", "host", "--quick", "--json", "bench.json", cwd=place)
    rows = json.loads((place / "bench.json").read_text())["rows"]
    assert {row["emulated"] for row in rows} == {False}
    assert {"bare", "demo", "lora8-unmerged", "lora8-merged"} <= {row["variant"] for row in rows}


def test_inspect_and_verify_agree_with_the_bundle(place: Path) -> None:
    assert "54,944" in edgeadapt("inspect", "runs/demo", cwd=place).stdout
    report = json.loads(edgeadapt("verify", "bundle", "--json", cwd=place).stdout)
    assert len(report["checks"]) > 5
    assert all(row["passed"] for row in report["checks"])


def test_an_unknown_task_names_the_known_ones(place: Path) -> None:
    done = edgeadapt("run", "bundle", "--task", "nonsense", NEWS, cwd=place, expect=2)
    assert "bbc_topics" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
