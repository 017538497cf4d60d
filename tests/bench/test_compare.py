"""`edgeadapt bench compare`: what pairs up, what is worse, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeadapt import cli
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.compare import Change, Comparison, compare, limit
from edgeadapt_bench.results import checked
from tests.bench.documents import emulated, native


def compared(before: dict[str, Any], after: dict[str, Any]) -> Comparison:
    return compare(checked("a.json", before), checked("b.json", after))


def change(found: Comparison, variant: str, figure: str) -> Change:
    (one,) = [item for item in found.changes if (item.variant, item.figure) == (variant, figure)]
    return one


def test_a_slowdown_of_five_percent_is_seen_with_its_interval() -> None:
    found = compared(native({"himalaya": 1.0}), native({"himalaya": 1.05}, seed=1))
    ratio = change(found, "himalaya", "decode, x bare")
    assert ratio.change == pytest.approx(0.05, abs=0.01)
    assert ratio.low is not None
    assert ratio.high is not None
    assert 0.02 < ratio.low < ratio.change < ratio.high < 0.08
    assert ratio in found.worse_by(0.02)


def test_the_same_program_at_two_times_is_not_worse() -> None:
    """Of ten pairs of runs, two at most have a ratio whose 95 % interval lies above 0."""
    wrong = 0
    for seed in range(0, 20, 2):
        found = compared(native(seed=seed, rounds=3), native(seed=seed + 1, rounds=3))
        wrong += change(found, "himalaya", "prefill, x bare") in found.worse_by(0.0)
    assert wrong <= 2


def test_a_slower_machine_is_in_the_times_and_not_in_the_ratios() -> None:
    found = compared(native(), native(seed=1, drift=1.5))
    assert change(found, "himalaya", "decode").change == pytest.approx(0.5, abs=0.1)
    assert abs(change(found, "himalaya", "decode, x bare").change) < 0.01


def test_faster_is_never_a_failure() -> None:
    found = compared(native({"himalaya": 1.5}), native({"himalaya": 1.0}))
    assert change(found, "himalaya", "decode").change < -0.3
    assert found.worse_by(0.0) == []


def test_too_few_samples_say_nothing() -> None:
    found = compared(native(openings=2), native({"himalaya": 3.0}, openings=2))
    load = change(found, "himalaya", "load")
    assert load.change > 1
    assert (load.low, load.high, load.exact) == (None, None, False)
    assert load.text.endswith("[?]")
    assert load not in found.worse_by(0.02)


def test_counts_and_bytes_are_compared_as_they_are() -> None:
    found = compared(emulated({"bare": 1_000_000}), emulated({"bare": 1_021_000}))
    decode = change(found, "bare", "decode")
    assert decode.exact
    assert decode.change == pytest.approx(0.021)
    assert found.worse_by(0.02) == [change(found, "bare", "prefill"), decode]
    assert found.worse_by(0.03) == []
    heavier = emulated({"bare": 1_000_000})
    heavier["memory"][0]["peak_bytes"] *= 2
    found = compared(emulated({"bare": 1_000_000}), heavier)
    assert found.worse_by(0.02) == [change(found, "bare", "peak memory")]


def test_only_the_same_kind_of_row_pairs_up() -> None:
    other = native()
    for row in other["rows"]:
        if row["phase"] == "decode":
            row["workload"]["prompt"] = 128
        if row["variant"] == "himalaya" and row["phase"] == "load":
            row["precision"] = "int8"
    found = compared(native(), other)
    assert {item.figure for item in found.changes if item.variant == "himalaya"} == {
        "prefill", "prefill, x bare", "task switch", "peak memory",
    }  # fmt: skip
    assert "himalaya, load, int4, 1 thread (a.json)" in found.only
    assert "bare, decode, generation, prompt 128, output 4, int4, 1 thread (b.json)" in found.only
    for row in other["rows"]:
        row["threads"] = 4
    with pytest.raises(EdgeAdaptError, match=r"a\.json and b\.json have no row in common"):
        compared(native(), other)


def test_emulated_and_real_are_never_compared() -> None:
    for before, after in ((native(), emulated()), (emulated(), native())):
        with pytest.raises(EdgeAdaptError, match=r"is emulated and .* is not: instructions and times cannot"):
            compared(before, after)


def test_what_else_differs_is_noted() -> None:
    other = native()
    other["device"]["id"] = "0" * 12
    other["problems"] = ["the clock moved by +9%"]
    for row in other["rows"]:
        row["versions"]["onnxruntime"] = "1.32.0"
        row["bundle_sha256"] = "f" * 64
    notes = "\n".join(compared(native(), other).notes)
    for words in ("INVALID: b.json: the clock moved", "two devices", "onnxruntime: 1.31.1 -> 1.32.0", "other bundles"):
        assert words in notes


@pytest.mark.parametrize(("text", "share"), [("2%", 0.02), (" 0.5 % ", 0.005), ("0%", 0.0)])
def test_a_limit_is_a_percentage(text: str, share: float) -> None:
    assert limit(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["2", "", "%", "-1%", "two%", "nan%", "inf%"])
def test_a_limit_that_is_none(text: str) -> None:
    with pytest.raises(EdgeAdaptError, match=r"--fail-over .*: give a percentage"):
        limit(text)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    for name, document in (
        ("a", native({"himalaya": 1.0})),
        ("b", native({"himalaya": 1.2}, seed=1)),
        ("e", emulated({"bare": 1_000_000})),
        ("f", emulated({"bare": 1_030_000})),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    return tmp_path


def called(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *words])
    streams = capsys.readouterr()
    return ended.value.code, streams.out, streams.err


def test_the_command_shows_changes_and_fails_past_the_limit(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = str(stored / "a.json"), str(stored / "b.json")
    code, out, error = called(capsys, "compare", before, after)
    assert (code, error) == (0, "")
    assert "decode, x bare" in out
    assert called(capsys, "compare", before, after, "--fail-over", "50%")[0] == 0
    code, _, error = called(capsys, "compare", before, after, "--fail-over", "2%")
    assert code == 1
    assert error.startswith(f"edgeadapt: {after}: worse by more than 2 %: himalaya, ")
    assert len(error.splitlines()) == 1


def test_the_command_answers_in_json_too(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", str(stored / "e.json"), str(stored / "f.json"), "--fail-over", "2%", "--json")
    code, out, _ = called(capsys, *words)
    value = json.loads(out)
    assert code == 1
    assert (value["emulated"], value["failed"], value["fail_over"]) == (True, True, 0.02)
    assert [item["figure"] for item in value["changes"] if item["failed"]] == ["prefill", "decode"]


def test_what_cannot_be_compared_is_one_line_and_exit_2(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = called(capsys, "compare", str(stored / "a.json"), str(stored / "e.json"))
    assert (code, out, len(error.splitlines())) == (2, "", 1)
    assert called(capsys, "compare", str(stored / "a.json"))[0] == 2
    assert called(capsys, "compare", str(stored / "a.json"), str(stored / "none.json"))[0] == 2


def test_show_writes_the_other_forms_of_a_stored_result(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "show", str(stored / "e.json"))
    assert code == 0
    assert out.startswith("### Cortex-A72")
    assert called(capsys, "show", str(stored / "a.json"), "--csv", str(stored / "a.csv"))[1] == ""
    assert (stored / "a.csv").read_text().startswith("started,device,")


def test_bench_measures_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--help",), ("measure", "--help")):
        assert "--baseline" in called(capsys, *words)[1]
    assert "--fail-over" in called(capsys, "compare", "--help")[1]
    code, _, error = called(capsys, "./compare", "--quick")
    assert code == 2
    assert "no such bundle directory" in error
