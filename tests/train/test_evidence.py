"""The evidence: what is planned, what is stored of a run, and what the tables say of the stored ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeadapt import rundir
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.manifest import AdapterBytes
from edgeadapt.scores import Scores
from edgeadapt.tasks import TaskSpec
from edgeadapt_train.configuration import compose
from edgeadapt_train.evidence import report, stored
from edgeadapt_train.evidence.campaign import campaign, learn, waiting
from edgeadapt_train.evidence.plan import (
    ABLATION,
    SELECTION,
    SETTING_OF,
    STAGES,
    Planned,
    full_methods,
    planned,
    selected,
)
from edgeadapt_train.evidence.statistics import over_seeds, retained
from tests.support import tiny_backbone

TASKS = ("intents", "verbs", "reviews")


def of(stage: str, areas: dict[str, float]) -> list[Planned]:
    return [run for run in planned(areas) if run.stage == stage]


def all_selected(best: int = 0) -> dict[str, float]:
    """As if every setting were stored, and number `best` the one of the highest AUC."""
    return {run.run_id: 0.9 if run.setting == best else 0.5 for run in of("selection", {})}


def everything() -> dict[str, float]:
    """As if all stages but the last were stored; COLTAS is the best of the others."""
    areas = all_selected()
    return areas | {run.run_id: 0.8 if run.method == "coltas" else 0.6 for run in of("methods", areas)}


# -- the plan ---------------------------------------------------------------------------------------------------


def test_the_ablation_comes_first_and_needs_no_other_stage() -> None:
    first = planned({})[: len(ABLATION.methods) * len(ABLATION.seeds)]
    assert {run.stage for run in first} == {"ablation"}
    assert [run.method for run in first[: len(ABLATION.methods)]] == list(ABLATION.methods)  # a seed's methods together
    assert sorted({run.seed for run in first}) == [0, 1, 2]


def test_every_method_is_tried_at_as_many_settings_as_any_other() -> None:
    assert SELECTION.settings is not None
    assert set(SELECTION.settings) == set(SELECTION.methods)
    assert {len(options) for options in SELECTION.settings.values()} == {3}
    assert all(len(set(options)) == 3 for options in SELECTION.settings.values())


def test_a_method_is_planned_on_six_tasks_once_its_settings_are_stored_and_takes_the_best() -> None:
    areas = {run_id: area for run_id, area in all_selected(best=2).items() if "-coltas-" not in run_id}
    runs = {run.method: run for run in of("methods", areas)}
    assert "coltas" not in runs
    assert runs["himalaya"].overrides[-1:] == SELECTION.settings["himalaya"][2]  # type: ignore[index]
    assert runs["lora8-per-task"].overrides[-1:] == SELECTION.settings["lora8"][2]  # type: ignore[index]
    assert set(SETTING_OF.values()) <= set(SELECTION.methods)


def test_equal_settings_leave_the_first() -> None:
    assert SELECTION.settings is not None
    assert selected("glodis", dict.fromkeys(all_selected(), 0.5)) == SELECTION.settings["glodis"][0]


def test_all_25_tasks_are_for_himalaya_the_best_other_learner_and_lora_with_ewc() -> None:
    assert full_methods(all_selected()) == []
    assert of("full", all_selected()) == []
    assert full_methods(everything()) == ["himalaya", "coltas", "lora8-ewc"]
    better = everything() | {run_id: 0.99 for run_id in everything() if "-joint-" in run_id or "-literal-" in run_id}
    assert full_methods(better) == ["himalaya", "coltas", "lora8-ewc"]


def test_run_ids_are_of_their_own_and_say_what_is_proposed() -> None:
    runs = planned(everything())
    assert len({run.run_id for run in runs}) == len(runs)
    assert all(run.run_id.startswith("proposed" if "himalaya" in run.method else "baseline") for run in runs)


def test_every_planned_run_is_one_that_train_takes() -> None:
    runs = {(run.stage, run.overrides): run for run in planned(everything())}
    for run in runs.values():
        made = compose([*run.words(), "results_dir=runs"])
        assert made.run_id == run.run_id
        assert made.loop.seed == run.seed


def test_the_comparison_of_methods_meets_four_languages_and_four_kinds_of_task() -> None:
    from edgeadapt_train.streams.bigbench_tasks import CUTS

    known = {cut.name: cut for cut in CUTS}
    chosen = compose(["run=evidence-methods", "results_dir=runs"]).stream["tasks"]
    assert len(chosen) >= 6
    assert len({known[name].language for name in chosen}) >= 4
    assert len({known[name].topic for name in chosen}) >= 4
    places = [list(known).index(name) for name in chosen]
    assert places == sorted(places)  # in the stream's own order


# -- intervals and tests ----------------------------------------------------------------------------------------


def test_an_interval_over_seeds_is_students() -> None:
    found = over_seeds([0.5, 0.6, 0.7])
    assert found.mean == pytest.approx(0.6)
    assert found.half_width_95 == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert over_seeds([0.5]).half_width_95 is None


def test_a_task_is_retained_as_well_as_it_is_answered_from_when_it_is_learnt() -> None:
    R = np.array([[0.8, 0.1, np.nan], [0.6, 0.9, 0.3], [0.4, 0.7, 0.5]])
    assert retained(R) == pytest.approx([0.6, 0.8, 0.5])


# -- stored runs and tables -------------------------------------------------------------------------------------


def store(out: Path, run: Planned, matrix: list[list[float]], *, size: int = 1000, steps: int = 30) -> None:
    """A stored run with these scores."""
    path = out / stored.RUNS / run.run_id
    path.mkdir(parents=True)
    stream = "{evaluation: 64, validation: 48, max_prompt_tokens: 96}"
    (path / rundir.CONFIG).write_text(f"steps: {steps}\nbatch_size: 8\nsplit: evaluation\nstream: {stream}\n")
    (path / rundir.ENVIRONMENT).write_text('{"precision": "bf16"}')
    manifest = rundir.AdapterManifest(
        format=rundir.FORMAT,
        method="himalaya",
        variant="default",
        backbone=rundir.BackboneRef("tiny", "none", 64, 2),
        sites={},
        tasks=tuple(TaskSpec(name, "{text}", ("a", "b")) for name in TASKS),
        bytes=AdapterBytes({"all": size}, size, size, size, size),
        sha256="0" * 64,
    )
    (path / rundir.MANIFEST).write_text(json.dumps(manifest.to_json()))
    R = np.full((3, 3), np.nan)
    for i, row in enumerate(matrix):
        R[i, : len(row)] = row
    scores = Scores(
        TASKS, (64, 64, 64), np.array([0.2, 0.1, 0.3]), R,
        metrics=("accuracy", "exact_match", "accuracy"), languages=("en", "en", "es"),
        topics=("intent", "morphology", "sentiment"), majorities=(0.25, 0.01, 0.4),
    )  # fmt: skip
    (path / rundir.SCORES).write_text(json.dumps(scores.to_json()))


HELD = [[0.8, 0.2], [0.8, 0.6, 0.3], [0.8, 0.6, 0.7]]
FORGETS = [[0.9, 0.2], [0.5, 0.7, 0.3], [0.3, 0.5, 0.8]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two seeds of HIMALAYA, which holds, and of LoRA-8, which forgets."""
    for seed in (0, 1):
        store(tmp_path, Planned("ablation", "himalaya", seed, ()), HELD, size=55_000)
        store(tmp_path, Planned("ablation", "lora8", seed, ()), FORGETS, size=921_600)
    return tmp_path


