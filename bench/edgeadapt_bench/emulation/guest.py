"""The job, as it runs in the guest: import, open, prefill, decode, each counted alone.

What is counted is the work alone; between two counted spans nothing is charged to either. The same script runs under
qemu-aarch64, where there is no counter and the plugin looks for markers instead (closing impossible file handles).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.emulation.counter import InstructionCounter
from edgeadapt_bench.emulation.job import LIBRARY, MARK, MODEL, Job

T = TypeVar("T")
_BEGIN, _END = -(424200 + 100), -(424200 + 101)  # file handles that the plugin knows as markers
_MEMORY = re.compile(r"^(VmHWM|VmRSS|RssAnon|RssFile|RssShmem):\s+(\d+) kB$", re.MULTILINE)
_NANOSECONDS = 1000  # per microsecond; one virtual nanosecond is one instruction (-icount shift=0)


class Spans:
    """Counts spans of work and tells of each at once."""

    def __init__(self, profiled: str | None) -> None:
        self._counter = None if profiled else InstructionCounter()
        self._profiled = profiled
        self._seen: dict[str, int] = {}

    def __call__(self, name: str, work: Callable[[], T], last: bool = True) -> T:
        """Run `work` once. `last`: no other run of this phase follows."""
        if self._counter is None:
            if name != self._profiled or not last:
                return work()
            mark(_BEGIN)
            result = work()
            mark(_END)
            return result
        before = self._counter.read()
        result = work()
        instructions = self._counter.read() - before
        count = self._seen.get(name, 0)
        self._seen[name] = count + 1
        say(event="phase", name=name, count=count, instructions=instructions)
        return result


def mark(handle: int) -> None:
    with contextlib.suppress(OSError):
        os.close(handle)


def say(**values: Any) -> None:
    print(MARK + json.dumps(values), flush=True)


def remember(name: str) -> None:
    found = _MEMORY.findall(Path("/proc/self/status").read_text(encoding="ascii"))
    say(event="memory", name=name, **{field: int(kilobytes) * 1024 for field, kilobytes in found})


def run(job: Job, root: Path) -> None:
    spans = Spans(job.profiled)
    os.environ["EDGEADAPT_OPS"] = str(root / LIBRARY) if job.ops else "off"

    def imports() -> None:
        import edgeadapt.runtime.decoder  # numpy and onnxruntime with it
        import edgeadapt.runtime.session  # noqa: F401

    spans("import", imports)
    remember("import")
    from edgeadapt.runtime import session

    profile = root / "tmp/nodes" if job.by_node else None
    opened = spans("load", lambda: session.create(root / MODEL / job.graph, threads=1, profile=profile))
    remember("load")
    (decode if job.kind == "decoder" else forward)(job, spans, opened)
    remember("end")
    if job.by_node:
        tell_nodes(Path(opened.end_profiling()))
    if job.profiled:
        say(event="maps", text=Path("/proc/self/maps").read_text(encoding="ascii"))


def decode(job: Job, spans: Spans, opened: Any) -> None:
    """Prompts, then greedy steps behind the last one."""
    from edgeadapt.runtime.decoder import Decoder, other_inputs
    from edgeadapt_bench.inputs import noise, prompt_ids

    extra = other_inputs(opened)
    decoder = Decoder(opened, adapter_inputs=tuple(extra), context_length=job.context)
    if extra:  # a graph with adapter sites: what they compute costs the same whatever the values
        decoder.feed({name: noise(item) for name, item in extra.items()})
    ids = prompt_ids(job.prompt, decoder.vocabulary_size)
    steps = job.discard + job.tokens
    logits = None
    for index in range(job.prefills):
        logits = spans("prefill", lambda: decoder.prefill(ids, steps), index == job.prefills - 1)
    assert logits is not None
    chosen = []
    for index in range(steps):
        chosen.append(int(logits.argmax()))
        logits = spans("decode", lambda: decoder.step(chosen[-1]), index == steps - 1)
    say(event="answer", tokens=chosen, logits=[float(value) for value in logits[:4]])


def forward(job: Job, spans: Spans, opened: Any) -> None:
    """Any graph: floating-point inputs are seeded noise, whole numbers 1 (ids, masks and types alike)."""
    import numpy as np

    from edgeadapt_bench.inputs import NUMPY_TYPES

    feed: dict[str, Any] = {}
    for item in opened.get_inputs():
        shape = job.shapes.get(item.name) or sizes(item.shape, job.prompt)
        kind = NUMPY_TYPES[item.type]
        drawn = np.random.default_rng(len(item.name)).standard_normal(shape)
        feed[item.name] = drawn.astype(kind) if np.issubdtype(kind, np.floating) else np.ones(shape, dtype=kind)
    runs = job.discard + job.tokens
    results = []
    for index in range(runs):
        results = spans("forward", lambda: opened.run(None, feed), index == runs - 1)
    say(event="answer", outputs=[[float(value) for value in result.ravel()[:4]] for result in results])


def sizes(shape: list[Any], open_size: int) -> list[int]:
    """A batch of one; every other open dimension is `open_size`."""
    return [size if isinstance(size, int) else (open_size if axis else 1) for axis, size in enumerate(shape)]


def tell_nodes(trace: Path) -> None:
    """Sum the last run of ONNX Runtime's own trace by operator and node, the layer's number left out of its name."""
    found = json.loads(trace.read_text(encoding="utf-8"))
    runs = [event["ts"] for event in found if event.get("name") == "model_run"]
    rows: dict[tuple[str, str], list[int]] = {}
    for event in found:
        if event.get("cat") != "Node" or event["ts"] < runs[-1] or not event["name"].endswith("_kernel_time"):
            continue
        node = re.sub(r"\d+", "*", event["name"].removesuffix("_kernel_time"))
        row = rows.setdefault((event["args"]["op_name"], node), [0, 0])
        row[0] += 1
        row[1] += event["dur"] * _NANOSECONDS
    say(event="nodes", rows=[[*key, *row] for key, row in sorted(rows.items(), key=lambda item: -item[1][1])])


def main() -> None:
    path = Path(sys.argv[1])
    try:
        run(Job(**json.loads(path.read_text(encoding="utf-8"))), path.parent)
    except EdgeAdaptError as error:
        say(event="error", message=str(error))
        sys.exit(2)
    except Exception as error:  # nobody reads a traceback on a guest's console
        say(event="error", message=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
