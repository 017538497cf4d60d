"""`edgeadapt retarget`: a trained run of UniHyperLoRA on a backbone of another width, depth or family."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.records import read_json
from edgeadapt.rundir import RunDir
from edgeadapt_train.retarget import FILE, retarget
from edgeadapt_train.run import train
from tests.support import tiny_backbone, tiny_encoder

BYTES = 78_464


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Backbones of three shapes, a stream of two tasks, and a finished run on the first backbone."""
    folder = tmp_path_factory.mktemp("retarget")
    tiny_backbone(folder / "narrow")
    tiny_backbone(folder / "wide", hidden=96, layers=5, intermediate=288, seed=1)
    tiny_encoder(folder / "encoder", hidden=32)
    stream = folder / "stream"
    stream.mkdir()
    for name, choices in (("topics", ["sport", "trade"]), ("mood", ["good", "bad"])):
        rows = [{"name": name, "prompt": "{text}", "choices": choices, "max_prompt_tokens": 32}]
        for split, count in (("train", 24), ("validation", 4), ("evaluation", 12)):
            for n in range(count):
                target = choices[n % 2]
                rows.append({"split": split, "text": f"{split} {n} {target * 2}", "target": target})
        (stream / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    learnt(folder, "narrow", "unihyper", "adapter.flop_cap=1.0")
    return folder


def learnt(place: Path, backbone: str, adapter: str, *more: str) -> Path:
    words = [
        "run=demo", f"run_id={backbone}-{adapter}", f"results_dir={place / 'runs'}", "model=custom",
        f"model.id={place / backbone}", "stream=folder", f"stream.folder={place / 'stream'}", "precision=fp32",
        "device=cpu", "threads=1", "batch_size=4", "steps=4", f"adapter={adapter}", *more,
    ]  # fmt: skip
    directory = train(words)
    assert directory is not None
    return directory


@pytest.mark.parametrize("target", ["wide", "encoder"])
def test_a_run_moves_to_another_shape_and_tunes_514_bytes_there(place: Path, tmp_path: Path, target: str) -> None:
    source = RunDir.open(place / "runs" / "narrow-unihyper")
    found = retarget(source.path, str(place / target), tmp_path / "moved")
    moved = RunDir.open(tmp_path / "moved")
    assert read_json(tmp_path / "moved" / FILE) == found.to_json()
    assert [item.task for item in found.tasks] == ["mood", "topics"]
    assert all(item.tuned is not None for item in found.tasks)
    before, after = source.tensors(), moved.tensors()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert "delta" in changed
    assert changed <= {"delta", "delta_scale", "tasks"}
    heads = moved.adapter.bytes.terms.get("heads", 0)
    assert moved.adapter.bytes.deployed - heads == BYTES == source.adapter.bytes.deployed
    assert (heads > 0) == (target == "encoder")
    assert moved.adapter.backbone.id == str(place / target)
    assert moved.adapter.sites["source"]["sha256"] == source.adapter.sha256
    assert moved.adapter.sites["stage"] == 2


def test_zero_shot_stops_before_tuning(place: Path, tmp_path: Path) -> None:
    source = RunDir.open(place / "runs" / "narrow-unihyper")
    found = retarget(source.path, str(place / "wide"), tmp_path / "moved", tune=False)
    before, after = source.tensors(), RunDir.open(tmp_path / "moved").tensors()
    assert all(item.tuned is None for item in found.tasks)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_settings_of_the_source_may_be_changed(place: Path, tmp_path: Path) -> None:
    retarget(place / "runs" / "narrow-unihyper", str(place / "wide"), tmp_path / "moved", overrides=["steps=2"])
    moved = RunDir.open(tmp_path / "moved")
    assert sum("loss" in record for record in moved.metrics()) == 4
    with pytest.raises(EdgeAdaptError, match="stepz"):
        retarget(place / "runs" / "narrow-unihyper", str(place / "wide"), tmp_path / "x", overrides=["stepz=2"])


def test_a_backbone_on_which_it_costs_too_much_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="over the cap of 5 %"):
        retarget(
            place / "runs" / "narrow-unihyper",
            str(place / "wide"),
            tmp_path / "moved",
            overrides=["adapter.flop_cap=0.05"],
        )
    assert not (tmp_path / "moved" / "adapter.json").exists()


def test_a_run_of_another_method_is_refused(place: Path, tmp_path: Path) -> None:
    run = learnt(place, "narrow", "lora8")
    with pytest.raises(EdgeAdaptError, match=r"its method is lora; only UniHyperLoRA's atoms fit other backbones"):
        retarget(run, str(place / "wide"), tmp_path / "moved")


def test_a_finished_run_is_never_overwritten(place: Path) -> None:
    run = place / "runs" / "narrow-unihyper"
    with pytest.raises(EdgeAdaptError, match="is finished"):
        retarget(run, str(place / "wide"), run)