def test_the_tables_say_what_the_matrices_come_to(out: Path) -> None:
    report.write(out, out / "none.md")
    value = json.loads((out / "ablation.json").read_text())
    held, forgets = value["methods"]["himalaya"], value["methods"]["lora8"]
    assert held["auc"]["mean"] == pytest.approx((0.8 / 2 + 0.7 + 0.7 / 2) / 2)
    assert forgets["auc"]["mean"] == pytest.approx((0.9 / 2 + 0.6 + (1.6 / 3) / 2) / 2)
    assert held["forgetting"]["mean"] == pytest.approx(0)
    assert forgets["forgetting"]["mean"] == pytest.approx((0.6 + 0.2) / 2)
    assert forgets["learnt"] == pytest.approx([0.9, 0.7, 0.8])
    assert forgets["final"] == pytest.approx([0.3, 0.5, 0.8])
    assert held["bytes"] == [55_000, 55_000]
    assert "against" not in held
    tests = forgets["against"]
    assert tests["tasks"]["n"] == 3
    assert tests["tasks"]["difference"] == pytest.approx(np.mean([(0.9 + 0.5 + 0.3) / 3 - 0.8, 0.6 - 0.6, 0.8 - 0.7]))
    assert tests["seeds"]["n"] == 2
    assert tests["seeds"]["difference"] == pytest.approx(forgets["auc"]["mean"] - held["auc"]["mean"])
    assert len(value["stored"]) == 4
    assert len(value["missing"]) == len(ABLATION.methods) * 3 - 4


