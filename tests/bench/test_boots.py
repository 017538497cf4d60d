"""Boots that must agree, and figures that an emulated machine cannot give."""

from __future__ import annotations

from typing import Any

import pytest

from edgeadapt.errors import CheckFailed
from edgeadapt_bench.emulation.boots import agree
from edgeadapt_bench.emulation.counts import Counts
from edgeadapt_bench.emulation.job import Job
from edgeadapt_bench.emulation.machine import Answer


def boot(decode: int = 10, peak: int = 4096, imported: int = 500, token: int = 7, **more: Any) -> Answer:
    found = Answer()
    found.take({"event": "phase", "name": "import", "instructions": imported})
    found.take({"event": "phase", "name": "decode", "instructions": decode, **more})
    found.take({"event": "memory", "name": "end", "VmHWM": peak})
    found.take({"event": "answer", "tokens": [token]})
    return found


def test_boots_that_agree() -> None:
    agree([boot(), boot(), boot()])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (boot(decode=11), r"boot 3 counted \[11\] for decode, and the first \[10\]"),
        (boot(imported=501), r"boot 3 counted \[501\] for import"),
        (boot(peak=8192), "boot 3 needed .*8192"),
        (boot(token=8), "boot 3 answered .*8"),
    ],
)
def test_a_boot_that_differs_is_named(other: Answer, said: str) -> None:
    with pytest.raises(CheckFailed, match=said):
        agree([boot(), boot(), other])


def test_a_guest_that_tells_a_time_is_not_listened_to() -> None:
    counts = Counts("m", "g", Job("g.onnx", tokens=1, discard=0), {}, boot(seconds=0.5, latency_ms=321.0))
    assert "0.5" not in str(counts.to_json())
    assert "321.0" not in str(counts.to_json())
