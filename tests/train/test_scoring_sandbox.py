"""The sandbox for programs that a model wrote: what runs, what is refused, what is killed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edgeadapt_train import sandbox


@pytest.mark.parametrize(
    "program",
    [
        "assert sum(range(5)) == 10",
        "import math, re, collections, heapq, itertools, functools, random, json\nassert math.sqrt(4) == 2",
        "print('what is printed is not looked at')\nfor _ in open('/etc/hostname'): pass",
        "if __name__ == '__main__':\n    x = 'süß'",
    ],
)
def test_a_program_that_ends_well_passes(program: str) -> None:
    assert sandbox.passes(program)


@pytest.mark.parametrize(
    "program",
    [
        "assert 1 == 2",
        "def f(:",
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.fork()",
        "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)",
        "open('here', 'w')",
        "x = bytearray(1 << 40)",
        "import numpy",
    ],
)
def test_failing_leaving_early_and_what_is_forbidden_do_not_pass(program: str) -> None:
    assert not sandbox.passes(program)


def test_a_file_outside_is_neither_written_nor_removed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    for harm in (f"open({str(kept)!r}, 'a').write('more')", f"import os\nos.remove({str(kept)!r})"):
        assert not sandbox.passes(harm)
    assert kept.read_text() == "as it was"


@pytest.mark.parametrize("program", ["while True: pass", "import time\ntime.sleep(60)"])
def test_an_endless_program_is_killed_in_time(program: str) -> None:
    begun = time.monotonic()
    assert not sandbox.passes(program, seconds=1)
    assert time.monotonic() - begun < 10


def test_memory_is_limited() -> None:
    program = "x = bytearray(200 << 20)"
    assert sandbox.passes(program)
    assert not sandbox.passes(program, megabytes=128)


@pytest.mark.skipif(not sandbox.isolated(), reason="this machine gives no namespaces to its users")
def test_there_is_no_network_even_for_code_that_gets_around_the_hooks() -> None:
    assert sandbox.passes("interfaces = open('/proc/self/net/dev').read()\nassert 'eth' not in interfaces")