def test_a_table_stands_with_its_sizes(out: Path) -> None:
    report.write(out, out / "none.md")
    text = (out / "ablation.md").read_text()
    for size in ("3 tasks", "30 steps of batch 8", "64 scored examples", "96 tokens", "64 examples", "bf16", "921,600"):
        assert size in text
    assert "intents (en, intent; accuracy, 64)" in text
    assert "No run of this stage is stored yet" in (out / "full.md").read_text()


def test_the_tables_count_what_the_dictionary_did(out: Path) -> None:
    for seed, energy in ((0, 0.02), (1, 0.06)):
        events = [
            {"event": "allocate", "slots": [0], "borrowed": [1, 2]},
            {"event": "evict", "captured_energy": energy},
            {"event": "promote"},
            {"loss": 0.5},
        ]
        path = out / stored.RUNS / Planned("ablation", "himalaya", seed, ()).run_id / rundir.METRICS
        path.write_text("".join(json.dumps(event) + "\n" for event in events))
    report.write(out, out / "none.md")
    done = json.loads((out / "ablation.json").read_text())["methods"]["himalaya"]["dictionary"]
    assert done == pytest.approx({"promoted": 1, "evicted": 1, "borrowed": 2, "captured_energy": 0.04})


def test_methods_are_compared_on_the_seeds_that_both_have_and_joint_training_on_none(out: Path) -> None:
    store(out, Planned("ablation", "lora8", 2, ()), HELD)
    nan = float("nan")
    store(out, Planned("ablation", "himalaya-terms", 0, ()), [[nan, nan], [nan, nan, nan], [0.8, 0.7, 0.9]])
    report.write(out, out / "none.md")
    methods = json.loads((out / "ablation.json").read_text())["methods"]
    assert methods["lora8"]["seeds"] == [0, 1, 2]
    assert methods["lora8"]["against"]["seeds"]["n"] == 2
    joint = methods["himalaya-terms"]
    assert joint["auc"] is None
    assert "against" not in joint
    assert joint["final_average"]["mean"] == pytest.approx(0.8)


def test_steps_times_stand_in_a_table_of_their_own(out: Path) -> None:
    seconds = {"step": 0.5, "forward": 0.15, "backward": 0.28, "rest": 0.07}
    row = {
        "command": "throughput adapter=lora8",
        "tokens_per_second": 412.4,
        "seconds": seconds,
        "share": 0.86,
        "load": 2.1,
    }
    (out / "throughput").mkdir()
    (out / "throughput" / "lora8.json").write_text(json.dumps(row))
    report.write(out, out / "none.md")
    line = (out / "throughput.md").read_text().splitlines()[-1]
    assert line == "| `throughput adapter=lora8` | 412 | 0.50 | 0.15 | 0.28 | 0.07 | 0.86 | 2.1 |"


