"""A process's own memory: what it allocates after the mark, and nothing that it or its libraries did before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgeadapt_bench.baselines import Variant
from edgeadapt_bench.devices.host import HostDevice

BENCH = Path(__file__).parents[2] / "bench"
CORE = Path(__file__).parents[2]
MB = 1_000_000


def child(code: str) -> int:
    """Bytes that a fresh process prints."""
    program = f"import sys; sys.path[:0] = {[str(BENCH), str(CORE)]!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


@pytest.mark.parametrize("size", [100, 300])
def test_what_a_child_allocates_is_what_is_reported(size: int) -> None:
    code = f"""
import numpy
from edgeadapt_bench import memory
before = memory.mark()
block = numpy.ones({size} * 1_000_000, dtype=numpy.uint8)
print(memory.peak() - before)
"""
    assert child(code) == pytest.approx(size * MB, abs=2 * MB)


def test_what_was_freed_before_the_mark_does_not_count() -> None:
    code = """
import numpy
from edgeadapt_bench import memory
block = numpy.ones(200_000_000, dtype=numpy.uint8)
del block
before = memory.mark()
block = numpy.ones(50_000_000, dtype=numpy.uint8)
print(memory.peak() - before)
"""
    assert child(code) == pytest.approx(50 * MB, abs=2 * MB)


def test_what_was_freed_after_the_mark_still_counts() -> None:
    code = """
import numpy
from edgeadapt_bench import memory
before = memory.mark()
block = numpy.ones(120_000_000, dtype=numpy.uint8)
del block
print(memory.peak() - before)
"""
    assert child(code) == pytest.approx(120 * MB, abs=2 * MB)


def test_the_harness_itself_is_not_counted() -> None:
    """Two workers of the real harness, one of which holds 100 MB more: that is what their increases differ by."""
    increases = []
    for size in (1000, 100 * MB):
        variant = Variant("x", Path(), "bare", worker="tests.bench.hungry", options={"bytes": str(size)})
        with HostDevice().worker(variant, threads=1) as worker:
            increases.append(worker.call("memory")["increase_bytes"])
    assert increases[0] < 2 * MB
    assert increases[1] - increases[0] == pytest.approx(100 * MB, abs=2 * MB)
