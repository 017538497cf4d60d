"""An encoder's whole road: learn labels for texts and for words, export, answer on the device; and again on MiniLM."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.runtime.answer import answer
from edgeadapt.tasks import TaskSpec
from edgeadapt.text import TextCodec
from edgeadapt_export import export
from edgeadapt_train import checkpoint
from edgeadapt_train.backbone import load
from edgeadapt_train.batches import Example
from edgeadapt_train.configuration import compose
from edgeadapt_train.loop import restore_adapter
from edgeadapt_train.run import build_adapter, train
from edgeadapt_train.scoring import evaluate
from edgeadapt_train.streams import load as load_stream
from tests.support import tiny_encoder

TOPICS = TaskSpec("topics", "{text}", ("sport", "trade", "art"), max_prompt_tokens=48)
NAMES = TaskSpec("names", "{text}", ("O", "B-PER", "I-PER"), kind="tokens", max_prompt_tokens=48)


def examples(task: TaskSpec, numbers: range) -> list[Example]:
    if task.kind == "tokens":
        return [Example(f"so says Ada Byron {n} to Bob", "O O B-PER I-PER O O B-PER") for n in numbers]
    return [Example(f"{task.choices[n % 3] * 2} {n}", task.choices[n % 3]) for n in numbers]


def said(bundle: Path, task: str, text: str) -> dict[str, Any]:
    sink = io.StringIO()
    answer(bundle, text, task=task, as_json=True, sink=sink)
    return dict(json.loads(sink.getvalue()))


@pytest.mark.parametrize("method", ["himalaya", "lora8"])
def test_what_was_learnt_is_what_the_device_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setenv("EDGEADAPT_CACHE", str(tmp_path / "cache"))
    tiny_encoder(tmp_path / "encoder")
    (tmp_path / "stream").mkdir()
    for number, task in enumerate((TOPICS, NAMES)):
        rows: list[dict[str, Any]] = [task.to_json()]
        for split, numbers in (("train", range(24)), ("validation", range(24, 28)), ("evaluation", range(28, 40))):
            rows += [{"split": split, "text": e.text, "target": e.target} for e in examples(task, numbers)]
        (tmp_path / "stream" / f"{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [
        "run=tokens", "run_id=r", f"results_dir={tmp_path}", f"adapter={method}", "model=custom",
        f"model.id={tmp_path / 'encoder'}", f"stream.folder={tmp_path / 'stream'}", "precision=fp32", "device=cpu",
        "threads=1", "batch_size=8", "epochs=6", "steps=16",
    ]  # fmt: skip
    run = train(words)
    assert run is not None
    for precision in ("fp32", "int8"):
        export(run, tmp_path / precision, precision=precision, progress=lambda *_: None)  # type: ignore[arg-type]
    settings, text = compose(words), TextCodec.from_folder(tmp_path / "encoder")
    backbone = load(tmp_path / "encoder", "tiny", "none", "fp32", "cpu")
    adapter = build_adapter(settings, backbone, [TOPICS, NAMES])
    restored = checkpoint.read(run)
    assert restored is not None
    restore_adapter(adapter, restored[1])
    adapter.attach()
    for index, task in enumerate((TOPICS, NAMES)):
        asked = examples(task, range(40, 46))
        expected = evaluate(backbone, adapter, task, asked, index=index, text=text).answers
        for precision in ("fp32", "int8"):
            found = [said(tmp_path / precision, task.name, item.text) for item in asked]
            answers = [" ".join(one["labels"]) if task.kind == "tokens" else one["label"] for one in found]
            alike = np.mean([one == other for one, other in zip(answers, expected, strict=True)])
            assert alike == 1 if precision == "fp32" else alike >= 0.5
    adapter.detach()


@pytest.mark.slow
def test_minilm_learns_topics_and_its_int8_bundle_knows_them(tmp_path: Path) -> None:
    words = ["run=minilm", f"results_dir={tmp_path}", "threads=1", "steps=20", "stream.evaluation=60"]
    run = train(words)
    assert run is not None
    report = export(run, tmp_path / "int8", precision="int8", progress=lambda *_: None)
    assert report.size < 30e6
    task = load_stream(compose(words).stream)[0]
    right = [said(tmp_path / "int8", "bbc_topics", item.text)["label"] == item.target for item in task.evaluation]
    assert np.mean(right) > 0.7