def test_runs_of_other_sizes_do_not_stand_in_one_table(out: Path) -> None:
    store(out, Planned("ablation", "himalaya-terms", 0, ()), HELD, steps=31)
    with pytest.raises(EdgeAdaptError, match="has steps=31"):
        report.write(out, out / "none.md")


def test_a_page_takes_the_tables_into_its_marked_places(out: Path) -> None:
    page = out / "page.md"
    places = [
        f"<!-- table: {name} -->\nstale words\n<!-- end of table -->\n"
        for name in (*(stage.name for stage in STAGES), report.THROUGHPUT)
    ]
    page.write_text("# Before\n" + "between\n".join(places) + "after\n")
    report.write(out, page)
    report.write(out, page)
    text = page.read_text()
    assert "stale words" not in text
    assert text.count("921,600") == 1
    assert text.startswith("# Before\n<!-- table: ablation -->\n")
    assert text.endswith("after\n")
    page.write_text(text.replace("<!-- table: full -->", ""))
    with pytest.raises(EdgeAdaptError, match="table: full"):
        report.write(out, page)


# -- the campaign -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """A planned run on a tiny backbone and two tiny tasks."""
    folder = tmp_path_factory.mktemp("evidence")
    tiny_backbone(folder / "backbone")
    stream = folder / "stream"
    stream.mkdir()
    for name, choices in (("1-topics", ["sport", "trade"]), ("2-mood", ["good", "bad"])):
        rows = [{"name": name, "prompt": "Text: {text}\nAnswer:", "choices": choices}]
        for split, count in (("train", 16), ("validation", 4), ("evaluation", 8)):
            rows += [
                {"split": split, "text": f"{split} {n} {choices[n % 2] * 2}", "target": choices[n % 2]}
                for n in range(count)
            ]
        (stream / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    overrides = (
        "adapter=himalaya", "model=custom", f"model.id={folder / 'backbone'}", "stream=folder",
        f"stream.folder={stream}", "stream.tasks=null", "precision=fp32", "device=cpu", "batch_size=4", "steps=2",
    )  # fmt: skip
    return Planned("ablation", "himalaya", 0, overrides)


def test_a_finished_run_leaves_its_small_files_and_nothing_else(tiny: Planned, tmp_path: Path) -> None:
    learn(tiny, tmp_path / "out", tmp_path / "work")
    assert not (tmp_path / "work" / tiny.run_id).exists()
    kept = tmp_path / "out" / stored.RUNS / tiny.run_id
    names = {path.name for path in kept.iterdir()}
    assert names == {*stored.FILES, stored.COST}
    run = stored.read(kept)
    assert run.scores.tasks == ("1-topics", "2-mood")
    assert run.adapter.bytes.deployed > 0
    assert run.cpu_seconds is not None
    assert 0 <= run.summary.auc <= 1


def test_what_is_stored_is_not_run_again_and_what_cannot_be_run_is_passed_over(
    tiny: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Planned("ablation", "himalaya-terms", 0, ("adapter=nothing",))
    plan = [broken, tiny]
    monkeypatch.setattr("edgeadapt_train.evidence.campaign.planned", lambda areas: plan)
    out, work = tmp_path / "out", tmp_path / "work"
    campaign(out, work, only=None, minutes=None)
    assert set(stored.read_all(out)) == {tiny.run_id}
    assert [run.run_id for run in waiting(stored.read_all(out), None)] == [broken.run_id]
    assert waiting(stored.read_all(out), "full") == []


def test_no_run_begins_when_the_time_is_up(tiny: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeadapt_train.evidence.campaign.planned", lambda areas: [tiny])
    campaign(tmp_path / "out", tmp_path / "work", only=None, minutes=-1.0)
    assert stored.read_all(tmp_path / "out") == {}
