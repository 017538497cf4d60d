"""The builder's graph: how it is made and kept, and what its attention_mask means (the runtime relies on that)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from edgeadapt.backbones import Backbone, resolve
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_export.backbones import decoder
from tests.export.conftest import Tiny
from tests.export.graphs import feeds, random_ids, session

CLOSE = 2e-5


@pytest.fixture(scope="module")
def opened(tiny: Tiny) -> ort.InferenceSession:
    return session(tiny.graph.model)


def test_the_graph_is_built_once_and_quietly(tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    backbone, said = resolve(str(tiny.folder), progress=lambda *_: None), []
    capfd.readouterr()
    first = decoder.build(backbone, tmp_path, lambda *what: said.append(what[0]))
    made = first.model.stat().st_mtime_ns
    again = decoder.build(backbone, tmp_path, lambda *what: said.append(what[0]))
    assert again == first
    assert first.model.stat().st_mtime_ns == made
    assert len(said) == 1
    assert capfd.readouterr().out == ""


def test_a_damaged_cache_is_built_anew(tiny: Tiny, tmp_path: Path) -> None:
    backbone = resolve(str(tiny.folder), progress=lambda *_: None)
    graph = decoder.build(backbone, tmp_path)
    (graph.path / "model.onnx.data").write_bytes(b"cut short")
    assert (decoder.build(backbone, tmp_path).path / "model.onnx.data").stat().st_size > 100_000


def test_an_architecture_that_the_builder_does_not_know_is_named(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(tiny.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["OddForCausalLM"]}))
    with pytest.raises(EdgeAdaptError, match="OddForCausalLM is not an architecture"):
        decoder.build(Backbone("odd", "sha256:0", folder), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("model.onnx"))


def test_code_in_a_models_folder_is_never_run(tiny: Tiny, tmp_path: Path) -> None:
    folder, trap = tmp_path / "hostile", tmp_path / "ran"
    shutil.copytree(tiny.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "hostile", "auto_map": {"AutoConfig": "hostile.HostileConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "hostile.py").write_text(f"open({str(trap)!r}, 'w')\nclass HostileConfig: pass\n")
    with pytest.raises(EdgeAdaptError, match="hostile"):
        decoder.build(Backbone("hostile", "sha256:0", folder), tmp_path / "cache")
    assert not trap.exists()


def test_prompts_of_a_batch_are_padded_on_the_right(opened: ort.InferenceSession) -> None:
    ids = random_ids(1, 12)
    alone = opened.run(["logits"], feeds(opened, ids))[0][0]
    batch, mask = np.zeros((2, 12), np.int64), np.ones((2, 12), np.int64)
    batch[0], batch[1, :7], mask[1, 7:] = ids, ids[0, :7], 0
    right = opened.run(["logits"], feeds(opened, batch, mask))[0]
    np.testing.assert_allclose(right[0], alone, atol=CLOSE)
    np.testing.assert_allclose(right[1, :7], alone[:7], atol=CLOSE)
    left = opened.run(["logits"], feeds(opened, np.roll(batch, 5, axis=1), np.roll(mask, 5, axis=1)))[0]
    assert np.abs(left[1, 5:] - alone[:7]).max() > 1e-2


def test_rows_of_different_lengths_are_decoded_together(opened: ort.InferenceSession) -> None:
    ids = random_ids(1, 12)
    alone = opened.run(["logits"], feeds(opened, ids))[0][0]
    batch, mask = np.zeros((2, 11), np.int64), np.ones((2, 11), np.int64)
    batch[0], batch[1, :7], mask[1, 7:] = ids[0, :11], ids[0, :7], 0
    outputs = [item.name for item in opened.get_outputs()]
    past = dict(zip(outputs, opened.run(outputs, feeds(opened, batch, mask)), strict=True))
    step = {name.replace("present", "past_key_values"): value for name, value in past.items() if name != "logits"}
    mask = (np.arange(12) < np.array([[12], [8]])).astype(np.int64)
    step |= {"input_ids": ids[0, [11, 7]][:, None], "attention_mask": mask}
    found = opened.run(["logits"], step)[0]
    np.testing.assert_allclose(found[:, 0], alone[[11, 7]], atol=CLOSE)


def test_several_tokens_after_a_past_work_for_one_row_only(opened: ort.InferenceSession) -> None:
    ids = random_ids(2, 9)
    alone = opened.run(["logits"], feeds(opened, ids))[0]
    outputs = [item.name for item in opened.get_outputs()]
    for rows in (1, 2):
        past = dict(zip(outputs, opened.run(outputs, feeds(opened, ids[:rows, :5])), strict=True))
        step = {name.replace("present", "past_key_values"): value for name, value in past.items() if name != "logits"}
        step |= {"input_ids": ids[:rows, 5:], "attention_mask": np.ones((rows, 9), np.int64)}
        if rows == 1:
            np.testing.assert_allclose(opened.run(["logits"], step)[0], alone[:1, 5:], atol=CLOSE)
        else:
            with pytest.raises(Exception, match="batch_size must be 1"):
                opened.run(["logits"], step)


def test_one_buffer_serves_as_past_and_present_and_going_back_is_free(opened: ort.InferenceSession) -> None:
    ids = random_ids(1, 12)
    alone = opened.run(["logits"], feeds(opened, ids))[0]
    binding, buffers = opened.io_binding(), []
    for item in opened.get_inputs():
        if item.name.startswith("past_key_values."):
            empty = np.zeros((1, item.shape[1], 32, item.shape[3]), np.float32)
            buffers.append(ort.OrtValue.ortvalue_from_numpy(empty))
            binding.bind_ortvalue_input(item.name, buffers[-1])
            binding.bind_ortvalue_output(item.name.replace("past_key_values", "present"), buffers[-1])

    def run(new: np.ndarray, total: int) -> np.ndarray:
        binding.bind_cpu_input("input_ids", new)
        binding.bind_cpu_input("attention_mask", np.ones((1, total), np.int64))
        binding.bind_output("logits", "cpu")
        opened.run_with_iobinding(binding)
        return np.asarray(binding.get_outputs()[-1].numpy())

    pieces = [run(ids[:, :5], 5), run(ids[:, 5:6], 6), run(ids[:, 6:], 12)]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), alone, atol=CLOSE)
    run(random_ids(1, 4, seed=1), 9)  # another continuation of the first five tokens
    np.testing.assert_allclose(run(ids[:, 5:9], 9), alone[:, 5:9], atol=CLOSE)
