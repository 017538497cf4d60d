"""What the guest is asked, and what it answers: one JSON object each way, the answers line by line behind "@@".

{"event": "phase", "name": "decode", "count": 0, "instructions": 379412345}     once per run of a phase
{"event": "memory", "name": "load", "VmHWM": 161234944, ...}                    bytes
{"event": "nodes", "name": "decode", "rows": [[operator, node, calls, instructions], ...]}
{"event": "error", "message": "..."} | {"event": "end", "code": 0}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgeadapt.errors import EdgeAdaptError

Kind = Literal["decoder", "graph"]
MARK = "@@"
# Where the guest finds things.
MODEL, LIBRARY, JOB, COMMAND = "model", "ops/libedgeadapt_ops.so", "job.json", "command.json"


@dataclass(frozen=True)
class Job:
    """What to run, and how often. In a row of runs the first `discard` are not to be used: buffers still grow.

    Attributes:
        graph: file below /model.
        kind: "decoder" runs prompts and greedy steps; "graph" runs any graph on generated inputs.
        ops: whether the library at /ops is registered.
        prompt: tokens of the prompt, or the size of every open dimension behind the first.
        tokens: decoded tokens to count, or runs of the graph.
        prefills: how often the prompt is run.
        by_node: let ONNX Runtime profile the last run of each phase.
        profiled: the phase whose last run lies between the plugin's markers (user mode).
    """

    graph: str
    kind: Kind = "decoder"
    ops: bool = False
    prompt: int = 64
    tokens: int = 3
    prefills: int = 2
    discard: int = 2
    context: int = 2048
    by_node: bool = False
    profiled: str | None = None
    shapes: Mapping[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.prompt < 1 or self.tokens < 1 or self.prefills < 1 or self.discard < 0:
            raise EdgeAdaptError("prompt, tokens and prefills must be at least 1, discard at least 0")

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The answers among what the console shows. Raises EdgeAdaptError with the guest's own message on an error."""
    for line in lines:
        _, found, text = line.partition(MARK)
        if not found:
            continue
        try:
            event = json.loads(text)
        except ValueError:
            continue  # the kernel may write over a line
        if event.get("event") == "error":
            raise EdgeAdaptError(f"in the guest: {event['message']}")
        yield event
