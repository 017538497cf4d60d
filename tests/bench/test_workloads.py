"""Workloads: what the command line may ask for, and that each one does in a worker what its row says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from edgeadapt.cli import app
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.runtime.engine import Engine
from edgeadapt_bench import results
from edgeadapt_bench.blocks import blocks
from edgeadapt_bench.effort import Effort
from edgeadapt_bench.html import to_html
from edgeadapt_bench.rows import RowsDecoder
from edgeadapt_bench.run import bench
from edgeadapt_bench.tables import to_csv, to_markdown
from edgeadapt_bench.worker import Subject
from edgeadapt_bench.workloads import WORKLOADS, CannotTakePartError, Embedding, Generation, of, parse
from tests.exported import Exported

BRIEF = Effort(samples=6, openings=2, seconds=0.0, window=2, warm_up_rounds=4)


def subject(bundle: Path, graph: str = "model", adapter: str | None = None, *, noisy: bool = False) -> Subject:
    given = {"bundle": str(bundle), "graph": graph, "adapter": adapter, "random_inputs": noisy, "ops": "auto"}
    return Subject(given, 1)


def encoder(path: Path) -> Path:
    """As small as a graph with an encoder's inputs can be: rows of a table."""
    text = """
    <ir_version: 10, opset_import: ["": 20]>
    encoder (int64[batch_size, tokens] input_ids, int64[batch_size, tokens] attention_mask)
        => (float[batch_size, tokens, 2] last_hidden_state)
        <float[3, 2] table = {1, 2, 3, 4, 5, 6}>
    { last_hidden_state = Gather (table, input_ids) }
    """
    onnx.save(onnx.parser.parse_model(text), str(path))
    return path


@pytest.fixture(scope="module")
def document(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    several = "rows=3:prompt=5:output=2"
    asked = ("generation:prompt=4,8:output=2", f"batch:{several}", f"mixed:adapters=2:{several}",
             "classification:prompt=6:choices=3", "residents:adapters=1,4:prompt=5", "switch:prompt=5")  # fmt: skip
    bench(
        exported("himalaya", "int4"),
        workloads=parse(asked),
        threads=[1, 2],
        json_out=out,
        effort=BRIEF,
        tell=lambda _: None,
    )
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def rows(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [row for row in document["rows"] if row["workload"]["name"] == name]


def test_sizes_on_the_command_line_are_combined_in_rising_order() -> None:
    found = parse(["generation:prompt=64,16:output=2", "embedding"])
    assert found == [Generation(16, 2), Generation(64, 2), Embedding()]
    assert parse(["generation:prompt=8", "generation:prompt=8,8"]) == [Generation(8)]
    assert [of(workload.sizes()) for workload in found] == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dance", "no workload 'dance'; there are generation, switch, batch"),
        ("generation:length=3", "generation has no size 'length'; it has prompt, output"),
        ("generation:prompt=", "'' is not a whole number of at least 1"),
        ("generation:prompt=0", "'0' is not a whole number"),
        ("generation:prompt=1.5", "'1.5' is not a whole number"),
        ("generation:prompt=" + ",".join(map(str, range(1, 99))), "98 combinations of sizes, and 64 at most"),
    ],
)
def test_what_cannot_be_asked_for(text: str, said: str) -> None:
    with pytest.raises(EdgeAdaptError, match=said):
        parse([text])


def test_help_names_every_workload_and_its_usual_sizes() -> None:
    text = CliRunner().invoke(app, ["bench", "measure", "--help"]).output
    for name, kind in WORKLOADS.items():
        sizes = " ".join(f"{size}={value}" for size, value in kind().sizes().items() if size != "name")
        line = next(line for line in text.splitlines() if line.split()[:1] == [name])
        assert line.endswith(sizes)


def test_every_row_keeps_to_the_schema_and_says_its_sizes(document: dict[str, Any]) -> None:
    Draft202012Validator(results.schema()).validate(document)
    assert {row["workload"]["prompt"] for row in rows(document, "generation")} == {4, 8}
    assert {row["threads"] for row in document["rows"]} == {1, 2}
    assert {row["unit"] for row in rows(document, "batch") if row["phase"] == "decode"} == {"s/token"}
    assert {row["workload"]["name"] for row in document["rows"]} == {
        "load", "generation", "batch", "mixed", "classification", "residents", "switch"
    }  # fmt: skip


def test_who_takes_part(document: dict[str, Any]) -> None:
    everyone = {"bare", "himalaya", "lora8-unmerged", "lora8-mixed"}
    assert {row["variant"] for row in rows(document, "mixed")} == everyone
    assert {row["variant"] for row in rows(document, "classification")} == everyone
    assert {row["variant"] for row in rows(document, "residents")} == {"himalaya"}


def test_ratios_are_taken_at_the_same_sizes(document: dict[str, Any]) -> None:
    for name in ("generation", "batch", "mixed", "classification"):
        for row in rows(document, name):
            assert (row["ratio_to_bare"] is None) == (row["variant"] == "bare")


def test_adapters_in_memory_are_counted_where_they_are_loaded(document: dict[str, Any]) -> None:
    held = {item["workload"]["adapters"]: item["increase_bytes"] for item in document["memory"]
            if item["workload"] is not None and item["threads"] == 1}  # fmt: skip
    assert set(held) == {1, 4}
    assert 0 <= held[1] <= held[4]


