"""The emulated Cortex-A72 itself, booted: kernels agree there, and counts repeat to the last instruction.

Needs the Debian packages that edgeadapt_bench.emulation.tools names and a compiler for aarch64. The first run unpacks a
small Debian into the cache.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from edgeadapt_bench.emulation import boots, machine, profile, static_cycles, sysroot, tools
from edgeadapt_bench.emulation.job import LIBRARY, Job
from edgeadapt_bench.emulation.sysroot import Sysroot
from tests.exported import Exported

ROOT = Path(__file__).parents[2]
NEEDED = (*tools.BUILD, *tools.SYSTEM, *tools.USER, *tools.STATIC, "aarch64-linux-gnu-g++")
ABSENT = [name for name in NEEDED if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}"),
]
JOB = Job("bare.onnx", ops=True, prompt=8, tokens=2)


@pytest.fixture(scope="module")
def system() -> Sysroot:
    return sysroot.prepare(lambda _: None)


@pytest.fixture(scope="module")
def library() -> Path:
    """The kernels built from the present sources."""
    subprocess.run([ROOT / "scripts" / "build-kernels", "--target", "aarch64"], check=True)
    return ROOT / "build" / "aarch64" / "libedgeadapt_ops.so"


def test_a_bundle_verifies_in_the_guest(system: Sysroot, library: Path, exported: Exported) -> None:
    """Integrity, then kernel, body and NumPy reference of every op that the bundle uses; a failed check is an error."""
    bundle = exported("lora")
    files: dict[str, Path | bytes] = {
        f"model/{path.relative_to(bundle)}": path for path in bundle.rglob("*") if path.is_file()
    }
    command = ["/usr/bin/env", f"EDGEADAPT_OPS=/{LIBRARY}", *machine.PYTHON_COMMAND, "edgeadapt", "verify", "/model"]
    machine.boot(command, {**files, LIBRARY: library}, system)


def test_three_boots_agree_to_the_last_instruction(system: Sysroot, library: Path, exported: Exported) -> None:
    graph = exported("himalaya", "int4") / JOB.graph
    found, _ = boots.measure(JOB, graph, library, system, boots=3, tell=lambda _: None)
    assert len(found) == 3
    assert {phase for answer in found for phase in answer.phases} == {"import", "load", "prefill", "decode"}


def test_a_profile_accounts_for_what_the_counter_counts(system: Sysroot, library: Path, exported: Exported) -> None:
    graph = exported("himalaya", "int4") / JOB.graph
    counted = machine.measure(JOB, graph, library, system).phases["decode"][-1]

    found = profile.profile(replace(JOB, profiled="decode"), graph, library, system)

    blocks = [block for function in found for block in function.blocks]
    assert sum(block.instructions for block in blocks) == pytest.approx(counted, rel=0.05)
    estimate = static_cycles.estimate(blocks)
    assert estimate.covered > 0.5  # a tiny model's step is a thousand small blocks
    assert 0.3 < estimate.per_cycle < 3.0


def test_instructions_per_node_make_up_a_step(system: Sysroot, library: Path, exported: Exported) -> None:
    graph = exported("himalaya", "int4") / JOB.graph
    found = machine.measure(replace(JOB, by_node=True), graph, library, system)
    assert {operator for operator, *_ in found.nodes} >= {"GroupQueryAttention", "QuantMatMul"}
    assert 0 < sum(count for *_, count in found.nodes) < 2 * found.phases["decode"][-1]
