"""Every op has a fuzz target (tests/fuzz), and a million calls of it find nothing. `make kernels-check` runs fewer."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from edgeadapt.ops import OPS

ROOT = Path(__file__).resolve().parents[2]
CALLS = 1_000_000


def test_every_op_has_a_target() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "fuzz").glob("*.cc"))
    assert set(re.findall(r"^EDGEADAPT_FUZZ\((\w+), source\)", sources, re.MULTILINE)) == set(OPS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", list(OPS))
def test_a_million_calls_find_nothing(name: str) -> None:
    command = [ROOT / "scripts" / "fuzz-kernels", "--op", name, "--runs", str(CALLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    made = re.search(r"(\d+) calls", done.stderr)
    assert made is not None, done.stderr
    assert int(made.group(1)) >= CALLS