def test_every_form_of_a_result_shows_them(document: dict[str, Any]) -> None:
    result = results.checked("x", document)
    assert {block.title.partition(",")[0] for block in blocks(result)} == set(WORKLOADS) - {"embedding"}
    markdown, csv, page = to_markdown(result), to_csv(result), to_html(result)
    for text in ("generation, output 2: median [95 %] | prompt | threads", "mixed, adapters 2, rows 3", "| held |"):
        assert text in markdown
    assert len(csv.splitlines()) == 1 + len(document["rows"])
    for title in ("What it grows with", "Memory held", "Classify", "Switch among residents", "batch, rows 3"):
        assert title in page


def test_rows_in_lock_step_say_what_each_row_says_alone(exported: Exported) -> None:
    engine = Engine.open(exported("himalaya", "fp32"), graph="bare")
    ids = np.random.default_rng(0).integers(0, 300, (3, 7))
    together = RowsDecoder(subject(exported("himalaya", "fp32"), "bare").session, 3, {})
    first, second = together.prefill(ids, 2).copy(), together.step(np.array([5, 6, 7])).copy()
    for row, token in enumerate((5, 6, 7)):
        assert np.allclose(first[row], engine.prefill([int(one) for one in ids[row]], 2), atol=1e-5)
        assert np.allclose(second[row], engine.step(token), atol=1e-5)


def test_a_batch_carries_its_adapter_in_every_row(exported: Exported) -> None:
    opened = subject(exported("himalaya", "fp32"), adapter="himalaya")
    ids = np.random.default_rng(0).integers(0, 300, (1, 7)).repeat(3, axis=0)
    logits = opened.rows(3, 1).prefill(ids, 1)
    bare = RowsDecoder(subject(exported("himalaya", "fp32"), "bare").session, 3, {}).prefill(ids, 1)
    assert np.allclose(logits, logits[0], atol=1e-5)
    assert np.abs(logits - bare).max() > 1e-4


def test_rows_that_mix_adapters_differ_and_those_that_share_one_do_not(exported: Exported) -> None:
    opened = subject(exported("himalaya", "fp32"), "mixed", noisy=True)
    ids = np.random.default_rng(0).integers(0, 300, (1, 7)).repeat(4, axis=0)
    logits = opened.rows(4, 2).prefill(ids, 1)
    assert np.allclose(logits[0], logits[2], atol=1e-6)
    assert np.allclose(logits[1], logits[3], atol=1e-6)
    assert np.abs(logits[0] - logits[1]).max() > 1e-6


def test_copies_of_an_adapter_act_as_it_does_and_only_grow_in_number(exported: Exported) -> None:
    opened = subject(exported("himalaya", "fp32"), adapter="himalaya")
    crowd = opened.crowd()
    assert crowd is not None
    assert crowd.grow(3, [1, 2, 3]) >= 0
    with pytest.raises(EdgeAdaptError, match="2 adapters in memory, after 3: give rising numbers"):
        crowd.grow(2, [1, 2, 3])
    assert subject(exported("himalaya", "fp32"), "bare").crowd() is None


def test_an_encoder_is_measured_by_its_file(tmp_path: Path) -> None:
    one, other = encoder(tmp_path / "one.onnx"), encoder(tmp_path / "other.onnx")
    report = bench(
        one,
        baselines=[str(other)],
        workloads=parse(["embedding:tokens=4,8:batch=2"]),
        effort=BRIEF,
        tell=lambda _: None,
    )
    found = results.checked("x", report.to_json())
    Draft202012Validator(results.schema()).validate(json.loads(json.dumps(found.document)))
    assert [group.workload["tokens"] for group in found.of("embed")] == [4, 8]
    assert all(set(group.rows) == {"bare", "other"} for group in found.of("embed"))
    assert found.rows[0]["bundle"] == f"{tmp_path.name}/one.onnx"  # no machine's place
    assert "Embed / text" in to_markdown(found)
    assert "Embed per text" in to_html(found)


def test_a_workload_of_another_kind_of_model_is_refused_with_the_reason(tmp_path: Path, exported: Exported) -> None:
    with pytest.raises(EdgeAdaptError, match=r"generation: nothing here can take part \(bare: an encoder gen"):
        bench(encoder(tmp_path / "x.onnx"), workloads=[Generation()], effort=BRIEF, tell=lambda _: None)
    with pytest.raises(CannotTakePartError, match="a decoder embeds no texts"):
        Embedding().start(subject(exported(), "bare"))
    with pytest.raises(EdgeAdaptError, match=r"no encoder's graph or bundle, and .*x.onnx is one"):
        bench(tmp_path / "x.onnx", baselines=[str(exported())], tell=lambda _: None)


def test_counts_of_several_threads_on_an_emulated_device_are_refused(exported: Exported) -> None:
    with pytest.raises(EdgeAdaptError, match="--threads 1,2: emulated processors take turns"):
        bench(exported(), device="emulated", threads=[1, 2], tell=lambda _: None)
    with pytest.raises(EdgeAdaptError, match="--workload switch: an emulated device counts generation"):
        bench(exported(), device="emulated", workloads=parse(["switch"]), tell=lambda _: None)
