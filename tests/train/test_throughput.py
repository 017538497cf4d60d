"""Where the time of a training step goes: the figures hang together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeadapt_train import throughput
from tests.support import tiny_backbone


def test_the_parts_of_a_step_and_the_tokens_are_what_was_timed(tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "backbone")
    rows = [{"name": "mood", "prompt": "{text}\nMood:", "choices": ["good", "bad"]}]
    for split, count in (("train", 24), ("validation", 2), ("evaluation", 2)):
        rows += [{"split": split, "text": f"{split} {n}", "target": ("good", "bad")[n % 2]} for n in range(count)]
    (tmp_path / "mood.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "throughput.json"
    words = ["run=demo", "model=custom", f"model.id={tmp_path / 'backbone'}", "stream=folder", "adapter=lora8"]
    words += [f"stream.folder={tmp_path}", "precision=fp32", "device=cpu", "threads=1", "batch_size=4"]
    throughput.main([*words, "--rounds", "4", "--out", str(out)])
    found = json.loads(out.read_text())
    assert (found["method"], found["rounds"], found["batch_size"]) == ("lora", 4, 4)
    batches = found["batches"]
    assert len(batches) == 4
    assert all(row["positions"] >= row["tokens"] > 0 for row in batches)
    seconds = sum(row["step"] for row in batches)
    assert found["tokens_per_second"] == pytest.approx(sum(row["tokens"] for row in batches) / seconds)
    shares = sorted((row["forward"] + row["backward"]) / row["step"] for row in batches)
    assert shares[0] <= found["share"] <= shares[-1]
