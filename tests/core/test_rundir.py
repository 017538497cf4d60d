"""The run directory: written so that a crash is never seen, read so that a damaged one is never used."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.manifest import AdapterBytes
from edgeadapt.rundir import (
    AdapterManifest,
    BackboneRef,
    MetricsLog,
    RunDir,
    newest,
    read_metrics,
    write_adapter,
    write_config,
    write_confusion,
    write_environment,
    write_scores,
)
from edgeadapt.scores import Confusion, Scores
from edgeadapt.tasks import TaskSpec

TASK = TaskSpec("topics", "Text: {text}\nTopic:", ("sport", "business"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))


def tensors(value: float = 1) -> dict[str, np.ndarray]:
    return {"a": np.full((3, 4), value, np.float16), "b": np.arange(6, dtype=np.uint8).reshape(2, 3)}


def manifest(**changes: Any) -> AdapterManifest:
    whole = AdapterManifest(
        format=1,
        method="himalaya",
        variant="default",
        backbone=BackboneRef("owner/name", "abc", 64, 2),
        sites={"kind": "residual", "layers": [0, 1]},
        tasks=(TASK,),
        bytes=AdapterBytes({"a": 24, "protection": 6}, 30, 100, 300, 2_500_000),
    )
    return replace(whole, **changes)


def finished(path: Path, value: float = 1) -> Path:
    write_adapter(path, manifest(), tensors(value))
    return path


def edit(path: Path, **changes: Any) -> None:
    value = json.loads((path / "adapter.json").read_text())
    (path / "adapter.json").write_text(json.dumps({**value, **changes}))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    run = RunDir.open(finished(tmp_path / "run"))
    assert run.adapter == replace(manifest(), sha256=run.adapter.sha256)
    assert run.adapter.tasks == (TASK,)
    assert run.adapter.bytes.method == 24
    for name, array in run.tensors().items():
        np.testing.assert_array_equal(array, tensors()[name])
        assert array.dtype == tensors()[name].dtype
    assert sorted(path.name for path in run.path.iterdir()) == ["adapter.json", "adapter.safetensors"]


def test_the_small_files_are_read_back(tmp_path: Path) -> None:
    run = RunDir.open(finished(tmp_path))
    assert run.scores() is None
    assert run.environment() == {}
    nan = float("nan")
    scores = Scores(("a", "b"), (10, 20), np.array([0.5, nan]), np.array([[0.9, nan], [0.8, 1.0]]))
    write_scores(tmp_path, scores)
    write_environment(tmp_path, {"python": "3.11"})
    write_config(tmp_path, "adapter: {method: himalaya}\n")
    found = run.scores()
    assert found is not None
    assert (found.tasks, found.counts) == (("a", "b"), (10, 20))
    np.testing.assert_array_equal(found.matrix, scores.matrix)
    np.testing.assert_array_equal(found.baseline, scores.baseline)
    assert "NaN" not in (tmp_path / "scores.json").read_text()
    assert run.environment() == {"python": "3.11"}
    assert run.config() == "adapter: {method: himalaya}\n"


def test_confusion_matrices_are_read_back_and_an_uneven_one_is_refused(tmp_path: Path) -> None:
    run = RunDir.open(finished(tmp_path))
    assert run.confusion() == {}
    made = {"topics": Confusion(("sport", "business"), ((3, 1), (0, 4)))}
    write_confusion(tmp_path, made)
    assert run.confusion() == made
    (tmp_path / "confusion.json").write_text('{"topics": {"choices": ["a", "b"], "counts": [[1, 2]]}}')
    with pytest.raises(EdgeAdaptError, match="needs 2 rows of 2 counts"):
        run.confusion()


def test_killed_at_every_step_the_adapter_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    finished(tmp_path, 0)
    seen = set()
    for step in range(1, 500):
        child = os.fork()
        if child == 0:
            left = step

            def count(event: str, arguments: object) -> None:
                nonlocal left
                if event.startswith(("os.", "open", "tempfile.")):
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            try:
                finished(tmp_path, 1)
            except BaseException:
                os._exit(1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        value = float(RunDir.open(tmp_path).tensors()["a"][0, 0])
        assert value in (0, 1)
        seen.add(value)
        finished(tmp_path, 0)
    assert seen == {0, 1}
    assert not list(tmp_path.glob(".*.next"))


def formula(term: int, deployed: int, budget: int) -> dict[str, Any]:
    training = {"training_state": 1, "training_state_with_optimiser": 1}
    return {"terms": {"a": term}, "deployed": deployed, **training, "budget": budget}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "format version 2; this edgeadapt reads version 1: update edgeadapt"),
        ({"format": 0}, "format version 0.*make it again"),
        ({"format": True}, "has no format version"),
        ({"format": "1"}, "has no format version"),
        ({"sha256": "0" * 64}, "its SHA-256 is"),
        ({"sha256": "../../x"}, "is not a SHA-256"),
        ({"sha256": ""}, "is not a SHA-256"),
        ({"method": "../evil"}, "method '../evil'"),
        ({"tasks": [TASK.to_json()] * 2}, "two tasks .* the same name"),
        ({"tasks": [{**TASK.to_json(), "choices": "ab"}]}, "choices: expected a list"),
        ({"tasks": [{**TASK.to_json(), "prompt": "none"}]}, "exactly once"),
        ({"bytes": formula(24, 30, 99)}, "terms sum to 24"),
        ({"bytes": formula(30, 30, 29)}, "over its budget"),
        ({"bytes": formula(31, 31, 99)}, "holds 30 bytes of tensors"),
        ({"backbone": {"id": "x", "revision": "y", "hidden_size": 0, "num_layers": 1}}, "hidden_size is 0"),
        ({"surprise": 1}, "unknown field 'surprise'"),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    edit(finished(tmp_path), **changes)
    with pytest.raises(EdgeAdaptError, match=reason):
        RunDir.open(tmp_path)


def test_damaged_or_linked_weights_are_refused(tmp_path: Path) -> None:
    weights = finished(tmp_path) / "adapter.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(EdgeAdaptError, match=r"adapter\.safetensors: its SHA-256 is"):
        RunDir.open(tmp_path)
    data[-1] ^= 1
    (tmp_path / "elsewhere").write_bytes(data)
    weights.unlink()
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EdgeAdaptError, match="no such regular file"):
        RunDir.open(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        (1 << 62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}" + b"left over",
        (4).to_bytes(8, "little") + b"null",
        (62).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000]}}',
        (63).to_bytes(8, "little") + b'{"a":{"dtype":"F16","shape":[3,4],"data_offsets":[0,24]},"a":{}}',
        b"\x80\x04\x95 this is a pickle",
    ],
    ids=["empty", "short", "huge header", "trailing", "null", "lying", "duplicate", "pickle"],
)
def test_weights_with_the_right_hash_but_a_lying_header_are_refused(tmp_path: Path, data: bytes) -> None:
    import hashlib

    finished(tmp_path)
    (tmp_path / "adapter.safetensors").write_bytes(data)
    edit(tmp_path, sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(EdgeAdaptError, match=r"adapter\.safetensors"):
        RunDir.open(tmp_path)


def test_an_adapter_whose_bytes_differ_from_its_formula_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="hold 30 bytes; its byte formula says 29"):
        write_adapter(tmp_path, manifest(bytes=AdapterBytes({"a": 29}, 29, 0, 0, 99)), tensors())
    assert list(tmp_path.iterdir()) == []


def test_no_run_and_an_unfinished_run_say_so(tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="no such run directory"):
        RunDir.open(tmp_path / "none")
    with pytest.raises(EdgeAdaptError, match="its training has not finished"):
        RunDir.open(tmp_path)


def test_the_newest_finished_run_is_found(tmp_path: Path) -> None:
    for age, name in enumerate(("b", "a", "c")):
        finished(tmp_path / name)
        os.utime(tmp_path / name / "adapter.json", (1000 - age, 1000 - age))
    (tmp_path / "d" / "checkpoints").mkdir(parents=True)
    (tmp_path / "file").touch()
    assert newest(tmp_path) == tmp_path / "b"


def test_without_a_finished_run_the_error_lists_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="no such directory"):
        newest(tmp_path / "runs")
    with pytest.raises(EdgeAdaptError, match="empty of directories"):
        newest(tmp_path)
    (tmp_path / "half").mkdir()
    with pytest.raises(EdgeAdaptError, match=r"only unfinished .*: half"):
        newest(tmp_path)


def test_metrics_survive_a_line_that_was_cut_short(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.append({"step": 1, "loss": 0.5})
    log.append({"step": 2, "loss": 0.25})
    with (tmp_path / "metrics.jsonl").open("ab") as sink:
        sink.write(b'{"step": 3, "lo')
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    MetricsLog(tmp_path).append({"step": 3})
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3]


def test_resuming_drops_the_metrics_after_the_checkpoint(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in range(5):
        log.append({"step": step})
    log = MetricsLog(tmp_path, keep=(record for record in read_metrics(tmp_path) if record["step"] <= 2))
    log.append({"step": 3})
    assert [record["step"] for record in read_metrics(tmp_path)] == [0, 1, 2, 3]


def test_metrics_refuse_nan_and_garbage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        MetricsLog(tmp_path).append({"loss": float("nan")})
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n[2]\n')
    with pytest.raises(EdgeAdaptError, match=r"metrics\.jsonl, line 2: expected an object"):
        list(read_metrics(tmp_path))


SCORE = st.none() | st.floats(0, 1)


def matrices(many: int) -> st.SearchStrategy[tuple[list[float | None], list[list[float | None]]]]:
    row = st.lists(SCORE, min_size=many, max_size=many)
    return st.tuples(row, st.lists(row, min_size=many, max_size=many))


@given(st.integers(0, 4).flatmap(matrices))
def test_any_scores_are_read_back(drawn: tuple[list[float | None], list[list[float | None]]]) -> None:
    baseline, rows = drawn
    names = [f"task{i}" for i in range(len(baseline))]
    value = {
        "tasks": names, "counts": [7] * len(names), "baseline": baseline, "matrix": rows, "withheld": rows[::-1],
        "withheld_bytes": 128, "metrics": ["f1"] * len(names), "languages": ["de"] * len(names),
        "topics": ["qa"] * len(names), "majorities": baseline,
    }  # fmt: skip
    assert Scores.from_json(json.loads(json.dumps(value))).to_json() == value


def test_scores_of_earlier_versions_are_read() -> None:
    value = {"tasks": ["a", "b"], "counts": [1, 1], "baseline": [0.5, 0.5], "matrix": [[1.0, None], [1.0, 1.0]]}
    found = Scores.from_json(value)
    assert (found.withheld, found.languages, found.majorities) == (None, (), ())


@pytest.mark.parametrize(
    "change",
    [
        {"baseline": [0.5]},
        {"baseline": [0.5, 1.5]},
        {"matrix": [[1.0, 1.0]]},
        {"matrix": [[1.0], [1.0]]},
        {"counts": [1]},
        {"withheld": [[1.0, None]]},
        {"withheld": [[2.0, None], [1.0, 1.0]]},
        {"languages": ["de"]},
    ],
)
def test_scores_of_the_wrong_shape_or_range_are_refused(change: dict[str, Any]) -> None:
    value = {"tasks": ["a", "b"], "counts": [1, 1], "baseline": [0.5, 0.5], "matrix": [[1.0, None], [1.0, 1.0]]}
    assert Scores.from_json(value)
    with pytest.raises(EdgeAdaptError):
        Scores.from_json({**value, **change})
