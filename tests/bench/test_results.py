"""Result files: what the published schema promises, what is refused, and their forms as CSV and Markdown."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench import bandwidth, results
from edgeadapt_bench.effort import Effort
from edgeadapt_bench.report import FORMAT
from edgeadapt_bench.run import bench
from edgeadapt_bench.tables import to_csv, to_markdown
from edgeadapt_bench.workloads import Generation
from tests.bench.documents import emulated, native
from tests.exported import Exported

BRIEF = Effort(samples=4, openings=2, seconds=0.0, window=2, warm_up_rounds=4)
Damage = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    found = results.schema()
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


def test_a_real_run_keeps_to_the_schema(schema: Draft202012Validator, exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    bench(
        exported("himalaya", "int4"),
        json_out=out,
        effort=BRIEF,
        workloads=[Generation(prompt=8, output=2)],
        tell=lambda _: None,
    )
    schema.validate(json.loads(out.read_text()))
    found = results.load(out)
    assert found.bandwidth[1] > 1e8
    assert found.variants[:2] == ["bare", "himalaya"]


@pytest.mark.parametrize("document", [native(), emulated()], ids=["native", "emulated"])
def test_what_is_written_keeps_to_the_schema(schema: Draft202012Validator, document: dict[str, Any]) -> None:
    schema.validate(document)
    assert document["format"] == FORMAT
    assert results.schema()["$id"] == f"urn:edgeadapt:bench:{FORMAT}"


@pytest.mark.parametrize("key", ["p50", "seconds", "latency_ms", "ratio_to_bare", "samples"])
def test_an_emulated_row_with_a_time_breaks_the_schema(schema: Draft202012Validator, key: str) -> None:
    document = emulated()
    document["rows"][0][key] = 1.0
    assert not schema.is_valid(document)
    document = emulated()
    document[key] = 1.0
    assert not schema.is_valid(document)


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.pop("device"),
        lambda value: value.update(format=FORMAT + 1),
        lambda value: value.update(more=1),
        lambda value: value["rows"].clear(),
        lambda value: value["rows"][0].pop("bundle_sha256"),
        lambda value: value["rows"][0].update(emulated=True),
        lambda value: value["rows"][0].update(unit="ms"),
        lambda value: value["rows"][0].update(samples=[]),
        lambda value: value["rows"][-1]["workload"].pop("prompt"),
    ],
)
def test_the_schema_is_closed_and_complete(schema: Draft202012Validator, damage: Damage) -> None:
    document = native()
    damage(document)
    assert not schema.is_valid(document)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("\x00\xff", "not JSON"),
        ("[]", "not a bench result"),
        ('{"format": 3}', "not a bench result"),
        (json.dumps({**native(), "format": 1}), "format 1, and this version reads format 3; measure again"),
        (json.dumps({**native(), "rows": []}), "without a single row"),
        (json.dumps({**native(), "rows": [{}]}), "damaged, or edited"),
        (json.dumps({**native(), "rows": 3}), "damaged, or edited"),
        (json.dumps({**native(), "device": []}), "damaged, or edited"),
        (json.dumps({**native(), "rows": emulated()["rows"]}), "damaged, or edited"),
    ],
)
def test_what_is_no_result_is_told_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(EdgeAdaptError, match=said) as caught:
        results.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="no such file"):
        results.load(tmp_path / "none.json")
    with pytest.raises(EdgeAdaptError, match="a directory"):
        results.load(tmp_path)


@pytest.mark.parametrize("document", [native(), emulated()], ids=["native", "emulated"])
def test_csv_has_a_line_per_row_and_loses_no_digit(document: dict[str, Any]) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(results.checked("x", document)))))
    key = "instructions" if document["device"]["emulated"] else "p50"
    assert [float(line[key]) for line in lines] == [row[key] for row in document["rows"]]
    for line, row in zip(lines, document["rows"], strict=True):
        assert (line["variant"], line["phase"], line["unit"]) == (row["variant"], row["phase"], row["unit"])
        assert int(line["peak_bytes"]) >= 150_000_000
        assert line["version_onnxruntime"] == "1.31.1"


def test_csv_of_emulated_rows_has_no_column_for_a_time() -> None:
    head = to_csv(results.checked("x", emulated())).splitlines()[0].split(",")
    assert not {"p50", "mean", "n", "ratio_to_bare_value"} & set(head)


def test_markdown_shows_medians_ratios_and_memory() -> None:
    text = to_markdown(results.checked("x", native()))
    assert "| generation, prompt 64, output 4: median [95 %] | Decode / token | Prefill |" in text
    assert "| himalaya | 1.0" in text
    assert "200 MB" in text
    invalid = native()
    invalid["problems"] = ["throttled"]
    assert "**INVALID: throttled**" in to_markdown(results.checked("x", invalid))


def test_markdown_of_counts() -> None:
    text = to_markdown(results.checked("x", emulated()))
    assert "| himalaya | 60.1 M | 1.0015 | 30.0 M | 1.0015 |" in text
    assert " ms" not in text


def test_too_few_samples_have_no_interval() -> None:
    assert "[?]" in to_markdown(results.checked("x", native(openings=1)))


def test_writing_other_forms_says_how_many(tmp_path: Path) -> None:
    found = results.checked("x", native())
    assert results.write(found) == 0
    assert results.write(found, csv=tmp_path / "a.csv", markdown=tmp_path / "a.md", html=tmp_path / "a.html") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.html", "a.md"]


def test_a_result_is_only_read() -> None:
    document = native()
    before = copy.deepcopy(document)
    found = results.checked("x", document)
    to_csv(found), to_markdown(found)
    assert document == before


def test_memory_bandwidth_reads_all_of_its_array() -> None:
    found = bandwidth.measure(2, size=8 << 20)
    assert (found.bytes, found.threads) == (8 << 20, 2)
    assert found.bytes_per_second > 1e8
