"""Where HEST spends: the heat map's numbers, and runs of every energy configuration on a tiny backbone."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from edgeadapt.energy.costs import PROFILES
from edgeadapt.energy.planner import PlannedSite, Planner
from edgeadapt.rundir import RunDir
from edgeadapt_train.configuration import compose
from edgeadapt_train.energy import main, utilisation
from edgeadapt_train.run import train
from tests.support import tiny_backbone

RUNS = ("hest", "tabs", "bhsp", "hest-no-layer-score", "hest-no-int8", "hest-soft-budget", "hest-of-tabs")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("energy")
    tiny_backbone(folder / "backbone")
    (folder / "stream").mkdir()
    rows = [{"name": "mood", "prompt": "Text: {text}\nAnswer:", "choices": ["good", "bad"], "max_prompt_tokens": 48}]
    for split, count in (("train", 16), ("validation", 2), ("evaluation", 4)):
        rows += [{"split": split, "text": f"{split} {n}", "target": ["good", "bad"][n % 2]} for n in range(count)]
    (folder / "stream" / "1-mood.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def words(place: Path, name: str) -> list[str]:
    return [
        f"run={name}", f"results_dir={place / 'runs'}", "model=custom", f"model.id={place / 'backbone'}",
        "stream=folder", f"stream.folder={place / 'stream'}", "precision=fp32", "device=cpu", "threads=1",
        "batch_size=4", "steps=2",
    ]  # fmt: skip


def test_every_energy_configuration_runs_and_hests_is_drawn(place: Path, tmp_path: Path) -> None:
    for name in ("tabs", "hest", "hest-of-tabs"):
        train(words(place, name))
    runs = {name: RunDir.open(place / "runs" / name) for name in ("tabs", "hest", "hest-of-tabs")}
    share = runs["hest-of-tabs"].adapter.sites["energy_budget"]
    assert share == pytest.approx(0.6 * runs["tabs"].adapter.sites["mean_gate"])
    events = [record for record in runs["hest"].metrics() if record.get("event") == "energy"]
    assert events
    assert all(record["source"] == "modelled" for record in events)
    drawn, data = tmp_path / "use.svg", tmp_path / "use.json"
    assert main([str(place / "runs" / "hest"), "--examples", "2", "--svg", str(drawn), "--json", str(data)]) == 0
    found = json.loads(data.read_text())
    assert found["source"] == "modelled"
    assert np.array(found["utilisation"]).shape == (3, 2)
    assert len(ET.fromstring(drawn.read_text()).findall("{http://www.w3.org/2000/svg}rect")) == 6
    assert main([str(place / "runs" / "tabs")]) == 2


@pytest.mark.parametrize("name", RUNS)
def test_the_configurations_are_whole(place: Path, name: str) -> None:
    settings = compose(words(place, name))
    assert settings.run_id == name
    assert settings.adapter["method"] in ("hest", "tabs", "bhsp")


def test_utilisation_is_the_energy_that_plans_spend_layer_by_layer() -> None:
    rng = np.random.default_rng(0)
    sites = [PlannedSite(layer, 64, width) for layer in range(3) for width in (64, 16)]
    parts = rng.normal(size=(8, 64)), rng.uniform(size=(3, 8)), rng.normal((0, 4, 8), 2, (6, 16, 3))
    planner = Planner(sites, *parts, kappa=1.0, profile=PROFILES["rpi4"], ratio=0.3)
    prompts = [rng.normal(size=(tokens, 64)).astype(np.float32) for tokens in (4, 7)]
    found = utilisation(planner, ("q_proj", "v_proj"), prompts)
    weights = np.array([[64 + 64, 64 + 16]] * 3)
    whole = (found.share * weights).sum() / weights.sum()
    spent = sum(planner.plan(h0).cost for h0 in prompts) / (11 * planner.allocator.full_cost)
    assert whole == pytest.approx(spent)
    assert spent <= 0.3
    np.testing.assert_allclose(found.states.sum(axis=2), 1)
    assert found.tokens == 11
