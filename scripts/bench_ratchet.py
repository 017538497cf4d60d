"""Counts on an emulated Cortex-A72 against the committed ones: fails where one moved by more than 2 %, either way.

    make bench-ratchet                                        all rows, some minutes
    python scripts/bench_ratchet.py --small                   what CI runs: one small model, under a minute
    python scripts/bench_ratchet.py --update "REASON"         take what is counted now, and say why

Models are synthetic (edgeadapt_export.synthetic): counts do not depend on the weights' values, so nothing is downloaded
or trained. The committed counts are in bench/ratchet.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgeadapt.errors import CheckFailed, EdgeAdaptError
from edgeadapt.progress import silent
from edgeadapt_bench import ratchet
from edgeadapt_bench.emulation import machine, sysroot
from edgeadapt_bench.emulation.counts import Counts
from edgeadapt_bench.emulation.job import Job
from edgeadapt_bench.report import now
from edgeadapt_export import synthetic
from edgeadapt_export.synthetic import SHAPES, Precision, Shape

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "build/aarch64/libedgeadapt_ops.so"
COMMITTED = ROOT / "bench/ratchet.json"
TINY = Shape("llama", 3, 128, 256, 4, 2, 512, 256)


@dataclass(frozen=True)
class Row:
    """A synthetic bundle's graph with our kernels; `small`: CI counts it."""

    shape: Shape
    precision: Precision
    graph: str
    job: Job
    small: bool = False


def row(name: str, precision: Precision, graph: str) -> Row:
    return Row(SHAPES[name], precision, graph, Job(f"{graph}.onnx", ops=True, prompt=64, tokens=2, prefills=1))


ROWS = {
    "tiny int4, LoRA-8": Row(
        TINY, "int4", "lora8", Job("lora8.onnx", ops=True, prompt=16, tokens=2, prefills=2), small=True
    ),
    "SmolLM2-135M int4": row("smollm2-135m", "int4", "bare"),
    "SmolLM2-135M int8": row("smollm2-135m", "int8", "bare"),
    "SmolLM2-135M int4, LoRA-8": row("smollm2-135m", "int4", "lora8"),
}


def count(one: Row, system: sysroot.Sysroot) -> ratchet.Counts:
    with tempfile.TemporaryDirectory(prefix="edgeadapt-ratchet-") as folder:
        bundle = Path(folder) / "bundle"
        bundle.mkdir()
        synthetic.write("synthetic:ratchet", one.shape, bundle, one.precision, silent)
        graph = bundle / one.job.graph
        found = machine.measure(one.job, graph, LIBRARY, system)
        counts = Counts("", one.graph, one.job, system.versions(), found).instructions()
    return {phase: value for phase, value in counts.items() if phase != "import"}


def check(*, small: bool, reason: str | None) -> None:
    """Raises CheckFailed naming every count that moved, and how to commit it."""
    if not LIBRARY.is_file():
        raise EdgeAdaptError(f"{LIBRARY}: not built yet: scripts/build-kernels --target aarch64")
    system = sysroot.prepare(say)
    found = {}
    for name, one in ROWS.items():
        if one.small or not small:
            say(f"counting {name}")
            found[name] = count(one, system)
            say("  " + ", ".join(f"{phase} {value / 1e6:,.2f} M" for phase, value in found[name].items()))
    committed = ratchet.load(COMMITTED)
    if reason is not None:
        committed.replaced(found, system.versions(), now(), reason).write(COMMITTED)
        say(f"{COMMITTED}: {len(found)} rows taken")
        return
    moved = committed.moved(found)
    for line in moved:
        say(line)
    others = [f"{name} {committed.versions.get(name)} -> {text}" for name, text in system.versions().items()
              if committed.versions.get(name) != text]  # fmt: skip
    if others and moved:
        say(f"other versions than those committed: {', '.join(others)}")
    if moved:
        raise CheckFailed(
            f"{len(moved)} counts moved by more than {ratchet.TOLERANCE:.0%}; if that is meant: "
            f'python scripts/bench_ratchet.py {"--small " * small}--update "REASON", and commit bench/ratchet.json'
        )
    say(f"{len(found)} rows are where they were")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="only the row that CI counts")
    parser.add_argument("--update", metavar="REASON", help="take what is counted now, and say why")
    asked = parser.parse_args()
    try:
        check(small=asked.small, reason=asked.update)
    except EdgeAdaptError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
