"""Trackers: Weights & Biases offline for real, its files read back; online without a key; settings."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train import tracking
from edgeadapt_train.tracking import TrackingSettings, weights_and_biases
from tests.train.wandb_files import Stored, stored

wandb = pytest.importorskip("wandb")
CONFIG = {"run_id": "demo", "lr": 2e-3, "adapter": {"method": "lora", "rank": 8}}
MATRIX = [[0.5, None], [0.25, 1.0]]


def track(directory: Path, *, failing: bool = False) -> None:
    """A short run, in a process of its own: W&B starts a service for each."""
    script = f"""
import json, sys
from pathlib import Path
from edgeadapt_train import tracking
config, directory = json.loads(sys.argv[1]), Path(sys.argv[2])
settings = tracking.TrackingSettings(mode="offline")
with tracking.open(settings, run_id="demo", config=config, directory=directory) as tracker:
    for step in (1, 2, 3):
        tracker.log(step, {{"loss": 1 / step}})
    tracker.log(3, {{"retained_accuracy": 0.5}})
    if {failing}:
        raise SystemExit("gave up")
    tracker.summarise({{"retained_accuracy_auc": 0.5, "scores": {{"matrix": json.loads(sys.argv[3])}}}})
"""
    home = directory.parent / "home"
    home.mkdir(exist_ok=True)
    apart = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(CONFIG), str(directory), json.dumps(MATRIX)],
        env={**apart, "HOME": str(home), "TMPDIR": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode != 0) is failing, done.stderr
    assert [str(path.relative_to(home)) for path in home.rglob("*")] == []


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Stored]:
    directory = tmp_path_factory.mktemp("offline") / "demo"
    directory.mkdir()
    track(directory)
    folders = sorted((directory / "wandb").glob("offline-run-*"))
    assert len(folders) == 1
    return directory, stored(folders[0])


def test_an_offline_run_holds_every_figure(offline: tuple[Path, Stored]) -> None:
    _, found = offline
    assert found.name == "demo"
    assert found.project == "edgeadapt"
    assert [(row["_step"], row["loss"]) for row in found.history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert found.history[-1]["retained_accuracy"] == 0.5
    assert found.exit_code == 0


def test_it_holds_the_configuration_and_the_summary(offline: tuple[Path, Stored]) -> None:
    _, found = offline
    assert {key: found.config[key] for key in CONFIG} == CONFIG
    assert found.summary["retained_accuracy_auc"] == 0.5
    assert found.summary["scores"] == {"matrix": MATRIX}


def test_it_says_nothing_of_the_machine(offline: tuple[Path, Stored]) -> None:
    directory, found = offline
    assert found.host == ""
    names = {path.name for path in (directory / "wandb").rglob("*") if path.is_file()}
    assert not names & {"wandb-metadata.json", "requirements.txt", "output.log", "diff.patch"}


def test_a_run_that_goes_on_keeps_its_id(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    directory.mkdir()
    track(directory, failing=True)
    track(directory)
    first, second = (stored(folder) for folder in sorted((directory / "wandb").glob("offline-run-*")))
    assert first.id == second.id
    assert (first.exit_code, second.exit_code) == (1, 0)


def test_online_without_a_key_fails_in_one_line_before_anything_is_trained(tmp_path: Path) -> None:
    apart = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    script = (
        "import sys; from pathlib import Path; from edgeadapt.errors import EdgeAdaptError\n"
        "from edgeadapt_train import tracking\n"
        "try:\n"
        "    settings = tracking.TrackingSettings(mode='online')\n"
        "    tracking.open(settings, run_id='demo', config={}, directory=Path(sys.argv[1]))\n"
        "except EdgeAdaptError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**apart, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout.startswith("tracking.mode=online: Weights & Biases did not start (")
    assert "wandb login" in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(EdgeAdaptError, match=r"edgeadapt\[tracking\]"):
        tracking.open(TrackingSettings("offline"), run_id="demo", config={}, directory=tmp_path)


def test_the_environment_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("WANDB_CACHE_DIR", "mine")
    before = dict(os.environ)
    with pytest.raises(EdgeAdaptError):
        weights_and_biases.start("offline", run_id="demo", config={}, directory=tmp_path, project="p", entity=None)
    assert dict(os.environ) == before


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    with tracking.open(TrackingSettings(), run_id="demo", config={}, directory=tmp_path) as tracker:
        tracker.log(1, {"loss": 1.0})
        tracker.summarise({"retained_accuracy_auc": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_another_tracker_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Listing(tracking.Tracker):
        def log(self, step: int, values: Any) -> None:
            seen.append((step, values))

        def summarise(self, values: Any) -> None:
            seen.append(values)

        def finish(self, failed: bool) -> None:
            seen.append(failed)

    monkeypatch.setitem(tracking.MODES, "listing", lambda **_: Listing())  # type: ignore[arg-type]
    tracker = tracking.open(TrackingSettings(mode="listing"), run_id="demo", config={}, directory=tmp_path)
    with contextlib.suppress(ZeroDivisionError), tracker:
        tracker.log(1, {"loss": 1.0})
        raise ZeroDivisionError
    assert seen == [(1, {"loss": 1.0}), True]


@pytest.mark.parametrize("wrong", [{"mode": "on"}, {"project": ""}, {"project": "a/b"}])
def test_settings_name_the_option(wrong: dict[str, str]) -> None:
    with pytest.raises(EdgeAdaptError, match=f"tracking.{next(iter(wrong))}="):
        TrackingSettings(**wrong)
