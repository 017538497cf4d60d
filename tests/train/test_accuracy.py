"""Label accuracy of bundles: the interval, the flips, and a tiny bundle asked end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.accuracy import Answers, Flips, answer, flips, main, wilson
from edgeadapt_train.streams import load
from tests.exported import Exported
from tests.support import TASKS


def stream(folder: Path, evaluation: int = 6) -> Path:
    """TASKS[0] as a stream of a folder; the texts are all different."""
    spec = TASKS[0]
    lines = [json.dumps(spec.to_json())]
    for split, count in (("train", 4), ("validation", 2), ("evaluation", evaluation)):
        for index in range(count):
            item = {"split": split, "text": f"{split} {index}", "target": spec.choices[index % len(spec.choices)]}
            lines.append(json.dumps(item))
    folder.mkdir()
    (folder / "topics.jsonl").write_text("\n".join(lines))
    return folder


def test_wilsons_interval_at_known_points() -> None:
    low, high = wilson(0, 10)
    assert low == pytest.approx(0, abs=1e-12)
    assert high == pytest.approx(0.2775, abs=1e-4)
    low, high = wilson(50, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))


def test_flips_tell_changes_from_gains_and_losses() -> None:
    wanted = ("a", "a", "b", "b", "c")
    first = Answers("t", ("a", "b", "b", "c", "c"), wanted)
    here = Answers("t", ("a", "a", "c", "a", "c"), wanted)
    assert flips(here, first) == Flips(changed=3, gained=1, lost=1)
    assert flips(first, first) == Flips(0, 0, 0)
    assert here.to_json()["outcome"] == "11001"


def test_a_bundle_is_asked_with_and_without_the_library(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = stream(tmp_path / "stream"), tmp_path / "accuracy.json"
    bundles = [str(exported("himalaya", "int8")), str(exported("himalaya", "int4"))]
    main([*bundles, "--stream", "stream=folder", "--stream", f"stream.folder={folder}", "--json", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert {row["precision"] for row in rows} == {"int8", "int4"}
    assert {(row["task"], row["examples"], len(row["outcome"])) for row in rows} == {("topics", 6, 6)}
    assert all(row["low_95"] <= row["accuracy"] <= row["high_95"] for row in rows)
    assert ["flips_to_first" in row for row in rows] == [False] + [True] * (len(rows) - 1)
    assert capsys.readouterr().out.count("| topics |") == len(rows)


def test_a_bundle_without_the_streams_tasks_is_named(exported: Exported, tmp_path: Path) -> None:
    folder = stream(tmp_path / "stream")
    text = (folder / "topics.jsonl").read_text().replace('"topics"', '"weather"')
    (folder / "topics.jsonl").write_text(text)
    tasks = load({"name": "folder", "folder": str(folder), "train": 4, "validation": 2, "evaluation": 6})
    with pytest.raises(EdgeAdaptError, match="none of the stream's tasks; it knows mood, topics"):
        answer(exported(), tasks, "off")


def test_usage_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["nowhere", "--stream", "stream=none"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("accuracy: configuration: ")
