"""The ratchet: what counts as moved, and that the committed counts hold on the machine that CI emulates."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench import ratchet
from edgeadapt_bench.emulation import tools
from edgeadapt_bench.ratchet import Ratchet

ROOT = Path(__file__).parents[2]
COMMITTED = Ratchet({"onnxruntime": "1.31.1"}, {"a": {"load": 1000.0, "decode": 100.0}})
ABSENT = [name for name in (*tools.BUILD, *tools.SYSTEM) if shutil.which(name) is None]


@pytest.mark.parametrize("factor", [1.0, 1.0199, 0.9801])
def test_two_percent_either_way_is_where_it_was(factor: float) -> None:
    assert COMMITTED.moved({"a": {"load": 1000.0, "decode": 100.0 * factor}}) == []


@pytest.mark.parametrize(("count", "said"), [(102.1, "+2.1%"), (97.0, "-3.0%")])
def test_more_has_moved_either_way(count: float, said: str) -> None:
    (line,) = COMMITTED.moved({"a": {"load": 1000.0, "decode": count}})
    assert line == f"a, decode: 100 -> {count:,.0f} instructions ({said})"


def test_rows_and_phases_that_only_one_side_has_have_moved() -> None:
    assert COMMITTED.moved({"b": {"load": 1.0}}) == ["b: not committed yet"]
    assert COMMITTED.moved({"a": {"load": 1000.0}}) == ["a, decode: only committed"]
    assert COMMITTED.moved({"a": {"load": 1000.0, "decode": 100.0, "embed": 1.0}}) == ["a, embed: only counted now"]
    assert COMMITTED.moved({}) == []


def test_an_update_needs_a_reason_and_keeps_the_earlier_ones(tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="say in some words why the counts moved"):
        COMMITTED.replaced({"a": {"load": 5.0}}, {}, "2026-01-01", "because")
    once = COMMITTED.replaced({"a": {"load": 5.0}}, {}, "2026-01-01", "fewer copies")
    once.replaced({"b": {"load": 7.0}}, {"onnxruntime": "2.0"}, "2026-02-01", "a new row").write(tmp_path / "r.json")
    found = ratchet.load(tmp_path / "r.json")
    assert found.rows == {"a": {"load": 5.0}, "b": {"load": 7.0}}
    assert [change.reason for change in found.changes] == ["a new row", "fewer copies"]
    assert found.versions == {"onnxruntime": "2.0"}


def test_files_that_are_none(tmp_path: Path) -> None:
    assert ratchet.load(tmp_path / "none.json") == Ratchet()
    for text in ("", "[]", '{"format": 1}', '{"format": 2}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(EdgeAdaptError, match=r"x\.json: "):
            ratchet.load(tmp_path / "x.json")


@pytest.mark.e2e
@pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}: scripts/build-deps --emulation")
@pytest.mark.skipif(
    not (ROOT / "build/aarch64/libedgeadapt_ops.so").is_file(), reason="scripts/build-kernels --target aarch64"
)
def test_the_committed_counts_hold() -> None:
    """A small model on an emulated Cortex-A72. If it fails, it says how to commit what was counted."""
    words = [sys.executable, ROOT / "scripts/bench_ratchet.py", "--small"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
